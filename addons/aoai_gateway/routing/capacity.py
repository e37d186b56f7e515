"""How much of a backend is free: declared limits, its own figures, and the calls under way.

The main signal is the traffic of this process in the last minute, counted as Azure OpenAI counts it: a
standard deployment holds each call's prompt and max_tokens in a window of 60 s (and its calls in one of
10 s, the refused ones too); a provisioned one is a leaky bucket. The figures in response headers correct
that: by the usage of other callers, and by limits that were not declared. They lag, and under load they have
been seen far from the truth; so a figure is believed for a short time only, and never for more room than the
calls under way leave. A provisioned deployment whose size is not declared is known by its utilisation
header, and its size is learned (:mod:`~aoai_gateway.routing.provisioned`); until then, a refusal leads to a
slow start (:mod:`~aoai_gateway.routing.recovery`). Each refusal that comes nevertheless, since others were
faster or the backend counts in another way, widens a margin that admitted calls narrow again.

A share may be left free for classes of higher priority. A call that is larger than the rest fits
when the backend is empty: small limits must not keep it out for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.bounded import Bounded
from aoai_gateway.routing.backends import NOTHING_DECLARED, BackendKey, Declared
from aoai_gateway.routing.provisioned import Bucket, PtuSize
from aoai_gateway.routing.recovery import REFUSES_WITHIN, SlowStart
from aoai_gateway.routing.windows import Others, SlidingWindow
from aoai_gateway.wire.hints import TOKEN_WINDOW_SECONDS

if TYPE_CHECKING:
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.wire.hints import RateLimits

_NEVER = -math.inf
"""One object for all backends: each has several such times."""

REQUEST_WINDOW = 10.0
SMALL_REQUEST_WINDOW = 60.0
"""Below six requests per minute there is no whole one in ten seconds."""

LIMIT_AGE = 600.0
"""Seconds for which a limit in a backend's headers is believed."""

UTILIZATION_AGE = 60.0
"""Seconds for which the utilisation of a provisioned backend of unknown size counts, less the drain."""

LONGEST_CALL = 3600.0
"""Seconds after which a call without a reported end is forgotten."""

PROVISIONED_MARGIN = 0.03
"""The share of its bucket to which a provisioned backend is not filled. It drains all the same: the
cost is a second or two of waiting, and calls that come from elsewhere at the same moment still fit."""

MARGIN_STEP = 0.03
MARGIN_FALL = 0.0009
"""Steps of the share that is kept as a margin: up with a refusal, down with an admitted call.
They balance where about three calls in a hundred are refused."""

EXPECTED_SECONDS = 5.0
"""For how long ahead a provisioned backend is kept open for higher classes: it drains all the time."""

MOST_EXPECTED = 0.8
"""The share of a limit that is kept for higher classes at most."""

LARGEST_MARGIN = 0.15

STALE_SECONDS = 1.0
"""How old a backend's figures may be for displays."""

MOST_BACKENDS = 10_000
"""The one unused for longest is forgotten: where every deployment is known, clients make up the names."""

_ROUNDING = 1e-6


@dataclass(slots=True)
class _Limit:
    """A limit per minute from the backend's headers."""

    amount: int | None = None
    told_at: float = _NEVER

    def learn(self, amount: int | None, now: float) -> None:
        if amount is not None:
            self.amount, self.told_at = amount, now

    def below(self, declared: int | None, now: float) -> int | None:
        """The smaller of the declared limit and the backend's, or the one that there is."""
        told = self.amount if now - self.told_at < LIMIT_AGE else None
        return declared if told is None else told if declared is None else min(told, declared)


class _Booking(NamedTuple):
    tokens: int
    at: float
    own: int
    """The tokens in the window then, this call included."""
    share: float
    poured: float
    all_tokens: int
    """All tokens that were ever sent there and kept, this call's included; refused ones never count."""


@dataclass(slots=True)
class _Refusal:
    """The last refusal that our own reservations explain, and the time until which it named."""

    tokens: int
    until: float
    tried: bool = False
    """Whether a call was let through before that time, since our own reservations had ended."""


