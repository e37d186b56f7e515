"""Records to OpenTelemetry, by OTLP over HTTP (extra ``otel``): spans of each call, and metrics.

A batch is sent at once, and its loss is counted: the SDK's own batching drops spans without a word. Messages
are made of records here, in a process of its own (`usage.writer_child`): by the SDK's spans and instruments
that takes six times as long. All around is OpenTelemetry's: encoding, resource, propagation, sampling and
ids.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.sdk import resources

from aoai_gateway.usage.otlp_http import Collector
from aoai_gateway.usage.otlp_messages import Measures, Spans, describe
from aoai_gateway.usage.sink import SinkError
from aoai_gateway.usage.writer_process import SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aoai_gateway.usage.sink import Record
    from aoai_gateway.usage.writer_process import Otlp

logger = logging.getLogger(__name__)

SCOPE = InstrumentationScope(name="aoai_gateway")


class OtlpWriter:
    """Exports batches. ``send`` takes the place of the network in a test: it gets the signal and a body."""

    def __init__(
        self,
        settings: Otlp,
        *,
        send: Callable[[str, bytes], None] | None = None,
        metrics_seconds: float | None = None,
    ) -> None:
        self._collectors: dict[str, Collector] = {}
        self._send = send or self._to_collector
        if send is None:
            headers = {}
            if settings.key is not None:
                headers["authorization"] = f"Bearer {settings.key}"
            for signal, wanted in (("traces", settings.traces), ("metrics", settings.metrics)):
                if wanted:
                    self._collectors[signal] = Collector(settings.endpoint, signal, headers)
        self._resource = _resource(settings)
        self._spans = Spans() if settings.traces else None
        self._measures: _Exported | None = None
        if settings.metrics:
            seconds = metrics_seconds if metrics_seconds is not None else settings.metrics_seconds
            self._measures = _Exported(self._resource, self._send, seconds)

    def write(self, records: Sequence[Record]) -> int | None:
        """Export the spans of a batch, and count it in the metrics. Raises SinkError if it was not taken.

        None: it has no spans, so the collector was not asked.
        """
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add(resource=self._resource).scope_spans.add(scope=SCOPE)
        if self._measures is not None:
            self._measures.add(records)
        if self._spans is not None:
            for record in records:
                self._spans.add(record, scope)
        if not scope.spans:
            return None
        self._send("traces", request.SerializeToString())
        return 0

    def trouble(self) -> str:
        """Return why the collector does not take metrics; empty if it does."""
        return self._measures.failing if self._measures is not None else ""

    def close(self) -> None:
        """Export the last metrics."""
        if self._measures is not None:
            self._measures.close()
        for collector in self._collectors.values():
            collector.close()

    def _to_collector(self, signal: str, body: bytes) -> None:
        self._collectors[signal].send(body)


class _Exported:
    """Metrics that are exported now and then, in a thread of their own, whether calls come or not."""

    def __init__(self, resource: Resource, send: Callable[[str, bytes], None], seconds: float) -> None:
        self._resource, self._send, self._seconds = resource, send, seconds
        preference = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "")
        # The third preference, "lowmemory", means the same for histograms.
        delta = preference.strip().casefold() in {"delta", "lowmemory"}
        self._loss = "What they counted is lost" if delta else "Those taken next hold all since the start"
        self._measures = Measures(time.time_ns(), delta=delta)
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
            request = ExportMetricsServiceRequest()
            scope = request.resource_metrics.add(resource=self._resource).scope_metrics.add(scope=SCOPE)
            scope.metrics.extend(self._measures.take(time.time_ns()))
            if scope.metrics:
                self._export(request.SerializeToString())

    def _export(self, body: bytes) -> None:
        before = self.failing
        try:
            self._send("metrics", body)
        except SinkError as error:
            self.failing = str(error)
            if not before:
                logger.error("Metrics: %s. %s.", error, self._loss)
        else:
            self.failing = ""
            if before:
                logger.warning("Metrics are taken by the collector again.")


def _resource(settings: Otlp) -> Resource:
    """Say who exports. Each process is an instance of its own, or the sums of workers would be one series."""
    found = resources.Resource.create(
        {
            "service.instance.id": str(uuid.uuid4()),
            "service.version": importlib.metadata.version("aoai-gateway"),
            "service.name": SERVICE,
            **resources.OTELResourceDetector().detect().attributes,
            **({"service.name": settings.service} if settings.service is not None else {}),
        }
    )
    resource = Resource()
    describe(resource, found.attributes)
    return resource
