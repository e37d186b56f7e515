"""Who is sent where, now: backends are claimed by calls, and calls that find none wait in line.

What all calls share about backends comes together here: breaks and probation, capacity, signs of life, and
a waiting line for each virtual deployment. A call says what it wants by a :class:`~routing.order.Wish`.

- `look` says which backends could take it now. It changes nothing.
- `claim` gives it one: the call counts against its capacity from then on, and is a probe where one is due. So
  two calls that look at the same time never take the same room.
- `join` puts it into its line. `release` then gives backends to those who wait, in the line's order, as soon
  as there is room for them. It is to be called whenever something has changed (a call ended, a break did, its
  client left), and at `look_again`: nobody is woken to find that there is still nothing.
- `unclaim` takes back a backend that a call is not sent to after all.
- `over` takes back whatever the call still has.

While somebody waits in a line, nobody goes past it: who comes joins, and is released at once if it is the
turn of the call.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from aoai_gateway.routing.breaker import Breaks
from aoai_gateway.routing.capacity import Capacities
from aoai_gateway.routing.demand import Demands
from aoai_gateway.routing.liveness import Pulse
from aoai_gateway.routing.order import Order, Wish, order
from aoai_gateway.routing.queue import Line, Ticket
from aoai_gateway.routing.suspicion import Suspicions
from aoai_gateway.wire.hints import read_rate_limits

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from aoai_gateway.routing.backends import Backend, BackendKey
    from aoai_gateway.wire.hints import Headers, RateLimits


STANDING_SHARE = 0.25
"""Of the time that a class may wait: a client whose oldest call has waited for longer stands in a queue that
does not get shorter."""


class _Queue:
    """A line, and the wishes of those who are in it."""

    def __init__(self) -> None:
        self.line = Line()
        self.wishes: dict[str, Wish] = {}


class Dispatcher:
    """What all calls of a gateway share about its backends. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.breaks = Breaks()
        self.suspicions = Suspicions()
        self.capacities = Capacities()
        self.demands = Demands()
        self.look_again = math.inf
        """When `release` may find somebody even though nothing is reported until then."""
        self._queues: dict[str, _Queue] = {}
        self._in_flight: dict[str, _Queue] = {}
        """By call: where it counts as in flight."""
        self._pulses: dict[tuple[BackendKey, str], Pulse] = {}
        self._endpoint_pulses: dict[str, Pulse] = {}

    # --- choice ----------------------------------------------------------------------------------------

    def expect(self, wish: Wish, now: float) -> None:
        """Note that a call has come, so that lower classes leave room for others like it. Once a call."""
        if not wish.limited:
            return
        cls, marks = wish.cls.name, wish.marks
        open_ = [b for b in wish.pool if self.breaks.on(b, now, cls, marks) is None] or wish.pool
        capacities = [self.capacities.of(backend, wish.deployment) for backend in open_]
        sizes = [capacity.limits(now)[0] for capacity in capacities]
        known = [size for size in sizes if size is not None]
        usual = sum(known) / len(known) if known else 1.0
        parts = [usual if size is None else size for size in sizes]
        whole = sum(parts) or 1.0
        shares = zip(capacities, parts, strict=True)
        wish.expected = {c.key: round(wish.tokens * part / whole) for c, part in shares}, now
        self.demands.note(wish.cls, *wish.expected)

    def look(self, wish: Wish, now: float, *, owed: bool = False) -> Order:
        """Say which backends could take a call now, best first, and why others could not."""
        return order(
            wish,
            now=now,
            breaks=self.breaks,
            capacities=self.capacities,
            demands=self.demands,
            owed=owed,
        )

    def claim(self, wish: Wish, backend: Backend, now: float) -> bool:
        """Give a backend to a call that is about to be sent there; False if it is not to be had now."""
        if not self.breaks.may_probe(backend, wish.cls.name, wish.call_id, now, wish.marks):
            return False
        wish.capacity = self.capacities.of(backend, wish.deployment)
        wish.capacity.begin(wish.call_id, wish.tokens, now)
        wish.backend = backend
        if wish.call_id not in self._in_flight:
            queue = self._in_flight[wish.call_id] = self._queue(wish)
            queue.line.began(wish.client)
        return True

    def unclaim(self, wish: Wish, now: float) -> None:
        """Take back the backend that a call was given, since it was not sent there after all."""
        backend, wish.backend = wish.backend, None
        capacity, wish.capacity = wish.capacity, None
        if backend is not None and capacity is not None:
            capacity.undo(wish.call_id, now)
            self.breaks.probe_ended(backend, wish.cls.name, wish.call_id)

    def is_free(self, wish: Wish) -> bool:
        """Whether no call waits that comes before it, in its queue or in another for the same backends."""
        queue = self._queues.get(wish.line)
        if queue is not None and queue.wishes:
            return False
        mine = {backend.key for backend in wish.pool}
        return not any(
            other.cls.rank <= wish.cls.rank and any(backend.key in mine for backend in other.pool)
            for queue in self._queues.values()
            for other in queue.wishes.values()
        )

    # --- the line --------------------------------------------------------------------------------------

    def join(self, wish: Wish, minimum_shares: Mapping[str, float], *, max_length: int) -> bool:
        """Put a call into its line; False if so many of its class wait there already."""
        queue = self._queue(wish)
        queue.line.minimum_shares = minimum_shares
        cls = wish.cls
        ticket = Ticket(
            wish.call_id,
            cls.rank,
            cls.name,
            wish.client,
            wish.arrived,
            wish.tokens,
            wish.weight,
            size=wish.size,
            stands_after=STANDING_SHARE * cls.wait_seconds,
        )
        if not queue.line.join(ticket, max_length, wish.cls.wait_bytes if wish.cls.may_wait else math.inf):
            return False
        queue.wishes[wish.call_id] = wish
        return True

    def leave(self, wish: Wish) -> None:
        """Take a call out of its line; nothing if it is not in it any more."""
        queue = self._queues.get(wish.line)
        if queue is not None and queue.wishes.pop(wish.call_id, None) is not None:
            queue.line.leave(wish.call_id)

    def standing_wait(self, wish: Wish, now: float) -> float:
        """Seconds for which calls of its class wait at present in a queue that stands; else 0."""
        queue = self._queues.get(wish.line)
        waits = queue.line.waits(wish.cls.name, now) if queue is not None else 0.0
        return waits if waits > STANDING_SHARE * wish.cls.wait_seconds else 0.0

    @property
    def somebody_waits(self) -> bool:
        """Whether anybody waits in any line."""
        return any(queue.wishes for queue in self._queues.values())

    def release(self, now: float) -> list[Wish]:
        """Give backends to those who wait, as far as there is room; gives those who got one."""
        released: list[Wish] = []
        self.look_again = math.inf
        smallest: dict[Hashable, int] = {}
        for lowest, queue in self._turns():
            while queue.wishes:
                ticket = queue.line.next(now, partial(self._serve, queue, lowest, smallest, now))
                if ticket is None:
                    break
                released.append(queue.wishes.pop(ticket.id))
        for queue in self._queues.values():
            hold_ends = queue.line.hold_ends(now)
            if hold_ends is not None:
                self.look_again = min(self.look_again, hold_ends)
        return released

    def _turns(self) -> list[tuple[float, _Queue]]:
        """Give the lines in which somebody waits, in the order of their turns, and the lowest rank in each.

        Lines may want the same backends. So each class has its turn in all of them before the next one, and
        where the oldest of a class waits is the first.
        """
        waiting = [queue for queue in self._queues.values() if queue.wishes]
        if len(waiting) < 2:
            return [(math.inf, queue) for queue in waiting]
        oldest: dict[tuple[int, int], float] = {}
        for number, queue in enumerate(waiting):
            for wish in queue.wishes.values():
                turn = (wish.cls.rank, number)
                oldest[turn] = min(wish.arrived, oldest.get(turn, math.inf))
        return [(turn[0], waiting[turn[1]]) for turn in sorted(oldest, key=lambda t: (t[0], oldest[t]))]

    def _serve(
        self, queue: _Queue, lowest: float, smallest: dict[Hashable, int], now: float, ticket: Ticket
    ) -> bool:
        """Give a backend to one who waits, if there is one.

        ``lowest``: the lowest rank whose turn it is; who is owed a release does not wait for it.
        ``smallest``: of each kind of wish, the tokens of the smallest one for which there was none. Until the
        end of this `release` there is only less room than then, so larger ones need not be looked at.
        """
        wish = queue.wishes[ticket.id]
        # What it must leave free would keep a low class out for as long as higher ones keep the rest busy.
        owed = queue.line.owed(ticket.cls_name)
        if ticket.cls_rank > lowest and not owed:
            return False
        kind = (owed, wish.kind, wish.marks if self.breaks.any_for_some else ())
        if wish.tokens >= smallest.get(kind, math.inf):
            return False
        found = self.look(wish, now, owed=owed)
        wish.skipped = found.skipped
        for backend in found.candidates:
            if self.claim(wish, backend, now):
                return True
        smallest[kind] = wish.tokens
        opens = found.opens(wish.tried)
        if opens is not None:
            self.look_again = min(self.look_again, now + opens)
        return False

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Iterate over the virtual deployments and their lines."""
        for name, queue in self._queues.items():
            yield name, queue.line

    def waiting(self, deployment: str) -> list[Wish]:
        """Give those who wait for a deployment, by arrival."""
        queue = self._queues.get(deployment)
        return sorted(queue.wishes.values(), key=lambda wish: wish.arrived) if queue is not None else []

    def _queue(self, wish: Wish) -> _Queue:
        return self._queues.setdefault(wish.line, _Queue())

    # --- what becomes of an attempt --------------------------------------------------------------------

    def pulse(self, backend: Backend, deployment: str) -> Pulse:
        """Give a backend's signs of life."""
        key = (backend.key, backend.deployment(deployment))
        pulse = self._pulses.get(key)
        if pulse is None:
            self._pulses = {k: p for k, p in self._pulses.items() if p}
            whole = self._endpoint_pulses.setdefault(backend.key.endpoint, Pulse())
            pulse = self._pulses[key] = Pulse(whole)
        return pulse

    def answered(self, wish: Wish, headers: Headers, now: float, sent: float = -math.inf) -> None:
        """Note that the backend answers what was ``sent`` then, and does not refuse; the attempt goes on."""
        backend, capacity = wish.backend, wish.capacity
        if backend is not None and capacity is not None:
            # Where nothing depends on them, its figures are only looked at now and then.
            if wish.limited or wish.strategy == "most_headroom" or capacity.is_stale(now):
                capacity.learn(wish.call_id, read_rate_limits(headers), now)
            self.breaks.probe_succeeded(backend, wish.cls.name, wish.call_id)
            self.suspicions.acquit(*backend.key, sent)

    def refused(self, wish: Wish, limits: RateLimits, retry_after: float | None, now: float) -> None:
        """Note that the backend refuses the call for want of capacity."""
        if wish.capacity is not None:
            wish.capacity.refused(wish.call_id, limits, retry_after, now)

    def ended(self, wish: Wish, used_tokens: int | None, now: float) -> None:
        """Note the end of an attempt. ``used_tokens``: 0 if it was not served; None: unknown."""
        backend, wish.backend = wish.backend, None
        capacity, wish.capacity = wish.capacity, None
        if backend is not None and capacity is not None:
            capacity.end(wish.call_id, used_tokens, now)
            if capacity.frees_early(now):
                self.breaks.half_open(backend.key)
            if used_tokens and used_tokens < wish.tokens and wish.expected is not None:
                parts, at = wish.expected
                self.demands.give_back(wish.cls, parts, 1 - used_tokens / wish.tokens, at)
            self.breaks.probe_ended(backend, wish.cls.name, wish.call_id)
            self.pulse(backend, wish.deployment).ended(wish.call_id)

    def over(self, wish: Wish, now: float) -> None:
        """Take back whatever a call has that is over, in whatever way."""
        self.leave(wish)
        self.ended(wish, None, now)
        queue = self._in_flight.pop(wish.call_id, None)
        if queue is not None:
            queue.line.ended(wish.client)