class Capacity:
    """One backend's capacity. Every call that is sent to it begins here, and ends here."""

    def __init__(self, declared: Declared | None = None) -> None:
        self.declared = declared or NOTHING_DECLARED
        self.key = BackendKey("", "")
        self._tokens = SlidingWindow(TOKEN_WINDOW_SECONDS)
        self._requests = SlidingWindow(REQUEST_WINDOW)
        self._bucket = Bucket()
        self._utilized_at = _NEVER
        self._is_provisioned = False
        """Whether its answers have shown that it is, by their utilisation."""
        self._ptu_size = PtuSize()
        self._all_tokens = 0
        self._token_limit = _Limit()
        self._request_limit = _Limit()
        self._bookings: dict[str, _Booking] = {}
        self._margin = 0.0
        self._learned_at = _NEVER
        self._refusal: _Refusal | None = None
        self._slow_start: SlowStart | None = None
        """Since the backend has refused a call; hardly any does."""
        self.told_at = _NEVER
        """When the last call was sent whose answer has told how full it is."""

    # --- what happens -----------------------------------------------------------------------------

    def begin(self, call_id: str, tokens: int, now: float) -> None:
        """A call of so many tokens (prompt and completion's upper bound) is sent now."""
        while self._bookings:
            oldest = next(iter(self._bookings))
            if now - self._bookings[oldest].at < LONGEST_CALL:
                break
            del self._bookings[oldest]
        self._requests.seconds = self._request_window(now)
        self._requests.add(1, now)
        self._tokens.add(tokens, now)
        size = self._size if self.provisioned else None
        share = tokens / size if size else 0.0
        if share:
            self._bucket.pour(share, now)
        own = self._tokens.own(now)
        self._all_tokens += tokens
        self._bookings[call_id] = _Booking(tokens, now, own, share, self._bucket.poured, self._all_tokens)
        if self._slow_start is not None:
            self._slow_start.sent(now)

    def learn(self, call_id: str, limits: RateLimits, now: float) -> None:
        """The head of a call's answer came, and was no refusal. To be reported before `end`."""
        self._learned_at = now
        self._learn_limits(limits, now)
        booking = self._bookings.get(call_id)
        if booking is None:
            return
        self._margin = max(0.0, self._margin - MARGIN_FALL)
        if self._slow_start is not None:
            self._slow_start.answered(booking.at)
        if self.provisioned:
            if limits.utilization is not None:
                self._utilized_at = booking.at
                self.told_at = max(self.told_at, booking.at)
                self._observe(limits.utilization, booking.all_tokens, booking.at)
                self._bucket.correct(limits.utilization, booking.at, booking.poured, now)
        elif limits.limit_tokens is not None and limits.remaining_tokens is not None:
            self.told_at = max(self.told_at, booking.at)
            # The figures are of when the call was admitted. Calls sent at about the same time may have been
            # admitted before it.
            others = limits.limit_tokens - limits.remaining_tokens - booking.own
            others = max(0, others - max(0, self._tokens.around(booking.at) - booking.tokens))
            self._tokens.others = Others(others, booking.at, booking.at + TOKEN_WINDOW_SECONDS, fades=True)

    def refused(self, call_id: str, limits: RateLimits, retry_after: float | None, now: float) -> None:
        """The backend refused a call for want of capacity (429); this is its end.

        ``retry_after``: seconds until the call would fit, from the backend.
        """
        self._learn_limits(limits, now)
        booking = self._bookings.get(call_id)
        if booking is None:
            return
        self._take_back(call_id, booking, now)
        if now < self.told_at:
            # Another process was refused, and this one hears of it late: an answer has told more since.
            return
        self.told_at = _NEVER
        self._slow_start = self._slow_start or SlowStart()
        self._slow_start.refused(now)
        self._margin = min(LARGEST_MARGIN, self._margin + MARGIN_STEP)
        most = TOKEN_WINDOW_SECONDS
        wait = most if retry_after is None else min(max(retry_after, 0.0), most)
        if self.provisioned:
            level = max(limits.utilization or 1.0, 1.0 if retry_after is None else 1.0 + wait / 60)
            self._utilized_at = now
            if (limits.utilization is not None or retry_after is not None) and not self._awaits_others(now):
                self._observe(level, self._all_tokens, now)
            self._bucket.correct(level, now, self._bucket.poured, now)
        elif limits.remaining_requests is not None and limits.remaining_requests <= 0:
            wait = min(wait, self._request_window(now))
            self._requests.others = Others(math.inf, now, now + wait, fades=False)
        else:
            limit = self._tokens_per_minute(now)
            earlier = self._refusal
            tried = earlier is not None and earlier.tried and now < earlier.until
            ours = limit is not None and self._tokens.own(now) + booking.tokens > limit
            self._refusal = _Refusal(booking.tokens, now + wait, tried) if ours else None
            if limit is not None:
                most = max(0.0, limit - booking.tokens - self._tokens.own(now) + 1)
                fades = retry_after is None
                self._tokens.others = Others(
                    max(most, self._tokens.others.at(now)), now, now + wait, fades=fades
                )

    def _take_back(self, call_id: str, booking: _Booking, now: float) -> None:
        """Give back all that a refused call has counted for, also in what later calls found there."""
        for other_id, other in reversed(self._bookings.items()):
            if other_id == call_id:
                break
            self._bookings[other_id] = other._replace(
                poured=other.poured - booking.share, all_tokens=other.all_tokens - booking.tokens
            )
        self.end(call_id, 0, now)

    def _awaits_others(self, now: float) -> bool:
        """Whether calls were sent a moment ago, which may be refused as well, or have been let in."""
        last = next(reversed(self._bookings.values()), None)
        return last is not None and now - last.at < REFUSES_WITHIN

    def _observe(self, level: float, all_tokens: int, at: float) -> None:
        """Learn the size from a level; once it is known, calls that were sent since count in the bucket."""
        was_known = self._size is not None
        self._ptu_size.observe(level, all_tokens, at)
        size = self._size
        if was_known or size is None:
            return
        for call_id, other in self._bookings.items():
            if other.at > at:
                share = other.tokens / size
                self._bucket.pour(share, other.at)
                self._bookings[call_id] = other._replace(share=share, poured=self._bucket.poured)

    def end(self, call_id: str, used_tokens: int | None, now: float, *, grows: bool = False) -> None:
        """A call is over. ``used_tokens``: prompt and completion; 0 if it was not served; None: unknown.

        ``grows``: the limiter has counted them as they were written, and not what was told to `begin`.
        """
        booking = self._bookings.pop(call_id, None)
        if booking is None or used_tokens is None:
            return
        if grows and used_tokens > booking.tokens:
            self._tokens.add(used_tokens - booking.tokens, now)
        self._tokens.give_back(max(0, booking.tokens - used_tokens), booking.at)
        self._all_tokens += used_tokens - booking.tokens
        if booking.share:
            self._bucket.pour(booking.share * (used_tokens / booking.tokens - 1), now)

    def frees_early(self, now: float) -> bool:
        """Whether it is worth a try before the time that its last refusal named; True once for each refusal.

        Our own calls had reserved more than they used, and have ended since: their usage leaves room for the
        call that was refused. Calls of others may still fill the rest, so it is one try.
        """
        refusal = self._refusal
        if refusal is None or refusal.tried or now >= refusal.until:
            return False
        limit = self._tokens_per_minute(now)
        if limit is None or self._tokens.own(now) + refusal.tokens > limit * (1 - LARGEST_MARGIN):
            return False
        refusal.tried = True
        return True

    def undo(self, call_id: str, now: float) -> None:
        """A call that was to be sent was not: it is as if it had never begun."""
        booking = self._bookings.get(call_id)
        if booking is not None:
            self._requests.give_back(1, booking.at)
            self.end(call_id, 0, now)

    def is_stale(self, now: float) -> bool:
        """Whether its figures have not been looked at for so long that a display of them would lag."""
        return now - self._learned_at >= STALE_SECONDS

    # --- what follows -----------------------------------------------------------------------------

    def headroom(self, now: float) -> float | None:
        """The share that is free, in 0..1; None: nothing is known, so there may be room."""
        free = []
        if self.provisioned:
            if self._size is not None or now - self._utilized_at < UTILIZATION_AGE:
                free.append(1 - self._bucket.level(now))
        else:
            limit = self._tokens_per_minute(now)
            if limit is not None:
                free.append(1 - self._tokens.used(now) / limit)
            calls = self._requests_per_window(now)
            if calls is not None:
                free.append(1 - self._requests.used(now) / calls)
        return min(1.0, max(0.0, min(free))) if free else None

    def fits(self, tokens: int, leave_free: float, now: float) -> bool:
        """Whether a call of so many tokens fits now and leaves that share (0..1) of the whole free."""
        return self.when(tokens, leave_free, now) == 0

    def when(self, tokens: int, leave_free: float, now: float) -> float | None:
        """Seconds until it would fit, if nothing else is sent; 0: now; None: never, it is above the limit.

        It may be sooner: calls under way can end with less than they had reserved.
        """
        wait = 0.0
        if self.provisioned:
            if self._size is not None or now - self._utilized_at < UTILIZATION_AGE:
                wait = self._bucket.when(self._most_level(leave_free), now)
        else:
            limit = self._tokens_per_minute(now)
            if limit is not None and tokens > limit:
                return None
            if limit is not None:
                room = limit * (1 - leave_free - self._margin) - tokens
                wait = self._tokens.when(max(0.0, room), now)
            calls = self._requests_per_window(now)
            if calls is not None:
                most = max(1, math.floor(calls * (1 - leave_free) + _ROUNDING)) - 1
                wait = max(wait, self._requests.when(most, now))
        return wait if wait > _ROUNDING else 0.0

    def next_step(self, now: float) -> float:
        """Seconds until one more of the calls that wait may go there, while its size is unknown; 0: now."""
        if self._slow_start is None or self.limits(now)[0] is not None:
            return 0.0
        return self._slow_start.wait(now)

    def when_beside(
        self,
        tokens: int,
        leave_free: float,
        now: float,
        expected: float,
        most_expected: float = MOST_EXPECTED,
    ) -> float:
        """Seconds until it has room beside what higher classes will ask for; 0: now, or as soon as `when`.

        ``expected``: the tokens per second that they ask for. These are to fit as well, from then on, as far
        as they are no more than the share ``most_expected`` of its limit.
        """
        wait = 0.0
        if self.provisioned:
            size = self._size
            if size is not None:
                # More than it drains is not available to any class, however much of it is kept open.
                inflow = min(expected, most_expected * size / 60)
                ahead = EXPECTED_SECONDS * inflow / size
                wait = self._bucket.when(self._most_level(leave_free, ahead), now)
        else:
            limit = self._tokens_per_minute(now)
            if limit is not None:
                inflow = min(expected, most_expected * limit / TOKEN_WINDOW_SECONDS)
                room = max(0.0, limit * (1 - self._margin) - tokens)
                wait = self._tokens.when_beside(room, inflow, now)
        return wait if wait > _ROUNDING else 0.0

    def _most_level(self, leave_free: float, ahead: float = 0.0) -> float:
        return max(0.0, 1 - leave_free - self._margin - PROVISIONED_MARGIN - ahead)

    def limits(self, now: float) -> tuple[int | None, int | None]:
        """Return its tokens and requests per minute, declared or from its headers; None: unknown."""
        if self.provisioned:
            return self._size, None
        return self._tokens_per_minute(now), self._request_limit.below(self.declared.requests_per_minute, now)

    # --- limits -----------------------------------------------------------------------------------

    @property
    def _size(self) -> int | None:
        """Of a provisioned backend: the tokens per minute, which its bucket holds."""
        declared = self.declared.tokens_per_minute
        return declared if declared is not None else self._ptu_size.tokens_per_minute

    @property
    def provisioned(self) -> bool:
        """Whether it is a provisioned deployment: declared as one, or known by its utilisation header."""
        return self.declared.provisioned or self._is_provisioned

    def _learn_limits(self, limits: RateLimits, now: float) -> None:
        if limits.utilization is not None:
            self._is_provisioned = True
        self._token_limit.learn(limits.limit_tokens, now)
        self._request_limit.learn(limits.limit_requests, now)

    def _tokens_per_minute(self, now: float) -> int | None:
        return self._token_limit.below(self.declared.tokens_per_minute, now)

    def _request_window(self, now: float) -> float:
        limit = self._request_limit.below(self.declared.requests_per_minute, now)
        return REQUEST_WINDOW if limit is None or limit >= 6 else SMALL_REQUEST_WINDOW

    def _requests_per_window(self, now: float) -> int | None:
        limit = self._request_limit.below(self.declared.requests_per_minute, now)
        return None if limit is None else math.ceil(limit * self._request_window(now) / 60)


class Capacities:
    """The capacity of every backend, by name, so that it survives a reload of the configuration."""

    def __init__(self) -> None:
        self._capacities: Bounded[BackendKey, Capacity] = Bounded(MOST_BACKENDS)

    def known(self, backend: Backend) -> Capacity | None:
        """Return what is known of a standin's capacity, None if no call has been there yet."""
        return self._capacities.get(BackendKey(*backend.key))

    def of(self, backend: Backend, asked: str) -> Capacity:
        """Return a backend's capacity for a call that asked for this deployment.

        An endpoint without virtual deployments has one for each real deployment that is asked for.
        """
        key = backend.serving(asked)
        capacity = self._capacities.get(key)
        if capacity is None:
            capacity = Capacity()
            capacity.key = key
            self._capacities.put(key, capacity)
        if backend.standin is not None:
            capacity.declared = backend.declared
        return capacity
