"""The figures of each consumer: of a client at a virtual deployment.

Minutes are the clock's, in UTC; a call belongs to the minute in which it began. *Average* is over all minutes
of the report, *p95*, *need* and the like over the minutes in which the consumer called, *peak* is its largest
minute.

The *need* in tokens per minute is what the consumer used in that share of its minutes. A call that a quota
refused is counted with the mean tokens of its served calls, unless it was a retry: else a throttled consumer
would seem to need no more than it has.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aoai_gateway.analysis.reading import Record

MINUTE = 60

CLIENTS_END = ("client_gone", "client_stalled")
"""Outcomes of calls that their clients ended before they were over."""

BUSY = ("break", "half open", "full", "kept free")
"""Causes for which a call goes to another backend than its first one."""

BY_BACKEND = "backend"
"""The cause of a 429 that a backend gave and that reached the client."""

NO_CLIENT = "(unknown)"


@dataclass(slots=True)
class Consumer:
    """What one client did at one virtual deployment."""

    client: str
    deployment: str
    calls: int = 0
    served: int = 0
    streaming: int = 0
    aborted: int = 0
    errors: int = 0
    """Neither served, nor refused with a 429, nor aborted."""
    spilled: int = 0
    """Served by another deployment than the first one, since that was busy or failed."""
    replayed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    priced: int = 0
    # Plain dictionaries: there may be 100,000 consumers, and a Counter is ten times as slow to make.
    refused: dict[str, int] = field(default_factory=dict)
    """429s by cause: the quota's kind, the error's code, or `BY_BACKEND`."""
    dry_run: dict[str, int] = field(default_factory=dict)
    """What a dry run would have refused, by cause."""
    requests_at: dict[int, int] = field(default_factory=dict)
    """The requests of each minute (since the epoch)."""
    tokens_at: dict[int, int] = field(default_factory=dict)
    """The tokens of each minute in which it called."""
    refused_at: dict[int, int] = field(default_factory=dict)
    unmet_at: dict[int, int] = field(default_factory=dict)
    """Calls that a quota refused and that were no retries."""
    durations: array[float] = field(default_factory=lambda: array("d"))
    """Milliseconds, of served calls."""
    first_tokens: array[float] = field(default_factory=lambda: array("d"))

    def add(self, at: float, record: Record) -> None:
        """Count a record."""
        count = record["count"] or 1
        minute = int(at // MINUTE)
        self.calls += count
        self.requests_at[minute] = self.requests_at.get(minute, 0) + count
        self.streaming += count if record["streaming"] else 0
        taken, given = record["input_tokens"] or 0, record["output_tokens"] or 0
        if record["input_tokens"] is None and record["delivered_tokens"] is not None:
            taken, given = record["prompt_tokens_counted"] or 0, record["delivered_tokens"]
        self.input_tokens += taken
        self.output_tokens += given
        self.cached_tokens += record["cached_tokens"] or 0
        self.tokens_at[minute] = self.tokens_at.get(minute, 0) + taken + given
        if record["cost"] is not None:
            self.cost += record["cost"]
            self.priced += 1
        for action in record["policy"]:
            if action["dry_run"]:
                self.dry_run[action["what"]] = self.dry_run.get(action["what"], 0) + 1
        self._count_end(record, minute, count)

    def _count_end(self, record: Record, minute: int, count: int) -> None:
        status, outcome = record["status"] or 0, record["outcome"]
        cause = refusal_of(record)
        if cause is not None:
            self.refused[cause] = self.refused.get(cause, 0) + count
            self.refused_at[minute] = self.refused_at.get(minute, 0) + count
            if record["refused_by"] is not None and not record["client_retry"]:
                self.unmet_at[minute] = self.unmet_at.get(minute, 0) + count
        elif outcome in CLIENTS_END:
            self.aborted += count
        elif outcome == "ok" and status < 400:
            self._count_served(record, count)
        else:
            self.errors += count

    def _count_served(self, record: Record, count: int) -> None:
        self.served += count
        attempts = record["attempts"]
        self.replayed += len(attempts) > 1
        self.spilled += is_spilled(record)
        if record["duration_ms"] is not None:
            self.durations.append(record["duration_ms"])
        if record["streaming"] and record["first_token_ms"] is not None:
            self.first_tokens.append(record["first_token_ms"])

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def need(self, share: float) -> tuple[int, int]:
        """Return the tokens and the requests per minute that suffice in this share of its minutes."""
        mean = self.tokens / self.served if self.served else 0.0
        unmet = self.unmet_at
        tokens = [used + mean * unmet.get(minute, 0) for minute, used in self.tokens_at.items()]
        return math.ceil(quantile(tokens, share) or 0), math.ceil(
            quantile(self.requests_at.values(), share) or 0
        )


def consumers_of(records: Iterable[tuple[float, Record]]) -> tuple[list[Consumer], tuple[int, int] | None]:
    """Count all records. Returns the consumers, largest first, and the first and last minute (None: none)."""
    found: dict[tuple[str, str], Consumer] = {}
    first, last = math.inf, -math.inf
    for at, record in records:
        key = record["client"] or NO_CLIENT, record["asked_deployment"] or record["deployment"] or ""
        consumer = found.get(key)
        if consumer is None:
            consumer = found[key] = Consumer(*key)
        consumer.add(at, record)
        first, last = min(first, at), max(last, at)
    if not found:
        return [], None
    ordered = sorted(found.values(), key=lambda c: (-c.tokens, -c.calls, c.client, c.deployment))
    return ordered, (int(first // MINUTE), int(last // MINUTE))


def refusal_of(record: Record) -> str | None:
    """Say for what cause the client got a 429; None if it got none."""
    if record["status"] != 429 or record["outcome"] in CLIENTS_END:
        return None
    if record["refused_by"] is not None:
        return str(record["refused_by"]["quota"])
    return record["error"] or BY_BACKEND


def is_spilled(record: Record) -> bool:
    """Whether another deployment than the first one served a call, since that was busy or failed."""
    if record["spillover"] is not None:
        return True  # by Azure, to another one of the same resource
    attempts = record["attempts"]
    if not attempts:
        return False
    return len(attempts) > 1 or any(skip["cause"] in BUSY for skip in attempts[0]["skipped"])


def quantile(values: Iterable[float], share: float, *, zeros: int = 0) -> float | None:
    """Return the smallest value that at least this share of the values does not exceed; None without any.

    That is the nearest-rank definition: a value that was measured, none between two. No value is below 0;
    ``zeros``: how many more there are that are 0.
    """
    ordered = sorted(values)
    count = zeros + len(ordered)
    if not count:
        return None
    rank = max(0, math.ceil(share * count) - 1)
    return ordered[rank - zeros] if rank >= zeros else 0.0


def figures(consumer: Consumer, minutes: int, share: float) -> dict[str, Any]:
    """Return all figures of a consumer. ``minutes``: of the report; ``share``: of minutes, for the need."""
    tokens, requests = consumer.tokens_at, consumer.requests_at
    need_tokens, need_requests = consumer.need(share)
    return {
        "client": consumer.client,
        "deployment": consumer.deployment,
        "requests": consumer.calls,
        "served": consumer.served,
        "errors": consumer.errors,
        "aborted": consumer.aborted,
        "refused": sum(consumer.refused.values()),
        "refused_by_cause": ranked(consumer.refused),
        "dry_run_by_cause": ranked(consumer.dry_run),
        "input_tokens": consumer.input_tokens,
        "output_tokens": consumer.output_tokens,
        "cached_tokens": consumer.cached_tokens,
        "prompt_per_completion": _ratio(consumer.input_tokens, consumer.output_tokens, 2),
        "streaming_share": _ratio(consumer.streaming, consumer.calls, 4),
        "rpm_average": round(consumer.calls / minutes, 3),
        "rpm_p95": quantile(requests.values(), 0.95),
        "rpm_peak": max(requests.values(), default=0),
        "tpm_average": round(consumer.tokens / minutes, 1),
        "tpm_p95": quantile(tokens.values(), 0.95),
        "tpm_peak": max(tokens.values(), default=0),
        "peak_minute": _peak(tokens if consumer.tokens else requests),
        "active_minutes": len(requests),
        "duration_p50_ms": quantile(consumer.durations, 0.5),
        "duration_p95_ms": quantile(consumer.durations, 0.95),
        "first_token_p50_ms": quantile(consumer.first_tokens, 0.5),
        "first_token_p95_ms": quantile(consumer.first_tokens, 0.95),
        "spill_share": _ratio(consumer.spilled, consumer.served, 4),
        "replayed": consumer.replayed,
        "cost": round(consumer.cost, 6) if consumer.priced else None,
        "need_tokens_per_minute": need_tokens,
        "need_requests_per_minute": need_requests,
        "throttled_minutes": len(consumer.refused_at),
    }


def _peak(values: Mapping[int, int]) -> int | None:
    """Return the minute of the largest value, the first of equal ones."""
    return min(values, key=lambda minute: (-values[minute], minute)) if values else None


def ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by cause, largest first."""
    return dict(sorted(counts.items(), key=lambda each: -each[1]))


def _ratio(part: float, whole: float, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None
