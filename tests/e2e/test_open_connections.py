"""A process that ends cuts no request off, in any state and in any queue of its connection."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import START_SECONDS, Gateway, Simulator, eventually
from tests.e2e.raw import Connection, Reply, post
from tests.e2e.settings import CLIENT_KEY, SPEC
from tests.e2e.workers import key_of, runs, workers
from tests.redis_server import require_redis

PATH = "/openai/v1/chat/completions"
BODY = json.dumps(
    {"model": "gpt-4o", "messages": [{"role": "user", "content": "say: one two three"}]}
).encode()

LONG_DRAIN = 90
"""More seconds than any wait of these tests: what ends sooner does so since nothing is left to do."""

PENDING_SECONDS = 2.0
"""For a supervisor to tell its workers to end."""

STAGES = ("nothing was sent", "a call was answered", "half a head came", "half a body came")


class Caller:
    """A client's connection, at one of the `STAGES`."""

    def __init__(self, gateway: Gateway, stage: str, key: str = CLIENT_KEY) -> None:
        self.stage = stage
        self.connection = Connection(gateway)
        self._left = call = post(PATH, BODY, key=key)
        if stage == "a call was answered":
            self.connection.send(call)
            assert self.connection.reply().status == 200
        elif stage == "half a head came":
            self._send(30)
        elif stage == "half a body came":
            self._send(len(call) - len(BODY) // 2)

    def _send(self, size: int) -> None:
        self.connection.send(self._left[:size])
        self._left = self._left[size:]

    def go_on(self) -> None:
        """Send the rest of the call."""
        self.connection.send(self._left)

    def last_reply(self) -> Reply:
        """Read the answer, and the end of the connection."""
        reply = self.connection.reply()
        if reply.headers.get("connection") == "close":
            assert self.connection.rest() == b""
        return reply


@contextmanager
def callers(
    gateway: Gateway, stages: Sequence[str] = STAGES, key: str = CLIENT_KEY
) -> Iterator[list[Caller]]:
    with ExitStack() as stack:
        made = [Caller(gateway, stage, key) for stage in stages]
        for each in made:
            stack.enter_context(each.connection)
        yield made


def refuses(gateway: Gateway) -> bool:
    try:
        socket.create_connection(("127.0.0.1", gateway.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a signal before it that it has not taken yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:"))
    return bool(mask >> (number - 1) & 1)


@contextmanager
def standing_still(pids: Sequence[int]) -> Iterator[None]:
    """Stop processes, and let them go on when they are to end: what comes meanwhile waits for them."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
        # What the tests say holds in any case. The signal before them makes it hard; not every system tells.
        end = time.monotonic() + PENDING_SECONDS
        while time.monotonic() < end and not all(is_pending(pid, signal.SIGTERM) for pid in pids):
            time.sleep(0.01)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(SPEC, tmp_path_factory.mktemp("simulator"))
    yield simulator
    simulator.kill()


@pytest.fixture
def alone(start_gateway: Callable[..., Gateway], backends: Simulator) -> Gateway:
    """A gateway of one process."""
    return start_gateway(backends, drain_seconds=LONG_DRAIN)


@pytest.mark.each_host
def test_sigterm_answers_what_was_begun(alone: Gateway) -> None:
    begun = ("nothing was sent", "half a head came", "half a body came")
    with callers(alone, begun * 3) as opened:
        alone.send()
        eventually(lambda: refuses(alone), "the port is closed")
        time.sleep(1.5)  # a client may take its time
        for each in opened:
            each.go_on()
        replies = [(each.stage, each.last_reply()) for each in opened]
    assert [(stage, reply.status) for stage, reply in replies] == [(stage, 200) for stage in begun * 3]
    assert {reply.headers.get("connection") for _, reply in replies} == {"close"}
    assert alone.wait() == 0
    assert "Traceback" not in alone.log


@pytest.mark.each_host
def test_sigterm_answers_what_waits_in_the_queue_and_on_idle_connections(alone: Gateway) -> None:
    with callers(alone, ["a call was answered"] * 4) as kept, ExitStack() as stack:
        with standing_still([alone.pid]):
            late = [stack.enter_context(Connection(alone)) for _ in range(20)]
            for each in late:
                each.send(post(PATH, BODY, key=CLIENT_KEY))
            for each in kept:
                each.go_on()
            alone.send()
        assert [each.reply().status for each in late] == [200] * 20
        assert [each.last_reply().status for each in kept] == [200] * 4
        assert alone.wait() == 0


def test_a_reload_answers_on_every_open_connection(backends: Simulator, tmp_path: Path, home: Path) -> None:
    require_redis()
    with workers(backends, tmp_path, home, drain_seconds=LONG_DRAIN) as gateway:
        old = gateway.pids()
        with callers(gateway, STAGES * 4, key_of("team")) as opened:
            gateway.send(signal.SIGHUP)
            eventually(
                lambda: not set(old) & set(gateway.ready_pids() or old), "all were replaced", START_SECONDS
            )
            for each in opened:
                each.go_on()
            replies = [(each.stage, each.last_reply()) for each in opened]
        assert [(stage, reply.status) for stage, reply in replies] == [(stage, 200) for stage in STAGES * 4]
        # The old ones have answered, and said that this was the last answer. Who had sent nothing may have
        # come to a new one.
        closed = {s for s, reply in replies if reply.headers.get("connection") == "close"}
        assert closed >= {*STAGES[1:]}
        eventually(lambda: not any(map(runs, old)), "the old ones have ended")
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log


def test_the_end_of_workers_answers_what_was_begun_and_what_waits(
    backends: Simulator, tmp_path: Path, home: Path
) -> None:
    """Old ones of a reload, whose clients rest, do not hold it up."""
    require_redis()
    key = key_of("team")
    with workers(backends, tmp_path, home, drain_seconds=LONG_DRAIN) as gateway, ExitStack() as stack:
        old = gateway.pids()
        stack.enter_context(callers(gateway, ["a call was answered"] * 8, key))
        gateway.send(signal.SIGHUP)
        eventually(
            lambda: not set(old) & set(gateway.ready_pids() or old), "all were replaced", START_SECONDS
        )
        begun = stack.enter_context(callers(gateway, ["half a body came"] * 8, key))
        with standing_still(gateway.pids()):
            late = [stack.enter_context(Connection(gateway)) for _ in range(24)]
            for each in late:
                each.send(post(PATH, BODY, key=key))
            gateway.send()
        assert [each.reply().status for each in late] == [200] * 24
        eventually(lambda: refuses(gateway), "the port is closed")
        time.sleep(1.5)  # a client may take its time
        for each in begun:
            each.go_on()
        assert [each.last_reply().status for each in begun] == [200] * 8
        assert gateway.wait() == 0
