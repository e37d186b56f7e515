"""What the gateway's layer and its streams say to each other, beside mitmproxy's own events and commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import (
    GetHttpConnection,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
)
from mitmproxy.proxy.layers.http._base import HttpEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mitmproxy import http
    from mitmproxy.connection import Connection, Server
    from mitmproxy.proxy.layer import CommandGenerator, Layer

    from aoai_gateway.proxy.timers import StreamDeadlines
    from aoai_gateway.runtime.slow_readers import Output


class WholeRequest(RequestHeaders):
    """A request that is all there: it came in one read, or is sent at once. ``data``: its body.

    Most requests are, so they take one step through the layers where three events would take three.
    """

    def __init__(self, stream_id: int, request: http.Request, data: bytes) -> None:
        self.stream_id = stream_id
        self.request = request
        self.end_stream = not data
        self.replay_flow = None
        self.data = data


class WholeResponse(ResponseHeaders):
    """A response that is all there, likewise."""

    def __init__(self, stream_id: int, response: http.Response, data: bytes) -> None:
        self.stream_id = stream_id
        self.response = response
        self.end_stream = not data
        self.data = data

    def rest(self) -> Iterator[ResponseData | ResponseEndOfMessage]:
        """Yield the events that say after the head what is left to be said."""
        if self.data:
            yield ResponseData(self.stream_id, self.data)
        yield ResponseEndOfMessage(self.stream_id)


class Connect(GetHttpConnection):
    """Ask for a new connection to a backend.

    ``seconds``: how long it may take to open; ``fresh``: not one that was used, or opened, before.
    ``opening`` and ``timed_out`` are filled in by the layer.
    """

    def __init__(self, address: tuple[str, int], tls: bool, seconds: float, fresh: bool) -> None:
        super().__init__(address, tls, None)
        self.seconds = seconds
        self.fresh = fresh
        self.opening: Connection | None = None
        self.timed_out = False

    __hash__ = GetHttpConnection.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(eq=False)
class DeadlinePassed(HttpEvent):
    """A stream's deadline has passed."""

    __hash__ = object.__hash__


@dataclass
class GatewayLeaves(events.Event):
    """The gateway ends, so a session does: when it is idle, or ``at_once``."""

    at_once: bool


@dataclass(eq=False)
class Crashed(HttpEvent):
    """An exception escaped from a stream."""

    error: Exception

    __hash__ = object.__hash__


class StreamLayer(Protocol):
    """What a stream needs of the layer that it belongs to."""

    deadlines: StreamDeadlines
    output: Output

    @property
    def connections(self) -> Mapping[Connection, Layer]:
        """The layers of the client's connection and of those to backends."""

    def idle(self, address: tuple[str, int], tls: bool) -> Server | None:
        """Return an open connection to a backend on which nothing is under way; None: there is none."""

    def set_deadline(self, owner: Connect | DeadlinePassed, at: float) -> CommandGenerator[None]:
        """Have the owner told when its time has come (monotonic seconds)."""
