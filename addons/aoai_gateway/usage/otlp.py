"""Records to OpenTelemetry, by OTLP over HTTP (extra ``otel``): a span for a call, with one for each attempt.

A record holds all times, so spans are made of it afterwards, off the event loop. The client's ``traceparent``
is continued; without one, a trace begins here. Each batch is exported at once and its loss is counted:
the SDK's own batching drops spans without a word.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aoai_gateway.usage import genai
from aoai_gateway.usage.deployment_labels import DeploymentLabels
from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics.export import MetricReader

    from aoai_gateway.config.sinks import OtlpSink
    from aoai_gateway.usage.sink import Record

TIMEOUT_SECONDS = 10.0
"""For one export."""

NANOSECONDS = 1_000_000
"""Of a millisecond."""

# A collector that is away is told of once by the sink; the SDK would do so with a traceback for each try.
for _name in ("trace_exporter", "metric_exporter", "_shared"):
    logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{_name}").setLevel(logging.CRITICAL)
logging.getLogger("opentelemetry.sdk.metrics").setLevel(logging.CRITICAL)


class OtlpWriter:
    """Exports batches. ``spans`` and ``reader`` take the place of the network in a test."""

    def __init__(
        self, settings: OtlpSink, *, spans: SpanExporter | None = None, reader: MetricReader | None = None
    ) -> None:
        resource = Resource.create({"service.name": settings.service})
        base = settings.endpoint.rstrip("/")
        headers = {}
        if settings.key is not None:
            headers["authorization"] = f"Bearer {settings.key.get_secret_value()}"
        self._spans: SpanExporter | None = None
        self._ended = _Ended()
        self._measures: _Measures | None = None
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._ended)
        self._tracer = self._provider.get_tracer("aoai_gateway")
        self._propagator = TraceContextTextMapPropagator()
        if settings.traces:
            self._spans = spans or OTLPSpanExporter(
                endpoint=f"{base}/v1/traces", headers=headers, timeout=TIMEOUT_SECONDS
            )
        if settings.metrics:
            reader = reader or PeriodicExportingMetricReader(
                OTLPMetricExporter(endpoint=f"{base}/v1/metrics", headers=headers, timeout=TIMEOUT_SECONDS),
                export_interval_millis=1000 * settings.metrics_seconds,
                export_timeout_millis=1000 * TIMEOUT_SECONDS,
            )
            self._measures = _Measures(resource, reader)

    def write(self, records: Sequence[Record]) -> int:
        """Export the spans of a batch, and count it in the metrics. Raises SinkError if it was not taken."""
        for record in records:
            if self._measures is not None:
                self._measures.add(record)
            if self._spans is not None and record["call"] is not None:
                self._trace(record)
        spans = self._ended.take()
        if self._spans is not None and spans and self._spans.export(spans) is not SpanExportResult.SUCCESS:
            raise SinkError("the collector did not take the spans")
        return 0

    def close(self) -> None:
        """Export the last metrics."""
        if self._measures is not None:
            self._measures.close()
        if self._spans is not None:
            self._spans.shutdown()

    def _trace(self, record: Record) -> None:
        begun = round(datetime.fromisoformat(record["time"]).timestamp() * 1000) * NANOSECONDS
        span = self._tracer.start_span(
            f"{genai.operation_name(record)} {record['deployment'] or ''}".rstrip(),
            context=self._parent(record),
            kind=SpanKind.SERVER,
            attributes=genai.span_attributes(record),
            start_time=begun,
        )
        inside = set_span_in_context(span)
        for number, attempt in enumerate(record["attempts"], 1):
            self._attempt(number, attempt, record, inside, begun)
        error = genai.error_type(record)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(_later(begun, record["duration_ms"]))

    def _attempt(self, number: int, attempt: Record, record: Record, inside: Context, begun: int) -> None:
        started = _later(begun, attempt["started_ms"])
        span = self._tracer.start_span(
            f"attempt {number}: {attempt['backend']}",
            context=inside,
            kind=SpanKind.CLIENT,
            attributes=genai.attempt_attributes(attempt, record),
            start_time=started,
        )
        if attempt["first_token_ms"] is not None:
            span.add_event("first token", timestamp=_later(started, attempt["first_token_ms"]))
        if attempt["failure"]:
            span.set_status(Status(StatusCode.ERROR, attempt["reason"]))
        span.end(_later(started, attempt["duration_ms"]))

    def _parent(self, record: Record) -> Context:
        carrier = {"traceparent": record["traceparent"]} if record["traceparent"] else {}
        return self._propagator.extract(carrier)


class _Ended(SpanProcessor):
    """Collects the spans that have ended."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Take one, if it is sampled."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        """Give them, once."""
        spans, self._spans = self._spans, []
        return spans


class _Measures:
    """The metrics of the conventions."""

    def __init__(self, resource: Resource, reader: MetricReader) -> None:
        buckets = {
            genai.DURATION: genai.SECONDS_BUCKETS,
            genai.FIRST_CHUNK: genai.SECONDS_BUCKETS,
            genai.PER_CHUNK: genai.SECONDS_BUCKETS,
            genai.TOKEN_USAGE: genai.TOKEN_BUCKETS,
        }
        views = [
            View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(bounds))
            for name, bounds in buckets.items()
        ]
        self._provider = MeterProvider(
            resource=resource, metric_readers=[reader], views=views, shutdown_on_exit=False
        )
        self._deployments = DeploymentLabels()
        meter = self._provider.get_meter("aoai_gateway")
        self._duration = meter.create_histogram(genai.DURATION, "s")
        self._first_chunk = meter.create_histogram(genai.FIRST_CHUNK, "s")
        self._per_chunk = meter.create_histogram(genai.PER_CHUNK, "s")
        self._tokens = meter.create_histogram(genai.TOKEN_USAGE, "{token}")

    def add(self, record: Record) -> None:
        """Count a call."""
        attributes = genai.metric_attributes(record, self._deployments)
        for histogram, field in (
            (self._duration, "duration_ms"),
            (self._first_chunk, "first_token_ms"),
            (self._per_chunk, "chunk_gap_p50_ms"),
        ):
            if record[field] is not None:
                histogram.record(record[field] / 1000, attributes)
        for kind in ("input", "output"):
            tokens = record[f"{kind}_tokens"]
            if tokens is not None:
                self._tokens.record(tokens, attributes | {"gen_ai.token.type": kind})

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown(timeout_millis=1000 * TIMEOUT_SECONDS)


def _later(begun: int, milliseconds: Any) -> int:
    return begun + round((milliseconds or 0.0) * NANOSECONDS)
