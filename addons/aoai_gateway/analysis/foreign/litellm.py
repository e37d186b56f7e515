"""LiteLLM's spend logs: rows of its table ``LiteLLM_SpendLogs``, as CSV, or as ``/spend/logs`` gives them.

A key is a hash there. A consumer is named by the key's alias, if it has one, else by the hash's begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aoai_gateway.analysis.foreign.form import Form, Row, only_attempt, plain_record

OPERATIONS = {
    "completion": "chat.completions",
    "text_completion": "completions",
    "embedding": "embeddings",
    "responses": "responses",
    "anthropic_messages": "messages",
}
"""The operations by LiteLLM's call types, without the ``a`` of those that are asynchronous."""

MASTER_KEY = "litellm_proxy_master_key"

_HASH = re.compile(r"[0-9a-f]{64}")


def _record(row: Row) -> tuple[float, dict[str, Any]]:
    at, ended, first = row.began("startTime"), row.moment("endTime"), row.moment("completionStartTime")
    metadata = row.members("metadata")
    status, error = _end(row, metadata)
    # Where an answer is no stream, LiteLLM writes its end as its first token.
    streams = first is not None and ended is not None and at <= first < ended
    duration = row.number("request_duration_ms")
    if duration is None and ended is not None:
        duration = _ms(at, ended)
    first_ms = _ms(at, first) if streams and first is not None else None
    served = status is not None and status < 400
    model = _without_provider(row.text("model"))
    host = row.url("api_base").hostname
    backend = f"{model or ''}@{host or ''}"
    answered = duration if first_ms is None else first_ms
    attempts = [only_attempt(backend, status, answered_ms=answered, duration_ms=duration)]
    if not served:
        outcome = "backends_out" if status is None or status >= 500 else "rejected" if status == 429 else "ok"
    else:
        outcome = "ok"
    record = plain_record(
        at,
        call=row.text("request_id"),
        client=_client(row, metadata),
        user=row.text("end_user"),
        operation=_operation(row),
        deployment=row.text("model_group") or model,
        endpoint=host,
        standin=model,
        model=model,
        streaming=streams,
        outcome=outcome,
        status=status,
        error=error,
        first_token_ms=first_ms if served else None,
        duration_ms=duration,
        attempts=attempts if host is not None and model is not None else [],
    )
    return at, record | (_usage(row, metadata) if served else {})


def _usage(row: Row, metadata: Mapping[str, Any]) -> dict[str, Any]:
    taken, given, spend = row.count("prompt_tokens"), row.count("completion_tokens"), row.number("spend")
    usage = _object(metadata, "usage_object") or _object(metadata, "additional_usage_values")
    cached = _object(usage, "prompt_tokens_details").get("cached_tokens")
    # A model without a price costs 0 there.
    unpriced = not spend and bool(taken or given) and (row.text("cache_hit") or "").lower() != "true"
    return {
        "input_tokens": taken,
        "output_tokens": given,
        "cached_tokens": cached if isinstance(cached, int) and cached >= 0 else None,
        "cost": None if unpriced else spend,
    }


def _end(row: Row, metadata: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Return the status, and the error's name. Older versions write down only what was served."""
    if (row.text("status") or metadata.get("status") or "success") != "failure":
        return 200, None
    error = _object(metadata, "error_information")
    code, name = str(error.get("error_code") or ""), error.get("error_class")
    status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else None
    return status, name if isinstance(name, str) and name else "failure"


def _client(row: Row, metadata: Mapping[str, Any]) -> str | None:
    alias = metadata.get("user_api_key_alias")
    if isinstance(alias, str) and alias:
        return alias
    key = row.text("api_key") or ""
    if key == MASTER_KEY:
        return key
    # Anything else than a hash might be a key.
    return f"key {key[:8]}" if _HASH.fullmatch(key) else None


def _operation(row: Row) -> str:
    said = row.text("call_type") or ""
    return OPERATIONS.get(said) or OPERATIONS.get(said.removeprefix("a")) or said


def _without_provider(model: str | None) -> str | None:
    """Return a model's name without ``azure/``."""
    return model.rpartition("/")[2] or None if model is not None else None


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = members.get(name)
    return found if isinstance(found, dict) else {}


def _ms(begin: float, end: float) -> float:
    return max(0.0, round(1000 * (end - begin), 1))


SPEND_LOGS = Form(
    "LiteLLM's spend logs",
    frozenset(("request_id", "call_type", "startTime", "endTime", "prompt_tokens", "completion_tokens")),
    _record,
    "They do not tell which limit refused a call, how long calls waited, or what was tried before; a call "
    "counts as a stream if its first token came before its end; versions that write no status leave out "
    "calls that failed.",
)
