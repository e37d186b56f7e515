"""Places in the queue are shared: a client that fills it makes room for another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Host, eventually, request
from tests.e2e.raw import Connection, Reply, exchange, post
from tests.hostile.scripted import ScriptedBackend
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.each_host]

PATH = "/openai/v1/chat/completions"
PLACES = 4


def key_of(client: str) -> str:
    return f"key-of-{client}-61ce"


class Queue:
    """A gateway whose one backend is out, by hand, so that calls wait in the queue until it is back."""

    def __init__(self, gateway: Gateway, admin: str) -> None:
        self.gateway, self._admin = gateway, admin

    def control(self, what: str, **members: Any) -> None:
        assert request(f"{self._admin}/api/breaks/{what}", "POST", json_body=members).status == 200

    @property
    def waiting(self) -> dict[str, int]:
        """How many calls of each client wait."""
        clients = request(f"{self._admin}/api/status").json()["clients"]
        return {client["name"]: client["waiting"] for client in clients if client["waiting"]}


@pytest.fixture
def queue(host: Host, tmp_path: Path, home: Path) -> Iterator[Queue]:
    backend, admin = ScriptedBackend(), free_port()
    endpoint = {
        "name": "only",
        "url": f"http://127.0.0.1:{backend.port}",
        "key": "key-of-the-backend",
        "virtual_deployments": [{"name": "gpt", "standins": [{"name": "real"}]}],
    }
    config = {
        "aoai": {"endpoints": [endpoint]},
        "clients": [{"name": name, "key": key_of(name)} for name in ("greedy", "modest")],
        "priorities": [{"name": "standard", "wait": {"seconds": 300, "length": PLACES}}],
        "admin": {"port": admin},
    }
    gateway = Gateway(host, config, tmp_path, home=home)
    try:
        queue = Queue(gateway, f"http://127.0.0.1:{admin}")
        queue.control("open", name="only", seconds=200)
        yield queue
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        print(gateway.log)
        gateway.kill()
        backend.close()


def ask(client: str) -> bytes:
    return post(PATH, json.dumps({"model": "gpt", "messages": []}).encode(), key=key_of(client))


@pytest.fixture
def wait(queue: Queue) -> Iterator[Callable[[str], Connection]]:
    """Have a call of a client wait; by its number of those of this client."""
    with ExitStack() as connections:

        def begin(client: str) -> Connection:
            before = queue.waiting
            connection = connections.enter_context(Connection(queue.gateway, seconds=60))
            connection.send(ask(client))
            eventually(lambda: queue.waiting != before, f"a call of {client} waits")
            return connection

        yield begin


def is_refused(reply: Reply) -> bool:
    return (reply.status, reply.error["code"]) == (429, "waiting_line_full")


def test_who_fills_the_queue_makes_room(queue: Queue, wait: Callable[[str], Connection]) -> None:
    greedy = [wait("greedy") for _ in range(PLACES)]
    assert is_refused(exchange(queue.gateway, ask("greedy")))
    assert queue.waiting == {"greedy": PLACES}
    # Another client gets places, until both have the same. The newest calls leave.
    modest = []
    for number in range(1, PLACES // 2 + 1):
        modest.append(wait("modest"))
        assert is_refused(greedy.pop().reply())
        assert queue.waiting == {"greedy": PLACES - number, "modest": number}
    for client in ("modest", "greedy"):
        assert is_refused(exchange(queue.gateway, ask(client)))
    # Those that have kept their places are served.
    queue.control("close")
    assert [connection.reply().status for connection in (*greedy, *modest)] == [200] * PLACES
    assert queue.waiting == {}
