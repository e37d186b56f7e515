"""The states of a stream, and the step that takes an event in each: the stream's table.

docs/concepts/architecture.md shows it.
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING

from mitmproxy.proxy import events
from mitmproxy.proxy.layers.http import (
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
from mitmproxy.proxy.layers.websocket import WebSocketMessageInjected

from aoai_gateway.proxy.messages import Crashed, DeadlinePassed, GatewayLeaves, WholeRequest, WholeResponse

if TYPE_CHECKING:
    from collections.abc import Mapping


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
