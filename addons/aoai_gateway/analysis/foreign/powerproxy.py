"""PowerProxy's usage: the files of LogUsageToCsvFile, which the sink ``csv`` writes too, and the table of
LogUsageToLogAnalytics, to which the sink ``log_analytics`` adds the whole record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_gateway.analysis.foreign.form import Form, Row, plain_record
from aoai_gateway.analysis.record_check import NoRecordError

_UNTOLD = (
    "no deployments, no refused or failed calls and no costs; times are of minutes, and nothing says how "
    "long a call took."
)


def _of_csv(row: Row) -> tuple[float, dict[str, Any]]:
    at = row.began("request_start_minute_utc", "request_start_minute")
    return at, _served(
        at,
        client=row.text("client"),
        streaming=row.flag("is_streaming"),
        input_tokens=row.count("prompt_tokens"),
        output_tokens=row.count("completion_tokens"),
        backend_processing_ms=row.number("openai_processing_ms"),
        region=row.text("openai_region"),
    )


def _of_later_csv(row: Row) -> tuple[float, dict[str, Any]]:
    at = row.began("request_received_utc")
    return at, _served(
        at,
        client=row.text("client"),
        streaming=row.flag("is_streaming"),
        input_tokens=row.count("prompt_tokens"),
        output_tokens=row.count("completion_tokens"),
        duration_ms=row.number("aoai_roundtrip_time_ms"),
        region=row.text("aoai_region"),
        endpoint=row.text("aoai_endpoint_name"),
    )


def record_in(row: Row) -> Mapping[str, Any] | None:
    """Return the usage record in a row that the sink ``log_analytics`` wrote; None in any other row."""
    whole = row.members("Record")
    return whole if "outcome" in whole else None


def _of_table(row: Row) -> tuple[float, dict[str, Any]]:
    at = row.began("RequestStartMinute", "TimeGenerated")
    taken = row.count("PromptTokens")
    if taken is None and row.text("IsStreaming") is None:
        raise NoRecordError("PromptTokens")
    return at, _served(
        at,
        client=row.text("Client"),
        streaming=row.flag("IsStreaming"),
        input_tokens=taken,
        output_tokens=row.count("CompletionTokens"),
        backend_processing_ms=row.number("OpenAIProcessingMS"),
        region=row.text("OpenAIRegion"),
    )


def _served(at: float, **values: Any) -> dict[str, Any]:
    """Make the record of a call that was served: no others are written down."""
    return plain_record(at, outcome="ok", status=200, **values)


CSV_FILE = Form(
    "PowerProxy's CSV",
    frozenset(("request_start_minute", "client", "is_streaming", "prompt_tokens", "completion_tokens")),
    _of_csv,
    f"It has {_UNTOLD}",
)

LATER_CSV_FILE = Form(
    "PowerProxy's CSV with round trips",
    frozenset(("request_received_utc", "client", "is_streaming", "prompt_tokens", "completion_tokens")),
    _of_later_csv,
    "It has no deployments, no refused or failed calls, no costs and no first tokens.",
)

TABLE = Form(
    "PowerProxy's table in Log Analytics",
    frozenset(("Client", "RequestStartMinute", "IsStreaming", "PromptTokens", "CompletionTokens")),
    _of_table,
    f"It has {_UNTOLD}",
)
