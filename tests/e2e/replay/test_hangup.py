"""The client hangs up: the backend is free of the call soon, and no other one is asked."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.e2e import json_lines
from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Host, Simulator, eventually
from tests.e2e.replay.stage import (
    GONE_SECONDS,
    PROMPT,
    PTU,
    SPARE,
    TEXT,
    Caller,
    Lane,
    Stage,
    chat,
    running_stage,
    text_of,
    where,
)
from tests.e2e.settings import CLIENT_KEY, POOLS

QUIET_SECONDS = 0.1
"""The time for which it is watched that no backend is asked after all."""

How = Literal["fin", "rst"]


@pytest.fixture(params=["fin", "rst"])
def how(request: pytest.FixtureRequest) -> How:
    """In which way the client's connection ends: closed, or torn down."""
    return request.param  # type: ignore[no-any-return]  # pytest types it as Any


@pytest.fixture(scope="session")
def shared_stage(
    host: Host, shared_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory, home: Path
) -> Iterator[Stage]:
    """A gateway that would wait for backends much longer than these clients do."""
    folder = tmp_path_factory.mktemp(f"hangup-{host}")
    waits = dict.fromkeys(("idle_seconds", "preamble_seconds", "error_body_seconds"), 60.0)
    with running_stage(host, shared_simulator, folder, home, **waits) as stage:
        yield stage


class Quitter:
    """A client on a bare socket, that can hang up at any time."""

    def __init__(self, gateway: Gateway) -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)

    def send(self, lane: Lane, *, stream: bool) -> None:
        body = json.dumps(chat(stream=stream)).encode()
        head = [
            f"POST {lane.path} HTTP/1.1",
            "host: gateway",
            f"api-key: {CLIENT_KEY}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        self.socket.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def hang_up(self, how: How) -> None:
        if how == "rst":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def quitter(stage: Stage) -> Iterator[Quitter]:
    quitter = Quitter(stage.gateway)
    yield quitter
    quitter.socket.close()


def check_gone(stage: Stage, lane: Lane, asked: list[str], seconds: float = GONE_SECONDS) -> dict[str, Any]:
    """The call is over everywhere, soon; returns its record."""
    eventually(lambda: stage.simulator.active()["in_flight"] == 0, "the backends are free", seconds)
    record = eventually(lambda: stage.records(lane), "the record is written", seconds)[0]
    assert record["outcome"] == "client_gone"
    time.sleep(QUIET_SECONDS)
    assert stage.asked() == asked
    assert len(stage.records(lane)) == 1
    return record  # type: ignore[no-any-return]


def in_flight(stage: Stage) -> Callable[[], bool]:
    return lambda: stage.simulator.active()["in_flight"] == 1


@pytest.mark.each_host
@pytest.mark.skipif(sys.platform != "linux", reason="a black hole, and who connects to it, are Linux's")
def test_while_the_gateway_connects(stage: Stage, quitter: Quitter, streaming: bool, how: How) -> None:
    lane = stage.lane("patient")
    silently = {"endpoint": "west", "on": False, "silently": True}
    stage.simulator.control("POST", "listening", silently)
    port = int(stage.simulator.urls["west"].rpartition(":")[2])
    before = connecting(port)
    quitter.send(lane, stream=streaming)
    eventually(lambda: connecting(port) > before, "the gateway connects")
    quitter.hang_up(how)
    eventually(lambda: connecting(port) == before, "the attempt is given up", GONE_SECONDS)
    check_gone(stage, lane, [])


def connecting(port: int) -> int:
    """How many connections to a loopback port have been begun and not answered."""
    syn_sent, wanted = "02", f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[2] == wanted and row[3] == syn_sent for row in rows)


@pytest.mark.parametrize("fault", ["hang", "slow-first-token"])
def test_while_the_backend_thinks(
    stage: Stage, lane: Lane, quitter: Quitter, streaming: bool, how: How, fault: str
) -> None:
    stage.fault(fault)
    quitter.send(lane, stream=streaming)
    eventually(in_flight(stage), "the backend is asked")
    quitter.hang_up(how)
    record = check_gone(stage, lane, [PTU])
    assert stage.entries()[0]["outcome"] == "client_gone"
    assert record["attempts"][0]["break_ms"] is None


def test_while_the_backend_reads(stage: Stage, lane: Lane, quitter: Quitter, how: How) -> None:
    """It has its answer's head, and waits for what follows."""
    stage.fault("hang", after_head=True)
    quitter.send(lane, stream=False)
    eventually(lambda: stage.entries() and stage.entries()[0]["status"], "the backend answers")
    quitter.hang_up(how)
    check_gone(stage, lane, [PTU])


def test_while_a_failed_answer_runs_out(
    stage: Stage, lane: Lane, quitter: Quitter, streaming: bool, how: How
) -> None:
    stage.fault("429-late-body", body_seconds=50)
    quitter.send(lane, stream=streaming)
    eventually(lambda: stage.entries() and stage.entries()[0]["status"] == 429, "the backend refuses")
    quitter.hang_up(how)
    check_gone(stage, lane, [PTU])
    assert stage.entries()[0]["outcome"] == "client_gone"


