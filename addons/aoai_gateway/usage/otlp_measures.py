"""The metrics of OpenTelemetry's conventions for generative AI: histograms, cumulative since the start."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage import genai
from aoai_gateway.usage.deployment_labels import DeploymentLabels
from aoai_gateway.usage.otlp_messages import attribute, histogram, histogram_point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aoai_gateway.usage.sink import Record

type Attributes = tuple[tuple[str, Any], ...]

MOST_KINDS = 2_000
"""Kinds of calls that are told apart; what more there are is counted together, as OpenTelemetry's SDKs do."""

OVERFLOW: Attributes = (("otel.metric.overflow", True),)

SECONDS = (
    ("duration_ms", genai.DURATION),
    ("first_token_ms", genai.FIRST_CHUNK),
    ("chunk_gap_p50_ms", genai.PER_CHUNK),
)
"""What is measured in seconds, by the record's field."""

TOKENS = (("input_tokens", "input"), ("output_tokens", "output"))
"""What is counted in tokens: the field, and the token's type."""


class Measures:
    """What calls came to. `add` and `written` may be used by two threads."""

    def __init__(self, begun: int) -> None:
        """``begun``: nanoseconds since the epoch."""
        self._begun = begun
        self._lock = threading.Lock()
        self._deployments = DeploymentLabels()
        self._kinds: dict[Attributes, dict[str, _Series]] = {}
        """By the attributes of a call, and the record's field."""

    def add(self, records: Iterable[Record]) -> None:
        """Count calls."""
        with self._lock:
            for record in records:
                self._add(record)

    def _add(self, record: Record) -> None:
        attributes = tuple(genai.metric_attributes(record, self._deployments).items())
        kind = self._kinds.get(attributes)
        if kind is None:
            known = attributes if len(self._kinds) < MOST_KINDS else OVERFLOW
            kind = self._kinds.setdefault(known, {})
        for field, _ in SECONDS:
            milliseconds = record[field]
            if milliseconds is not None:
                (kind.get(field) or _new(kind, field)).add(milliseconds / 1000)
        for field, _ in TOKENS:
            tokens = record[field]
            if tokens is not None:
                (kind.get(field) or _new(kind, field)).add(tokens)

    def written(self, now: int) -> list[bytes]:
        """Give all metrics that there are, as OTLP writes them. ``now``: nanoseconds since the epoch."""
        with self._lock:
            metrics = [
                (name, "s", genai.SECONDS_BUCKETS, list(self._points(field, (), now)))
                for field, name in SECONDS
            ]
            tokens = [
                point
                for field, of in TOKENS
                for point in self._points(field, (("gen_ai.token.type", of),), now)
            ]
        metrics.append((genai.TOKEN_USAGE, "{token}", genai.TOKEN_BUCKETS, tokens))
        return [histogram(*metric) for metric in metrics if metric[-1]]

    def _points(self, field: str, more: Attributes, now: int) -> Iterator[bytes]:
        for attributes, kind in self._kinds.items():
            series = kind.get(field)
            if series is not None:
                yield histogram_point(
                    attributes=[attribute(name, value) for name, value in (*attributes, *more)],
                    begin=self._begun,
                    now=now,
                    counts=series.counts,
                    about={"sum": series.sum, "min": series.least, "max": series.most},
                )


class _Series:
    """A histogram of one kind of calls."""

    __slots__ = ("bounds", "counts", "least", "most", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.least, self.most = float("inf"), float("-inf")

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value


def _new(kind: dict[str, _Series], field: str) -> _Series:
    bounds = genai.TOKEN_BUCKETS if field in dict(TOKENS) else genai.SECONDS_BUCKETS
    found = kind[field] = _Series(bounds)
    return found
