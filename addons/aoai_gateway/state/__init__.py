"""Where shared counters live: quotas, open reservations and breaks, in memory or in Redis.

Every store answers with the decisions of `aoai_gateway.quota.quotas`. Memory
answers on the spot; a remote answer comes as an awaitable, so a caller that runs inside a
synchronous generator (mitmproxy's layers) blocks only when there is something to wait for:

    answer = state.reserve(reservation, now)
    decision = answer if isinstance(answer, Decision) else await answer
"""

from collections.abc import Awaitable, Iterable, Mapping
from typing import Protocol, Self

from aoai_gateway.quota.quotas import Decision, Reservation

type Answer[T] = T | Awaitable[T]
"""An answer, or, where a network lies between, something to await for it."""

type Break = tuple[str, str]
"""A break is one backend's, for one priority: (backend, priority)."""


class Left(float):
    """The seconds that are left of a break, with a ``note`` by the process that opened it."""

    __slots__ = ("note",)

    def __new__(cls, seconds: float, note: str = "") -> Self:
        """Make a number that has a note; it counts and compares as the number."""
        left = super().__new__(cls, seconds)
        left.note = note
        return left

    note: str


class StateUnavailableError(Exception):
    """A shared store could not answer in time. The message holds no credentials."""


class State(Protocol):
    """Counters that all gateway processes of one budget agree on.

    `now` is Unix time in seconds. A store with a clock of its own (Redis) ignores it, so that no
    two clocks ever meet in one window.
    """

    @property
    def degraded_since(self) -> float | None:
        """Unix time since when the shared store has been out of reach; None when all is well."""

    def peek(self, reservation: Reservation, now: float) -> Answer[Decision]:
        """Return what `reserve` would answer, booking nothing (dry runs, status pages)."""

    def reserve(self, reservation: Reservation, now: float) -> Answer[Decision]:
        """Book the reservation against all of its quotas, or against none."""

    def book(self, reservation: Reservation, now: float) -> Answer[None]:
        """Book a call that a backend has worked on, whether it fits or not. A second time does nothing."""

    def settle(
        self, reservation: Reservation, tokens: int, now: float, cost: int | None = None
    ) -> Answer[None]:
        """Replace what was reserved by the tokens used, and the money. A second time does nothing."""

    def cancel(self, reservation: Reservation, now: float) -> Answer[None]:
        """Take back a reservation that no backend served. A second time does nothing."""

    def renew(self, reservations: Iterable[Reservation], now: float) -> Answer[None]:
        """Keep the reservations of calls that are still running from lapsing."""

    def open_break(
        self, backend: str, priority: str, seconds: float, now: float, note: str = ""
    ) -> Answer[None]:
        """Skip a backend for a priority for `seconds`. A longer break that is open stays, with its note."""

    def close_break(self, backend: str, priority: str, now: float) -> Answer[None]:
        """End a break before its time."""

    def breaks(self, now: float) -> Answer[Mapping[Break, Left]]:
        """Return all open breaks with the seconds that are left of each."""
