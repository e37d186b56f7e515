"""What must not end the supervisor: its end is that of all workers. Real ones: tests/e2e/test_workers.py."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.app import processes
from aoai_gateway.app.supervisor import DRAIN_MARGIN, LONGEST_PAUSE, Supervisor
from aoai_gateway.config.loader import load

FILE = """\
clients: [{name: Team, key: a-key-of-a-team}]
aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}
drain_seconds: SECONDS
"""


class Child:
    """A worker that has ended with an error."""

    ready, retiring, pid, name = True, False, 4_321, "worker 1"

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.due = self.heard = float("inf")
        self.told: list[int] = []

    def ended(self) -> str:
        return "ended with exit code 1"

    def tell(self, number: int) -> None:
        self.told.append(number)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.replace("SECONDS", "30"))
    made = Supervisor(path, load(path, env={}).config, ("127.0.0.1", 0), 1, lambda _: 0)
    yield made
    for each in made._slots[0].sockets:
        each.close()
    shutil.rmtree(made._folder, ignore_errors=True)


def test_a_worker_that_fails_for_ever_is_started_again_for_ever(supervisor: Supervisor) -> None:
    slot, now = supervisor._slots[0], time.monotonic()
    ended: Any = Child()
    slot.child, slot.failures = ended, 5_000
    supervisor._started = True
    supervisor._look_at(slot, now)
    assert slot.due == now + LONGEST_PAUSE


def test_no_room_for_a_process_is_waited_for(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start", full)
    slot = supervisor._slots[0]
    assert supervisor._start_worker(slot) is None
    assert slot.due > time.monotonic()


def test_the_status_page_may_miss_a_full_disk(supervisor: Supervisor) -> None:
    shutil.rmtree(supervisor._folder)
    supervisor._tell_workers()


def test_a_reload_waits_for_the_admin_process(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "_wants_admin", True)
    started: list[object] = []
    monkeypatch.setattr(supervisor, "_start_worker", started.append)
    supervisor._rolling = list(supervisor._slots)
    supervisor._go_on_rolling()
    assert (started, len(supervisor._rolling)) == ([], 1)


def test_a_worker_may_take_what_the_newest_file_lets_it(supervisor: Supervisor) -> None:
    supervisor._path.write_text(FILE.replace("SECONDS", "300"))
    child: Any = Child()
    supervisor._retire(child, 15)
    assert child.due > time.monotonic() + 300 + DRAIN_MARGIN - 5
    assert child.told == [15]


def test_a_broken_file_leaves_the_time_that_was_known(supervisor: Supervisor) -> None:
    supervisor._path.write_text("clients: [")
    assert supervisor._longest_drain() == 30
