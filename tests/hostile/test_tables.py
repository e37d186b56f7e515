"""What a gateway remembers of its peers has bounds: in entries and in bytes.

A gateway in this process gets calls that have nothing in common, with names of their own in all places that
one can think of, from clients and from backends. Then all that it holds is walked through.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from types import FunctionType, MethodType, ModuleType

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.options import Options
from mitmproxy.proxy import events
from mitmproxy.proxy.commands import StartHook
from mitmproxy.test import taddons

from aoai_gateway.bounded import Bounded
from aoai_gateway.config.models import Config
from aoai_gateway.engine import end_users
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.stream_hooks import GatewayAskHook
from tests.proxy.layer_driver import Clock, Connection, listen

CALLS = 600
LONG = "x" * 4_000
"""Makes each name of a peer's long."""

HELD_ALL_THE_SAME = 100
"""Entries of a table that may be there for other reasons, such as one for each key of the configuration."""

MOST_BYTES_PER_CALL = 2_500
"""That a gateway keeps of a call when it is over, of more than 50,000 that were its names."""

BOUNDED_OTHERWISE = {
    "gateway.engine.admission._users._seen": end_users.MOST_USERS,
    "gateway.state._accounts": "accounts of these, until nothing is booked on them any more",
    "gateway.state._looked_at": "the same accounts",
}
"""Tables that have bounds of their own, with tests of their own."""

WALKED = ("aoai_gateway.", "prometheus_client.", "builtins", "collections", "weakref", "_weakref")


def configuration() -> Config:
    """Every deployment is known here, so that its name is the client's to make up."""
    limits = {"max_tokens_per_minute_in_k": 10_000, "max_requests_per_minute": 100_000}
    client = {
        "name": "anybody",
        "key": "key-of-anybody",
        "per_user": {"max_requests_per_minute": 10},
        "user_from": "body user",
        **limits,
    }
    endpoint = {"name": "a", "url": "http://a.example/", "key": "key-of-a"}
    return Config.model_validate({"aoai": {"endpoints": [endpoint]}, "clients": [client]})


