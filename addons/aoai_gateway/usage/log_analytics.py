"""Records to Azure Log Analytics, through its Logs Ingestion API.

Rows have the columns of PowerProxy's plugin LogUsageToLogAnalytics, so its table, data collection rule and
workbooks go on working. ``TimeGenerated`` and ``Record`` (all of it, as an object) come on top; a rule whose
stream does not declare them drops them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.usage.csv_files import row, was_answered
from aoai_gateway.usage.sink import SinkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.usage.elsewhere import LogAnalytics
    from aoai_gateway.usage.sink import Record

TIMEOUT_SECONDS = 20.0
"""For a connection, and for an answer."""

RETRIES = 1


class LogAnalyticsWriter:
    """Uploads batches. ``client``: a LogsIngestionClient, or what takes its place in a test."""

    def __init__(self, settings: LogAnalytics, client: Any = None) -> None:
        self._settings = settings
        self._client = client

    def write(self, records: Sequence[Record]) -> int:
        """Upload a batch. Raises SinkError if any of it could not be uploaded."""
        from azure.core.exceptions import AzureError

        if self._client is None:
            self._client = _client(self._settings)
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


def _client(settings: LogAnalytics) -> Any:
    from azure.identity import ClientSecretCredential, ManagedIdentityCredential
    from azure.monitor.ingestion import LogsIngestionClient

    credential: Any
    if settings.client_secret is not None:
        credential = ClientSecretCredential(
            settings.tenant_id or "", settings.client_id or "", settings.client_secret
        )
    elif settings.client_id is not None:
        credential = ManagedIdentityCredential(client_id=settings.client_id)
    else:
        credential = ManagedIdentityCredential()
    return LogsIngestionClient(
        endpoint=settings.endpoint,
        credential=credential,
        connection_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retry_total=RETRIES,
    )
