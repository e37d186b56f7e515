"""Quotas, reservations and decisions: the types that every counter store uses.

A call is admitted with a *reservation*: an upper bound of the tokens it will use, booked against
each quota that applies to it (its client × virtual deployment, and its client over all) in one
step, or, if it does not fit one of them, against none. A budget in money is one of them. When the call
ends it is *settled* with its real usage, or *cancelled* if no backend served it. Until then the
reservation is held under a *lease*, which its process renews: when the process dies, the lease lapses,
so that nothing is held for ever.

A reservation is capped at each limit that it is booked against: a client that asks for more than
its whole limit is admitted when it is alone in the window, instead of never. Its usage
beyond the limit is a debt, paid before the next admission (see `window`).

A lapsed lease gives its tokens back to the budgets per day and month. In the 60 s window they
keep counting until they are 60 s old: the call may well have reached a backend. Should the process
turn out to be alive, its late settlement is still booked in full.

`counters` holds the counting; the stores in `aoai_gateway.state` answer with the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from aoai_gateway.quota.calendar import Calendar

if TYPE_CHECKING:
    from aoai_gateway.config.models import Policy


_CALENDARS: Mapping[str, Calendar] = {"tokens_per_day": "day", "tokens_per_month": "month"}


class Limit(StrEnum):
    """The kinds of limit that a quota can set, in the order in which they are reported."""

    TOKENS_PER_MINUTE = "tokens_per_minute"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_DAY = "tokens_per_day"
    TOKENS_PER_MONTH = "tokens_per_month"

    counts_tokens: bool
    """Whether it limits tokens, not requests."""
    calendar: Calendar | None
    """The calendar's period that it is for; None: any 60 s."""

    def __init__(self, value: str) -> None:
        self.counts_tokens = value.startswith("tokens")
        self.calendar = _CALENDARS.get(value)


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits on one client at one virtual deployment, or over all of them (`deployment` None).

    A limit of None is no limit; a limit of 0 admits nothing. "Per minute" is any 60 s, a day and
    a month are the calendar's, in UTC.
    """

    deployment: str | None = None
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    set_limits: tuple[tuple[Limit, int], ...] = field(init=False, repr=False, compare=False)
    """The limits that are set, with their kinds."""

    in_money: ClassVar[bool] = False
    """Whether what is counted is money."""

    def __post_init__(self) -> None:
        given = ((kind, limit) for kind, limit in zip(Limit, self.limits, strict=True) if limit is not None)
        # The same few quotas are asked several times for each call.
        object.__setattr__(self, "set_limits", tuple(given))
        for kind, limit in self.set_limits:
            if limit < 0:
                raise ValueError(f"{kind} is {limit}; a limit is 0 or more, or None for no limit")

    @property
    def limits(self) -> tuple[int | None, int | None, int | None, int | None]:
        """The limits in the order of `Limit`."""
        return (
            self.tokens_per_minute,
            self.requests_per_minute,
            self.tokens_per_day,
            self.tokens_per_month,
        )


class Budget(Quota):
    """A quota whose limits are in money, in the units of a reservation's `cost`, per day and month."""

    __slots__ = ()
    in_money: ClassVar[bool] = True


