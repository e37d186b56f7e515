"""The ends of connections: a client's takes all others with it, and cuts off no answer; no circle is left."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server import ConnectionHandler, ConnectionIO, SimpleConnectionHandler

from aoai_gateway.app import connection_ends
from aoai_gateway.app.connection_ends import Ended, let_go_of, without_frames
from aoai_gateway.proxy.remains import take_apart

type Reaction = Callable[[events.Event], list[commands.Command]]


class Caller(NamedTuple):
    """A client's end of its connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        self.writer.close()


class Scripted(layer.Layer):
    """A layer that opens connections when it is told to, and writes down what came of them."""

    reaction: Reaction
    opened: list[str | None]
    streams: dict[int, str]

    def _handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        if isinstance(event, events.OpenConnectionCompleted):
            self.opened.append(event.reply)
        if isinstance(event, events.ConnectionClosed) and event.connection is self.context.client:
            yield commands.CloseConnection(event.connection)
        yield from self.reaction(event)

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        yield from self._handle_event(event)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("handle_client", "handle_connection", "open_connection"):
        monkeypatch.setattr(ConnectionHandler, name, getattr(ConnectionHandler, name))
    connection_ends.install()


@asynccontextmanager
async def between(
    reaction: Reaction,
) -> AsyncIterator[tuple[Any, Caller, Server, list[asyncio.Event]]]:
    """A handler with a client before it and a server behind it; the list has, of each connection, its end."""
    seen: list[asyncio.Event] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.Event()
        seen.append(ended)
        await reader.read()
        writer.close()
        ended.set()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = SimpleConnectionHandler(reader, writer, Options(), ProxyMode.parse("regular"), {})
        scripted = Scripted(handler.layer.context)
        scripted.reaction, scripted.opened = reaction, []
        handler.layer = scripted
        made.set_result(handler)

    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    behind = await asyncio.start_server(accept, "127.0.0.1", 0)
    front = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, client = await asyncio.open_connection(*front.sockets[0].getsockname())
    try:
        yield await made, Caller(reader, client), Server(address=behind.sockets[0].getsockname()), seen
    finally:
        client.close()
        front.close()
        behind.close()


def no_reaction(_: events.Event) -> list[commands.Command]:
    return []


def test_a_connection_that_is_asked_for_later_is_not_opened() -> None:
    async def story() -> None:
        async with between(no_reaction) as (handler, client, server, seen):
            scripted = handler.layer
            scripted.streams = {1: "a call that is not over yet"}
            client.close()
            await handler.handle_client()
            scripted.reaction = lambda event: (
                [commands.OpenConnection(server)] if isinstance(event, events.Wakeup) else []
            )
            await handler.server_event(events.Wakeup(commands.RequestWakeup(0)))
            await asyncio.wait_for(handler.transports[server].handler, 60)
            assert (scripted.opened, seen) == ([connection_ends.TOO_LATE], [])
            assert server.state is ConnectionState.CLOSED

    asyncio.run(story())


def test_the_end_of_a_connection_that_leads_to_another_leaves_none() -> None:
    async def story() -> None:
        servers: list[Server] = []
        gone = asyncio.Event()

        def react(event: events.Event) -> list[commands.Command]:
            if isinstance(event, events.Start):
                return [commands.OpenConnection(servers[0])]
            if isinstance(event, events.OpenConnectionCompleted) and event.command.connection is servers[0]:
                gone.set()
            if isinstance(event, events.ConnectionClosed) and event.connection is servers[0]:
                return [commands.OpenConnection(servers[1])]
            return []

        async with between(react) as (handler, client, server, seen):
            servers += server, Server(address=server.address)
            handling = asyncio.create_task(handler.handle_client())
            await asyncio.wait_for(gone.wait(), 60)
            client.close()
            await asyncio.wait_for(handling, 60)
            assert all(io.handler is None or io.handler.done() for io in handler.transports.values())
            for ended in seen:
                await asyncio.wait_for(ended.wait(), 60)

    asyncio.run(story())


