"""Records to OpenTelemetry, by OTLP over HTTP: a span for a call, with one for each attempt, and metrics.

A record holds all times, so spans are written from it afterwards, off the event loop. The client's
``traceparent`` is continued; without one, a trace begins here. Each batch is sent at once and its loss is
counted.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
import threading
import time
import uuid
from datetime import datetime
from functools import lru_cache
from itertools import batched
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage import genai
from aoai_gateway.usage.otlp_http import Collector, members
from aoai_gateway.usage.otlp_measures import Measures
from aoai_gateway.usage.otlp_messages import CLIENT, SERVER, Envelope, attribute, kept_attribute, span
from aoai_gateway.usage.otlp_sampling import Sampler, read_traceparent
from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from aoai_gateway.config.sinks import OtlpSink
    from aoai_gateway.usage.sink import Record

logger = logging.getLogger(__name__)

TRACE_BYTES, SPAN_BYTES = 16, 8

MILLISECOND = 1_000_000
"""In nanoseconds."""

SLICE = 50
"""Calls whose spans are written at once, in about a millisecond. Then other threads have their turn."""

BREATH_SECONDS = 0.001

KINDS_KEPT = 2_000
"""Kinds of calls, and of attempts, whose attributes are written once."""

SCOPE = "aoai_gateway"


class OtlpWriter:
    """Exports batches. ``send`` takes the place of the network in a test: it gets the signal and a body."""

    def __init__(
        self,
        settings: OtlpSink,
        *,
        send: Callable[[str, bytes], None] | None = None,
        environment: Mapping[str, str] = os.environ,
        metrics_seconds: float | None = None,
    ) -> None:
        self._collectors: dict[str, Collector] = {}
        self._send = send or self._to_collector
        if send is None:
            headers = {}
            if settings.key is not None:
                headers["authorization"] = f"Bearer {settings.key.get_secret_value()}"
            for signal, wanted in (("traces", settings.traces), ("metrics", settings.metrics)):
                if wanted:
                    self._collectors[signal] = Collector(settings.endpoint, signal, environment, headers)
        self._envelope = Envelope(_resource(settings, environment), SCOPE)
        self._traces, self._sampler = settings.traces, Sampler.of(environment)
        self._drawn = random.Random().randbytes  # noqa: S311 - ids tell spans apart, and are no secrets
        self._measures: _Exported | None = None
        if settings.metrics:
            seconds = metrics_seconds if metrics_seconds is not None else settings.metrics_seconds
            self._measures = _Exported(self._envelope, self._send, seconds)

    def write(self, records: Sequence[Record]) -> int | None:
        """Export the spans of a batch, and count it in the metrics. Raises SinkError if it was not taken.

        None: it has no spans, so the collector was not asked.
        """
        spans: list[bytes] = []
        for number, some in enumerate(batched(records, SLICE)):
            if number:
                time.sleep(BREATH_SECONDS)
            if self._measures is not None:
                self._measures.add(some)
            if self._traces:
                for record in some:
                    spans += self._spans(record)
        if not spans:
            return None
        self._send("traces", self._envelope.around(spans))
        return 0

    def trouble(self) -> str:
        """Say why the collector does not take metrics; empty if it does."""
        return self._measures.failing if self._measures is not None else ""

    def close(self) -> None:
        """Export the last metrics."""
        if self._measures is not None:
            self._measures.close()
        for collector in self._collectors.values():
            collector.close()

    def _to_collector(self, signal: str, body: bytes) -> None:
        self._collectors[signal].send(body)

    def _spans(self, record: Record) -> Iterator[bytes]:
        if record["call"] is None:
            return
        found = read_traceparent(record["traceparent"])
        if found is not None:
            trace, parent, sampled = found.trace, found.parent, found.sampled
        else:
            trace, parent, sampled = self._drawn(TRACE_BYTES), b"", None
        if not self._sampler.takes(trace, sampled):
            return
        begun, own = _nanoseconds(record["time"]), self._drawn(SPAN_BYTES)
        for number, attempt in enumerate(record["attempts"], 1):
            yield _attempt_span(number, attempt, record, (trace, self._drawn(SPAN_BYTES), own), begun)
        yield span(
            trace=trace,
            own=own,
            parent=parent,
            is_remote=bool(parent),
            name=f"{genai.operation_name(record)} {record['deployment'] or ''}".rstrip(),
            kind=SERVER,
            begin=begun,
            end=_later(begun, record["duration_ms"]),
            attributes=_call_attributes(record),
            error=genai.error_type(record),
        )


def _attempt_span(
    number: int, attempt: Record, record: Record, ids: tuple[bytes, bytes, bytes], begun: int
) -> bytes:
    """Write an attempt's span. ``ids``: those of the trace, of the span and of its call's."""
    trace, own, call = ids
    started = _later(begun, attempt["started_ms"])
    first = attempt["first_token_ms"]
    return span(
        trace=trace,
        own=own,
        parent=call,
        is_remote=False,
        name=f"attempt {number}: {attempt['backend']}",
        kind=CLIENT,
        begin=started,
        end=_later(started, attempt["duration_ms"]),
        attributes=_attempt_attributes(attempt, record),
        error=(attempt["reason"] or str(attempt["failure"])) if attempt["failure"] else "",
        first_token=_later(started, first) if first is not None else None,
    )


def _call_attributes(record: Record) -> list[bytes]:
    found = [_of_kind(_KIND(record)), *_said(record, genai.CALL_COUNTS, kept_attribute)]
    found += _said(record, genai.CALL_IDS, attribute)
    if record["first_token_ms"] is not None and record["streaming"]:
        found.append(attribute(genai.FIRST_CHUNK_OF_CALL, record["first_token_ms"] / 1000))
    return found


def _attempt_attributes(attempt: Record, record: Record) -> list[bytes]:
    kind = _of_attempt_kind(_ATTEMPT_KIND(attempt), record["api"])
    return [kind, *_said(attempt, genai.ATTEMPT_IDS, attribute)]


_KIND, _ATTEMPT_KIND = itemgetter(*genai.KIND_FIELDS), itemgetter(*genai.ATTEMPT_KIND_FIELDS)


@lru_cache(KINDS_KEPT)
def _of_kind(kind: tuple[Any, ...]) -> bytes:
    found = genai.kind_attributes(dict(zip(genai.KIND_FIELDS, kind, strict=True)))
    return b"".join(kept_attribute(name, value) for name, value in found.items())


@lru_cache(KINDS_KEPT)
def _of_attempt_kind(kind: tuple[Any, ...], api: str | None) -> bytes:
    found = genai.attempt_kind_attributes(dict(zip(genai.ATTEMPT_KIND_FIELDS, kind, strict=True)), api)
    return b"".join(kept_attribute(name, value) for name, value in found.items())


def _said(about: Record, table: Mapping[str, str], write: Callable[[str, Any], bytes]) -> list[bytes]:
    """Write the attributes of a table that are known."""
    return [write(name, value) for field, name in table.items() if (value := about[field]) is not None]


class _Exported:
    """Metrics that are exported now and then, in a thread of their own, whether calls come or not."""

    def __init__(self, envelope: Envelope, send: Callable[[str, bytes], None], seconds: float) -> None:
        self._envelope, self._send, self._seconds = envelope, send, seconds
        self._measures = Measures(time.time_ns())
        self.add = self._measures.add
        self.failing = ""
        """Why the last export was not taken."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="OpenTelemetry metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Export what is left."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._seconds)
            metrics = self._measures.written(time.time_ns())
            if metrics:
                self._export(metrics)

    def _export(self, metrics: list[bytes]) -> None:
        before = self.failing
        try:
            self._send("metrics", self._envelope.around(metrics))
        except SinkError as error:
            self.failing = str(error)
            if not before:
                logger.error("Metrics: %s. Those that are taken next hold all since the start.", error)
        else:
            self.failing = ""
            if before:
                logger.warning("Metrics are taken by the collector again.")


def _nanoseconds(time_written: str) -> int:
    return round(datetime.fromisoformat(time_written).timestamp() * 1000) * MILLISECOND


def _later(begun: int, milliseconds: float | None) -> int:
    return begun + round((milliseconds or 0.0) * MILLISECOND)


def _resource(settings: OtlpSink, environment: Mapping[str, str]) -> dict[str, str]:
    """Say who exports. Each process is an instance of its own, or the sums of workers would be one series."""
    return {
        "service.instance.id": str(uuid.uuid4()),
        "service.version": importlib.metadata.version("aoai-gateway"),
        **members(environment.get("OTEL_RESOURCE_ATTRIBUTES", "")),
        "service.name": settings.service,
    }
