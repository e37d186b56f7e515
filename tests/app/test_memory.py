"""When free memory is given back."""

import gc
import time

import pytest

from aoai_gateway.app.memory import GARBAGE, SECONDS, FreeMemory, _resident

MIB = 1024 * 1024


class Process:
    """One whose size a test says; what is free of it goes when it is trimmed."""

    def __init__(self, size: int, free: int = 0) -> None:
        self.size, self.free, self.trims = size * MIB, free * MIB, 0

    def trim(self) -> None:
        self.trims += 1
        self.size -= self.free
        self.free = 0


@pytest.fixture(autouse=True)
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take note of collections; one of a whole test session would take its time."""
    found: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: found.append(1))
    return found


def looked(process: Process) -> FreeMemory:
    return FreeMemory(lambda: process.size, process.trim)


def test_what_has_grown_is_given_back() -> None:
    process = Process(100)
    memory = looked(process)
    memory.look(0)
    process.size, process.free = 150 * MIB, 40 * MIB
    memory.look(SECONDS / 2)
    assert process.trims == 0, "not so soon"
    memory.look(SECONDS)
    assert (process.trims, process.size) == (1, 110 * MIB)


def test_what_is_freed_later_is_given_back_later() -> None:
    process = Process(100)
    memory = looked(process)
    memory.look(0)
    process.size = 150 * MIB
    memory.look(SECONDS)
    process.free = 50 * MIB
    memory.look(2 * SECONDS)
    assert process.size == 100 * MIB
    memory.look(3 * SECONDS)
    assert process.trims == 2, "it is as small as it was"


def test_many_bytes_of_bodies_are_collected_at_once(collected: list[int]) -> None:
    process = Process(100)
    memory = looked(process)
    assert not memory.look(0, GARBAGE)
    process.size, process.free = 150 * MIB, 40 * MIB
    assert memory.look(0.5, GARBAGE + 1)
    assert (len(collected), process.size) == (1, 110 * MIB)


def test_collections_take_a_small_share_of_the_time(
    collected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.1, 10.0, 10.1])
    monkeypatch.setattr(time, "thread_time", lambda: next(times))
    memory = looked(Process(100))
    assert memory.look(0, GARBAGE + 1)
    assert not memory.look(4, GARBAGE + 1), "the last one took a tenth of a second"
    assert memory.look(6, GARBAGE + 1)
    assert len(collected) == 2


def test_what_other_processes_take_meanwhile_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = iter(range(0, 1000, 10))
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: float(next(wall)))
    process = Process(100)
    memory = looked(process)
    memory.look(0)
    process.size = 150 * MIB
    for number in range(1, 4):
        memory.look(number * SECONDS)
        assert process.trims == number


def test_where_the_size_is_not_known_nothing_is_done() -> None:
    process = Process(100)
    memory = FreeMemory(lambda: None, process.trim)
    for at in range(3):
        memory.look(at * SECONDS)
    assert process.trims == 0


def test_it_does_it_here() -> None:
    FreeMemory().look(0)
    size = _resident()
    assert size is None or size > MIB
