"""A connection that has ended: its layers are taken apart, as soon as nothing in them waits."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.connection import Client, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.server import ConnectionIO

from aoai_gateway.app.ended_connections import Ended, let_go_of, without_frames
from aoai_gateway.proxy.remains import take_apart


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
        self._handle_event = self.child.handle_event  # type: ignore[method-assign]

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
