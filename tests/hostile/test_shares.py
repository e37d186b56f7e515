"""What there is little of is shared: one client's large requests do not delay or lock out another one's."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, eventually
from tests.e2e.raw import Connection, exchange, head, post
from tests.hostile.scripted import ScriptedBackend

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"
LIMITS = {"body_mb": 28, "bodies_mb": 400}
SHARE = 200 * MIB
"""Of one client alone."""


def key_of(client: str) -> str:
    return f"key-of-{client}-77ab"


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp(f"shares-{request.param}")
    backend = ScriptedBackend()
    endpoint = {
        "name": "only",
        "url": f"http://127.0.0.1:{backend.port}",
        "key": "backend-key-1",
        "virtual_deployments": [{"name": "gpt-4o", "standins": [{"name": "real"}]}],
    }
    config = {
        "aoai": {"endpoints": [endpoint]},
        "clients": [
            {"name": "greedy", "key": key_of("greedy")},
            {"name": "modest", "key": key_of("modest")},
            {"name": "spent", "key": key_of("spent"), "max_requests_per_minute": 1},
        ],
        "limits": LIMITS,
    }
    gateway = Gateway(request.param, config, folder, home=folder)
    try:
        yield gateway
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()
        backend.close()


def body(model: str, size: int) -> bytes:
    """A body that takes its time to be read: many short values."""
    return b'{"model":"%s","messages":[],"x":[%s0]}' % (model.encode(), b"0," * (size // 2))


def test_large_bodies_do_not_delay_those_of_others(gateway: Gateway) -> None:
    ends: list[float] = []
    sent = threading.Barrier(5)

    def flood() -> None:
        with Connection(gateway, seconds=200) as connection:
            connection.send(post(V1, body("nonsense", 24 * MIB), key=key_of("greedy")))
            sent.wait(200)
            assert connection.reply().status == 404
            ends.append(time.monotonic())

    # Both processes that read bodies are there.
    for size in (200_000, 2_000_000):
        assert exchange(gateway, post(V1, body("gpt-4o", size), key=key_of("modest"))).status == 200
    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    sent.wait(200)
    replies = [exchange(gateway, post(V1, body("gpt-4o", 200_000), key=key_of("modest"))) for _ in range(3)]
    at = time.monotonic()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 3
    assert len(ends) == 4
    assert at < max(ends), "they waited for all of the large ones"


@pytest.mark.parametrize(
    ("client", "path", "status"),
    [
        ("modest", CLASSIC.format("nonsense"), 404),
        ("spent", V1, 429),
        ("spent", CLASSIC.format("gpt-4o"), 429),
    ],
)
def test_what_a_head_condemns_is_not_read(gateway: Gateway, client: str, path: str, status: int) -> None:
    if client == "spent":
        exchange(gateway, post(V1, body("gpt-4o", 10), key=key_of("spent")))
    announced = head(f"POST {path} HTTP/1.1", f"api-key: {key_of(client)}", f"Content-Length: {24 * MIB}")
    with Connection(gateway) as connection:
        connection.send(announced)
        reply = connection.reply()
        assert (reply.status, reply.headers["connection"]) == (status, "close")
        # It may be on its way already; the answer is not lost by that.
        connection.send(b" " * 24 * MIB)
        assert connection.rest() == b""


def unfinished(gateway: Gateway, client: str, size: int) -> socket.socket:
    """Begin to send a body, and stop short of its end."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), 20)
    fields = (f"api-key: {key_of(client)}", f"Content-Length: {size + 1}")
    connection.sendall(head(f"POST {V1} HTTP/1.1", *fields) + b" " * size)
    return connection


def test_unfinished_bodies_have_a_bound(gateway: Gateway) -> None:
    small = post(V1, json.dumps({"model": "gpt-4o", "messages": []}).encode(), key=key_of("greedy"))
    size = SHARE // 10
    more = head(f"POST {V1} HTTP/1.1", f"api-key: {key_of('greedy')}", f"Content-Length: {size}")

    def is_refused() -> bool:
        reply = exchange(gateway, more + b" " * size)
        if reply.status == 503:
            assert reply.headers["retry-after"] == "1"
            assert reply.error["code"] == "unavailable"
        return reply.status == 503

    with ExitStack() as connections:
        for _ in range(9):
            connections.enter_context(unfinished(gateway, "greedy", size))
        # Less than one more has room, as soon as all of them are there.
        connections.enter_context(unfinished(gateway, "greedy", size // 2))
        eventually(is_refused, "all of its share is in use")
        large = post(V1, body("gpt-4o", size), key=key_of("modest"))
        assert exchange(gateway, large).status == 200
    # Its connections are closed, so it has room again.
    eventually(lambda: exchange(gateway, small).status == 200, "room again")
