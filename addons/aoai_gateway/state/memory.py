"""Counters in this process's memory: every answer on the spot, nothing shared."""

from collections.abc import Mapping
from typing import override

from aoai_gateway.quota.counters import LEASE, Counters
from aoai_gateway.quota.quotas import Decision, Reservation
from aoai_gateway.state import Break, Left

_SWEEP_EVERY = 100
_SWEPT_AT_ONCE = 400
"""Counters: more than so many reservations can make, and few enough to hold nothing up."""


class MemoryState(Counters):
    """The default store. `lease` is in seconds."""

    degraded_since: float | None = None

    def __init__(self, lease: float = LEASE) -> None:
        super().__init__(lease)
        self._breaks: dict[Break, tuple[float, str]] = {}
        self._reserved = 0

    @override
    def reserve(self, reservation: Reservation, now: float) -> Decision:
        self._reserved += 1
        if self._reserved % _SWEEP_EVERY == 0:
            self.forget_idle(now, _SWEPT_AT_ONCE)
        return super().reserve(reservation, now)

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
