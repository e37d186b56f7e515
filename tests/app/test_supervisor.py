"""What must not end the supervisor: its end is that of all workers. Real ones: tests/e2e/test_workers.py."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import taddons

from aoai_gateway.app import log_format, processes
from aoai_gateway.app.addon import GatewayAddon
from aoai_gateway.app.admin_process import WORKERS_FILE, AdminProcess
from aoai_gateway.app.processes import LONGEST_PAUSE
from aoai_gateway.app.supervisor import DRAIN_MARGIN, SILENT_SECONDS, StartFailedError, Supervisor
from aoai_gateway.app.worker import Worker
from aoai_gateway.config.loader import load
from aoai_gateway.tokens import Encodings

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
    made = Supervisor(path, load(path, env={}), ("127.0.0.1", 0), 1, lambda _: 0)
    yield made
    for each in made._slots[0].sockets:
        each.close()
    made._private_folder.remove()


def test_a_worker_that_fails_for_ever_is_started_again_for_ever(supervisor: Supervisor) -> None:
    slot, now = supervisor._slots[0], time.monotonic()
    ended: Any = Child()
    slot.child, slot.backoff.failures = ended, 5_000
    supervisor._started = True
    supervisor._look_at(slot, now)
    assert slot.backoff.due == now + LONGEST_PAUSE


def test_no_room_for_a_process_is_waited_for(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start", full)
    slot = supervisor._slots[0]
    assert supervisor._start_worker(slot) is None
    assert slot.backoff.due > time.monotonic()


def test_encodings_that_a_later_configuration_needs_are_loaded_once_for_all_its_workers(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Encodings] = []

    def load_encodings() -> Encodings:
        loads.append(Encodings())
        return loads[-1]

    monkeypatch.setattr("aoai_gateway.app.supervisor.load_encodings", load_encodings)
    monkeypatch.setattr(processes, "try_to_start", lambda _name, _run: None)
    slot = supervisor._slots[0]
    supervisor._start_worker(slot)
    assert loads == [], "no quota counts tokens"
    text = FILE.replace("SECONDS", "30").replace("team}", "team, max_tokens_per_minute: 1000}")
    supervisor._path.write_text(text)
    for _ in range(2):
        supervisor._start_worker(slot)
    assert len(loads) == 1
    assert supervisor._encodings is loads[0], "the workers are forked with them"


def told(supervisor: Supervisor) -> Any:
    return json.loads((supervisor._folder / WORKERS_FILE).read_text())


def test_the_status_page_may_miss_a_full_disk(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor._tell_workers()
    assert told(supervisor)[0]["starts"] == 0
    write_text = Path.write_text

    def full(path: Path, text: str) -> int:
        write_text(path, text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    supervisor._slots[0].starts = 7
    supervisor._tell_workers()
    # What was written before is whole still; and as soon as there is room, it is what is so now.
    assert told(supervisor)[0]["starts"] == 0
    monkeypatch.setattr(Path, "write_text", write_text)
    supervisor._tell_workers()
    assert told(supervisor)[0]["starts"] == 7


def silent_child(heard: float, due: float = float("inf")) -> Any:
    """A real child that says nothing; it ends when the test's pipe to it does."""
    child = processes.start("worker 1", lambda _: signal.pause() or 0)
    child.ready, child.heard, child.due = True, heard, due
    return child


