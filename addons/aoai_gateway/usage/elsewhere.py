"""Where a writer that has a process of its own writes to: plain values, that go there by a pipe.

The configuration's own models would bring the library that validates them: 14 MB, and half of the time that
the process takes to start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SERVICE = "aoai-gateway"


@dataclass(frozen=True, slots=True)
class Otlp:
    """A collector of OpenTelemetry's, as `config.sinks.OtlpSink` describes it."""

    endpoint: str
    key: str | None = field(default=None, repr=False)
    traces: bool = True
    metrics: bool = True
    metrics_seconds: float = 60
    service: str | None = None
    """The configuration's; None if it names none, so that the environment may."""


@dataclass(frozen=True, slots=True)
class LogAnalytics:
    """A table of Log Analytics, as `config.sinks.LogAnalyticsSink` describes it."""

    endpoint: str
    rule_id: str
    stream: str
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


type Elsewhere = Otlp | LogAnalytics
