"""Records as OTLP's messages: spans, one for a call and one within it for each attempt, and metrics.

A record holds all times, so spans are made of it afterwards. What calls of the same kind have in common is
serialised once and merged into each span (protobuf's ``MergeFromString``), which costs a tenth of setting it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aoai_gateway.usage import genai
from aoai_gateway.usage.counts import DeploymentLabels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

    from aoai_gateway.usage.sink import Record

MILLISECOND = 1_000_000
"""A millisecond in nanoseconds."""

SERIALISED_KINDS = 2_000
"""Kinds of calls, and of attempts, that are serialised once."""

TRACE_BYTES, SPAN_BYTES = 16, 8

PARENT_IS_HERE = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
PARENT_IS_ELSEWHERE = PARENT_IS_HERE | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Spans:
    """Makes spans of records.

    The client's ``traceparent`` is continued; without one, a trace begins here. ``OTEL_TRACES_SAMPLER`` says
    which calls have spans.
    """

    def __init__(self) -> None:
        # It reads the environment. It makes no spans here.
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler, self._ids = provider.sampler, provider.id_generator
        self._propagator = TraceContextTextMapPropagator()

    def add(self, record: Record, to: ScopeSpans) -> None:
        """Add the spans of a record; none if it became no call, or is not sampled."""
        if record["call"] is None:
            return
        said = record["traceparent"]
        context = self._propagator.extract({"traceparent": said} if said else {})
        parent = get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        sampling = self._sampler.should_sample(context, trace_id, genai.operation_name(record))
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return
        trace, own = trace_id.to_bytes(TRACE_BYTES), self._span_id()
        begun = _nanoseconds(record["time"])
        for number, attempt in enumerate(record["attempts"], 1):
            self._add_attempt(number, attempt, record["api"], (trace, own, begun), to)
        span = to.spans.add(
            trace_id=trace,
            span_id=own,
            parent_span_id=parent.span_id.to_bytes(SPAN_BYTES) if parent.is_valid else b"",
            start_time_unix_nano=begun,
            end_time_unix_nano=_later(begun, record["duration_ms"]),
            flags=PARENT_IS_ELSEWHERE if parent.is_valid else PARENT_IS_HERE,
        )
        span.MergeFromString(_of_kind(_KIND(record)))
        describe(span, genai.call_attributes(record))

    def _add_attempt(
        self, number: int, attempt: Record, api: str | None, call: tuple[bytes, bytes, int], to: ScopeSpans
    ) -> None:
        """Add an attempt's span. ``call``: the ids of its trace and span, and when it began."""
        trace, parent, begun = call
        started = _later(begun, attempt["started_ms"])
        span = to.spans.add(
            trace_id=trace,
            span_id=self._span_id(),
            parent_span_id=parent,
            start_time_unix_nano=started,
            end_time_unix_nano=_later(started, attempt["duration_ms"]),
        )
        span.MergeFromString(_of_attempt_kind(number, _ATTEMPT_KIND(attempt), api))
        describe(span, genai.attempt_attributes(attempt))
        if attempt["first_token_ms"] is not None:
            span.events.add(name="first token", time_unix_nano=_later(started, attempt["first_token_ms"]))

    def _span_id(self) -> bytes:
        return self._ids.generate_span_id().to_bytes(SPAN_BYTES)


_KIND, _ATTEMPT_KIND = itemgetter(*genai.KIND_FIELDS), itemgetter(*genai.ATTEMPT_KIND_FIELDS)


@lru_cache(SERIALISED_KINDS)
def _of_kind(values: tuple[Any, ...]) -> bytes:
    kind = dict(zip(genai.KIND_FIELDS, values, strict=True))
    name = f"{genai.operation_name(kind)} {kind['deployment'] or ''}".rstrip()
    span = Span(name=text(name), kind=Span.SPAN_KIND_SERVER)
    return _common(span, genai.kind_attributes(kind), genai.error_type(kind))


@lru_cache(SERIALISED_KINDS)
def _of_attempt_kind(number: int, values: tuple[Any, ...], api: str | None) -> bytes:
    kind = dict(zip(genai.ATTEMPT_KIND_FIELDS, values, strict=True))
    name = f"attempt {number}: {kind['backend']}"
    span = Span(name=text(name), kind=Span.SPAN_KIND_CLIENT, flags=PARENT_IS_HERE)
    error = kind["failure"] and (kind["reason"] or str(kind["failure"]))
    return _common(span, genai.attempt_kind_attributes(kind, api), error)


def _common(span: Span, attributes: Mapping[str, Any], error: str | None) -> bytes:
    """Serialise a span of a kind. ``error``: why calls of that kind do not go well, if they do not."""
    describe(span, attributes)
    if error:
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=text(error)))
    serialised: bytes = span.SerializeToString()
    return serialised


def _nanoseconds(time_written: str) -> int:
    return round(datetime.fromisoformat(time_written).timestamp() * 1000) * MILLISECOND


def _later(begun: int, milliseconds: float | None) -> int:
    return begun + round((milliseconds or 0.0) * MILLISECOND)


# --- metrics -----------------------------------------------------------------------------------------------

type Attributes = tuple[tuple[str, Any], ...]

MEASURED_KINDS = 2_000
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
            known = attributes if len(self._kinds) < MEASURED_KINDS else OVERFLOW
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


# --- attributes: of spans, of points of metrics, of the resource -------------------------------------------


def describe(about: Span | HistogramDataPoint | Resource, attributes: Mapping[str, Any]) -> None:
    """Add attributes to a message. Values are texts, numbers, truth values, or tuples of these."""
    for name, value in attributes.items():
        added = about.attributes.add()
        added.key = name
        _set(added.value, value)


def _set(message: AnyValue, value: Any) -> None:
    match value:
        case str():
            message.string_value = text(value)
        case bool():
            message.bool_value = value
        case int():
            message.int_value = value
        case float():
            message.double_value = value
        case _:
            message.array_value.SetInParent()
            for each in value:
                _set(message.array_value.values.add(), each)


def text(value: str) -> str:
    """Return text that can be encoded: halves of surrogate pairs become question marks."""
    return value if value.isascii() else value.encode(errors="replace").decode()
