"""Recovery: after a break or a refusal, a few calls show whether a backend takes calls again, and how many.

*Half open* (`Probes`): after a break, a few calls try whether the backend is well again, before all come
back. Each priority class is half open of its own. A probe that succeeds ends it; one that fails makes the
next break longer. A probe without a reported end is given up after its lease.

A backend that only lacked capacity says no at once, while an answer may take it a minute. So a probe there
that was not refused within a moment has been let in, and lets one more go beside the next: 1, 2, 4, 8 calls,
each time after that moment. (Slow start: Jacobson, "Congestion Avoidance and Control", 1988.) To wait for the
first one's answer would leave a window unused that calls wait for, and what is used late comes back late.
A backend that hangs after it lacked room lets no call in, and looks like one that does. So silence is
believed for a bounded number of calls, of all classes together: once so many (`MOST_UNHEARD`) were sent since
the backend was last heard, and it stays silent for a moment, each class has one further probe at a time, as
after any other failure, until something of any call comes from it. The first one of a class goes in any case:
low classes, whose calls are many, would shut the highest one out. So a silent backend is sent that number of
calls and one for each class at most, and then one for each lease and class. Which backend was heard,
:mod:`~aoai_gateway.routing.responsiveness` knows; there two of these calls may also show that it is silent,
and all of them are sent elsewhere then.

What the first call of one class shows, those of the others need not find out by being refused as well. So
where several classes come back at the same time, the first call of one goes a moment before those of the
lower ones. And a class sends none just to try a backend that lacked room where a later answer has told how
much it has.

Of several processes, each counts the probes of all, and hears what any of them hears. No probe waits for such
news: without it, the lease of the last one that was sent runs out, and the next goes.

*Slow start* (`SlowStart`) is the same idea for a backend of unknown size; there all classes count together,
and an answer does not end it. How full such a backend is may be known, but not how much one more call adds.
When it is not full any more, all that waits would be sent at once, and most of it refused. So after a refusal
one call may go; when it was answered, or not refused within a moment, two more, then four. It ends when the
size is known, or so many calls went without a refusal that it hardly matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

type Scope = tuple[str, str | None]
"""Endpoint name and standin name; None as the standin stands for the whole endpoint."""

REFUSES_WITHIN = 0.5
"""Seconds within which a backend that has no room for a call refuses it."""

WIDEST = 64
"""Calls in one step of a slow start, after which there are no more steps."""

REMEMBERED_SECONDS = 600.0
"""How long after its lease a probe's end still counts, if it is reported after all: a hang ends late."""

MOST_UNHEARD = 8
"""How many calls may be with a backend that lacked room and says nothing, until it is probed slowly.

A backend that is full is heard all the time: overloads come out the same with 4 and without a bound.
"""

MOST_DOUBLINGS = 16
"""Bounds the factor; every ceiling is reached long before."""


class _Lease(NamedTuple):
    since: float
    until: float
    """Until when the probe is waited for."""


@dataclass(slots=True)
class _HalfOpen:
    opened_by: str
    """The call that failed last."""
    failures: int
    """Breaks after which a probe has failed, one after the other."""
    before: int | None
    """`failures` before `opened_by` failed; None: there was no half-open state."""
    failed_at: float = -math.inf
    lacks_room: bool = False
    """Whether the backend lacked nothing but capacity then."""
    leases: dict[str, _Lease] = field(default_factory=dict)
    """Probes under way, by call."""

    def running(self, now: float) -> list[float]:
        """Return the ends of the leases that hold now."""
        for call_id in [c for c, lease in self.leases.items() if lease.until + REMEMBERED_SECONDS <= now]:
            del self.leases[call_id]
        return [lease.until for lease in self.leases.values() if lease.until > now]

    def let_in(self, now: float) -> int:
        """Count the probes since the last failure which a backend that lacked capacity has let in."""
        if not self.lacks_room:
            return 0
        return sum(lease.until <= now and lease.since >= self.failed_at for lease in self.leases.values())

    def believed(self) -> list[float]:
        """Return when the probes were sent whose silence counts as an admission, now or in a moment."""
        if not self.lacks_room:
            return []
        return [lease.since for lease in self.leases.values() if lease.since >= self.failed_at]


