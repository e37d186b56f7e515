"""The counting behind quotas: every client's windows, budgets and open reservations in memory.

Nothing here reads a clock or waits: `now` is Unix time in seconds, and every method is one step,
so callers that interleave between steps can never overshoot together. The Lua script beside the
Redis store does the same arithmetic; both pass the same property tests.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from aoai_gateway.quota import window as windows
from aoai_gateway.quota.calendar import Period, Tally, ends_in, period
from aoai_gateway.quota.quotas import Decision, Limit, Quota, Reservation, Standing
from aoai_gateway.quota.window import Window, microseconds

LEASE = 120.0
"""Seconds for which a reservation is held unless it is renewed."""

LAPSED_KEPT = 3600.0
"""Seconds for which a lapsed reservation can still be settled in full."""

_NOTHING = Tally()


@dataclass(slots=True)
class _Account:
    """The bookings of one (client, virtual deployment or None).

    `open_tokens` and `open_requests` are the part of the window's bookings that running calls hold.
    """

    window: Window = field(default_factory=Window)
    tallies: dict[Period, Tally] = field(default_factory=dict)
    open_tokens: int = 0
    open_requests: int = 0

    def tally(self, of: Period, settled: int = 0, reserved: int = 0) -> None:
        """Add to the settled and the reserved tokens of a period."""
        old = self.tallies.get(of, _NOTHING)
        self.tallies[of] = Tally(old.settled + settled, old.reserved + reserved)

    def room(self, kind: Limit, limit: int, now: int) -> int:
        """Return the rest of a limit; negative where more is spent than the limit."""
        if kind.calendar is not None:
            return limit - self.tallies.get(period(kind.calendar, now), _NOTHING).spent
        return windows.room(self.window, limit, "tokens" if kind.counts_tokens else "requests")


class _AskedLimit(NamedTuple):
    """One limit that is set, the amount that counts against it (capped at it), and the room that it has."""

    kind: Limit
    limit: int
    amount: int
    room: int


class _Asked(NamedTuple):
    """What a reservation asks of one quota, whose account is brought up to date."""

    quota: Quota
    account: _Account
    tokens: int
    requests: int
    limits: list[_AskedLimit]


class _Booking(NamedTuple):
    """Where one reservation is booked against one quota, and with how much."""

    quota: Quota
    bucket: int
    tokens: int
    requests: int
    periods: tuple[tuple[Period, int], ...]


class _Hold(NamedTuple):
    """An open reservation; `until` is when its lease (or its time as a lapsed one) ends, µs."""

    client: str
    until: int
    bookings: tuple[_Booking, ...]


class Counters:
    """Counters of any number of clients. `lease` is in seconds."""

    def __init__(self, lease: float = LEASE) -> None:
        self._lease = microseconds(lease)
        self._accounts: dict[tuple[str, str | None], _Account] = {}
        self._looked_at: deque[tuple[str, str | None]] = deque()
        """All accounts; the one that `forget_idle` has not looked at for longest comes first."""
        # Both in the order of `until`, as all leases are equally long.
        self._open: dict[str, _Hold] = {}
        self._lapsed: dict[str, _Hold] = {}
        self.settlements = 0
        """How often what `settled` gives has changed."""

    @property
    def open_reservations(self) -> int:
        """How many reservations are held: neither settled nor cancelled nor lapsed."""
        return len(self._open)

    def peek(self, reservation: Reservation, now: float) -> Decision:
        """Return what `reserve` would answer, booking nothing."""
        us = microseconds(now)
        self._lapse(us)
        asked = self._asked(reservation, us)
        return _report(asked, us, admitted=_fits(asked), booked=False)

    def reserve(self, reservation: Reservation, now: float) -> Decision:
        """Book the reservation against all of its quotas, or against none.

        An id that is held already is admitted without being booked again.
        """
        us = microseconds(now)
        self._lapse(us)
        asked = self._asked(reservation, us)
        is_held = self._held(reservation)
        admitted = is_held or _fits(asked)
        booked = admitted and not is_held
        if booked:
            self._book(reservation, asked, us)
        return _report(asked, us, admitted=admitted, booked=booked)

    def book(self, reservation: Reservation, now: float) -> None:
        """Book a reservation that was admitted elsewhere, whether it fits here or not."""
        us = microseconds(now)
        self._lapse(us)
        if not self._held(reservation):
            self._book(reservation, self._asked(reservation, us), us)

    def settle(self, reservation: Reservation, tokens: int, now: float, cost: int | None = None) -> None:
        """Replace a reservation by the real usage; a reservation that is not held is ignored.

        Tokens that were not used are free at once; an excess is a debt, paid before the next admission.
        ``cost``: what quotas in money count.
        """
        if tokens < 0 or (cost or 0) < 0:
            raise ValueError(f"cannot settle with {tokens} tokens and a cost of {cost}")
        self._close(reservation, (tokens, cost), microseconds(now))

    def cancel(self, reservation: Reservation, now: float) -> None:
        """Take back a reservation, request and all: no backend served it."""
        self._close(reservation, None, microseconds(now))

    def renew(self, reservations: Iterable[Reservation], now: float) -> None:
        """Start the leases of these reservations anew, as far as they have not lapsed."""
        us = microseconds(now)
        self._lapse(us)
        until = us + self._lease
        for reservation in reservations:
            if hold := self._open.pop(reservation.id, None):
                self._open[reservation.id] = hold._replace(until=until)

    def settled(self) -> Iterator[tuple[str, str | None, Period, int]]:
        """Yield (client, deployment, period, tokens) of every calendar budget: the counts that must last.

        Calls may be counted while it is read; each budget is as it stands when its turn comes.
        """
        for (client, deployment), account in list(self._accounts.items()):
            for of, tally in list(account.tallies.items()):
                if tally.settled:
                    yield client, deployment, of, tally.settled

    def restore(self, client: str, deployment: str | None, of: Period, tokens: int) -> None:
        """Count `tokens`, settled in an earlier life of this process, in a calendar period."""
        self.settlements += 1
        self._account(client, deployment).tally(of, tokens)

    # One step --------------------------------------------------------------------------------

    def _held(self, reservation: Reservation) -> bool:
        return reservation.id in self._open or reservation.id in self._lapsed

    def _asked(self, reservation: Reservation, now: int) -> list[_Asked]:
        """Bring the accounts of a reservation up to date, and say what it asks of each."""
        asked = []
        for quota in reservation.quotas:
            account = self._account(reservation.client, quota.deployment)
            account.window = windows.advance(account.window, now, quota.tokens_per_minute)
            tokens, requests = reservation.asked(quota)
            limits = [
                _AskedLimit(
                    kind,
                    limit,
                    min(tokens if kind.counts_tokens else requests, limit),
                    account.room(kind, limit, now),
                )
                for kind, limit in quota.set_limits
            ]
            asked.append(_Asked(quota, account, tokens, requests, limits))
        return asked

    def _book(self, reservation: Reservation, asked: list[_Asked], now: int) -> None:
        bookings = []
        for quota, account, tokens, requests, limits in asked:
            if quota.tokens_per_minute is not None:
                tokens = min(tokens, quota.tokens_per_minute)
            if quota.requests_per_minute is not None:
                requests = min(requests, quota.requests_per_minute)
            account.window, bucket = windows.book(account.window, now, tokens, requests)
            account.open_tokens += tokens
            account.open_requests += requests
            periods = []
            for kind, _, amount, _ in limits:
                if kind.calendar is not None:
                    of = period(kind.calendar, now)
                    account.tally(of, reserved=amount)
                    periods.append((of, amount))
            bookings.append(_Booking(quota, bucket, tokens, requests, tuple(periods)))
        self._open[reservation.id] = _Hold(reservation.client, now + self._lease, tuple(bookings))

    def _close(self, reservation: Reservation, ended: tuple[int, int | None] | None, now: int) -> None:
        """Settle with the tokens that were used, and the money, or cancel (None)."""
        self._lapse(now)
        hold = self._open.pop(reservation.id, None)
        lapsed = hold is None
        hold = hold or self._lapsed.pop(reservation.id, None)
        if hold is None:
            return
        for booking in hold.bookings:
            account = self._account(hold.client, booking.quota.deployment)
            limit = booking.quota.tokens_per_minute
            used = None if ended is None else reservation.used(booking.quota, *ended)
            account.window = windows.correct(
                windows.advance(account.window, now, limit),
                booking.bucket,
                (used or 0) - booking.tokens,
                -booking.requests if used is None else 0,
                now,
                limit,
            )
            if not lapsed:
                account.open_tokens -= booking.tokens
                account.open_requests -= booking.requests
            if used and booking.periods:
                self.settlements += 1
            for of, reserved in booking.periods:
                account.tally(of, min(used or 0, reserved), 0 if lapsed else -reserved)
                if used is not None and used > reserved:
                    account.tally(period(of.calendar, now), used - reserved)

    def _lapse(self, now: int) -> None:
        """Let go of the reservations whose leases are over, and forget those long lapsed."""
        while self._open and (first := next(iter(self._open.items())))[1].until <= now:
            name, hold = first
            del self._open[name]
            for booking in hold.bookings:
                account = self._account(hold.client, booking.quota.deployment)
                account.open_tokens -= booking.tokens
                account.open_requests -= booking.requests
                for of, reserved in booking.periods:
                    account.tally(of, reserved=-reserved)
            self._lapsed[name] = hold._replace(until=hold.until + microseconds(LAPSED_KEPT))
        while self._lapsed and (first := next(iter(self._lapsed.items())))[1].until <= now:
            del self._lapsed[first[0]]

    def _account(self, client: str, deployment: str | None) -> _Account:
        account = self._accounts.get((client, deployment))
        if account is None:
            account = self._accounts[client, deployment] = _Account()
            self._looked_at.append((client, deployment))
        return account

    def forget_idle(self, now: float, most: int | None = None) -> None:
        """Drop counters that hold nothing any more, and tallies of periods that are over.

        Not needed for right answers, only for memory, when clients or deployments come and go.
        The period before the present one is kept for calls that began in it. ``most``: so many counters are
        looked at, those that were not for longest.
        """
        us = microseconds(now)
        self._lapse(us)
        kept = {period("day", us), period("month", us)}
        kept |= {period("day", us - 86_400_000_000), period("month", us - 31 * 86_400_000_000)}
        for _ in range(min(len(self._looked_at), most if most is not None else len(self._looked_at))):
            key = self._looked_at.popleft()
            account = self._accounts[key]
            account.tallies = {of: tally for of, tally in account.tallies.items() if of in kept}
            window = account.window
            over = not window.buckets or window.buckets[-1].last + windows.SPAN <= us
            held = account.open_tokens or account.open_requests or account.tallies
            if over and not window.debt and not held:
                del self._accounts[key]
            else:
                self._looked_at.append(key)


def _fits(asked: list[_Asked]) -> bool:
    """Whether all accounts have room."""
    for each in asked:
        for _, limit, amount, room in each.limits:
            if limit == 0 or room < amount:
                return False
    return True


def _report(asked: list[_Asked], now: int, *, admitted: bool, booked: bool) -> Decision:
    """Return how every limit stands after the decision. ``booked``: what is asked was booked since."""
    standings = []
    for quota, account, _, _, limits in asked:
        for kind, limit, amount, room in limits:
            left = room - amount if booked else room
            wait = soonest = 0.0
            if not admitted:
                wait = _wait(account, kind, limit, left, amount, now) / 1e6
                given_back = amount - _held_by_calls(account, kind, now)
                soonest = _wait(account, kind, limit, left, given_back, now) / 1e6
            reset = _wait(account, kind, limit, left, limit, now) / 1e6
            rest = max(0, left)
            standings.append(
                Standing(quota.deployment, kind, limit, rest, wait, reset, soonest, quota.in_money)
            )
    return Decision(admitted, tuple(standings))


def _wait(account: _Account, kind: Limit, limit: int, room: int, amount: int, now: int) -> float:
    """Microseconds until `amount` fits a limit: 0 for at once, infinite for a limit of 0.

    `room`: what it has now.
    """
    if limit == 0:
        return math.inf
    if kind.calendar is not None:
        return ends_in(kind.calendar, now) if room < amount else 0
    return windows.wait(account.window, now, limit, amount, "tokens" if kind.counts_tokens else "requests")


def _held_by_calls(account: _Account, kind: Limit, now: int) -> int:
    """Return how much of a limit running calls have reserved, and may give back."""
    if kind.calendar is not None:
        return account.tallies.get(period(kind.calendar, now), _NOTHING).reserved
    return account.open_tokens if kind.counts_tokens else account.open_requests