def one_answer() -> Reaction:
    """Answer the first bytes of a client, close, and take nothing more."""
    answered = False

    def react(event: events.Event) -> list[commands.Command]:
        nonlocal answered
        if answered or not isinstance(event, events.DataReceived):
            return []
        answered = True
        return [commands.SendData(event.connection, b"answer"), commands.CloseConnection(event.connection)]

    return react


def test_a_client_that_still_sends_can_read_its_last_answer() -> None:
    async def story() -> None:
        async with between(one_answer()) as (handler, client, *_):
            client.write(b"x" * 1_000_000)
            handling = asyncio.create_task(handler.handle_client())
            assert await asyncio.wait_for(client.reader.read(), 60) == b"answer"
            client.close()
            await asyncio.wait_for(handling, 60)

    asyncio.run(story())


def test_a_client_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_ends, "LINGER_SECONDS", 0.01)

    async def story() -> None:
        async with between(one_answer()) as (handler, client, *_):
            client.write(b"x")
            await asyncio.wait_for(handler.handle_client(), 60)

    asyncio.run(story())


def test_nor_where_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_ends, "LINGER_SECONDS", 1e9)

    async def story() -> None:
        async with between(one_answer()) as (handler, client, *_):
            client.write(b"x")
            handling = asyncio.create_task(handler.handle_client())
            assert await asyncio.wait_for(client.reader.read(), 60) == b"answer"
            connection_ends.stop_lingering()
            await asyncio.wait_for(handling, 60)

    asyncio.run(story())


class Waiting(layer.Layer):
    """A layer that waits for what it asks for."""

    def _handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        yield commands.OpenConnection(Server(address=("127.0.0.1", 3)))


class Parent(layer.Layer):
    """A layer with others below it, as mitmproxy's refer to them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.streams: dict[int, str] = {}
        self.child = Waiting(context)
        self.connections = {"a backend": Waiting(context.fork())}
        self._handle_event = self.child.handle_event  # type: ignore[method-assign]  # all that it does is its child's

    def _handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        raise NotImplementedError


@pytest.fixture
def context() -> Context:
    client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)
    return Context(client, Options())


def references(parent: Parent) -> list[weakref.ref[Any]]:
    return [weakref.ref(each) for each in (parent, parent.child, *parent.connections.values())]


def test_layers_end_without_a_collection(context: Context) -> None:
    parent = Parent(context)
    found = references(parent)
    assert take_apart(parent)
    del parent
    assert [each() for each in found] == [None] * 3


def test_layers_above_stay_as_they_are(context: Context) -> None:
    parent = Parent(context)
    backend = parent.connections["a backend"]
    assert take_apart(backend)
    assert vars(backend) == {}
    assert parent.child.context is context
    assert context.layers == [parent, parent.child]


def test_a_layer_that_waits_goes_on_when_it_is_answered(context: Context) -> None:
    parent = Parent(context)
    child = parent.child
    [asked] = list(child.handle_event(events.Start()))
    assert isinstance(asked, commands.OpenConnection)
    ended = Ended(parent)
    ended.look()
    assert child.context is context
    assert list(ended.handle_event(events.OpenConnectionCompleted(asked, None))) == []
    assert vars(child) == {}
    assert list(ended.handle_event(events.Start())) == [], "nothing is left to hear of it"


def test_a_layer_with_a_call_under_way_is_left(context: Context) -> None:
    parent = Parent(context)
    parent.streams[1] = "a call"
    assert not take_apart(parent)
    parent.streams.clear()
    assert take_apart(parent)


def test_the_exception_that_ends_a_connection_is_kept_without_its_frames() -> None:
    async def story() -> None:
        reader = asyncio.StreamReader()
        reader.set_exception(ConnectionResetError("reset"))
        with pytest.raises(ConnectionResetError) as caught:
            await reader.read(1)
        assert caught.value.__traceback__ is not None
        io = ConnectionIO(asyncio.current_task(), reader, None)
        let_go_of(io)
        assert (io.handler, caught.value.__traceback__) == (None, None)

    asyncio.run(story())


def test_an_exception_is_raised_again_without_its_frames() -> None:
    def fail() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone") as first:
        fail()
    assert without_frames(first.value) is first.value
    assert first.value.__traceback__ is None
