"""What a process does while the shared store is out of reach, so that it can be told afterwards.

Pure bookkeeping, no I/O. Telling is safe to repeat for calls that the store may know: it
recognises them by their id.

Memory is bounded. Calls that the store may know are those that ran when contact was lost. Of the
others, those that ended more than 60 s ago matter only to budgets per day and month: they are
merged into one item per client and set of quotas, or dropped where there is no such budget.
"""

from collections import deque
from dataclasses import dataclass, replace

from aoai_gateway.policy.quotas import Limit, Quota, Reservation
from aoai_gateway.policy.window import SPAN

_WINDOW = SPAN / 1e6


@dataclass(frozen=True, slots=True)
class Running:
    """A call that has not ended. `sent`: the shared store was told, or may have understood."""

    reservation: Reservation
    admitted_at: float
    sent: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A call whose end the shared store does not know. `used` is None if it was cancelled."""

    reservation: Reservation
    admitted_at: float
    ended_at: float
    used: int | None


class Journal:
    """The running calls of this process, and the ends that are still to be told.

    Times are Unix times in seconds, as the caller's `now`.
    """

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._unbooked: set[str] = set()
        self._sent_ends: deque[Ended] = deque()
        self._unsent_ends: deque[Ended] = deque()
        self._merged: dict[tuple[str, tuple[Quota, ...]], Ended] = {}

    def start(self, running: Running, *, booked: bool) -> None:
        """Note an admission; `booked` by the shared store, or only here."""
        self._running[running.reservation.id] = running
        if not booked:
            self._unbooked.add(running.reservation.id)

    def finish(self, reservation: Reservation) -> Running | None:
        """Forget a running call and return what was known of it; None if it is not running."""
        self._unbooked.discard(reservation.id)
        return self._running.pop(reservation.id, None)

    def owe(self, running: Running, used: int | None, now: float) -> None:
        """Keep the end of a call (that `finish` returned) for the shared store."""
        ended = Ended(running.reservation, running.admitted_at, now, used)
        if running.sent:
            self._sent_ends.append(ended)
        elif used is not None:
            self._unsent_ends.append(ended)
        while self._unsent_ends and self._unsent_ends[0].ended_at <= now - _WINDOW:
            self._merge(self._unsent_ends.popleft())

    def running(self) -> list[Reservation]:
        """Return the reservations of the running calls."""
        return [running.reservation for running in self._running.values()]

    def rebook(self) -> None:
        """Count no running call as booked: the shared store may have lost its memory."""
        self._unbooked = set(self._running)

    def next_unbooked(self) -> Running | None:
        """Return a running call to book at the shared store, and count it as sent."""
        for name in self._unbooked:
            running = self._running[name] = replace(self._running[name], sent=True)
            return running
        return None

    def booked(self, running: Running) -> None:
        """Note that the shared store has booked a running call."""
        self._unbooked.discard(running.reservation.id)

    def take_end(self) -> Ended | None:
        """Take the next end to tell; `put_back` if telling it failed."""
        for ends in (self._sent_ends, self._unsent_ends):
            if ends:
                return ends.popleft()
        return self._merged.popitem()[1] if self._merged else None

    def put_back(self, ended: Ended) -> None:
        """Keep an end that could not be told after all."""
        self._sent_ends.appendleft(ended)

    def _merge(self, ended: Ended) -> None:
        quotas = ended.reservation.quotas
        if not any(
            kind in (Limit.TOKENS_PER_DAY, Limit.TOKENS_PER_MONTH)
            for quota in quotas
            for kind, _ in quota.set_limits()
        ):
            return
        key = (ended.reservation.client, quotas)
        merged = self._merged.get(key)
        used = (ended.used or 0) + (merged.used or 0 if merged else 0)
        apart = replace(ended.reservation, id=f"{ended.reservation.id}+", tokens=used)
        self._merged[key] = Ended(apart, ended.admitted_at, ended.ended_at, used)
