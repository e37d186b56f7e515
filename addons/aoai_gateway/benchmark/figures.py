"""What calls came to: of a whole run, of each of its steps and consumers, and of the last seconds.

The unit of times is the second, in reports for people and in documents alike, with the field names of Azure's
azure-openai-benchmark where it has them.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.consumers import quantile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.usage.sink import Record

MOST_SAMPLES = 2_000
"""The most samples of a second, for the figures while it runs; those at the end are of all calls."""

COUNTS = ("calls", "served", "throttled", "failed", "input_tokens", "output_tokens", "tries")

LASTING = frozenset({401, 403, 404})
"""Statuses whose cause is the key, the path or the deployment: the consumer's next call has the same."""

TIMES = ("ttft", "tbt", "e2e", "late")
"""The times of a call: to the first token, between tokens, end to end, and how late it was sent."""


@dataclass(slots=True)
class Tally:
    """Counts and times of calls."""

    calls: int = 0
    served: int = 0
    throttled: int = 0
    failed: int = 0
    """Neither served nor throttled: errors, broken streams, time-outs."""
    causes: Counter[str] = field(default_factory=Counter)
    """The causes of calls that were throttled or failed."""
    input_tokens: int = 0
    output_tokens: int = 0
    tries: int = 0
    ttft: array[float] = field(default_factory=lambda: array("d"))
    tbt: array[float] = field(default_factory=lambda: array("d"))
    e2e: array[float] = field(default_factory=lambda: array("d"))
    late: array[float] = field(default_factory=lambda: array("d"))
    utilization: array[float] = field(default_factory=lambda: array("d"))

    def add(self, record: Record) -> None:
        """Count a call."""
        self.calls += 1
        self.tries += len(record["attempts"])
        self.late.append(record["waited_ms"] / 1000)
        if record["utilization"] is not None:
            self.utilization.append(record["utilization"])
        if record["outcome"] == "ok" and record["status"] < 400:
            self._add_served(record)
            return
        throttled = record["status"] == 429 and record["outcome"] == "ok"
        self.throttled += throttled
        self.failed += not throttled
        self.causes[cause_of(record)] += 1

    def _add_served(self, record: Record) -> None:
        self.served += 1
        taken, given = tokens_of(record)
        self.input_tokens += taken
        self.output_tokens += given
        whole, first = record["duration_ms"] / 1000, record["first_token_ms"]
        self.e2e.append(whole)
        if first is not None:
            self.ttft.append(first / 1000)
            if given > 1:
                self.tbt.append((whole - first / 1000) / (given - 1))

    def merge(self, other: Tally) -> None:
        """Add another one's calls."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.causes.update(other.causes)
        for name in (*TIMES, "utilization"):
            getattr(self, name).extend(getattr(other, name))

    def document(self, seconds: float) -> dict[str, Any]:
        """Return the figures. ``seconds``: the time in which these calls were to be sent."""
        per_minute = 60 / seconds if seconds > 0 else 0.0
        found: dict[str, Any] = {
            "calls": self.calls,
            "completed": self.served,
            "throttled": self.throttled,
            "failures": self.failed,
            "tries": self.tries,
            "causes": dict(self.causes.most_common()),
            "rpm": round(self.served * per_minute, 1),
            "ctx_tpm": round(self.input_tokens * per_minute, 1),
            "gen_tpm": round(self.output_tokens * per_minute, 1),
        }
        for name in TIMES:
            found |= _summary(name, getattr(self, name))
        return found | _summary("util", self.utilization)


class Window:
    """The calls that have ended within the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spans: deque[tuple[int, Tally]] = deque()

    def add(self, record: Record, now: float) -> None:
        """Count a call that ends now; ``now``: seconds since the begin."""
        second = int(now)
        if not self._spans or self._spans[-1][0] != second:
            self._spans.append((second, Tally()))
        self._spans[-1][1].add(record)

    def document(self, now: float) -> dict[str, Any]:
        """Return the figures of the window, or since the begin, if that was later."""
        while self._spans and self._spans[0][0] < now - self._seconds:
            self._spans.popleft()
        together, most = Tally(), max(1, MOST_SAMPLES // (len(self._spans) or 1))
        for _, tally in self._spans:
            together.merge(_thinned(tally, most))
        return together.document(min(self._seconds, max(now, 1.0)))


def _thinned(tally: Tally, most: int) -> Tally:
    """Return a copy with fewer times: to sort them all each second would delay the calls."""
    step = max(1, tally.calls // most)
    times = {name: getattr(tally, name)[::step] for name in (*TIMES, "utilization")}
    return Tally(**{name: getattr(tally, name) for name in (*COUNTS, "causes")}, **times)


def cause_of(record: Record) -> str:
    """Say in a word why a call was not served."""
    if record["outcome"] == "client_gone":
        return str(record["error"] or "timeout")
    if record["outcome"] == "truncated":
        attempts = record["attempts"]
        return str(attempts[-1]["reason"] or "truncated") if attempts else "truncated"
    return str(record["error"] or record["status"])


def is_lasting(record: Record, *, of_one_shape: bool) -> bool:
    """Whether a call was refused for what its consumer's next one has, too.

    ``of_one_shape``: whether all calls are alike; a bad request (400) says nothing of other shapes.
    """
    attempts = record["attempts"]
    if attempts and attempts[-1]["failure"] == "tls":
        return True
    status = record["status"]
    return record["outcome"] == "ok" and (status in LASTING or (status == 400 and of_one_shape))


def tokens_of(record: Record) -> tuple[int, int]:
    """Return the tokens in and out: as the answer says, else as they were counted here."""
    if record["input_tokens"] is not None:
        return record["input_tokens"], record["output_tokens"] or 0
    return record["prompt_tokens_counted"] or 0, record["delivered_tokens"] or 0


def _summary(name: str, values: Iterable[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    shares = {"50th": 0.5, "95th": 0.95, "99th": 0.99}
    found = {f"{name}_avg": sum(ordered) / len(ordered) if ordered else None}
    found |= {f"{name}_{share}": quantile(ordered, at) for share, at in shares.items()}
    found[f"{name}_max"] = ordered[-1] if ordered else None
    return {key: None if value is None else round(value, 4) for key, value in found.items()}