class Hostile:
    """Calls of many clients, each on a connection from an address of its own."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.clock = Clock()
        self.gateway = Gateway(self.clock)
        self.gateway.adopt(configuration())
        listen(self.gateway)
        self._options = options
        self._number = 0

    def call(self) -> None:
        """Make a call of which each name is new."""
        self._number += 1
        name = f"{self._number}-{LONG}"
        here = Connection(self.gateway, self.clock, self._options)
        here.on_hook = self._await
        here.client.peername = (f"10.{self._number // 256}.{self._number % 256}.1", 40_000)
        self._ask(here, name)
        self._answer(here, name)
        here.hang_up()
        self.clock.now += 0.01

    def _await(self, hook: StartHook) -> None:
        if isinstance(hook, GatewayAskHook):
            self._loop.run_until_complete(hook.data.perform(None))  # type: ignore[arg-type]  # of no master

    def _ask(self, here: Connection, name: str) -> None:
        deployment = f"deployment-{self._number}"
        classic = f"/openai/deployments/{deployment}/chat/completions?api-version={name}"
        kinds = ("/openai/v1/chat/completions", "/openai/v1/responses", classic)
        body = json.dumps(
            {
                "model": deployment,
                "messages": [],
                "input": name,
                "user": name,
                "prompt_cache_key": name,
                "previous_response_id": f"resp_{name}",
                "metadata": {name: name},
                "stream": self._number % 2 == 0,
                "max_tokens": self._number,
            }
        ).encode()
        fields = {
            "api-key": "key-of-anybody",
            "session-id": name,
            "x-request-id": name,
            "x-ms-client-request-id": name,
            "user-agent": name,
            "x-stainless-read-timeout": str(10 + self._number),
            "content-type": "application/json",
            "content-length": str(len(body)),
        }
        lines = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
        path = kinds[self._number % len(kinds)]
        here.feed(
            events.DataReceived(
                here.client, f"POST {path} HTTP/1.1\r\nhost: gw\r\n{lines}\r\n".encode() + body
            )
        )

    def _answer(self, here: Connection, name: str) -> None:
        if not here.servers:
            return
        document = {
            "id": f"resp_{name}",
            "model": name,
            "status": "completed",
            "service_tier": name,
            "choices": [{"finish_reason": name, "message": {"content": name}}],
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": self._number,
                "total_tokens": 1 + self._number,
            },
            "error": {"code": name, "type": name, "message": name},
        }
        failed = self._number % 5 == 0
        if not failed:
            del document["error"]
        body = json.dumps(document).encode()
        fields = {
            "x-ms-region": name,
            "apim-request-id": name,
            "x-request-id": name,
            "retry-after-ms": "1",
            "content-type": "application/json",
            "content-length": str(len(body)),
        }
        lines = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
        status = (400, 404, 429, 500)[self._number % 4] if failed else 200
        here.answer("a", f"HTTP/1.1 {status} {self._number}\r\n{lines}\r\n".encode() + body)


class Walk:
    """All that can be reached from an object, in this package's objects and in what they are made of."""

    def __init__(self, root: object) -> None:
        self.bytes = 0
        self.tables: dict[str, int] = {}
        """The entries of each container, by the way to it; where several are alike, of the largest."""
        self.bounds: dict[str, int] = {}
        """The capacities of tables that are made to be bounded."""
        self._seen: set[int] = set()
        self._left: deque[tuple[str, object]] = deque([("gateway", root)])
        while self._left:
            self._visit(*self._left.popleft())

    def _visit(self, path: str, thing: object) -> None:
        if id(thing) in self._seen or isinstance(thing, type | ModuleType | FunctionType | MethodType | Enum):
            return
        self._seen.add(id(thing))
        if not type(thing).__module__.startswith(WALKED):
            return
        self.bytes += sys.getsizeof(thing)
        if isinstance(thing, Bounded):
            self.bounds[path] = thing._capacity
            for key, value in thing._values.items():
                self._left += [(f"{path}[key]", key), (f"{path}[]", value)]
            return
        if isinstance(thing, str | bytes | bytearray):
            pass
        elif isinstance(thing, Mapping):
            self._note(path, len(thing))
            for key, value in list(thing.items()):
                self._left += [(f"{path}[key]", key), (f"{path}[]", value)]
        elif isinstance(thing, Sequence | Set | deque):
            self._note(path, len(thing))
            self._left.extend((f"{path}[]", each) for each in list(thing))
        for name, value in self._attributes(thing):
            self._left.append((f"{path}.{name}", value))

    def _note(self, path: str, entries: int) -> None:
        self.tables[path] = max(self.tables.get(path, 0), entries)

    @staticmethod
    def _attributes(thing: object) -> Iterator[tuple[str, object]]:
        yield from getattr(thing, "__dict__", {}).items()
        for kind in type(thing).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                private = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") else name
                if hasattr(thing, private):
                    yield name, getattr(thing, private)


@pytest.fixture(scope="module")
def walks() -> Iterator[tuple[Walk, Walk]]:
    """What a gateway holds after a few calls, and after many more."""
    loop = asyncio.new_event_loop()
    with taddons.context(Proxyserver()) as tctx:
        hostile = Hostile(tctx.options, loop)
        for _ in range(CALLS):
            hostile.call()
        few = Walk(hostile.gateway)
        for _ in range(CALLS):
            hostile.call()
        yield few, Walk(hostile.gateway)
        loop.close()


def test_no_table_without_a_bound_grows(walks: tuple[Walk, Walk]) -> None:
    few, many = walks
    grown = {
        path: f"{few.tables.get(path, 0)} -> {size}"
        for path, size in many.tables.items()
        if size > few.tables.get(path, 0) + HELD_ALL_THE_SAME
    }
    assert set(grown) <= set(BOUNDED_OTHERWISE), grown
    assert set(BOUNDED_OTHERWISE) <= set(grown), "these need not be named here any more"


def test_what_is_kept_of_a_call_is_small(walks: tuple[Walk, Walk]) -> None:
    few, many = walks
    assert (many.bytes - few.bytes) / CALLS < MOST_BYTES_PER_CALL


def test_the_walk_finds_what_is_kept(walks: tuple[Walk, Walk]) -> None:
    _, many = walks
    assert [size for path, size in many.bounds.items() if ".affinity." in path] == [100_000]
    assert len(many.bounds) >= 8
