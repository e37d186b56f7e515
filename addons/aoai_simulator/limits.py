"""The limiter of one simulated deployment: pure functions of (limits, state, request, now).

Theory of operation
-------------------
Azure OpenAI limits a deployment in one of two ways.

*Pay as you go* (`PaygLimits`) keeps two windows. A token window of 60 seconds holds what each admitted
call was estimated at: its prompt plus its max_tokens. A request window of 10 seconds holds how many
calls came; a limit of R requests per minute grants ceil(R/6) of them per window. Calls that are refused
are counted as requests too ("unsuccessful requests contribute to your per-minute limit", quota
documentation), so hammering an exhausted deployment keeps it exhausted. When a call ends, the part
of its max_tokens that it did not use is given back. Claude's calls are booked with their prompt, and what
they have written is added at their end.

*Provisioned* (`PtuLimits`) is a leaky bucket: a call is admitted while the bucket is not above 100 %, its
estimate is poured in, and the bucket drains at the provisioned rate. When the call ends, the bucket is
corrected by the difference to the real usage. A call that finds the bucket above 100 % is refused with
the exact time until it has drained back.

Both windows slide. A window is a tuple of (slice, amount) pairs, each slice `GRAIN` seconds long; an
amount leaves the window one window length after the *end* of its slice. So the memory is bounded, and
no interval of one window's length ever holds more than the limit: the slicing errs by at most `GRAIN`
seconds, to the careful side.

Nothing here reads a clock: `now` is any monotonic time in float seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, NamedTuple

GRAIN = 0.125
"""Length of a window's slices in seconds; a power of two, so that slices have exact borders."""

_ROUNDING = 1e-6
"""Seconds or tokens that floats may be off by: a call that waits for exactly its hint is admitted."""

TOKEN_WINDOW = 60.0
REQUEST_WINDOW = 10.0
SMALL_REQUEST_WINDOW = 60.0
"""A deployment with fewer than six requests per minute has no whole request in ten seconds: Azure then
reports `x-ratelimit-renewalperiod-requests: 60`."""

UNREACHABLE_RETRY_SECONDS = 86400.0
"""The wait in Azure's answer to a request whose estimate is above the whole limit: a day."""

Reason = Literal["tokens", "requests", "utilisation", "too-big"]
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PaygLimits:
    """A standard deployment. A limit that is None does not exist."""

    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    refused_count: bool = True
    unused_returned: bool = True

    @property
    def request_window(self) -> float:
        """Length of the request window in seconds."""
        rpm = self.requests_per_minute
        return REQUEST_WINDOW if rpm is None or rpm >= 6 else SMALL_REQUEST_WINDOW

    @property
    def requests_per_window(self) -> int | None:
        """How many requests one request window takes."""
        rpm = self.requests_per_minute
        return None if rpm is None else math.ceil(rpm * self.request_window / 60)

    def empty(self) -> PaygState:
        """The state before the first request."""
        return PaygState(Window(TOKEN_WINDOW), Window(self.request_window))


@dataclass(frozen=True, slots=True)
class PtuLimits:
    """A provisioned deployment: the bucket holds one minute's tokens and drains as many per minute."""

    tokens_per_minute: int

    def empty(self) -> PtuState:
        """The state before the first request."""
        return PtuState()


class Entry(NamedTuple):
    """The amount that one slice of time has put into a window."""

    slice: int
    amount: int

    @property
    def ends(self) -> float:
        """The end of the slice, in seconds."""
        return (self.slice + 1) * GRAIN


