"""The spans of a record: one for the call, and one within it for each attempt.

A record holds all times, so spans are made of it afterwards. What calls of the same kind have in common is
serialised once and merged into each span (protobuf's ``MergeFromString``), which costs a tenth of setting it.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aoai_gateway.usage import genai
from aoai_gateway.usage.otlp_attributes import describe, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

    from aoai_gateway.usage.sink import Record

MILLISECOND = 1_000_000
"""A millisecond in nanoseconds."""

KINDS_KEPT = 2_000
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


@lru_cache(KINDS_KEPT)
def _of_kind(values: tuple[Any, ...]) -> bytes:
    kind = dict(zip(genai.KIND_FIELDS, values, strict=True))
    name = f"{genai.operation_name(kind)} {kind['deployment'] or ''}".rstrip()
    span = Span(name=text(name), kind=Span.SPAN_KIND_SERVER)
    return _common(span, genai.kind_attributes(kind), genai.error_type(kind))


@lru_cache(KINDS_KEPT)
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
