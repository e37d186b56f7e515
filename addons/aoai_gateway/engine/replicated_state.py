"""The state that the calls of several processes share, replicated: each process has the calls of all of them.

What changes it is in a journal (:mod:`~aoai_gateway.engine.journal`), which peers apply to their own state:
:mod:`~aoai_gateway.engine.peers`.
"""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import TYPE_CHECKING, override

from aoai_gateway.engine.journal import CallRecord, Journal
from aoai_gateway.engine.replicated_parts import (
    ReplicatedAffinity,
    ReplicatedBreaks,
    ReplicatedLiveness,
    ReplicatedPatience,
    ReplicatedSuspicions,
    ReplicatedUnfinishedWork,
)
from aoai_gateway.engine.scheduler import Scheduler
from aoai_gateway.engine.shared import SharedState
from aoai_gateway.wire.hints import own_rate_limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from random import Random

    from aoai_gateway.routing.backends import Backend, BackendKey
    from aoai_gateway.routing.order import RoutingRequest
    from aoai_gateway.routing.responsiveness import Liveness
    from aoai_gateway.wire.hints import Headers, RateLimits

PROMISE_SECONDS = 0.25
"""How long the room of a peer's waiting call is kept for it, after its turn has come."""


class ReplicatedScheduler(Scheduler):
    """A scheduler that has the calls of all processes: its own, and those that peers have told it of."""

    def __init__(self, journal: Journal, breaks: ReplicatedBreaks, suspicions: ReplicatedSuspicions) -> None:
        super().__init__(breaks)
        self.breaks: ReplicatedBreaks = breaks
        self.suspicions = suspicions
        self._journal = journal
        self._told: set[str] = set()
        """Own calls that peers know."""
        self.elsewhere: dict[str, RoutingRequest] = {}
        """Calls of peers, by id."""
        self._promised: dict[str, float] = {}
        """Those of them to which a backend was given here, and since when."""

    # --- own calls -------------------------------------------------------------------------------------

    @override
    def expect(self, request: RoutingRequest, now: float) -> None:
        super().expect(request, now)
        if request.limited:
            self._tell(request, now)

    @override
    def acquire(self, request: RoutingRequest, backend: Backend, now: float) -> bool:
        if not super().acquire(request, backend, now):
            return False
        if request.call_id in self.elsewhere:
            self._promised[request.call_id] = now
            return True
        if self.breaks.is_half_open(backend, request.cls.name):
            self._tell(request, now)
        if request.call_id in self._told:
            self._journal.write("begun", now, request.call_id, backend.key, request.tokens)
        return True

    @override
    def release(self, request: RoutingRequest, now: float) -> None:
        if request.call_id in self._told and request.backend is not None:
            self._journal.write("undone", now, request.call_id)
        super().release(request, now)

    @override
    def join(self, request: RoutingRequest, minimum_shares: Mapping[str, float], *, max_length: int) -> bool:
        if not super().join(request, minimum_shares, max_length=max_length):
            return False
        if request.call_id not in self.elsewhere:
            self._tell(request, request.arrived)
            self._tell_place(request, minimum_shares)
        return True

    @override
    def leave(self, request: RoutingRequest) -> None:
        queue = self._queues.get(request.queue_name)
        waits = queue is not None and request.call_id in queue.requests
        super().leave(request)
        if waits and request.call_id in self._told:
            self._journal.write("left", request.call_id)

    @override
    def answered(
        self, request: RoutingRequest, headers: Headers, now: float, sent: float = -math.inf
    ) -> None:
        super().answered(request, headers, now, sent)
        if request.call_id in self._told:
            limits = astuple(own_rate_limits(headers))
            self._journal.write("answered", now, request.call_id, sent, limits)

    @override
    def refused(
        self, request: RoutingRequest, limits: RateLimits, retry_after: float | None, now: float
    ) -> None:
        super().refused(request, limits, retry_after, now)
        if request.call_id in self._told:
            self._journal.write("refused", now, request.call_id, astuple(limits), retry_after)

    @override
    def ended(self, request: RoutingRequest, used_tokens: int | None, now: float) -> None:
        if request.backend is not None and request.call_id in self._told:
            self._journal.write("ended", now, request.call_id, used_tokens)
        super().ended(request, used_tokens, now)

    @override
    def close(self, request: RoutingRequest, now: float) -> None:
        super().close(request, now)
        if request.call_id in self._told:
            self._told.discard(request.call_id)
            self._journal.write("over", now, request.call_id)

    @override
    def serve_waiting(self, now: float) -> list[RoutingRequest]:
        self._lapse(now)
        released = super().serve_waiting(now)
        if self._promised:
            self.look_again = min(self.look_again, min(self._promised.values()) + PROMISE_SECONDS)
        return [request for request in released if request.call_id not in self.elsewhere]

    @override
    def waiting(self, deployment: str) -> list[RoutingRequest]:
        return [r for r in super().waiting(deployment) if r.call_id not in self.elsewhere]

    @property
    @override
    def queued(self) -> int:
        return sum(
            call_id not in self.elsewhere for queue in self._queues.values() for call_id in queue.requests
        )

    @override
    def _liveness_of(self, key: tuple[BackendKey, str], whole: Liveness) -> Liveness:
        return ReplicatedLiveness(whole, self._journal, key)

    def _tell(self, request: RoutingRequest, now: float) -> None:
        """Tell peers of a call, before what is told of it."""
        if request.call_id in self._told:
            return
        self._told.add(request.call_id)
        told = CallRecord(
            at=now,
            call_id=request.call_id,
            client=request.client,
            cls_name=request.cls.name,
            pool=[backend.key for backend in request.pool],
            deployment=request.deployment,
            operation=request.operation,
            queue_name=request.queue_name,
            tokens=request.tokens,
            arrived=request.arrived,
            weight=request.weight,
            strategy=request.strategy,
            home=request.home,
            takes=None if request.takes is None else list(request.takes),
            too_small=list(request.too_small),
            limited=request.limited,
        )
        self._journal.write("call", *told)

    def _tell_place(self, request: RoutingRequest, minimum_shares: Mapping[str, float]) -> None:
        tried, too_small = list(request.tried), list(request.too_small)
        self._journal.write("joined", request.call_id, tried, too_small, dict(minimum_shares))

    def tell_again(self) -> None:
        """Have peers forget the calls of this process, since they missed some changes, and tell what waits.

        Calls under way are not told of again: their tokens count already where they were told, and those
        that were not are found in the next answers of the backends.
        """
        self._told.clear()
        self._journal.write("lost")
        for queue in self._queues.values():
            for request in queue.requests.values():
                if request.call_id not in self.elsewhere:
                    self._tell(request, request.arrived)
                    self._tell_place(request, queue.tickets.minimum_shares)

    # --- calls of peers --------------------------------------------------------------------------------

    def meet(self, request: RoutingRequest, now: float) -> None:
        """Take in a call that has come to a peer."""
        if request.call_id not in self.elsewhere:
            self.elsewhere[request.call_id] = request
            super().expect(request, now)

    def joined_elsewhere(
        self, request: RoutingRequest, minimum_shares: Mapping[str, float], now: float
    ) -> None:
        """Take in that it waits there; a promise was too early, or too late, then."""
        self.take_back(request, now)
        queue = self._queues.get(request.queue_name)
        if queue is None or request.call_id not in queue.requests:
            super().join(request, minimum_shares, max_length=2**31)

    def begun_elsewhere(self, request: RoutingRequest, backend: Backend, tokens: int, now: float) -> None:
        """Take in that it was sent there."""
        promised = self._promised.pop(request.call_id, None)
        if promised is not None and request.backend is not None:
            if request.backend.key == backend.key:
                return
            super().release(request, now)
        queue = self._queues.get(request.queue_name)
        if queue is not None and request.call_id in queue.requests:
            queue.take(request.call_id)
            queue.tickets.serve(request.call_id)
        request.tokens = tokens
        self._begin(request, backend, now)
        self.breaks.probe_elsewhere(backend, request.cls.name, request.call_id, now)

    def answered_elsewhere(
        self, request: RoutingRequest, limits: RateLimits, now: float, sent: float
    ) -> None:
        """Take in what its answer's head says."""
        backend, capacity = request.backend, request.capacity
        if backend is not None and capacity is not None:
            capacity.learn(request.call_id, limits, now)
            self.breaks.probe_succeeded(backend, request.cls.name, request.call_id)
            if self.suspicions.witnesses:
                self.suspicions.acquit(*backend.key, sent)

    def over_elsewhere(self, request: RoutingRequest, now: float) -> None:
        """Take in that it is over."""
        self._promised.pop(request.call_id, None)
        super().close(request, now)
        self.elsewhere.pop(request.call_id, None)

    def take_back(self, request: RoutingRequest, now: float) -> None:
        """Take back what it was promised."""
        if self._promised.pop(request.call_id, None) is not None:
            super().release(request, now)

    def _lapse(self, now: float) -> None:
        for call_id, since in list(self._promised.items()):
            if now - since >= PROMISE_SECONDS:
                # The peer has not sent it. When it does, or it waits again, that will be told.
                self.take_back(self.elsewhere[call_id], now)


class ReplicatedState(SharedState):
    """The state of one of several processes. Only the speeds of backends each of them learns alone."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.journal = Journal()
        self.scheduler: ReplicatedScheduler = ReplicatedScheduler(
            self.journal, ReplicatedBreaks(self.journal), ReplicatedSuspicions(self.journal)
        )
        self.affinity: ReplicatedAffinity = ReplicatedAffinity(self.journal)
        self.patience = ReplicatedPatience(self.journal)
        self.unfinished = ReplicatedUnfinishedWork(self.journal)

    @override
    def muted(self) -> AbstractContextManager[None]:
        return self.journal.muted()