@pytest.mark.each_host
def test_during_a_later_attempt(
    stage: Stage, lane: Lane, quitter: Quitter, streaming: bool, how: How
) -> None:
    stage.fault("401", PTU)
    stage.fault("hang", SPARE)
    quitter.send(lane, stream=streaming)
    eventually(lambda: stage.asked() == [PTU, SPARE], "the second backend is asked")
    eventually(in_flight(stage), "the second backend thinks")
    quitter.hang_up(how)
    record = check_gone(stage, lane, [PTU, SPARE])
    assert len(record["attempts"]) == 2


def test_within_the_preamble(stage: Stage, lane: Lane, quitter: Quitter, how: How) -> None:
    """The backend's stream has begun, and the client has nothing of it yet."""
    stage.fault("stall", events=2)
    quitter.send(lane, stream=True)
    eventually(lambda: stage.entries() and stage.entries()[0]["events"] == 2, "the stream begins")
    quitter.hang_up(how)
    check_gone(stage, lane, [PTU])


@pytest.mark.each_host
def test_within_a_stream(stage: Stage, lane: Lane, quitter: Quitter, how: How) -> None:
    stage.fault("stall", events=5)
    quitter.send(lane, stream=True)
    got = b""
    while b'"It"' not in got:
        got += quitter.socket.recv(65536)
    quitter.hang_up(how)
    check_gone(stage, lane, [PTU])
    assert stage.entries()[0]["outcome"] == "client_gone"


@pytest.mark.each_host
def test_an_sdk_that_closes_its_stream(stage: Stage, lane: Lane, sdk: Sdk) -> None:
    stage.fault("stall", events=5)
    stream = sdk(stage.gateway, "v1").chat.completions.create(
        model=lane.deployment, messages=[{"role": "user", "content": PROMPT}], stream=True
    )
    next(iter(stream))
    stream.close()
    check_gone(stage, lane, [PTU])


def test_an_sdk_that_has_all_it_wants(stage: Stage, sdk: Sdk) -> None:
    """It hangs up at [DONE], before the end of the body has come: the call is complete all the same."""
    lane = stage.lane("scripted")
    body = stage.direct(PTU, chat(stream=True, stream_options={"include_usage": True})).body
    stage.scripted.answers(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n" % (len(body), body)
    )
    stream: Any = sdk(stage.gateway, "v1").chat.completions.create(**chat(stream=True), model=lane.deployment)
    text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert text == TEXT
    record = stage.record(lane)
    assert (record["outcome"], record["finish_reason"], record["output_tokens"]) == ("ok", "stop", 5)


def test_an_sdk_that_has_waited_long_enough(stage: Stage, lane: Lane, sdk: Sdk) -> None:
    """It says how long it waits, so that the gateway knows when it is too late to ask anybody else."""
    stage.fault("hang")
    client = sdk(stage.gateway, "v1", timeout=0.4)
    with pytest.raises(Exception, match=r"timed out|did not answer"):
        client.chat.completions.create(model=lane.deployment, messages=[{"role": "user", "content": PROMPT}])
    eventually(lambda: stage.simulator.active()["in_flight"] == 0, "the backends are free", GONE_SECONDS)


def test_others_go_on(stage: Stage, lane: Lane, quitter: Quitter, caller: Caller) -> None:
    """Only the call that was hung up on ends."""
    stage.fault("stall", events=5)
    quitter.send(lane, stream=True)
    eventually(in_flight(stage), "the backend is asked")
    caller.send(lane.path, chat(stream=True))
    quitter.hang_up("rst")
    answer = caller.answer()
    assert (text_of(answer), where(answer.headers)) == (TEXT, PTU)


LISTENER = """
import asyncio
from pathlib import Path

async def gateway_backend_chosen(choice):
    Path("asked").touch()
    while not Path("decided").exists():
        if not choice.flow.client_conn.connected:
            Path("gone").touch()
        await asyncio.sleep(0.01)
"""


@pytest.mark.each_host
def test_while_a_decision_is_awaited(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    """An addon's say in the choice of the backend takes its time; the client does not wait for it."""
    addon = tmp_path / "listener.py"
    addon.write_text(LISTENER)
    asked, gone, decided = (tmp_path / name for name in ("asked", "gone", "decided"))
    usage = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, addons=[addon], usage_log=str(usage))
    ways: tuple[How, ...] = ("fin", "rst")
    for number, how in enumerate(ways, 1):
        quitter = Quitter(gateway)
        quitter.send(Lane(next(iter(POOLS["sweden"]))), stream=True)
        eventually(asked.exists, "the addon is asked")
        quitter.hang_up(how)
        eventually(gone.exists, "the gateway notices")
        decided.touch()
        record = json_lines.wait_for(usage, number)[-1]
        assert (record["outcome"], record["attempts"]) == ("client_gone", [])
        for file in (asked, gone, decided):
            file.unlink()
    assert len(json_lines.read(usage)) == len(ways)
    assert simulator.requests() == []
