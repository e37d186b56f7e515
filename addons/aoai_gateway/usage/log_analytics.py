"""Records to Azure Log Analytics, through its Logs Ingestion API.

Rows have the columns of PowerProxy's plugin LogUsageToLogAnalytics, so its table, data collection rule and
workbooks go on working. ``TimeGenerated`` and ``Record`` (all of it, as an object) come on top; a rule whose
stream does not declare them drops them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, override

from azure.core.exceptions import AzureError, ServiceRequestTimeoutError
from azure.core.pipeline.policies import RetryPolicy

from aoai_gateway.usage.csv_files import row, was_answered
from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aoai_gateway.usage.sink import Record
    from aoai_gateway.usage.writer_process import LogAnalytics

CONNECT_SECONDS, READ_SECONDS = 5.0, 15.0
"""The times for each request: one with rows, and those for a token. The libraries' own limits are five
minutes."""

RETRIES = 1

BATCH_SECONDS = 60.0
"""Nothing of a batch is begun later: neither its next request, of a megabyte each, nor another attempt."""


class LogAnalyticsWriter:
    """Uploads batches. ``client``: a LogsIngestionClient, or what takes its place in a test."""

    def __init__(
        self, settings: LogAnalytics, client: Any = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._in_time = _InTime(clock)

    def write(self, records: Sequence[Record]) -> int:
        """Upload a batch. Raises SinkError if any of it could not be uploaded."""
        if self._client is None:
            self._client = _client(self._settings, self._in_time)
        self._in_time.end = self._clock() + BATCH_SECONDS
        try:
            self._client.upload(
                rule_id=self._settings.rule_id,
                stream_name=self._settings.stream,
                logs=[_row(record) for record in records],
            )
        except AzureError as error:
            status = getattr(error, "status_code", None)
            raise SinkError(f"Log Analytics answered {status}" if status else type(error).__name__) from None
        return 0

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()


class _InTime(RetryPolicy[Any, Any]):
    """Sends the requests of a batch, and each again if need be, until its end (by ``clock``)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(retry_total=RETRIES)
        self.end = 0.0
        self._clock = clock

    @override
    def send(self, request: Any) -> Any:
        if self._clock() >= self.end:
            raise ServiceRequestTimeoutError("the batch takes too long")
        return super().send(request)

    @override
    def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
        if not super().is_retry(settings, response):
            return False
        # The pause is the service's to choose: an hour, if it likes.
        return self._clock() + (self.get_retry_after(response) or 0.0) < self.end


def _row(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {"TimeGenerated": record["time"], "Record": dict(record)}
    _, minute, client, _, taken, given, total, milliseconds, region = row(record)
    found |= {"Client": client, "RequestStartMinute": minute}
    if was_answered(record):
        found |= {
            "IsStreaming": bool(record["streaming"]),
            "PromptTokens": taken,
            "CompletionTokens": given,
            "TotalTokens": total,
            "OpenAIProcessingMS": milliseconds,
            "OpenAIRegion": region,
        }
    return found


def _client(settings: LogAnalytics, retry_policy: RetryPolicy[Any, Any]) -> Any:
    from azure.identity import ClientSecretCredential, ManagedIdentityCredential
    from azure.monitor.ingestion import LogsIngestionClient

    limits: dict[str, Any] = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    token_limits = {**limits, "retry_total": RETRIES}
    credential: Any
    if settings.client_secret is not None:
        credential = ClientSecretCredential(
            settings.tenant_id or "", settings.client_id or "", settings.client_secret, **token_limits
        )
    elif settings.client_id is not None:
        credential = ManagedIdentityCredential(client_id=settings.client_id, **token_limits)
    else:
        credential = ManagedIdentityCredential(**token_limits)
    return LogsIngestionClient(
        endpoint=settings.endpoint, credential=credential, retry_policy=retry_policy, **limits
    )
