"""What is over is gone at once: a call, and a connection, leave nothing that only a garbage collection finds.

A collection stops all calls for as long as there are objects to look at, and what waits for one takes memory.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.certificates import Certificates
from tests.e2e.processes import Gateway, Simulator, eventually
from tests.e2e.raw import Connection
from tests.e2e.settings import CLIENT_KEY

ADDON = Path(__file__).parent / "addons" / "look_for_garbage.py"
CALLS = 3
PATH = "/openai/v1/chat/completions"

OURS = ("aoai_gateway", "mitmproxy", "builtins.frame", "builtins.traceback", "builtins.TypeError")
BRIEF = "mitmproxy.contrib.kaitaistruct"
"""What a client says in a TLS handshake, taken apart. A collection of the youngest objects finds it."""

SECTIONS: dict[str, Any] = {
    "workbench": True,
    "clients": [{"name": "Tester", "key": CLIENT_KEY, "request_limits": {"max_tokens": 1000}}],
    "admin": {"port": 0, "token": "a-token-of-the-admin"},
    "breaks": {"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
}


class Garbage:
    """Asks a gateway for what it has left to the collector since the last time."""

    def __init__(self, file: Path) -> None:
        self.options: dict[str, Any] = {**SECTIONS, "addons": [ADDON], "env": {"GARBAGE_IN": str(file)}}
        """For `start_gateway`."""
        self._file = file
        self._found: Counter[str] = Counter()

    def look(self, gateway: Gateway) -> int:
        """Collect, and return how many connections of clients are open."""
        self._file.unlink(missing_ok=True)
        gateway.send(signal.SIGUSR1)
        text = eventually(lambda: self._file.exists() and self._file.read_text(), "a count")
        told: dict[str, Any] = json.loads(text)
        self._found.update(told["found"])
        return int(told["open"])

    def take(self) -> dict[str, int]:
        """Return the number of objects by class, those of Python's own left out."""
        found, self._found = self._found, Counter()
        return {n: count for n, count in found.items() if n.startswith(OURS) and not n.startswith(BRIEF)}


@pytest.fixture
def garbage(tmp_path: Path) -> Garbage:
    return Garbage(tmp_path / "garbage.json")


def message(key: str = CLIENT_KEY, **members: Any) -> bytes:
    """Write a call."""
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **members}
    body = json.dumps(asked).encode()
    return (
        b"POST %s HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\napi-key: %s\r\n"
        b"content-length: %d\r\n\r\n%s" % (PATH.encode(), key.encode(), len(body), body)
    )


KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "a whole answer": ({}, 200),
    "a stream": ({"stream": True}, 200),
    "a failed attempt before": ({}, 200),
    "an unknown deployment": ({"model": "no-such"}, 404),
    "too many tokens": ({"max_tokens": 100_000}, 400),
    "a request that the backend refuses": ({"temperature": "hot"}, 400),
}


@pytest.mark.each_host
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_leaves_no_garbage(
    kind: str, start_gateway: Callable[..., Gateway], simulator: Simulator, garbage: Garbage
) -> None:
    members, status = KINDS[kind]
    gateway = start_gateway(simulator, **garbage.options)

    def call() -> int:
        if kind == "a failed attempt before":
            simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=1)
        connection.send(message(**members))
        return connection.reply().status

    with Connection(gateway) as connection:
        # The first one loads modules, and opens connections.
        assert call() == status
        garbage.look(gateway)
        garbage.take()
        assert [call() for _ in range(CALLS)] == [status] * CALLS
        garbage.look(gateway)
        assert garbage.take() == {}


def the_client_ends_it(gateway: Gateway, simulator: Simulator) -> None:
    with Connection(gateway) as connection:
        connection.send(message())
        assert connection.reply().status == 200


def the_client_ends_it_before_a_call(gateway: Gateway, simulator: Simulator) -> None:
    with Connection(gateway) as connection:
        connection.send(b"POST ")


def the_client_hangs_up_on_a_stream(gateway: Gateway, simulator: Simulator) -> None:
    simulator.fault("slow-first-token", seconds=60)
    with Connection(gateway) as connection:
        connection.send(message(stream=True))
        eventually(lambda: any(simulator.active().values()), "a call at the backend")
    simulator.clear_faults()


def the_gateway_ends_it(gateway: Gateway, simulator: Simulator) -> None:
    with Connection(gateway) as connection:
        connection.send(message(key="no-such-key"))
        assert connection.reply().status == 401
        connection.rest()


def no_http(gateway: Gateway, simulator: Simulator) -> None:
    with Connection(gateway) as connection:
        connection.send(b"What is this?\r\n\r\n")
        assert connection.reply().status == 400
        connection.rest()


def a_backend_ends_its_own(gateway: Gateway, simulator: Simulator) -> None:
    simulator.fault("reset", deployment="gpt-4o-ptu")
    with Connection(gateway) as connection:
        connection.send(message())
        assert connection.reply().status == 200


ENDS = (
    the_client_ends_it,
    the_client_ends_it_before_a_call,
    the_client_hangs_up_on_a_stream,
    the_gateway_ends_it,
    no_http,
    a_backend_ends_its_own,
)


@contextmanager
def connections_over(gateway: Gateway, garbage: Garbage) -> Iterator[None]:
    """Wait, afterwards, for the end of all connections."""
    yield
    eventually(lambda: garbage.look(gateway) == 0, "the end of all connections")


@pytest.mark.each_host
def test_a_connection_leaves_no_garbage(
    start_gateway: Callable[..., Gateway], simulator: Simulator, garbage: Garbage
) -> None:
    gateway = start_gateway(simulator, **garbage.options)
    left = {}
    for end in ENDS:
        for _ in range(2):  # the first one loads modules
            garbage.take()
            with connections_over(gateway, garbage):
                end(gateway, simulator)
        left[end.__name__] = garbage.take()
    assert left == {end.__name__: {} for end in ENDS}


def test_a_connection_with_tls_leaves_no_garbage(
    start_gateway: Callable[..., Gateway],
    start_simulator: Callable[..., Simulator],
    tls: Certificates,
    garbage: Garbage,
) -> None:
    gateway = start_gateway(start_simulator(tls=tls), tls=tls, **garbage.options)
    call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(2):
        garbage.take()
        with connections_over(gateway, garbage):
            assert gateway.request("POST", PATH, key=CLIENT_KEY, json_body=call).status == 200
    assert garbage.take() == {}
