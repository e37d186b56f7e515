"""Clients and backends that take their time: each has an end, and none keeps others out."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import READY_PATH, Gateway, eventually
from tests.e2e.raw import Reply, exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import ScriptedBackend

PATH = "/openai/v1/chat/completions"
HEAD = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\napi-key: " + CLIENT_KEY.encode() + b"\r\n"
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'
LIMITS = {"head_seconds": 1, "body_seconds": 1, "keep_alive_seconds": 2, "answer_seconds": 3}
SOON = 20
"""Seconds within which these limits end something, on a busy machine as well; others begin at 30."""


@pytest.fixture(scope="module")
def backend() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.close()


def start(host: str, folder: Path, backend: ScriptedBackend, **sections: Any) -> Gateway:
    url = f"http://127.0.0.1:{backend.port}"
    config = {
        "aoai": {"endpoints": [{"name": "only", "url": url, "key": "backend-key-1"}]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY}],
        **sections,
    }
    return Gateway(host, config, folder, home=folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: ScriptedBackend
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp(f"deadlines-{request.param}")
    gateway = start(request.param, folder, backend, limits=LIMITS, usage_log=str(folder / "usage.jsonl"))
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), 10)


def status(gateway: Gateway) -> int | None:
    """Ask once; None if the connection was closed without an answer."""
    try:
        return exchange(gateway, post(PATH, BODY, key=CLIENT_KEY)).status
    except ConnectionError:
        return None


def until_closed(connection: socket.socket, drip: bytes = b"", pause: float = 0.2) -> tuple[bytes, float]:
    """Read to the connection's end, sending a bit now and then; what came, and how long it took."""
    began, came = time.monotonic(), b""
    connection.settimeout(pause)
    while time.monotonic() - began < SOON:
        try:
            more = connection.recv(65536)
        except TimeoutError:
            try:
                connection.sendall(drip)
            except OSError:
                break
            continue
        except OSError:
            break
        if not more:
            break
        came += more
    else:
        raise AssertionError("it is open still")
    return came, time.monotonic() - began


def test_a_connection_that_says_nothing_is_closed(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        came, took = until_closed(connection)
    assert came == b""
    assert took < SOON


@pytest.mark.parametrize("drip", [b"", b"x"], ids=["silent", "dripping"])
def test_half_a_head_has_an_end(gateway: Gateway, drip: bytes) -> None:
    with connect(gateway) as connection:
        connection.sendall(HEAD + b"x-half: ")
        came, took = until_closed(connection, drip)
    assert came.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in came
    assert took < SOON


@pytest.mark.parametrize("drip", [b"", b" "], ids=["silent", "dripping"])
def test_half_a_body_has_an_end(gateway: Gateway, drip: bytes) -> None:
    with connect(gateway) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + BODY[:20])
        began = time.monotonic()
        came = b""
        connection.settimeout(0.2)
        while b"request_timeout" not in came and time.monotonic() - began < SOON:
            try:
                came += connection.recv(65536)
            except TimeoutError:
                connection.sendall(drip)
    assert came.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_comes_steadily_may_take_its_time(gateway: Gateway) -> None:
    text = json.dumps({"model": "gpt-4o", "messages": [], "padding": "x" * 20_000}).encode()
    while True:
        answer, longest, last = b"", 0.0, time.monotonic()
        with connect(gateway) as connection, suppress(OSError):
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(text))
            for start_at in range(0, len(text), 2_000):
                connection.sendall(text[start_at : start_at + 2_000])
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                time.sleep(0.25)
            answer = connection.recv(64)
        # Where the machine stands still for as long as a pause may be, the client was not steady.
        if longest < LIMITS["body_seconds"] / 2:
            break
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    began = time.monotonic()
    with connect(gateway) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        until_closed(connection)
    assert LIMITS["keep_alive_seconds"] <= time.monotonic() - began < SOON


@pytest.mark.parametrize("more", [b"0\r\nX: ", b"0\r\n", b"1;"], ids=["trailer", "trailers", "chunk line"])
def test_after_a_refusal_what_never_ends_is_not_taken(gateway: Gateway, more: bytes) -> None:
    with connect(gateway) as connection:
        connection.sendall(
            b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + more
        )
        sent, began = 0, time.monotonic()
        connection.settimeout(2 * SOON)
        try:
            while sent < 64 * 1024 * 1024:
                connection.sendall(b"x" * 65536 if more != b"0\r\n" else b"a: b\r\n" * 10_000)
                sent += 65536
        except OSError:
            pass
    assert sent < 16 * 1024 * 1024
    assert time.monotonic() - began < SOON


def test_an_answer_that_drips_has_an_end(gateway: Gateway, backend: ScriptedBackend) -> None:
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    backend.drips[:] = [(stream, b'b\r\ndata: {"a":\r\n', b"1\r\n1\r\n")]
    with connect(gateway) as connection:
        streamed = BODY[:-1] + b', "stream": true}'
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(streamed) + streamed)
        _, took = until_closed(connection)
    assert took < SOON
    assert exchange(gateway, post(PATH, BODY, key=CLIENT_KEY)).status in (200, 429), "it goes on"


def test_silent_connections_lock_no_client_out(tmp_path: Path, backend: ScriptedBackend) -> None:
    limits = {"connections": 20, "connections_per_address": 20}
    gateway = start("serve", tmp_path, backend, limits=limits)
    held: list[socket.socket] = []

    def refused_when_full() -> Reply | None:
        answer = exchange(gateway, post(PATH, BODY, key=CLIENT_KEY))
        if answer.status == 503:
            return answer
        # The connection that asked for readiness had not ended yet, and one of those held has no place.
        held.append(connect(gateway))
        return None

    try:
        held.extend(connect(gateway) for _ in range(20))
        # The reserve tells of health, and of nothing else.
        eventually(lambda: status(gateway) == 503, "it is full")
        assert gateway.request("GET", READY_PATH).status == 200
        refused = eventually(refused_when_full, "a call is refused")
        assert refused.headers["connection"] == "close"
        held.extend(connect(gateway) for _ in range(300))
        assert gateway.log.count("There are too many connections") == 1
        for each in held:
            each.close()
        eventually(lambda: status(gateway) == 200, "room again")
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


def test_when_descriptors_run_out_it_says_so_once(tmp_path: Path, backend: ScriptedBackend) -> None:
    # More connections than descriptors are allowed here, against the warning of the start.
    limits = {"connections": 1_000, "connections_per_address": 1_000}
    gateway = start("serve", tmp_path, backend, limits=limits)
    held: list[socket.socket] = []
    try:
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (100, 100))
        held.extend(connect(gateway) for _ in range(150))
        eventually(lambda: "No more connections can be opened at present" in gateway.log, "a word of it")
        time.sleep(2)
        assert gateway.log.count("No more connections can be opened") == 1
        assert "Traceback" not in gateway.log
        for each in held:
            each.close()
        eventually(lambda: status(gateway) == 200, "room again")
    finally:
        gateway.kill()


def test_few_descriptors_are_warned_of_at_start(tmp_path: Path, backend: ScriptedBackend) -> None:
    gateway = start("serve", tmp_path, backend, limits={"connections": 100_000})
    try:
        eventually(lambda: "limits.connections is 100,000, but" in gateway.log, "the warning")
        assert gateway.stop() == 0
    finally:
        gateway.kill()