class Probes:
    """The backends that are half open, by class. ``limit``: probes at a time; ``seconds``: their lease."""

    def __init__(self, limit: int = 1, seconds: float = 10.0) -> None:
        self._limit = limit
        self._seconds = seconds
        self.heard: Callable[[Scope], float] = lambda _: -math.inf
        """When bytes of any kind last came from a backend or endpoint."""
        self.half_open: dict[Scope, dict[str, _HalfOpen]] = {}
        """All that is half open, by class."""

    def begin(self, scope: Scope, cls: str, call_id: str, now: float, *, lacks_room: bool = False) -> int:
        """Put a scope half open for a class, since a call failed. Returns how many probes failed in a row.

        Only a failed probe counts: calls that were under way when the first one failed show nothing new. Nor
        do other probes of the same time. ``lacks_room``: the backend refused the call for want of capacity.
        """
        classes = self.half_open.setdefault(scope, {})
        earlier = classes.get(cls)
        if earlier is None:
            classes[cls] = _HalfOpen(call_id, 0, None, now, lacks_room)
            return 0
        # A failure is begun for all classes, the highest first: so is their order here.
        classes[cls] = classes.pop(cls)
        lease = earlier.leases.pop(call_id, None)
        new = lease is not None and lease.since >= earlier.failed_at
        failed = min(earlier.failures + new, MOST_DOUBLINGS)
        if earlier.opened_by != call_id:
            earlier.opened_by, earlier.before = call_id, earlier.failures
        earlier.failures, earlier.failed_at, earlier.lacks_room = failed, now, lacks_room
        return failed

    def ensure(self, scope: Scope, cls: str) -> None:
        """Put a scope that lacked capacity half open for a class if it is not; no failure is counted."""
        self.half_open.setdefault(scope, {}).setdefault(cls, _HalfOpen("", 0, None, lacks_room=True))

    def undo(self, scope: Scope, call_id: str) -> None:
        """Take back what a call's failure did, if it was the last one to fail."""
        classes = self.half_open.get(scope, {})
        for cls, half_open in list(classes.items()):
            half_open.leases.pop(call_id, None)
            if half_open.opened_by != call_id:
                continue
            if half_open.before is None:
                del classes[cls]
            else:
                half_open.failures = half_open.before
        if not classes:
            self.half_open.pop(scope, None)

    def end(self, scope: Scope, cls: str | None = None) -> None:
        """End the half-open state of a class, or of all."""
        classes = self.half_open.get(scope, {})
        if cls is not None:
            classes.pop(cls, None)
        if cls is None or not classes:
            self.half_open.pop(scope, None)

    def on(self, scope: Scope, cls: str) -> bool:
        """Whether a scope is half open for a class."""
        return cls in self.half_open.get(scope, {})

    def is_unknown(self, scope: Scope, cls: str, now: float, told_at: float = -math.inf) -> bool:
        """Whether a scope is half open for a class, and nothing shows yet that it lets calls in again.

        ``told_at``: when the last call was sent whose answer has told how much room there is.
        """
        half_open = self.half_open.get(scope, {}).get(cls)
        if half_open is None or half_open.let_in(now):
            return False
        # Neither time is known where a break was ended early: its one try is to be made.
        return not half_open.lacks_room or told_at <= half_open.failed_at

    def wait(self, scope: Scope, cls: str, call_id: str | None, now: float) -> float:
        """Seconds until the call may go there, if no probe ends before its lease does; 0: now."""
        half_open = self.half_open.get(scope, {}).get(cls)
        if half_open is None or (call_id in half_open.leases and half_open.leases[call_id].until > now):
            return 0.0
        running = half_open.running(now)
        if len(running) >= self._limit + half_open.let_in(now):
            return min(running) - now
        wait = self._wait_first(scope, half_open, now)
        return max(wait, self._wait_unheard(scope, half_open, now)) if half_open.lacks_room else wait

    def _wait_first(self, scope: Scope, half_open: _HalfOpen, now: float) -> float:
        """Seconds for which the first call of a class waits for that of a higher one, which was just sent."""
        if half_open.let_in(now):
            return 0.0
        firsts = (
            lease.since
            for each in takewhile(lambda each: each is not half_open, self.half_open[scope].values())
            if not each.let_in(now)
            for lease in each.leases.values()
            if lease.until > now
        )
        return max(0.0, max(firsts, default=-math.inf) + REFUSES_WITHIN - now)

    def _wait_unheard(self, scope: Scope, half_open: _HalfOpen, now: float) -> float:
        """Seconds until one more call of a class may be sent to a backend that lacked room.

        If it stays silent: nothing asks again when it is heard. A busy one is heard all the time, and the
        last call that is believed may just have been sent. So that one's moment is waited for first.
        """
        sent = [since for each in self.half_open[scope].values() for since in each.believed()]
        if len(sent) < MOST_UNHEARD:
            return 0.0
        heard = self.heard(scope)
        sent = sorted(since for since in sent if since >= heard)
        own = [since for since in half_open.believed() if since >= heard]
        if len(sent) < MOST_UNHEARD or not own:
            return 0.0
        moment = sent[MOST_UNHEARD - 1] + REFUSES_WITHIN
        return moment - now if moment > now else max(0.0, max(own) + self._seconds - now)

    def lease(self, scope: Scope, cls: str, call_id: str, now: float) -> None:
        """Make the call a probe, if the scope is half open for its class."""
        half_open = self.half_open.get(scope, {}).get(cls)
        if half_open is not None:
            seconds = REFUSES_WITHIN if half_open.lacks_room else self._seconds
            half_open.leases[call_id] = _Lease(now, now + seconds)

    def holds(self, scope: Scope, cls: str, call_id: str) -> bool:
        """Whether the call is a probe there."""
        half_open = self.half_open.get(scope, {}).get(cls)
        return half_open is not None and call_id in half_open.leases

    def release_all(self, endpoint: str, call_id: str) -> None:
        """Let the next probes go at an endpoint and all of its standins."""
        for scope, classes in self.half_open.items():
            if scope[0] == endpoint:
                for half_open in classes.values():
                    half_open.leases.pop(call_id, None)

    def release(self, scope: Scope, cls: str, call_id: str) -> None:
        """Let the next probe go: this one ended without telling anything."""
        half_open = self.half_open.get(scope, {}).get(cls)
        if half_open is not None:
            half_open.leases.pop(call_id, None)