def test_a_silent_worker_is_killed_and_one_that_was_paused_with_all_is_not(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    child = supervisor._slots[0].child = silent_child(now)
    supervisor._started = True
    try:
        # The whole process group stands still for an hour: nothing could be said or heard.
        now += 3600
        supervisor._look(now)
        assert child.due == float("inf")
        for _ in range(int(SILENT_SECONDS) - 1):
            now += 1
            supervisor._look(now)
        assert supervisor._slots[0].child is child
        assert child.ended() is None
        # From then on, it is silent while the supervisor is not.
        supervisor._look(now + 2)
        while supervisor._slots[0].child is child:  # it may take a moment to end
            time.sleep(0.01)
            supervisor._look(now + 2)
        assert "was ended by SIGKILL" in caplog.text
    finally:
        child.tell(signal.SIGKILL)


def test_a_pause_gives_a_worker_that_drains_its_time_back(supervisor: Supervisor) -> None:
    now = time.monotonic()
    child = silent_child(now + 50, due=now + 50)
    child.retiring = True
    supervisor._slots[0].old.append(child)
    try:
        supervisor._look(now + 1)
        supervisor._look(now + 1001)
        assert child.due == now + 1050
        assert child.ended() is None
    finally:
        child.tell(signal.SIGKILL)
        os.waitpid(child.pid, 0)


def worker_of(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Start a worker; gives what it was given."""
    given: list[Worker] = []
    monkeypatch.setattr(processes, "start", lambda _, run: run(0))
    monkeypatch.setattr(supervisor, "_let_go", lambda _: None)
    monkeypatch.setattr(supervisor, "_serve", given.append)
    supervisor._start_worker(supervisor._slots[0])
    return given[0]


def test_a_new_worker_is_given_the_last_configuration_without_errors(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor._path.write_text(FILE.replace("SECONDS", "77"))
    for _ in range(2):  # a change counts when it was seen twice
        supervisor._look(time.monotonic())
    supervisor._path.write_text("clients: [")
    for _ in range(3):
        supervisor._look(time.monotonic())
    assert worker_of(supervisor, monkeypatch).last_good.config.drain_seconds == 77


def test_a_worker_starts_with_the_last_good_configuration_while_the_file_is_broken(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor._path.write_text("clients: [")
    addon = GatewayAddon()
    addon.lifecycle.worker = worker_of(supervisor, monkeypatch)
    with taddons.context() as context:
        context.options.add_option("gateway_config", str, str(supervisor._path), "")
        context.options.add_option("save_stream_file", str, "", "")
        addon.configure({"gateway_config"})
    assert addon.lifecycle.config is not None
    assert addon.lifecycle.config.drain_seconds == 30


def test_what_reading_the_file_raises_ends_nothing(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(supervisor._watch, "poll", bug)
    monkeypatch.setattr(supervisor._watch, "read", bug)
    supervisor._look(time.monotonic())
    supervisor._roll()
    assert supervisor._rolling == []
    assert "while the configuration was read" in caplog.text


def test_its_log_is_as_configured_and_holds_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.replace("SECONDS", "30") + "log: {format: json, level: warning}\n")
    log = logging.getLogger("aoai_gateway.supervisor")
    factory, level = logging.getLogRecordFactory(), logging.getLogger().level
    made = Supervisor(path, load(path, env={}), ("127.0.0.1", 0), 1, lambda _: 0)

    def fail() -> None:
        log.info("not to be seen")
        log.error("The key is a-key-of-a-team")
        raise StartFailedError

    made._prepare = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(StartFailedError):
            made.run()
    finally:
        logging.setLogRecordFactory(factory)
        log_format.write_no_more()
        logging.getLogger().setLevel(level)
        for each in made._slots[0].sockets:
            each.close()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [("error", "supervisor")]
    assert "a-key-of-a-team" not in lines[0]["message"]


def test_a_reload_waits_for_the_admin_process(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminProcess, "is_wanted", lambda *_: True)
    started: list[object] = []
    monkeypatch.setattr(supervisor, "_start_worker", started.append)
    supervisor._rolling = list(supervisor._slots)
    supervisor._go_on_rolling()
    assert (started, len(supervisor._rolling)) == ([], 1)


def test_a_worker_may_take_what_the_newest_file_lets_it(supervisor: Supervisor) -> None:
    supervisor._path.write_text(FILE.replace("SECONDS", "300"))
    child: Any = Child()
    supervisor._retire([child], signal.SIGTERM)
    assert child.due > time.monotonic() + 300 + DRAIN_MARGIN - 5
    assert child.told == [15]


def test_a_broken_file_leaves_the_time_that_was_known(supervisor: Supervisor) -> None:
    supervisor._path.write_text("clients: [")
    assert supervisor._longest_drain() == 30


def test_the_end_is_told_to_those_that_only_finish_too(supervisor: Supervisor) -> None:
    old: Any = Child()
    new: Any = Child()
    slot = supervisor._slots[0]
    slot.child, slot.old = new, [old]
    supervisor._retire([old], signal.SIGUSR2)
    due = old.due
    supervisor._end()
    assert old.told == [signal.SIGUSR2, signal.SIGTERM]
    assert new.told == [signal.SIGTERM]
    assert old.due == due


def test_all_are_told_before_a_file_is_read(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Any] = [Child(), Child()]
    supervisor._slots[0].child, supervisor._slots[0].successor = children
    told: list[list[list[int]]] = []

    def slow() -> float:
        told.append([list(each.told) for each in children])
        return 30

    monkeypatch.setattr(supervisor, "_longest_drain", slow)
    supervisor._end()
    assert told == [[[signal.SIGTERM], [signal.SIGTERM]]]