class Window(NamedTuple):
    """A sliding window of amounts."""

    seconds: float
    entries: tuple[Entry, ...] = ()
    total: int = 0

    def at(self, now: float) -> Window:
        """This window without what has left it by `now`."""
        entries = self.entries
        expired = dropped = 0
        for entry in entries:
            if entry.ends + self.seconds > now + _ROUNDING:
                break
            expired += 1
            dropped += entry.amount
        return Window(self.seconds, entries[expired:], self.total - dropped) if expired else self

    def add(self, now: float, amount: int) -> Window:
        """This window with `amount` put in at `now`, which is never before an earlier `now`."""
        index = math.floor(now / GRAIN)
        entries = self.entries
        if entries and entries[-1].slice >= index:
            last = entries[-1]
            entries = (*entries[:-1], Entry(last.slice, last.amount + amount))
        else:
            entries = (*entries, Entry(index, amount))
        return Window(self.seconds, entries, self.total + amount)

    def give_back(self, at: float, amount: int) -> Window:
        """Return this window less `amount` of the tokens put in at `at`; unchanged if those have left it."""
        index = math.floor(at / GRAIN)
        position = bisect_left(self.entries, (index,))
        if position == len(self.entries) or self.entries[position].slice != index:
            return self
        entry = self.entries[position]
        returned = min(amount, entry.amount)
        left = Entry(index, entry.amount - returned)
        entries = (*self.entries[:position], left, *self.entries[position + 1 :])
        return Window(self.seconds, entries, self.total - returned)

    def seconds_until(self, room: int, limit: int, now: float) -> float:
        """How long until `room` more fits under `limit`, if nothing else comes; infinite if never."""
        excess = self.total + room - limit
        if excess <= 0:
            return 0.0
        for entry in self.entries:
            excess -= entry.amount
            if excess <= 0:
                return max(0.0, entry.ends + self.seconds - now)
        return math.inf


class PaygState(NamedTuple):
    """The state of a standard deployment."""

    tokens: Window
    requests: Window


class PtuState(NamedTuple):
    """The bucket's level in tokens, as it was at time `at`."""

    level: float = 0.0
    at: float = 0.0


Limits = PaygLimits | PtuLimits
State = PaygState | PtuState


class Reservation(NamedTuple):
    """The booking of an admitted call, with its time: `settle` needs it."""

    tokens: int
    at: float


class Decision(NamedTuple):
    """The limiter's answer to one call, with the headers that Azure would put on the response."""

    admitted: bool
    headers: Headers
    retry_after_seconds: float = 0.0
    reason: Reason | None = None
    utilisation: float | None = None
    """Provisioned only: the bucket's level as a fraction of its size; may be above 1."""
    reservation: Reservation | None = None


def admit(limits: Limits, state: State, cost: int, now: float) -> tuple[Decision, State]:
    """Decide on a call estimated at `cost` tokens; returns the decision and the state after it."""
    if isinstance(limits, PtuLimits):
        assert isinstance(state, PtuState)
        return _admit_ptu(limits, state, cost, now)
    assert isinstance(state, PaygState)
    return _admit_payg(limits, state, cost, now)


def settle(
    limits: Limits, state: State, reservation: Reservation, used: int, now: float, *, grows: bool = False
) -> State:
    """Correct a finished call's booking: `used` is what it really took, prompt and completion.

    `grows`: what it took beyond the booking counts, too, as Claude's completions do.
    """
    if isinstance(limits, PtuLimits):
        assert isinstance(state, PtuState)
        level = _drained(limits, state, now) + used - reservation.tokens
        return PtuState(max(0.0, level), max(now, state.at))
    assert isinstance(state, PaygState)
    unused = reservation.tokens - used
    if grows and unused < 0:
        return PaygState(state.tokens.at(now).add(now, -unused), state.requests)
    if unused <= 0 or not limits.unused_returned:
        return state
    return PaygState(state.tokens.at(now).give_back(reservation.at, unused), state.requests)


def fill(limits: Limits, state: State, now: float, seconds: float) -> State:
    """The state of a deployment that other callers have exhausted, and that recovers in `seconds`."""
    if isinstance(limits, PtuLimits):
        return PtuState(limits.tokens_per_minute * (1 + seconds / 60), now)
    assert isinstance(state, PaygState)
    tokens, requests = state.tokens.at(now), state.requests.at(now)
    if limits.tokens_per_minute is not None:
        tokens = Window(TOKEN_WINDOW).add(now - TOKEN_WINDOW + seconds, limits.tokens_per_minute)
    elif limits.requests_per_window is not None:
        window = limits.request_window
        requests = Window(window).add(now - window + min(seconds, window), limits.requests_per_window)
    return PaygState(tokens, requests)