class SlowStart:
    """The steps of one backend's slow start. Times are seconds on any monotonic clock."""

    __slots__ = ("_left", "_refused_at", "_sent_at", "_width")

    def __init__(self) -> None:
        self._refused_at = -math.inf
        self._width = 0
        """Calls in the present step; 0: there are no steps."""
        self._left = 0
        """How many of them have not been sent."""
        self._sent_at = -math.inf
        """When the last one of them was sent."""

    def refused(self, now: float) -> None:
        """Begin anew, since a call was refused."""
        self._refused_at, self._width, self._left = now, 1, 1

    def sent(self, now: float) -> None:
        """Note that a call is sent."""
        if not self._width:
            return
        if not self._left and now >= self._sent_at + REFUSES_WITHIN:
            self._widen()
        self._left = max(0, self._left - 1)
        self._sent_at = now

    def answered(self, sent: float) -> None:
        """Note that a call which was sent at a time was not refused."""
        if self._width and not self._left and sent >= self._refused_at:
            self._widen()

    def wait(self, now: float) -> float:
        """Seconds until one more call may be sent, if none is answered before; 0: now."""
        if not self._width or self._left:
            return 0.0
        return max(0.0, self._sent_at + REFUSES_WITHIN - now)

    def _widen(self) -> None:
        self._width = self._left = 2 * self._width if self._width < WIDEST else 0
