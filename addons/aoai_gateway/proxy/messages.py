"""What the gateway's layer and its streams say to each other, beside mitmproxy's own events and commands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

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

    from aoai_gateway.runtime.slow_readers import Output


TIMER_SLACK = 0.005
"""Seconds by which a timer may come early and still count."""

DEADLINE_SLACK = 2 * TIMER_SLACK
"""The same of a deadline, which a timer that counts has told of."""


class StreamDeadlines:
    """The time at which each stream of a connection has a step due, in seconds on any monotonic clock.

    mitmproxy's timers cannot be cancelled, and each is a task until it fires. One per request, for a time
    that hardly ever passes, would pile up thousands on a busy keep-alive connection. So a timer that is under
    way is reused for all deadlines after it: when it fires, the streams whose time has come are told, and the
    timer is set anew for the others.
    """

    def __init__(self) -> None:
        self._due: dict[Any, float] = {}
        self._timers: set[float] = set()
        """When the timers under way fire."""

    def set(self, owner: Any, at: float) -> float | None:
        """Set (or move) an owner's deadline. Returns the time for which a timer must be started, if any."""
        self._due[owner] = at
        return self._timer(at)

    def clear(self, owner: Any) -> None:
        """Forget an owner's deadline; its timer fires idly or is used for another."""
        self._due.pop(owner, None)

    def fired(self, now: float) -> tuple[list[Any], float | None]:
        """Return the owners whose time has come, and the time for which the next timer must be started."""
        self._timers = {at for at in self._timers if at > now}
        expired = [owner for owner, at in self._due.items() if at <= now]
        for owner in expired:
            del self._due[owner]
        return expired, self._timer(min(self._due.values(), default=math.inf))

    def _timer(self, at: float) -> float | None:
        if at == math.inf or (self._timers and min(self._timers) <= at):
            return None
        self._timers.add(at)
        return at


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
