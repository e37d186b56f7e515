"""The last minutes of traffic, for charts: counted in buckets of a few seconds that are used again and again.

Memory is bounded under any traffic: a fixed number of buckets, of latencies a histogram each, and per
backend and client a few counters for each minute. Times are seconds of one clock that never jumps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.wire.backend_errors import OUT_OF_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call

BUCKET_SECONDS = 10.0
BUCKETS = 90

MINUTE = 60.0
MINUTES = 15

BINS_PER_DOUBLING = 4
"""A latency is kept to about 9 %."""


class Ring[T]:
    """The newest of equally long spans of time, each with something that counts."""

    def __init__(self, seconds: float, length: int, make: Callable[[], T]) -> None:
        self.seconds = seconds
        self.length = length
        self._make = make
        self._spans: list[tuple[int, T] | None] = [None] * length
        self._last: tuple[float, T] | None = None
        """The time that was asked for last, and its span: many calls are counted at once."""

    def at(self, now: float) -> T:
        """Return the span of this time. The span that it replaces is older than the whole ring."""
        if self._last is not None and self._last[0] == now:
            return self._last[1]
        number = math.floor(now / self.seconds)
        found = self._spans[number % self.length]
        if found is None or found[0] != number:
            found = self._spans[number % self.length] = (number, self._make())
        self._last = (now, found[1])
        return found[1]

    def ends(self, now: float) -> float:
        """Return the time at which the span of this time ends."""
        return (math.floor(now / self.seconds) + 1) * self.seconds

    def spans(self, now: float) -> list[T | None]:
        """Return all spans, oldest first, the one of this time last; None where nothing happened."""
        last = math.floor(now / self.seconds)
        wanted = range(last - self.length + 1, last + 1)
        found = ((number, self._spans[number % self.length]) for number in wanted)
        return [span[1] if span is not None and span[0] == number else None for number, span in found]


@dataclass(slots=True)
class Bucket:
    """The calls of a few seconds. Each call counts where it ended, and in one of the first four."""

    answers: int = 0
    """Calls that a backend answered with success."""
    refused: int = 0
    """Calls whose client got a 429."""
    errors: int = 0
    """Calls that ended with any other error, or broke off."""
    gone: int = 0
    """Calls whose client hung up."""
    replayed: int = 0
    """Calls that took more than one attempt."""
    tokens_in: int = 0
    tokens_out: int = 0
    waited: int = 0
    """Calls that were held back, by a quota or in the queue."""
    waited_seconds: float = 0.0
    failed_attempts: dict[str, int] = field(default_factory=dict)
    """The number of failed attempts by status or `FailureKind`."""
    latencies: dict[int, int] = field(default_factory=dict)
    """A histogram of how long the answered calls took."""
    in_flight: int = 0
    """Calls under way that are not in the queue; the highest number seen."""
    waiting: int = 0
    """Calls in the queue; the highest number seen."""


@dataclass(slots=True)
class _Minute:
    clients: dict[str, list[int]] = field(default_factory=dict)
    """Calls, those refused with a 429, tokens."""
    backends: dict[str, list[int]] = field(default_factory=dict)
    """Attempts, failed ones."""


class Traffic:
    """The traffic of the last quarter of an hour."""

    def __init__(self) -> None:
        self._buckets = Ring(BUCKET_SECONDS, BUCKETS, Bucket)
        self._minutes = Ring(MINUTE, MINUTES, _Minute)

    def finished(self, call: Call, now: float) -> None:
        """Count a call that has ended."""
        bucket, minute = self._buckets.at(now), self._minutes.at(now)
        status, outcome, usage = call.status or 0, call.outcome, call.usage
        refused = False
        if outcome is Outcome.OK and status < 400:
            bucket.answers += 1
            if call.ended is not None:
                place = _bin(call.ended - call.started)
                bucket.latencies[place] = bucket.latencies.get(place, 0) + 1
        elif outcome is not None and outcome.is_the_clients:
            bucket.gone += 1
        elif status in OUT_OF_CAPACITY:
            refused = True
            bucket.refused += 1
        else:
            bucket.errors += 1
        if usage is not None:
            bucket.tokens_in += usage.input_tokens
            bucket.tokens_out += usage.output_tokens
        if call.waited > 0:
            bucket.waited += 1
            bucket.waited_seconds += call.waited
        if len(call.attempts) > 1:
            bucket.replayed += 1
        name = call.client.name
        client = minute.clients.get(name) or minute.clients.setdefault(name, [0, 0, 0])
        client[0] += 1
        client[1] += refused
        if usage is not None:
            client[2] += usage.input_tokens + usage.output_tokens
        for attempt in call.attempts:
            name = attempt.backend.name
            backend = minute.backends.get(name) or minute.backends.setdefault(name, [0, 0])
            backend[0] += 1
            if attempt.failure is not None and attempt.is_backends_failure:
                backend[1] += 1
                kind = _kind(attempt)
                bucket.failed_attempts[kind] = bucket.failed_attempts.get(kind, 0) + 1

    def refused(self, client: str | None, now: float) -> None:
        """Count a request that was refused before it became a call."""
        self._buckets.at(now).errors += 1
        if client is not None:
            self._minutes.at(now).clients.setdefault(client, [0, 0, 0])[0] += 1

    def seen(self, *, in_flight: int, waiting: int, now: float) -> None:
        """Note how many calls are under way and in the queue. Called now and then."""
        bucket = self._buckets.at(now)
        bucket.in_flight = max(bucket.in_flight, in_flight)
        bucket.waiting = max(bucket.waiting, waiting)

    def report(self, now: float) -> dict[str, Any]:
        """Return the buckets as lists of equal length, oldest first; the last bucket is not over yet.

        ``age_seconds``: how much of the last bucket has passed. The lists are those of `Bucket`, and
        ``calls`` (the first four together), ``p50_ms``, ``p95_ms`` (None where no call was answered);
        ``failed_attempts`` is a list for each kind.
        """
        empty = Bucket()
        buckets = [bucket or empty for bucket in self._buckets.spans(now)]
        kinds = sorted({kind for bucket in buckets for kind in bucket.failed_attempts})
        return {
            "bucket_seconds": BUCKET_SECONDS,
            "age_seconds": round(BUCKET_SECONDS - (self._buckets.ends(now) - now), 3),
            "calls": [b.answers + b.refused + b.errors + b.gone for b in buckets],
            "answers": [b.answers for b in buckets],
            "refused": [b.refused for b in buckets],
            "errors": [b.errors for b in buckets],
            "gone": [b.gone for b in buckets],
            "replayed": [b.replayed for b in buckets],
            "tokens_in": [b.tokens_in for b in buckets],
            "tokens_out": [b.tokens_out for b in buckets],
            "waited": [b.waited for b in buckets],
            "in_flight": [b.in_flight for b in buckets],
            "waiting": [b.waiting for b in buckets],
            "failed_attempts": {kind: [b.failed_attempts.get(kind, 0) for b in buckets] for kind in kinds},
            "waited_seconds": [round(b.waited_seconds, 3) for b in buckets],
            "p50_ms": [quantile(b.latencies, 0.5) for b in buckets],
            "p95_ms": [quantile(b.latencies, 0.95) for b in buckets],
        }

    def clients(self, now: float) -> dict[str, dict[str, list[int]]]:
        """Return ``calls``, ``refused`` and ``tokens`` of each client for each minute, oldest first."""
        minutes = [minute.clients if minute else {} for minute in self._minutes.spans(now)]
        return _columns(minutes, ("calls", "refused", "tokens"))

    def backends(self, now: float) -> dict[str, dict[str, list[int]]]:
        """Return ``attempts`` and ``failed`` of each backend for each minute, oldest first."""
        minutes = [minute.backends if minute else {} for minute in self._minutes.spans(now)]
        return _columns(minutes, ("attempts", "failed"))


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Return the milliseconds, to about 9 %, within which that share of calls ended; None without any."""
    rank = math.ceil(share * sum(histogram.values()))
    for place in sorted(histogram):
        rank -= histogram[place]
        if rank <= 0:
            return round(2 ** ((place + 0.5) / BINS_PER_DOUBLING), 1)
    return None


def _bin(seconds: float) -> int:
    return math.floor(math.log2(max(1000 * seconds, 1.0)) * BINS_PER_DOUBLING)


def _kind(attempt: Attempt) -> str:
    if attempt.failure is FailureKind.STATUS:
        return str(attempt.status)
    assert attempt.failure is not None
    return attempt.failure.value


def _columns(minutes: list[dict[str, list[int]]], names: tuple[str, ...]) -> dict[str, dict[str, list[int]]]:
    nothing = [0] * len(names)
    keys = dict.fromkeys(name for minute in minutes for name in minute)
    return {
        each: {name: [minute.get(each, nothing)[i] for minute in minutes] for i, name in enumerate(names)}
        for each in keys
    }
