"""The scheduler: it gives backends to calls, and lets calls wait in a queue while there is none for them.

It holds the state of the backends that all calls share: breaks and half-open states, capacity, signs of
life, and a queue for each virtual deployment. A call describes its needs by a
:class:`~aoai_gateway.routing.order.RoutingRequest`.

- `candidates` returns the backends that could take it now. It changes nothing.
- `acquire` gives it one: the call counts against its capacity from then on, and is a probe where one is due.
  So two calls that look at the same time never take the same room.
- `join` puts it into its queue. `serve_waiting` then gives backends to waiting calls, in the queue's order,
  as soon as there is room for them. It is called whenever something has changed (a call ended, a break did,
  a client left), and at `look_again`: no call is woken to find that there is still no room.
- `release` takes back a backend that a call is not sent to after all.
- `close` takes back everything that the call still has.

While calls wait in a queue, no call goes past it: a new one joins, and is released at once if it is its turn.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from aoai_gateway.routing.breaker import Breaks
from aoai_gateway.routing.capacity import Capacities
from aoai_gateway.routing.demand import ClientShares, Demands
from aoai_gateway.routing.order import Order, RoutingRequest, is_large, opens, order
from aoai_gateway.routing.places import Ticket
from aoai_gateway.routing.queue import WaitingQueue
from aoai_gateway.routing.responsiveness import Liveness
from aoai_gateway.routing.suspicion import Suspicions
from aoai_gateway.wire.hints import TOKEN_WINDOW_SECONDS, own_rate_limits

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.recovery import Scope
    from aoai_gateway.wire.hints import Headers, RateLimits


STANDING_SHARE = 0.25
"""Of the time that a class may wait: a client whose oldest call has waited for longer stands in a queue that
does not get shorter."""

SHARE_SECONDS = 1.0
"""How often it is looked whether a client that had more than its share may have room again."""


class _Queue:
    """The queue of a virtual deployment: the tickets of the calls in it, and their requests."""

    def __init__(self) -> None:
        self.tickets = WaitingQueue()
        self.requests: dict[str, RoutingRequest] = {}
        self.wanted: Counter[tuple[int, Pool]] = Counter()
        """How many of them there are of each rank for each pool."""

    def add(self, request: RoutingRequest) -> None:
        """Take in the request of a call that waits from now on."""
        self.requests[request.call_id] = request
        self.wanted[request.cls.rank, request.pool] += 1

    def take(self, call_id: str) -> RoutingRequest:
        """Take out the request of a call that waits no more."""
        request = self.requests.pop(call_id)
        wanted = (request.cls.rank, request.pool)
        self.wanted[wanted] -= 1
        if not self.wanted[wanted]:
            del self.wanted[wanted]
        return request


class Scheduler:
    """The state of a gateway's backends that all calls share. Times are monotonic seconds."""

    def __init__(self, breaks: Breaks | None = None) -> None:
        self.breaks = Breaks() if breaks is None else breaks
        self.breaks.listen(self._heard)
        self.suspicions = Suspicions()
        self.capacities = Capacities()
        self.demands = Demands()
        self.client_shares = ClientShares()
        self.look_again = math.inf
        """When `serve_waiting` may find a call even though nothing is reported until then."""
        self._queues: dict[str, _Queue] = {}
        self._pushed_out: list[RoutingRequest] = []
        """Calls that lost their places since the last look."""
        self._in_flight: dict[str, _Queue] = {}
        """By call: where it counts as in flight."""
        self._livenesses: dict[tuple[BackendKey, str], Liveness] = {}
        self._endpoint_livenesses: dict[str, Liveness] = {}

    # --- choice ----------------------------------------------------------------------------------------

    def expect(self, request: RoutingRequest, now: float) -> None:
        """Note that a call has come, so that lower classes leave room for others like it. Once a call."""
        if not request.limited:
            return
        pool = request.pool
        weights = [1.0] * len(pool)
        if self.breaks.by_scope:
            open_parts = [self._open_part(backend, request, now) for backend in pool]
            weights = open_parts if any(open_parts) else weights
        capacities = [self.capacities.of(backend, request.deployment) for backend in pool]
        sizes = [capacity.limits(now)[0] for capacity in capacities]
        known = [size for size in sizes if size is not None]
        usual = sum(known) / len(known) if known else 1.0
        parts = [
            weight * (usual if size is None else size) for weight, size in zip(weights, sizes, strict=True)
        ]
        whole = sum(parts) or 1.0
        shares = zip(capacities, parts, strict=True)
        request.expected = {c.key: round(request.tokens * part / whole) for c, part in shares if part}, now
        self.demands.note(request.cls, *request.expected)
        self.client_shares.asked(request.cls.name, request.client, request.weight, request.tokens, now)

    def _open_part(self, backend: Backend, request: RoutingRequest, now: float) -> float:
        """Return the part (0..1) of the next minute in which a backend takes calls, as far as is known."""
        brk = self.breaks.on(backend, now, request.cls.name, request.marks)
        if brk is None:
            return 1.0
        return max(0.0, 1 - brk.remaining(now) / TOKEN_WINDOW_SECONDS) if brk.lacks_room else 0.0

    def candidates(self, request: RoutingRequest, now: float, *, has_deficit: bool = False) -> Order:
        """Say which backends could take a call now, best first, and why others could not."""
        return order(request, self, now, has_deficit=has_deficit)

    def acquire(self, request: RoutingRequest, backend: Backend, now: float) -> bool:
        """Give a backend to a call that is about to be sent there; False if it is not to be had now."""
        breaks = self.breaks
        if (breaks.by_scope or breaks.probes.half_open) and not breaks.may_probe(
            backend, request.cls.name, request.call_id, now, request.marks
        ):
            return False
        self._begin(request, backend, now)
        return True

    def _begin(self, request: RoutingRequest, backend: Backend, now: float) -> None:
        """Count a call at the backend that it is given."""
        request.capacity = self.capacities.of(backend, request.deployment)
        request.capacity.begin(request.call_id, request.tokens, now)
        request.backend, request.given = backend, now
        if not request.limited:
            return  # without limits no call waits (for a moment after a reload, some do)
        self.client_shares.given(request.cls.name, request.client, request.weight, request.tokens, now)
        if request.call_id not in self._in_flight:
            queue = self._in_flight[request.call_id] = self._queue(request)
            queue.tickets.began(request.client)

    def release(self, request: RoutingRequest, now: float) -> None:
        """Take back the backend that a call was given, since it was not sent there after all."""
        backend, capacity = request.backend, request.capacity
        request.backend = request.capacity = None
        if backend is not None and capacity is not None:
            capacity.undo(request.call_id, now)
            self._give_back(request, request.tokens)
            self.breaks.probe_ended(backend, request.cls.name, request.call_id)

    def _give_back(self, request: RoutingRequest, tokens: int) -> None:
        if tokens > 0 and request.limited:
            self.client_shares.give_back(request.cls.name, request.client, tokens, request.given)

    def is_free(self, request: RoutingRequest) -> bool:
        """Whether no call waits that comes before it, in its queue or in another for the same backends."""
        queue = self._queues.get(request.queue_name)
        if queue is not None and queue.requests:
            return False
        mine: set[BackendKey] | None = None
        for queue in self._queues.values():
            for rank, pool in queue.wanted:
                if rank <= request.cls.rank:
                    mine = mine or {backend.key for backend in request.pool}
                    if any(backend.key in mine for backend in pool):
                        return False
        return True

    # --- the queue -------------------------------------------------------------------------------------

    def join(self, request: RoutingRequest, minimum_shares: Mapping[str, float], *, max_length: int) -> bool:
        """Put a call into its queue; False if so many of its class wait there already.

        In a full queue another call may lose its place; `serve_waiting` returns it then, without a backend.
        """
        queue = self._queue(request)
        queue.tickets.minimum_shares = minimum_shares
        cls = request.cls
        ticket = Ticket(
            request.call_id,
            cls.rank,
            cls.name,
            request.client,
            request.arrived,
            request.tokens,
            request.weight,
            size=request.size,
            stands_after=STANDING_SHARE * cls.wait_seconds,
        )
        max_size = request.cls.wait_bytes if request.cls.may_wait else math.inf
        if not queue.tickets.join(ticket, max_length, max_size, push_out=partial(self._push_out, queue)):
            return False
        queue.add(request)
        return True

    def _push_out(self, queue: _Queue, ticket: Ticket) -> None:
        request = queue.take(ticket.id)
        request.pushed_out = True
        self._pushed_out.append(request)

    def leave(self, request: RoutingRequest) -> None:
        """Take a call out of its queue, if it is still in it."""
        queue = self._queues.get(request.queue_name)
        if queue is not None and request.call_id in queue.requests:
            queue.take(request.call_id)
            queue.tickets.leave(request.call_id)

    def standing_wait(self, request: RoutingRequest, now: float) -> float:
        """Seconds for which calls of its class wait at present in a queue that stands; else 0."""
        queue = self._queues.get(request.queue_name)
        waits = queue.tickets.waits(request.cls.name, now) if queue is not None else 0.0
        return waits if waits > STANDING_SHARE * request.cls.wait_seconds else 0.0

    @property
    def queued(self) -> int:
        """The number of calls in queues."""
        return sum(len(queue.requests) for queue in self._queues.values())

    def serve_waiting(self, now: float) -> list[RoutingRequest]:
        """Give backends to waiting calls, as far as there is room.

        Return the calls whose wait is over: those with a backend, and those that have lost their place.
        """
        released, self._pushed_out = self._pushed_out, []
        self.look_again = math.inf
        smallest: dict[Hashable, int] = {}
        excess = partial(self._excess, now)
        for lowest, queue in self._turns():
            while queue.requests:
                can_serve = partial(self._serve, queue, lowest, smallest, now)
                ticket = queue.tickets.next(now, can_serve, excess, partial(self._makes_way, queue))
                if ticket is None:
                    break
                released.append(queue.take(ticket.id))
        for queue in self._queues.values():
            hold_ends = queue.tickets.hold_ends(now)
            if hold_ends is not None:
                self.look_again = min(self.look_again, hold_ends)
        return released

    def _excess(self, now: float, ticket: Ticket) -> float:
        return self.client_shares.excess(ticket.cls_name, ticket.client, now)

    def _makes_way(self, queue: _Queue, ticket: Ticket) -> bool:
        return is_large(queue.requests[ticket.id], self)

    def _turns(self) -> list[tuple[float, _Queue]]:
        """Return the queues that hold calls, in the order of their turns, each with its lowest rank.

        Queues may want the same backends. So each class has its turn in all of them before the next one, and
        where the oldest of a class waits is the first.
        """
        waiting = [queue for queue in self._queues.values() if queue.requests]
        if len(waiting) < 2:
            return [(math.inf, queue) for queue in waiting]
        oldest: dict[tuple[int, int], float] = {}
        for number, queue in enumerate(waiting):
            for request in queue.requests.values():
                turn = (request.cls.rank, number)
                oldest[turn] = min(request.arrived, oldest.get(turn, math.inf))
        return [(turn[0], waiting[turn[1]]) for turn in sorted(oldest, key=lambda t: (t[0], oldest[t]))]

    def _serve(
        self, queue: _Queue, lowest: float, smallest: dict[Hashable, int], now: float, ticket: Ticket
    ) -> bool:
        """Give a backend to a waiting call, and return whether there is one.

        ``lowest``: the lowest rank whose turn it is; a class with a deficit does not wait for it.
        ``smallest``: of each kind of request, the tokens of the smallest one for which there was no room.
        Until the end of this `serve_waiting` there is only less room than then, so larger ones need not be
        looked at.
        """
        request = queue.requests[ticket.id]
        # What it must leave free would keep a low class out for as long as higher ones keep the rest busy.
        has_deficit = queue.tickets.has_deficit(ticket.cls_name)
        if ticket.cls_rank > lowest and not has_deficit:
            return False
        had_its_share = self._excess(now, ticket) > 0
        leaves_room = had_its_share or is_large(request, self)
        client = request.client if leaves_room else ""
        kind = (has_deficit, client, request.kind, request.marks if self.breaks.any_for_some else ())
        if request.tokens >= smallest.get(kind, math.inf):
            return False
        before = min(self.look_again, now + SHARE_SECONDS) if leaves_room else self.look_again
        opening = opens(request, self, now, has_deficit=has_deficit, before=before)
        if opening == 0:
            found = self.candidates(request, now, has_deficit=has_deficit)
            request.skipped = found.skipped
            for backend in found.candidates:
                if self.acquire(request, backend, now):
                    return True
            opening = found.opens(request.tried)
        smallest[kind] = request.tokens
        if opening is not None:
            # When a client has had no more than its share again, nothing is reported.
            self.look_again = min(before, now + opening)
        return False

    def queues(self) -> Iterator[tuple[str, WaitingQueue]]:
        """Iterate over the virtual deployments and their queues."""
        for name, queue in self._queues.items():
            yield name, queue.tickets

    def waiting(self, deployment: str) -> list[RoutingRequest]:
        """Return the calls that wait for a deployment, by arrival."""
        queue = self._queues.get(deployment)
        return sorted(queue.requests.values(), key=lambda each: each.arrived) if queue is not None else []

    def _queue(self, request: RoutingRequest) -> _Queue:
        queue = self._queues.get(request.queue_name)
        if queue is None:
            queue = self._queues[request.queue_name] = _Queue()
        return queue

    # --- what becomes of an attempt --------------------------------------------------------------------

    def liveness(self, backend: Backend, deployment: str) -> Liveness:
        """Return a backend's signs of life."""
        key = (backend.key, backend.deployment(deployment))
        liveness = self._livenesses.get(key)
        if liveness is None:
            self._livenesses = {k: p for k, p in self._livenesses.items() if p}
            whole = self._endpoint_livenesses.setdefault(backend.key.endpoint, Liveness())
            liveness = self._livenesses[key] = self._liveness_of(key, whole)
        return liveness

    def _liveness_of(self, key: tuple[BackendKey, str], whole: Liveness) -> Liveness:
        return Liveness(whole)

    def _heard(self, scope: Scope) -> float:
        """Return when something last came from a backend or, without a standin, from an endpoint."""
        endpoint, standin = scope
        if standin is None:
            whole = self._endpoint_livenesses.get(endpoint)
            return -math.inf if whole is None else whole.heard
        found = (each.heard for (key, _), each in self._livenesses.items() if key == scope)
        return max(found, default=-math.inf)

    def is_doubtful(self, backend: Backend, now: float) -> bool:
        """Whether the endpoint of a backend has been silent for so long that others are better."""
        whole = self._endpoint_livenesses.get(backend.key.endpoint)
        return whole is not None and whole.is_doubtful(now)

    def answered(
        self, request: RoutingRequest, headers: Headers, now: float, sent: float = -math.inf
    ) -> None:
        """Note that the backend answers what was ``sent`` then, and does not refuse; the attempt goes on."""
        backend, capacity = request.backend, request.capacity
        if backend is not None and capacity is not None:
            # Where nothing depends on them, its figures are only looked at now and then.
            if request.limited or request.strategy == "most_headroom" or capacity.is_stale(now):
                capacity.learn(request.call_id, own_rate_limits(headers), now)
            if self.breaks.probes.half_open:
                self.breaks.probe_succeeded(backend, request.cls.name, request.call_id)
            if self.suspicions.witnesses:
                self.suspicions.acquit(*backend.key, sent)

    def refused(
        self, request: RoutingRequest, limits: RateLimits, retry_after: float | None, now: float
    ) -> None:
        """Note that the backend refuses the call for want of capacity."""
        if request.capacity is not None:
            request.capacity.refused(request.call_id, limits, retry_after, now)

    def ended(self, request: RoutingRequest, used_tokens: int | None, now: float) -> None:
        """Note the end of an attempt. ``used_tokens``: 0 if it was not served; None: unknown."""
        backend, capacity = request.backend, request.capacity
        request.backend = request.capacity = None
        if backend is not None and capacity is not None:
            capacity.end(request.call_id, used_tokens, now, grows=request.grows)
            if used_tokens is not None and request.limited:
                self._give_back(request, request.tokens - used_tokens)
            if capacity.frees_early(now):
                self.breaks.half_open(backend.key)
            if used_tokens and used_tokens < request.tokens and request.expected is not None:
                parts, at = request.expected
                self.demands.give_back(request.cls, parts, 1 - used_tokens / request.tokens, at)
            if self.breaks.probes.half_open:
                self.breaks.probe_ended(backend, request.cls.name, request.call_id)
            self.liveness(backend, request.deployment).ended(request.call_id)

    def close(self, request: RoutingRequest, now: float) -> None:
        """Take back everything that a call still has. Its end may have come in any way."""
        self.leave(request)
        if request.backend is not None:
            self.ended(request, None, now)
        queue = self._in_flight.pop(request.call_id, None)
        if queue is not None:
            queue.tickets.ended(request.client)
