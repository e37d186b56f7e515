"""A sliding 60 s window over tokens and requests: the arithmetic of one per-minute quota.

Theory of operation
-------------------
Every admission is booked at its *stamp*, the moment of admission, and counts until it is 60 s
old. An admission is allowed when what the window holds, plus itself, is at most the limit. So in
any half-open window of 60 s, wherever it starts, no more than the limit is booked. A fixed minute
cannot promise that: it lets two whole budgets through in the two seconds around its boundary.

**Buckets.** Admissions less than 0.1 s (`GRAIN`) apart share a bucket, and the whole bucket ages
with its *newest* member. That errs on one side only: an admission may count for up to 0.1 s too
long (at most 1/600 of the rate is lost), never too short. A window holds at most about 600
buckets under any traffic, and an admission alone in its bucket is timed exactly.

**Settlement.** When the real usage is known and is less than was reserved, the difference leaves
the bucket of the admission: it is free at once.

**Debt.** A call without a bound may use more than it reserved. The excess is a *debt*: it is
booked as fast as the window has room, before anything else is admitted, each payment stamped when
room came up (a bucket leaving the window makes room). Booked amounts thus never exceed the limit,
and an excess of three limits costs three minutes, however it is spread over calls.

Time is an integer number of microseconds, so that this module and the Lua script that does the
same inside Redis agree to the last digit. A window is immutable; every function returns a new one.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Literal, NamedTuple

SPAN = 60_000_000
"""Length of the window, µs."""

GRAIN = 100_000
"""Admissions closer together than this may share a bucket, µs."""

Dimension = Literal["tokens", "requests"]

_TOKENS, _REQUESTS = attrgetter("tokens"), attrgetter("requests")


class Bucket(NamedTuple):
    """Admissions from `first` to `last` (µs), which all count until `last + SPAN`."""

    number: int
    first: int
    last: int
    tokens: int
    requests: int


class Window(NamedTuple):
    """The bookings of one quota, oldest bucket first, and its debt.

    Outside of this module's functions: `tokens` and `requests` are the sums over the buckets;
    `debt` (tokens) is above zero only while `tokens` is at (or, the limit having been lowered,
    above) the limit.
    """

    buckets: tuple[Bucket, ...] = ()
    tokens: int = 0
    requests: int = 0
    debt: int = 0
    numbered: int = 0


def microseconds(seconds: float) -> int:
    """Seconds as the integer microseconds that this module counts in."""
    return round(seconds * 1_000_000)


def advance(window: Window, now: int, limit: int | None) -> Window:
    """Bring the window to `now`: buckets that are 60 s old leave, and their room pays debt.

    A clock that was set back leaves stamps in the future. They are pulled to `now`: their
    bookings are at least that old, so they count at most as long as they would have anyway.
    `limit` is in tokens; None means that tokens are not limited (and debt is booked in full).
    """
    if not window.buckets:
        return _pay(window, now, limit) if window.debt else window
    if window.buckets[-1].last > now:
        window = _pull(window, now)
    if window.buckets[0].last + SPAN > now:
        return _pay(window, now, limit) if window.debt else window
    if not window.debt:
        return _expire(window, now)
    return _pay(_expire_and_pay(_skip_whole_cycles(window, now, limit), now, limit), now, limit)


def book(window: Window, now: int, tokens: int, requests: int) -> tuple[Window, int]:
    """Book an admission at `now`; also returns the number of its bucket, for `correct`.

    The window must have been advanced to `now`. Whether there is room is not asked: see `wait`.
    """
    buckets = window.buckets
    if buckets and 0 <= now - buckets[-1].first < GRAIN:
        tail = buckets[-1]
        number, numbered = tail.number, window.numbered
        tail = Bucket(number, tail.first, now, tail.tokens + tokens, tail.requests + requests)
        buckets = (*buckets[:-1], tail)
    else:
        number = numbered = window.numbered + 1
        buckets = (*buckets, Bucket(number, now, now, tokens, requests))
    return (
        Window(buckets, window.tokens + tokens, window.requests + requests, window.debt, numbered),
        number,
    )


def correct(window: Window, number: int, tokens: int, requests: int, now: int, limit: int | None) -> Window:
    """Add `tokens` and `requests` to an admission in bucket `number`, once its usage is known.

    Negative amounts are given back where they were booked, or vanish if the bucket has left the
    window. Positive tokens were never admitted: they are a debt, from now on. The window must have
    been advanced to `now`; `limit` is as for `advance`.
    """
    if tokens > 0:
        window = window._replace(debt=window.debt + tokens)
        tokens = 0
    at = bisect_left(window.buckets, (number,))
    if (tokens or requests) and at < len(window.buckets) and window.buckets[at].number == number:
        old = window.buckets[at]
        new = Bucket(number, old.first, old.last, old.tokens + tokens, old.requests + requests)
        kept = (new,) if new.tokens or new.requests else ()
        window = Window(
            window.buckets[:at] + kept + window.buckets[at + 1 :],
            window.tokens + tokens,
            window.requests + requests,
            window.debt,
            window.numbered,
        )
    return _pay(window, now, limit) if window.debt else window


def room(window: Window, limit: int, dimension: Dimension) -> int:
    """Return what the window, advanced to the present, has left; below 0 with debt or a lowered limit."""
    if dimension == "tokens":
        return limit - window.tokens - window.debt
    return limit - window.requests


def wait(window: Window, now: int, limit: int, amount: int, dimension: Dimension) -> int:
    """Microseconds until `amount` (at most `limit`) fits, exact if nothing else happens; 0: now.

    Room comes from buckets leaving the window, debt takes it first, and a payment leaves
    the window in its turn 60 s later: with debt outstanding, the same buckets come round again in
    every cycle of 60 s. So the time is that of the bucket at which enough has left, in the cycle
    in which that happens.
    """
    held, debt = (window.tokens, window.debt) if dimension == "tokens" else (window.requests, 0)
    needed = held + debt + amount - limit
    if needed <= 0 or held <= 0:
        return 0
    cycles = (needed - 1) // held
    leaving = _leaving(window.buckets, held, needed - cycles * held, dimension)
    return leaving.last + (1 + cycles) * SPAN - now


def _leaving(buckets: tuple[Bucket, ...], held: int, needed: int, dimension: Dimension) -> Bucket:
    """Return the bucket with whose leaving `needed` of the `held` has left; 0 < needed <= held."""
    amount = _TOKENS if dimension == "tokens" else _REQUESTS
    walk: Iterable[Bucket] = buckets
    if 2 * needed > held:  # nearer to the new end
        walk, needed = reversed(buckets), held - needed + 1
    for bucket in walk:
        needed -= amount(bucket)
        if needed <= 0:
            return bucket
    raise AssertionError("a window's sums are those of its buckets")


def _pull(window: Window, now: int) -> Window:
    return window._replace(
        buckets=tuple(b if b.last <= now else b._replace(last=now) for b in window.buckets)
    )


def _expire(window: Window, now: int) -> Window:
    """Drop the buckets that have left, where there is no debt."""
    tokens, requests, alive = window.tokens, window.requests, 0
    for bucket in window.buckets:
        if bucket.last + SPAN > now:
            break
        tokens -= bucket.tokens
        requests -= bucket.requests
        alive += 1
    return Window(window.buckets[alive:], tokens, requests, 0, window.numbered)


def _expire_and_pay(window: Window, now: int, limit: int | None) -> Window:
    """Drop what has left, oldest first, and book debt into the room at that very moment."""
    queue = deque(window.buckets)
    tokens, requests, debt, numbered = window.tokens, window.requests, window.debt, window.numbered
    while queue and (left := queue[0].last + SPAN) <= now:
        gone = queue.popleft()
        tokens -= gone.tokens
        requests -= gone.requests
        if paid := _payable(debt, tokens, limit):
            numbered += 1
            queue.append(Bucket(numbered, left, left, paid, 0))
            tokens += paid
            debt -= paid
    return Window(tuple(queue), tokens, requests, debt, numbered)


def _skip_whole_cycles(window: Window, now: int, limit: int | None) -> Window:
    """Do at once what `_expire_and_pay` would do in rounds, for a debt of several limits.

    While the debt is more than a full window holds, every bucket is replaced by a payment of the same
    size 60 s later.
    """
    if window.tokens != limit or not limit:
        return window
    cycles = min(window.debt // limit, (now - window.buckets[-1].last) // SPAN)
    if cycles < 1:
        return window
    buckets = tuple(
        Bucket(number, b.last + cycles * SPAN, b.last + cycles * SPAN, b.tokens, 0)
        for number, b in enumerate((b for b in window.buckets if b.tokens), window.numbered + 1)
    )
    return Window(buckets, limit, 0, window.debt - cycles * limit, window.numbered + len(buckets))


def _pay(window: Window, now: int, limit: int | None) -> Window:
    """Book debt into the room that there is now."""
    paid = _payable(window.debt, window.tokens, limit)
    if not paid:
        return window
    window, _ = book(window, now, paid, 0)
    return window._replace(debt=window.debt - paid)


def _payable(debt: int, held: int, limit: int | None) -> int:
    return debt if limit is None else min(debt, max(0, limit - held))
