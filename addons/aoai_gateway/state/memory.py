"""Counters in this process's memory: every answer on the spot, nothing shared."""

from collections.abc import Iterable, Mapping

from aoai_gateway.quota.counters import LEASE, Counters
from aoai_gateway.quota.quotas import Decision, Reservation
from aoai_gateway.state import Break, Left

_SWEEP_EVERY = 100
_SWEPT_AT_ONCE = 400
"""Counters: more than so many reservations can make, and few enough to hold nothing up."""


class MemoryState:
    """The default store. `lease` is in seconds; `counters` may come from a budget file."""

    degraded_since: float | None = None

    def __init__(self, lease: float = LEASE, counters: Counters | None = None) -> None:
        self.counters = counters or Counters(lease)
        self._breaks: dict[Break, tuple[float, str]] = {}
        self._reserved = 0

    def peek(self, reservation: Reservation, now: float) -> Decision:
        """Return what `reserve` would answer, booking nothing."""
        return self.counters.peek(reservation, now)

    def reserve(self, reservation: Reservation, now: float) -> Decision:
        """Book the reservation against all of its quotas, or against none."""
        self._reserved += 1
        if self._reserved % _SWEEP_EVERY == 0:
            self.counters.forget_idle(now, _SWEPT_AT_ONCE)
        return self.counters.reserve(reservation, now)

    def book(self, reservation: Reservation, now: float) -> None:
        """Book a call that was admitted elsewhere or served already, whether it fits or not."""
        self.counters.book(reservation, now)

    def settle(self, reservation: Reservation, tokens: int, now: float, cost: int | None = None) -> None:
        """Replace what was reserved by the tokens used, and the money."""
        self.counters.settle(reservation, tokens, now, cost)

    def cancel(self, reservation: Reservation, now: float) -> None:
        """Take back a reservation that no backend served."""
        self.counters.cancel(reservation, now)

    def renew(self, reservations: Iterable[Reservation], now: float) -> None:
        """Keep reservations from lapsing."""
        self.counters.renew(reservations, now)

    def open_break(self, backend: str, priority: str, seconds: float, now: float, note: str = "") -> None:
        """Skip a backend for a priority for `seconds`; a longer break stays."""
        until, _ = self._breaks.get((backend, priority), (now, ""))
        if now + seconds > until:
            self._breaks[backend, priority] = now + seconds, note

    def close_break(self, backend: str, priority: str, now: float) -> None:
        """End a break before its time."""
        self._breaks.pop((backend, priority), None)

    def breaks(self, now: float) -> Mapping[Break, Left]:
        """Return all open breaks with the seconds that are left of each."""
        self._breaks = {of: told for of, told in self._breaks.items() if told[0] > now}
        return {of: Left(until - now, note) for of, (until, note) in self._breaks.items()}
