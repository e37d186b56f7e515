"""A pool's backends in virtual time: the simulator's limiter, its headers and pace, and endpoints that die.

A :class:`Served` is one call at a deployment. It says by itself when which part of its answer comes; whoever
has sent it is told by events of the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mitmproxy import http
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    HttpEvent,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from aoai_simulator import limits

type State = Literal["healthy", "hanging", "resetting", "refusing"]
"""``refusing``: no connection is to be had."""

LATENCY = 0.002
"""Seconds of one way between the gateway and a backend."""

BURST = 0.25
"""Seconds for which the tokens of a stream are collected."""

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@dataclass
class Deployment:
    """One real deployment: what it admits, how fast it is, and what it has counted."""

    limits: limits.Limits = field(default_factory=limits.PaygLimits)
    first_token: float = 0.3
    speed: float = 100.0
    """Tokens per second."""
    state: limits.State = field(init=False)
    answers: int = 0
    refusals: int = 0

    def __post_init__(self) -> None:
        self.state = self.limits.empty()

    def fill(self, seconds: float, now: float) -> None:
        """Let others have exhausted it, so that it recovers in so many seconds."""
        self.state = limits.fill(self.limits, self.state, now, seconds)


@dataclass
class Place:
    """An endpoint: its state, what hangs in it, and when calls were sent to it while it was dead."""

    state: State = "healthy"
    running: dict[int, Served] = field(default_factory=dict)
    sent_into: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What a call asks of a backend: tokens of its prompt, and of the completion at most and in fact."""

    prompt: int
    most: int
    completion: int
    stream: bool

    @property
    def cost(self) -> int:
        return self.prompt + self.most


class Served:
    """One call at a deployment. ``tell`` hears of its answer, in events of the wire."""

    def __init__(self, azure: Azure, name: str, work: Work, tell: Callable[[HttpEvent], None]) -> None:
        self._azure, self._work, self._tell = azure, work, tell
        self._deployment = azure.deployments[name]
        self._place = azure.places[name.partition("@")[2]]
        self._reservation: limits.Reservation | None = None
        self._used = 0
        self._over = False
        self._place.running[id(self)] = self
        if self._place.state != "healthy":
            self._place.sent_into.append(azure.now())
        if self._place.state == "resetting":
            self._later(LATENCY, self._drop)
        elif self._place.state == "healthy":
            self._later(LATENCY, self._admit)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._azure.after(seconds, lambda: None if self._over else what())

    def _admit(self) -> None:
        if self._place.state == "hanging":
            return
        deployment, now = self._deployment, self._azure.now()
        decision, deployment.state = limits.admit(deployment.limits, deployment.state, self._work.cost, now)
        if not decision.admitted:
            deployment.refusals += 1
            self._azure.refused_at.append(now)
            body = b'{"error":{"code":"429"}}'
            self._later(LATENCY, lambda: self._answer(429, decision.headers, "application/json", body, True))
            return
        deployment.answers += 1
        self._azure.answered_at.append(now)
        self._azure.served.append(self)
        self._reservation = decision.reservation
        if self._work.stream:
            kind = "text/event-stream; charset=utf-8"
            begins = deployment.first_token
            self._later(begins, lambda: self._answer(200, decision.headers, kind, TEXT, False))
            self._stream(begins, 0)
        else:
            whole = deployment.first_token + max(0, self._work.completion - 1) / deployment.speed
            self._later(whole, lambda: self._answer(200, decision.headers, "application/json", b"{}", True))

    def _stream(self, at: float, sent: int) -> None:
        step = max(1, round(BURST * self._deployment.speed))
        left = self._work.completion - 1 - sent
        if left <= 0:
            self._later(at, self._end)
            return
        share = min(step, left)

        def burst() -> None:
            self._used = self._work.prompt + 1 + sent + share
            self._say(ResponseData(1, TEXT))
            self._stream(0.0, sent + share)

        self._later(at + share / self._deployment.speed, burst)

    def _answer(self, status: int, headers: limits.Headers, kind: str, body: bytes, ends: bool) -> None:
        response = http.Response.make(status, b"", {"content-type": kind, **dict(headers)})
        self._say(ResponseHeaders(1, response, False))
        self._say(ResponseData(1, body))
        if ends:
            self._end()
        else:
            self._used = self._work.prompt + 1

    def _end(self) -> None:
        if self._work.stream and self._reservation is not None:
            self._say(ResponseData(1, DONE))
        self._used = self._work.prompt + self._work.completion
        self._settle()
        self._say(ResponseEndOfMessage(1))
        if self._place.state != "hanging":
            self._forget()

    def _say(self, event: HttpEvent) -> None:
        if self._place.state == "healthy" and not self._over:
            self._tell(event)

    def _drop(self) -> None:
        self._forget()
        self._tell(ResponseProtocolError(1, "server closed connection", ErrorCode.GENERIC_SERVER_ERROR))

    @property
    def spent(self) -> int:
        """The tokens that were charged for it."""
        return self._used

    def _settle(self) -> None:
        if self._reservation is not None:
            now, deployment = self._azure.now(), self._deployment
            deployment.state = limits.settle(
                deployment.limits, deployment.state, self._reservation, self._used, now
            )
            self._reservation = None

    def _forget(self) -> None:
        self._over = True
        self._place.running.pop(id(self), None)

    def reset(self) -> None:
        """The endpoint resets its connections."""
        if not self._over:
            self._settle()
            self._drop()

    def close(self) -> None:
        """Whoever has sent the call closes the connection."""
        if not self._over:
            self._settle()
            self._forget()


class Azure:
    """All deployments, by ``standin@endpoint``. ``after`` does something so many seconds later."""

    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        now: Callable[[], float],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.deployments = dict(deployments)
        self.now, self.after = now, after
        self.refused_at: list[float] = []
        self.answered_at: list[float] = []
        self.served: list[Served] = []
        """All calls that were admitted."""
        self.places = {name.partition("@")[2]: Place() for name in deployments}

    def serve(self, name: str, work: Work, tell: Callable[[HttpEvent], None]) -> Served:
        """Let a deployment serve a call that is sent to it now."""
        return Served(self, name, work, tell)

    def become(self, endpoint: str, state: State) -> None:
        """Change how an endpoint behaves; calls under way in one that resets are lost."""
        place = self.places[endpoint]
        place.state = state
        if state == "resetting":
            for served in list(place.running.values()):
                served.reset()

    @property
    def refusals(self) -> int:
        return sum(each.refusals for each in self.deployments.values())

    @property
    def answers(self) -> int:
        return sum(each.answers for each in self.deployments.values())