def _admit_payg(limits: PaygLimits, state: PaygState, cost: int, now: float) -> tuple[Decision, State]:
    tokens, requests = state.tokens.at(now), state.requests.at(now)
    tpm, per_window = limits.tokens_per_minute, limits.requests_per_window
    reason: Reason | None = None
    wait = 0.0
    if per_window is not None and requests.total >= per_window:
        reason, wait = "requests", requests.seconds_until(1, per_window, now)
    elif tpm is not None and cost > tpm:
        reason, wait = "too-big", UNREACHABLE_RETRY_SECONDS
    elif tpm is not None and tokens.total + cost > tpm:
        reason, wait = "tokens", tokens.seconds_until(cost, tpm, now)
    if reason is None and tpm is not None:
        tokens = tokens.add(now, cost)
    if per_window is not None and (reason is None or limits.refused_count):
        requests = requests.add(now, 1)
    headers = _payg_headers(limits, tokens.total, requests.total, reason, wait)
    reservation = Reservation(cost, now) if reason is None else None
    return Decision(reason is None, headers, wait, reason, None, reservation), PaygState(tokens, requests)


def _payg_headers(
    limits: PaygLimits, tokens: int, requests: int, reason: Reason | None, wait: float
) -> Headers:
    """The x-ratelimit-* headers in the form of captures from 2026.

    The figures are as odd as Azure's: `remaining-requests` counts the calls of the last ten seconds
    against the limit of a minute, and the reset times are the share that is used up times 60,
    in whole seconds, rounded down.
    """
    headers: list[tuple[str, str]] = []
    rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
    if rpm is not None:
        remaining = 0 if reason == "requests" else max(0, rpm - requests)
        headers += [
            ("x-ratelimit-limit-requests", str(rpm)),
            ("x-ratelimit-remaining-requests", str(remaining)),
            ("x-ratelimit-renewalperiod-requests", str(int(limits.request_window))),
            ("x-ratelimit-reset-requests", str(min(60, requests * 60 // rpm))),
        ]
    if tpm is not None:
        remaining = 0 if reason in ("tokens", "too-big") else max(0, tpm - tokens)
        headers += [
            ("x-ratelimit-limit-tokens", str(tpm)),
            ("x-ratelimit-remaining-tokens", str(remaining)),
            ("x-ratelimit-renewalperiod-tokens", str(int(TOKEN_WINDOW))),
            ("x-ratelimit-reset-tokens", str(min(60, tokens * 60 // tpm))),
        ]
    if reason is not None:
        headers += retry_headers(wait)
        headers.append(("x-ratelimit-type", "Requests" if reason == "requests" else "Tokens"))
    return tuple(headers)


def retry_headers(seconds: float) -> Headers:
    """Both retry headers for a wait: whole seconds rounded up, and milliseconds; each at least 1."""
    milliseconds = max(1, math.ceil(seconds * 1000))
    return (
        ("retry-after", str(math.ceil(milliseconds / 1000))),
        ("retry-after-ms", str(milliseconds)),
    )


def describe(limits: Limits, state: State, now: float) -> dict[str, float | int | None]:
    """How full the deployment is: tokens and requests used in the windows, or utilisation in percent."""
    if isinstance(limits, PtuLimits):
        assert isinstance(state, PtuState)
        return {"utilisation": round(100 * utilisation(limits, state, now), 1)}
    assert isinstance(state, PaygState)
    return {
        "tokens_per_minute": limits.tokens_per_minute,
        "tokens": state.tokens.at(now).total,
        "requests_per_minute": limits.requests_per_minute,
        "requests": state.requests.at(now).total,
    }


def _drained(limits: PtuLimits, state: PtuState, now: float) -> float:
    elapsed = max(0.0, now - state.at)
    return max(0.0, state.level - elapsed * limits.tokens_per_minute / 60)


def utilisation(limits: PtuLimits, state: PtuState, now: float) -> float:
    """The bucket's level as a fraction of its size."""
    return _drained(limits, state, now) / limits.tokens_per_minute


def _admit_ptu(limits: PtuLimits, state: PtuState, cost: int, now: float) -> tuple[Decision, State]:
    now = max(now, state.at)
    level = _drained(limits, state, now)
    size = limits.tokens_per_minute
    admitted = level <= size + _ROUNDING
    wait = 0.0 if admitted else (level - size) * 60 / size
    if admitted:
        level += cost
    share = level / size
    headers: Headers = (("azure-openai-deployment-utilization", f"{share:.1%}"),)
    if not admitted:
        headers += retry_headers(wait)
    decision = Decision(
        admitted,
        headers,
        wait,
        None if admitted else "utilisation",
        share,
        Reservation(cost, now) if admitted else None,
    )
    return decision, PtuState(level, now)
