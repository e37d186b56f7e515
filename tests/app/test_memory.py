"""When free memory is given back, and what the garbage collector goes through."""

import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from aoai_gateway.app.memory import (
    BETWEEN_SECONDS,
    GARBAGE,
    GROWTH,
    IDLE_SECONDS,
    LONG,
    SECONDS,
    SHARE,
    STEPS,
    FreeMemory,
    Garbage,
    _resident,
)

MIB = 1024 * 1024


class Process:
    """One whose size a test says; what is free of it goes when it is trimmed."""

    def __init__(self, size: int, free: int = 0) -> None:
        self.size, self.free, self.trims = size * MIB, free * MIB, 0

    def trim(self) -> None:
        self.trims += 1
        self.size -= self.free
        self.free = 0


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take note of collections; one of a whole test session would take its time."""
    found: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: found.append(1))
    return found


def looked(process: Process) -> FreeMemory:
    return FreeMemory(lambda: process.size, process.trim)


@pytest.mark.usefixtures("collected")
def test_what_has_grown_is_given_back() -> None:
    process = Process(100)
    memory = looked(process)
    memory.look(0)
    process.size, process.free = 150 * MIB, 40 * MIB
    memory.look(SECONDS / 2)
    assert process.trims == 0, "not so soon"
    memory.look(SECONDS)
    assert (process.trims, process.size) == (1, 110 * MIB)


@pytest.mark.usefixtures("collected")
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


@pytest.mark.usefixtures("collected")
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


@pytest.mark.usefixtures("collected")
def test_where_the_size_is_not_known_nothing_is_done() -> None:
    process = Process(100)
    memory = FreeMemory(lambda: None, process.trim)
    for at in range(3):
        memory.look(at * SECONDS)
    assert process.trims == 0


@pytest.mark.usefixtures("collected")
def test_it_does_it_here() -> None:
    FreeMemory().look(0)
    size = _resident()
    assert size is None or size > MIB


class Circle:
    """What only the collector ends."""

    def __init__(self) -> None:
        self.itself = self


class Machine:
    """A process whose collections take as long as a test says, and that has as many objects."""

    def __init__(self) -> None:
        self.now, self.took, self.objects = 0.0, 0.0, 1000
        self.garbage = Garbage(self._clock, lambda: self.objects)
        self.garbage.begin()

    def _clock(self) -> float:
        """Tell the time; so much has passed since the last time."""
        self.now += self.took
        return self.now

    def collect(self, took: float) -> None:
        """Have Python collect all that is not set aside."""
        self.took = took
        gc.collect()
        self.took = 0.0


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A process; what it has set aside stays aside, with the tests themselves (see tests/conftest.py)."""
    made = Machine()
    yield made
    made.garbage.end()


def set_aside(thing: object) -> bool:
    """Whether full collections pass over an object."""
    return all(thing is not each for generation in range(3) for each in gc.get_objects(generation))


def lost_circle() -> weakref.ref[Circle]:
    """Make a circle that nothing refers to, which survives as long as it is set aside."""
    circle = Circle()
    gc.freeze()
    return weakref.ref(circle)


def test_what_is_there_at_the_start_is_set_aside() -> None:
    early = Circle()
    machine = Machine()
    try:
        assert set_aside(early)
    finally:
        machine.garbage.end()


def test_what_survives_a_long_collection_is_set_aside(machine: Machine) -> None:
    kept = Circle()
    machine.collect(LONG / 2)
    assert not set_aside(kept)
    machine.collect(2 * LONG)
    assert set_aside(kept)


def test_what_is_set_aside_ends_without_a_collection_if_it_is_no_circle(machine: Machine) -> None:
    kept = Circle()
    machine.collect(2 * LONG)
    ended = weakref.ref(kept)
    kept.itself = None  # type: ignore[assignment]  # the circle is opened
    del kept
    assert ended() is None


def test_circles_are_found_when_no_call_comes(machine: Machine) -> None:
    machine.collect(2 * LONG)
    circle = lost_circle()
    machine.garbage.look(BETWEEN_SECONDS, idle=IDLE_SECONDS / 2)
    assert circle() is not None, "a call came lately"
    machine.garbage.look(BETWEEN_SECONDS, idle=IDLE_SECONDS)
    assert circle() is None


def test_nothing_is_gone_through_if_nothing_new_was_set_aside(machine: Machine) -> None:
    circle = lost_circle()
    machine.garbage.look(BETWEEN_SECONDS, idle=IDLE_SECONDS)
    assert circle() is not None


@pytest.mark.parametrize("took", [0.001, 1.0])
def test_going_through_all_takes_a_small_share_of_the_time(machine: Machine, took: float) -> None:
    machine.collect(2 * LONG)
    at, began, machine.took = BETWEEN_SECONDS, machine.now, took
    machine.garbage.look(at, idle=IDLE_SECONDS)
    lasted, machine.took = machine.now - began - took, 0.0
    machine.collect(2 * LONG)
    circle = lost_circle()
    pause = max(BETWEEN_SECONDS, SHARE * lasted)
    machine.garbage.look(at + pause - 1, idle=IDLE_SECONDS)
    assert circle() is not None
    machine.garbage.look(at + pause + 1, idle=IDLE_SECONDS)
    assert circle() is None


def test_circles_are_found_while_calls_come_once_there_is_much_more(machine: Machine) -> None:
    circle = lost_circle()
    machine.objects *= GROWTH
    machine.garbage.look(1, idle=0)
    assert circle() is not None
    machine.objects += 1
    machine.garbage.look(2, idle=0)
    assert circle() is None
    circle = lost_circle()
    machine.garbage.look(3, idle=0)
    assert circle() is not None, "it counts from what was left then"


def test_what_is_loaded_later_is_set_aside_and_counted(machine: Machine) -> None:
    late = Circle()
    machine.objects *= 2 * GROWTH
    machine.garbage.set_aside()
    assert set_aside(late)
    circle = lost_circle()
    machine.garbage.look(1, idle=0)
    assert circle() is not None


def test_a_collection_by_itself_goes_through_few_objects(machine: Machine) -> None:
    """What stays comes in small portions to full collections, and each portion once."""
    portions: list[int] = []

    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            portions.append(sum(len(gc.get_objects(generation)) for generation in range(3)))

    gc.callbacks.append(collected)
    machine.took = 2 * LONG
    try:
        kept = [Circle() for _ in range(50_000)]
    finally:
        machine.took = 0.0
        gc.callbacks.remove(collected)
    assert len(portions) > 3
    assert max(portions) < 4 * STEPS[0] * (STEPS[1] + 1) * (STEPS[2] + 1) / 2
    assert all(set_aside(circle) for circle in kept[:1000])


def test_after_the_end_the_collector_is_left_alone() -> None:
    steps, machine = gc.get_threshold(), Machine()
    machine.garbage.end()
    assert gc.get_threshold() == steps
    kept = Circle()
    machine.took = 2 * LONG
    gc.collect()
    assert not set_aside(kept)
    machine.garbage.end()


def test_before_the_begin_nothing_is_gone_through() -> None:
    circle = lost_circle()
    Garbage(lambda: 0.0, lambda: 10**9).look(BETWEEN_SECONDS, idle=IDLE_SECONDS)
    assert circle() is not None
