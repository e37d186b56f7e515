"""Where usage records go, as frozen models."""

from collections.abc import Mapping
from typing import Annotated, Self

import regex
from pydantic import AfterValidator, Field, SecretStr, model_validator

from aoai_gateway.config.fields import Amount, Count, KeptFile, KeptFolder, Key, Model, Name, Url, fault


class _Sink(Model):
    @property
    def secret(self) -> SecretStr | None:
        """What it shows to whom it writes to."""
        return None


class _Rotated(_Sink):
    rotate_mb: Amount = 100
    """Megabytes; a file that would become larger is set aside. 0 is no bound."""
    rotate_daily: bool = True
    """Whether each day (UTC; local time for `csv`) has a file of its own."""
    keep: Annotated[int, Field(ge=0)] = 0
    """The number of set-aside files that stay; 0 for all."""


class JsonLinesSink(_Rotated):
    """A line of JSON for each record, to a file."""

    path: KeptFile
    """The path of the file."""


class CsvSink(_Rotated):
    """PowerProxy's CSV: a line for each call that a backend answered."""

    folder: KeptFolder
    """The folder of the files; it is made if it is not there."""


class OtlpSink(_Sink):
    """OpenTelemetry: spans and metrics of the GenAI conventions, by OTLP over HTTP (extra otel)."""

    endpoint: Url
    """The collector, `http://localhost:4318`; `/v1/traces` and `/v1/metrics` are added."""
    key: Key | None = None
    """The key for `Authorization: Bearer …`; best as `${ENV_VAR}`."""
    traces: bool = True
    """Whether spans are sent: one for a call, one for each of its attempts."""
    metrics: bool = True
    """Whether metrics are sent."""
    metrics_seconds: Count = 60
    """Seconds between two exports of metrics."""
    service: Name = "aoai-gateway"
    """The resource's `service.name`; if it is not given, `OTEL_SERVICE_NAME` holds."""

    @property
    def secret(self) -> SecretStr | None:
        """The key."""
        return self.key


class LogAnalyticsSink(_Sink):
    """An Azure Log Analytics table, by its Logs Ingestion API."""

    endpoint: Url
    """The data collection endpoint, `https://….ingest.monitor.azure.com`."""
    rule_id: Name
    """The immutable id of the data collection rule, `dcr-…`."""
    stream: Name = "Custom-AzureOpenAIUsage_PP_CL"
    """The stream that the rule declares."""
    tenant_id: Name | None = None
    """With `client_secret`: the tenant of the service principal."""
    client_id: Name | None = None
    """The client id of the service principal, or of a user-assigned managed identity."""
    client_secret: Key | None = None
    """The secret of the service principal; without it, a managed identity is used."""

    @property
    def secret(self) -> SecretStr | None:
        """The service principal's."""
        return self.client_secret

    @model_validator(mode="after")
    def _a_secret_needs_its_principal(self) -> Self:
        if self.client_secret is not None and (self.tenant_id is None or self.client_id is None):
            raise fault("has a client_secret without tenant_id and client_id")
        return self


def _redactable(pattern: str) -> str:
    try:
        found = regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError):
        how = r"write it like '\b[\w.]+@[\w.]+\b', in single quotes"
        raise fault("is not a regular expression", how) from None
    if found.match("") is not None:
        raise fault("matches the empty text, and so everywhere", r"say \d+ rather than \d*")
    return pattern


class RecordPrompts(_Rotated):
    """Writes what some clients ask, redacted, to a file of its own that only its owner may read."""

    path: KeptFile
    """The path of the file: JSON lines."""
    clients: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The clients whose prompts are written."""
    redact: tuple[Annotated[str, AfterValidator(_redactable)], ...] = ()
    """Regular expressions; what they match is replaced. If that takes over 1 s, there is no prompt."""


type UsageSink = JsonLinesSink | CsvSink | OtlpSink | LogAnalyticsSink


class UsageSinks(Model):
    """Where usage records go; all of them at once."""

    stdout: bool = False
    """Whether a line of JSON for each record goes to standard output."""
    jsonl: JsonLinesSink | None = None
    """A file of JSON lines, which is rotated."""
    csv: CsvSink | None = None
    """PowerProxy's CSV."""
    otlp: OtlpSink | None = None
    """OpenTelemetry."""
    log_analytics: LogAnalyticsSink | None = None
    """Azure Log Analytics."""

    def named(self) -> Mapping[str, UsageSink]:
        """Return those that are set, by their key; standard output aside."""
        found = {
            "jsonl": self.jsonl,
            "csv": self.csv,
            "otlp": self.otlp,
            "log_analytics": self.log_analytics,
        }
        return {key: sink for key, sink in found.items() if sink is not None}