@dataclass(slots=True)
class Reservation:
    """The amounts of one call: `tokens` (an upper bound) and `requests`, of each of its quotas.

    Quotas in money count `cost` instead, in whole units, and no requests; without a `cost`, the tokens.
    All of it is booked, settled or taken back in one step. `id` is the caller's and unique among all
    processes that share a store; the same object goes into `reserve` and later into `settle` or `cancel`.
    Quotas differ in their deployment. It is never changed; it is not frozen, since that trebles the time
    to make one.
    """

    id: str
    client: str
    quotas: tuple[Quota, ...]
    tokens: int
    requests: int = 1
    cost: int | None = None
    counts_tokens: bool = field(init=False, repr=False, compare=False)
    """Whether any of its quotas counts tokens and requests."""

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.requests < 0 or (self.cost or 0) < 0:
            raise ValueError(f"cannot reserve {self.tokens} tokens and {self.requests} requests")
        if len(self.quotas) > 1 and len({quota.deployment for quota in self.quotas}) != len(self.quotas):
            raise ValueError("a reservation names each virtual deployment once")
        self.counts_tokens = False
        for quota in self.quotas:
            if not quota.in_money:
                self.counts_tokens = True

    def asked(self, quota: Quota) -> tuple[int, int]:
        """Return the tokens (or the money) and the requests that a quota counts."""
        if quota.in_money and self.cost is not None:
            return self.cost, 0
        return self.tokens, self.requests

    def used(self, quota: Quota, tokens: int, cost: int | None) -> int:
        """Return what a quota counts in the end, of a call that used so many tokens, for so much money."""
        if quota.in_money and self.cost is not None:
            return cost or 0
        return tokens


class Standing(NamedTuple):
    """How one limit of one quota stands after a decision.

    `remaining` (never below 0) fits at once. `wait` is the time in seconds until the reservation
    in question would fit this limit: 0 if it does, infinite for a limit of 0. `reset` is the time
    until the whole limit is free. Both are exact if nothing else is admitted, settled or lapses.
    `soonest` is the same time as `wait` if every running call gave back all that it has reserved at
    once: no settlement makes the reservation fit before then. `in_money`: it counts that, not tokens.
    """

    deployment: str | None
    kind: Limit
    limit: int
    remaining: int
    wait: float
    reset: float
    soonest: float
    in_money: bool = False


_WAIT = attrgetter("wait")


class Decision(NamedTuple):
    """The answer to a reservation, and where every limit that it touches stands after it."""

    admitted: bool
    standings: tuple[Standing, ...]

    @property
    def retry_after(self) -> float:
        """Seconds until the reservation fits everywhere; 0 when admitted, else above 0."""
        return 0.0 if self.admitted else max([standing.wait for standing in self.standings])

    @property
    def soonest(self) -> float:
        """Seconds before which the reservation cannot fit everywhere, even if running calls give back all."""
        return 0.0 if self.admitted else max([standing.soonest for standing in self.standings])

    @property
    def refused_by(self) -> Standing | None:
        """The limit that takes longest to make room; None when admitted."""
        return None if self.admitted else max(self.standings, key=_WAIT)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return `x-ratelimit-limit|remaining|reset-tokens|requests`, reset in whole seconds, rounded up.

        The names and units are those of Azure OpenAI's answers. Limits that are not set are left
        out, and so is the reset of a limit of 0.
        """
        written: list[tuple[str, str]] = []
        for what in ("requests", "tokens"):
            standing = self.tightest(tokens=what == "tokens")
            if standing is not None:
                written.append((f"x-ratelimit-limit-{what}", str(standing.limit)))
                written.append((f"x-ratelimit-remaining-{what}", str(standing.remaining)))
                if standing.reset < math.inf:
                    written.append((f"x-ratelimit-reset-{what}", str(math.ceil(standing.reset))))
        return tuple(written)

    def tightest(self, *, tokens: bool) -> Standing | None:
        """Return the limit of tokens, or of requests, with the least left: the one to plan with."""
        found = None
        for each in self.standings:
            if each.kind.counts_tokens is not tokens or each.in_money:
                continue
            if found is None or (each.remaining, -each.reset) < (found.remaining, -found.reset):
                found = each
        return found


ACCOUNT = "cost/"
"""The name of the account; no virtual deployment's name can hold a slash."""

UNIT = 1_000_000
"""By which money, in the currency of ``prices``, is multiplied to be counted."""


def budget_of(policy: Policy) -> Budget | None:
    """Return what a client may spend; None without a limit."""
    day, month = policy.max_cost_per_day, policy.max_cost_per_month
    if day is None and month is None:
        return None
    return Budget(ACCOUNT, tokens_per_day=_counted(day), tokens_per_month=_counted(month))


def _counted(money: float | None) -> int | None:
    return None if money is None else round(money * UNIT)
