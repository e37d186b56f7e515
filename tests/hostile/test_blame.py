"""What one client can do to a backend: its prompts, impatience and hang-ups, as bytes on sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import WAIT_SECONDS, Gateway, Host
from tests.e2e.raw import Connection, exchange, post
from tests.e2e.settings import CLIENT_KEY, configuration
from tests.hostile.scripted import OK, ScriptedBackend

pytestmark = pytest.mark.e2e

CHAT = "/openai/v1/chat/completions"
OTHER_KEY = "key-of-another-client-51c7"
POOLS = {"north": {"gpt": ("one",)}, "south": {"gpt": ("one",)}}


def refusal(status: str, kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


BLOCKED = {
    "html": refusal("403 Forbidden", "text/html", b"<html><body>Request blocked</body></html>"),
    "json": refusal("403 Forbidden", "application/json", b'{"error":{"code":"403","message":"Blocked."}}'),
}
BROKEN = refusal("500 x", "application/json", b'{"error":{"code":"InternalServerError"}}')
GONE = refusal("404 x", "application/json", b'{"error":{"code":"DeploymentNotFound","message":"Gone."}}')


class Place:
    """A gateway before two scripted endpoints."""

    def __init__(self, gateway: Gateway, north: ScriptedBackend, south: ScriptedBackend) -> None:
        self.gateway, self.north, self.south = gateway, north, south

    def ask(self, text: str, key: str = CLIENT_KEY) -> int:
        return exchange(self.gateway, post(CHAT, body(text), key=key)).status

    @staticmethod
    def has_more_than(backend: ScriptedBackend, count: int) -> bool:
        return len(backend.received) > count

    def served_by_north(self) -> bool:
        """Whether another client is still sent to the first endpoint."""
        before = len(self.north.received)
        assert self.ask("What is the weather like?", OTHER_KEY) == 200
        return len(self.north.received) == before + 1


def body(text: str) -> bytes:
    return json.dumps({"model": "gpt", "messages": [{"role": "user", "content": text}]}).encode()


@pytest.fixture
def place(host: Host, home: Path, tmp_path: Path) -> Iterator[Place]:
    north, south = ScriptedBackend(), ScriptedBackend()
    urls = {"north": f"http://127.0.0.1:{north.port}", "south": f"http://127.0.0.1:{south.port}"}
    document = configuration(
        urls,
        dict.fromkeys(urls, "key-of-a-backend"),
        pools=POOLS,
        clients=[{"name": "one", "key": CLIENT_KEY}, {"name": "other", "key": OTHER_KEY}],
    )
    gateway = Gateway(host, document, tmp_path, home=home)
    try:
        yield Place(gateway, north, south)
    finally:
        gateway.stop()
        north.close()
        south.close()


@pytest.mark.parametrize("kind", BLOCKED)
def test_a_prompt_that_firewalls_block_takes_nothing_down(place: Place, kind: str) -> None:
    for n in range(4):
        place.north.answers, place.south.answers = [BLOCKED[kind]], [BLOCKED[kind]]
        assert place.ask(f"DROP TABLE users{n};") == 403
    assert place.served_by_north()


def test_a_prompt_that_one_firewall_blocks_takes_nothing_down(place: Place) -> None:
    for n in range(4):
        place.north.answers = [BLOCKED["html"]]
        assert place.ask(f"DROP TABLE users{n};") == 200
    place.north.answers = []
    assert place.served_by_north()


def test_impatience_takes_nothing_down(place: Place) -> None:
    for n in range(3):
        place.north.answers = [b""]
        place.north.closed.clear()
        seen = len(place.north.received)
        request = post(CHAT, body(f"slow {n}"), "x-stainless-read-timeout: 0.05", key=CLIENT_KEY)
        with Connection(place.gateway) as connection:
            connection.send(request)
            place.gateway.wait_until(partial(place.has_more_than, place.north, seen), "at the first endpoint")
            time.sleep(0.2)
        assert place.north.closed.wait(WAIT_SECONDS)
    assert place.served_by_north()


def test_a_hang_up_after_a_failure_takes_it_back(place: Place) -> None:
    for n in range(3):
        place.north.answers, place.south.answers = [BROKEN], [b""]
        seen = len(place.south.received)
        with Connection(place.gateway) as connection:
            connection.send(post(CHAT, body(f"hello {n}"), key=CLIENT_KEY))
            place.gateway.wait_until(
                partial(place.has_more_than, place.south, seen), "at the second endpoint"
            )
    place.south.answers = [OK]
    assert place.served_by_north()


def test_two_clients_are_witnesses(place: Place) -> None:
    place.north.answers = [BROKEN, BROKEN]
    assert place.ask("hello") == 200
    assert place.ask("hello", OTHER_KEY) == 200
    assert not place.served_by_north()


def test_a_standin_that_is_gone_is_passed_over_and_named_in_the_log(place: Place) -> None:
    place.north.answers = [GONE]
    assert place.ask("hello") == 200
    assert not place.served_by_north()
    place.gateway.wait_until(lambda: "standin 'one' in aoai.endpoints" in place.gateway.log, "saying so")
