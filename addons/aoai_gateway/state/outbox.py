"""Events of a process while the shared store is out of reach, to be reported afterwards.

Pure bookkeeping, no I/O. A report is safe to repeat for calls that the store may know: it
recognises them by their id.

The kept events are bounded, and so is the time that their report takes. Calls that the store may
know are those that ran when contact was lost. Ends of others are merged per client and set of quotas:
within 0.1 s of admission (at the later stamp, as in a window's bucket), and, once they are 60 s
old and matter only to budgets per day and month, altogether, or dropped without such budgets.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from aoai_gateway.quota.quotas import Limit, Quota, Reservation
from aoai_gateway.quota.window import GRAIN, SPAN

_WINDOW = SPAN / 1e6
_GRAIN = GRAIN / 1e6


@dataclass(frozen=True, slots=True)
class Running:
    """A call that has not ended.

    `sent`: the shared store may know of it. `booked`: it has confirmed that.
    """

    reservation: Reservation
    admitted_at: float
    sent: bool
    booked: bool = False


type Used = tuple[int, int | None]
"""Tokens, and money, where a quota counts it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call, or several as one, whose end the shared store does not know; None: cancelled."""

    reservation: Reservation
    admitted_at: float
    used: Used | None


class Outbox:
    """The running calls of this process, and the ends that are still to be reported.

    Times are Unix times in seconds, as the caller's `now`.
    """

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._unbooked: set[str] = set()
        self._sent_ends: list[Ended] = []
        self._recent_ends: dict[tuple[str, tuple[Quota, ...], int], Ended] = {}
        self._old_ends: dict[tuple[str, tuple[Quota, ...]], Ended] = {}

    def start(self, running: Running) -> None:
        """Note an admission."""
        self._running[running.reservation.id] = running
        if not running.booked:
            self._unbooked.add(running.reservation.id)

    def finish(self, reservation: Reservation) -> Running | None:
        """Forget a running call and return what was known of it; None if it is not running."""
        self._unbooked.discard(reservation.id)
        return self._running.pop(reservation.id, None)

    def owe(self, running: Running, used: Used | None, now: float) -> None:
        """Keep the end of a call (that `finish` returned) for the shared store."""
        if running.sent:
            self._sent_ends.append(Ended(running.reservation, running.admitted_at, used))
        elif used is not None:
            ended = Ended(running.reservation, running.admitted_at, used)
            client, quotas = running.reservation.client, running.reservation.quotas
            _merge(self._recent_ends, (client, quotas, int(running.admitted_at / _GRAIN)), ended)
        while self._recent_ends:
            (client, quotas, grain), ended = next(iter(self._recent_ends.items()))
            if ended.admitted_at > now - _WINDOW:
                break
            del self._recent_ends[client, quotas, grain]
            if _has_calendar_budget(quotas):
                _merge(self._old_ends, (client, quotas), ended)

    def running(self) -> list[Reservation]:
        """Return the reservations of the running calls."""
        return [running.reservation for running in self._running.values()]

    def rebook(self) -> None:
        """Count no running call as booked: the shared store may have lost its memory."""
        self._running = {name: replace(running, booked=False) for name, running in self._running.items()}
        self._unbooked = set(self._running)

    def is_told(self) -> bool:
        """Whether the shared store knows everything."""
        return not (self._unbooked or self._sent_ends or self._old_ends or self._recent_ends)

    def unbooked(self) -> list[Reservation]:
        """Return the running calls that the shared store does not hold."""
        return [self._running[name].reservation for name in self._unbooked]

    def sending(self, reservation: Reservation) -> Running | None:
        """Count a call as sent, and return it; None if it has ended meanwhile."""
        if running := self._running.get(reservation.id):
            running = self._running[reservation.id] = replace(running, sent=True)
        return running

    def booked(self, running: Running) -> bool:
        """Note that the shared store has booked a call, if it is still running; return if it is."""
        name = running.reservation.id
        if name not in self._running:
            return False
        self._unbooked.discard(name)
        self._running[name] = replace(running, booked=True)
        return True

    def take_ends(self) -> list[Ended]:
        """Take all ends there are to report; `put_back` those for which it failed."""
        taken = [*self._sent_ends, *self._old_ends.values(), *self._recent_ends.values()]
        self._sent_ends.clear()
        self._old_ends.clear()
        self._recent_ends.clear()
        return taken

    def put_back(self, ends: Iterable[Ended]) -> None:
        """Keep ends that could not be reported after all, or that the store may have taken."""
        self._sent_ends += ends


def _merge[Key](ends: dict[Key, Ended], key: Key, ended: Ended) -> None:
    """Add an end to those under its key: the sum, at the later stamp."""
    reservation, (tokens, cost) = ended.reservation, ended.used or (0, None)
    if before := ends.get(key):
        tokens_before, cost_before = before.used or (0, None)
        tokens += tokens_before
        if cost is not None or cost_before is not None:
            cost = (cost or 0) + (cost_before or 0)
        requests = reservation.requests + before.reservation.requests
        reservation = replace(before.reservation, tokens=tokens, requests=requests, cost=cost)
        ended = Ended(reservation, max(before.admitted_at, ended.admitted_at), (tokens, cost))
    else:
        # No store knows this id, so it does not take the sum for the end of one reservation.
        ended = replace(ended, reservation=replace(reservation, id=f"{reservation.id}+"))
    ends[key] = ended


def _has_calendar_budget(quotas: tuple[Quota, ...]) -> bool:
    return any(
        kind in (Limit.TOKENS_PER_DAY, Limit.TOKENS_PER_MONTH)
        for quota in quotas
        for kind, _ in quota.set_limits
    )
