"""The events and states of a stream, and the step that takes an event in each state: the stream's table.

docs/concepts/architecture.md shows the table of states.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import (
    GetHttpConnection,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.websocket import WebSocketMessageInjected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mitmproxy.connection import Connection, Server
    from mitmproxy.proxy.layer import CommandGenerator, Layer

    from aoai_gateway.runtime.slow_readers import Output


TIMER_SLACK = 0.005
"""Seconds by which a timer may come early and still count."""

DEADLINE_SLACK = 2 * TIMER_SLACK
"""The same of a deadline, which a timer that counts has told of."""


@dataclass(repr=False)
class WholeRequest(RequestHeaders):
    """A request that is all there: it came in one read, or is sent at once. ``data``: its body.

    Most requests are, so they take one step through the layers where three events would take three.
    """

    data: bytes = b""
    # In no repr, or mitmproxy's debug log would have it.


@dataclass(repr=False)
class WholeResponse(ResponseHeaders):
    """A response that is all there, likewise."""

    data: bytes = b""

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

    output: Output

    @property
    def connections(self) -> Mapping[Connection, Layer]:
        """The layers of the client's connection and of those to backends."""

    def idle(self, address: tuple[str, int], tls: bool) -> Server | None:
        """Return an open connection to a backend on which nothing is under way, or None."""

    def set_deadline(self, owner: Connect | DeadlinePassed, at: float) -> CommandGenerator[None]:
        """Have the owner told when its time has come (monotonic seconds)."""

    @property
    def clear_deadline(self) -> Callable[[Connect | DeadlinePassed], None]:
        """What forgets an owner's deadline."""


class State(Enum):
    """What a stream waits for."""

    REQUEST_HEAD = auto()
    REQUEST_BODY = auto()
    SWALLOWING = auto()
    """The rest of a request that was answered early."""
    DECIDING = auto()
    """The engine, an addon or a store; the stream is paused, or about to go on."""
    QUEUED = auto()
    """A backend, in the queue of a deployment."""
    DELAYED = auto()
    """A time, or a turn of its own, to go on with a result that is known."""
    ATTEMPT = auto()
    """What becomes of the attempt under way."""
    DELIVERING = auto()
    """More of a stream that goes to the client."""
    OPENING = auto()
    """The first message of a session that says what is asked for."""
    SESSION = auto()
    """More messages of a session, from either side."""
    OVER = auto()
    """Nothing more."""


_UNDER_WAY = (
    State.REQUEST_BODY,
    State.DECIDING,
    State.QUEUED,
    State.DELAYED,
    State.ATTEMPT,
    State.DELIVERING,
)

_BEFORE_ANSWER = (State.DECIDING, State.QUEUED, State.DELAYED, State.ATTEMPT)

STEPS: Mapping[tuple[State, type[events.Event]], str] = MappingProxyType(
    {
        (State.REQUEST_HEAD, RequestHeaders): "request.receive_head",
        (State.REQUEST_HEAD, WholeRequest): "request.receive_whole",
        (State.REQUEST_BODY, RequestData): "request.receive_body",
        (State.REQUEST_BODY, RequestEndOfMessage): "request.receive_end",
        (State.REQUEST_BODY, DeadlinePassed): "request.body_overdue",
        (State.SWALLOWING, RequestData): "request.swallow",
        (State.SWALLOWING, RequestEndOfMessage): "vanish",
        (State.SWALLOWING, RequestProtocolError): "vanish",
        (State.SWALLOWING, DeadlinePassed): "request.stop_swallowing",
        (State.DELAYED, events.Wakeup): "resume",
        (State.ATTEMPT, ResponseHeaders): "attempt_event",
        (State.ATTEMPT, ResponseData): "attempt_event",
        (State.ATTEMPT, ResponseTrailers): "attempt_event",
        (State.ATTEMPT, WholeResponse): "attempt_whole",
        (State.ATTEMPT, ResponseEndOfMessage): "attempt_end",
        (State.ATTEMPT, ResponseProtocolError): "attempt_end",
        (State.ATTEMPT, DeadlinePassed): "attempt_overdue",
        (State.DELIVERING, ResponseData): "delivery.body",
        (State.DELIVERING, ResponseEndOfMessage): "delivery.ended",
        (State.DELIVERING, ResponseProtocolError): "delivery.cut",
        (State.DELIVERING, DeadlinePassed): "delivery.overdue",
        (State.OPENING, RequestData): "sessions.opening_data",
        (State.OPENING, RequestProtocolError): "vanish",
        (State.OPENING, DeadlinePassed): "sessions.opening_overdue",
        (State.OPENING, GatewayLeaves): "sessions.opening_leave",
        **{(state, RequestData): "sessions.opening_more" for state in _BEFORE_ANSWER},
        (State.SESSION, RequestData): "sessions.client",
        (State.SESSION, ResponseData): "sessions.backend",
        (State.SESSION, RequestProtocolError): "sessions.client_gone",
        (State.SESSION, ResponseEndOfMessage): "sessions.backend_gone",
        (State.SESSION, ResponseProtocolError): "sessions.backend_gone",
        (State.SESSION, DeadlinePassed): "sessions.overdue",
        (State.SESSION, WebSocketMessageInjected): "sessions.injected",
        (State.SESSION, GatewayLeaves): "sessions.leave",
        **{(state, RequestProtocolError): "client_gone" for state in _UNDER_WAY},
        **{(state, Crashed): "fail_closed" for state in State},
    }
)
"""The method of the stream that takes an event in a state, by name: a test can put another in its place."""
