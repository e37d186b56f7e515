"""The metrics of OpenTelemetry's conventions for generative AI: histograms of what calls came to."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from aoai_gateway.usage import genai
from aoai_gateway.usage.counts import DeploymentLabels
from aoai_gateway.usage.otlp_attributes import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aoai_gateway.usage.sink import Record

type Attributes = tuple[tuple[str, Any], ...]

MOST_KINDS = 2_000
"""Kinds of calls that are told apart; what more there are is counted together, as OpenTelemetry's SDKs do."""

OVERFLOW: Attributes = (("otel.metric.overflow", True),)


class Figure(NamedTuple):
    """A field of the record that is measured. ``per_unit``: the metric is in another unit than the field."""

    field: str
    metric: str
    unit: str
    per_unit: int
    buckets: tuple[float, ...]
    attributes: Mapping[str, str]


_SECONDS, _TOKENS = ("s", 1000, genai.SECONDS_BUCKETS), ("{token}", 1, genai.TOKEN_BUCKETS)

FIGURES = (
    Figure("duration_ms", genai.DURATION, *_SECONDS, {}),
    Figure("first_token_ms", genai.FIRST_CHUNK, *_SECONDS, {}),
    Figure("chunk_gap_p50_ms", genai.PER_CHUNK, *_SECONDS, {}),
    Figure("input_tokens", genai.TOKEN_USAGE, *_TOKENS, {"gen_ai.token.type": "input"}),
    Figure("output_tokens", genai.TOKEN_USAGE, *_TOKENS, {"gen_ai.token.type": "output"}),
)


class Measures:
    """What calls came to, since the start, or (``delta``) since they were taken last. For several threads."""

    def __init__(self, begun: int, *, delta: bool = False) -> None:
        """``begun``: nanoseconds since the epoch."""
        self._begun, self._delta = begun, delta
        self._lock = threading.Lock()
        self._deployments = DeploymentLabels()
        self._kinds: dict[Attributes, tuple[_Series, ...]] = {}
        """The series of calls, by the calls' attributes."""

    def add(self, records: Iterable[Record]) -> None:
        """Count calls."""
        with self._lock:
            for record in records:
                for series in self._kind(record):
                    series.add(record)

    def _kind(self, record: Record) -> tuple[_Series, ...]:
        attributes = tuple(genai.metric_attributes(record, self._deployments).items())
        found = self._kinds.get(attributes)
        if found is None:
            known = attributes if len(self._kinds) < MOST_KINDS else OVERFLOW
            found = self._kinds.get(known) or tuple(map(_Series, FIGURES))
            self._kinds[known] = found
        return found

    def take(self, now: int) -> list[Metric]:
        """Return all metrics that there are. ``now``: nanoseconds since the epoch."""
        metrics = {figure.metric: Metric(name=figure.metric, unit=figure.unit) for figure in FIGURES}
        with self._lock:
            for attributes, kind in self._kinds.items():
                for series in kind:
                    if any(series.counts):
                        histogram = metrics[series.figure.metric].histogram
                        histogram.aggregation_temporality = _DELTA if self._delta else _CUMULATIVE
                        point = histogram.data_points.add(
                            start_time_unix_nano=self._begun,
                            time_unix_nano=now,
                            count=sum(series.counts),
                            sum=series.sum,
                            min=series.least,
                            max=series.most,
                            bucket_counts=series.counts,
                            explicit_bounds=series.figure.buckets,
                        )
                        describe(point, {**dict(attributes), **series.figure.attributes})
            if self._delta:
                self._kinds.clear()
                self._begun = now
        return [metric for metric in metrics.values() if metric.HasField("histogram")]


_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


class _Series:
    """A histogram of a figure, of one kind of calls."""

    __slots__ = ("counts", "figure", "least", "most", "sum")

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.counts = [0] * (len(figure.buckets) + 1)
        self.sum = 0.0
        self.least, self.most = float("inf"), float("-inf")

    def add(self, record: Record) -> None:
        """Count what a record says, if it says so."""
        figure = self.figure
        said = record[figure.field]
        if said is None:
            return
        value = said / figure.per_unit
        self.counts[bisect_left(figure.buckets, value)] += 1
        self.sum += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value
