"""What is read from a connection while another of its events is under way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import events
from mitmproxy.proxy.commands import StartHook
from mitmproxy.proxy.server import ConnectionHandler

from aoai_gateway.app import relay as module
from aoai_gateway.app.relay import Relay, WatchedReader


class Layer:
    """Notes in which order it gets events; a stream takes what is read once it has got ``begun``."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.has_lane = False

    def handle_event(self, event: Any) -> tuple[()]:
        self.seen.append(("layers", getattr(event, "data", event)))
        self.has_lane = self.has_lane or event == "begun"
        return ()

    def take(self, data: bytes, connection: Server) -> SimpleNamespace:
        self.seen.append(("stream", data))
        return SimpleNamespace(sent=b"", left=False)


class Transport:
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Writer(asyncio.StreamWriter):
    def __init__(self) -> None:
        """Write nowhere."""

    def __del__(self) -> None:
        """Nothing was opened."""

    @property
    def transport(self) -> Any:
        return Transport()


class Handler(ConnectionHandler):
    async def handle_hook(self, hook: StartHook) -> None:
        """Do nothing: no event here has one."""


class Place:
    """A backend's connection with a relay, and mitmproxy's task that reads from it."""

    def __init__(self) -> None:
        self.layer = Layer()
        self.handler = handler = Handler.__new__(Handler)
        handler._server_event_lock = asyncio.Lock()
        handler.timeout_watchdog = SimpleNamespace(register_activity=lambda: None)  # type: ignore[assignment]
        handler.layer = self.layer  # type: ignore[assignment]
        handler.client = Client(peername=("a", 1), sockname=("b", 1), timestamp_start=0)
        handler.transports = {handler.client: SimpleNamespace(writer=Writer())}  # type: ignore[dict-item]
        self.server = Server(address=("x", 1))
        self.server.state = ConnectionState.OPEN
        stream = asyncio.StreamReader()
        self.reader = WatchedReader(stream)
        before: Any = asyncio.StreamReaderProtocol(stream)
        self.relay = Relay(handler, self.server, self.layer, Transport(), before, self.reader)  # type: ignore[arg-type]

    async def go_on(self) -> None:
        while data := await self.reader.read(65_535):
            await self.handler.server_event(events.DataReceived(self.server, data))

    def arrive(self, data: bytes) -> None:
        module._view[: len(data)] = data
        self.relay.buffer_updated(len(data))


def test_a_read_waits_for_the_event_before_it_and_the_next_one_does_not_pass_it() -> None:
    async def story() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # as mitmproxy does
        there = Place()
        reading = asyncio.create_task(there.go_on())
        lock = there.handler._server_event_lock
        await lock.acquire()
        waiting: Any = "begun"
        before = asyncio.create_task(there.handler.server_event(waiting))
        await asyncio.sleep(0)
        lock.release()  # the event before waits for nothing any more, and has yet to run
        there.arrive(b"one")
        await before
        there.arrive(b"two")
        for _ in range(5):
            await asyncio.sleep(0)
        seen = there.layer.seen
        assert seen[0] == ("layers", "begun")
        assert b"".join(data for _, data in seen[1:]) == b"onetwo"
        there.arrive(b"three")
        assert seen[-1] == ("stream", b"three"), "the short way is open again"
        reading.cancel()

    asyncio.run(story())
