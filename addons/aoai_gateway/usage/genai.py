"""The names of OpenTelemetry's GenAI conventions, in one table each: they still move.

From semantic-conventions 1.41 (``docs/gen-ai``), status "Development". Attributes of the gateway's own begin
with ``aoai_gateway.``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.wire.dialects import DIALECTS, OPENAI

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.usage.counts import DeploymentLabels
    from aoai_gateway.usage.sink import Record

OPERATIONS = {
    "chat.completions": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
}
"""The conventions' names of operations; others keep their own."""

DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - a metric's name
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
PER_CHUNK = "gen_ai.client.operation.time_per_output_chunk"

SECONDS_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

CALL_ATTRIBUTES = {
    "model": "gen_ai.response.model",
    "max_tokens": "gen_ai.request.max_tokens",
    "streaming": "gen_ai.request.stream",
    "service_tier": "openai.response.service_tier",
    "service_tier_requested": "openai.request.service_tier",
    "fallback": "aoai_gateway.fallback",
    "fallback_refused": "aoai_gateway.fallback_refused",
    "client": "aoai_gateway.client",
    "priority": "aoai_gateway.priority",
    "outcome": "aoai_gateway.outcome",
    "asked_deployment": "aoai_gateway.asked_deployment",
    "region": "cloud.region",
    "status": "http.response.status_code",
}
"""The attributes of a call's span, by the record's field, whose values calls of the same kind share."""

CALL_FIGURES = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "waited_ms": "aoai_gateway.waited_ms",
    "response_id": "gen_ai.response.id",
    "call": "aoai_gateway.call",
    "cost": "aoai_gateway.cost",
    "client_request_id": "aoai_gateway.client_request_id",
    "backend_request_id": "aoai_gateway.backend_request_id",
    "user": "enduser.pseudo.id",
}
"""The attributes of a call's span whose values are its own."""

ATTEMPT_ATTRIBUTES = {
    "backend": "aoai_gateway.backend",
    "status": "http.response.status_code",
    "reason": "aoai_gateway.reason",
    "region": "cloud.region",
}
"""The same of an attempt."""

ATTEMPT_FIGURES = {"break_ms": "aoai_gateway.break_ms", "request_id": "aoai_gateway.backend_request_id"}


def provider(api: str | None) -> str:
    """Return ``gen_ai.provider.name``, by the form of the API."""
    return DIALECTS.get(api or "", OPENAI).provider


def operation_name(record: Record) -> str:
    """Return ``gen_ai.operation.name``."""
    operation = record["operation"] or "unknown"
    return OPERATIONS.get(operation, operation)


def metric_attributes(record: Record, deployments: DeploymentLabels) -> dict[str, Any]:
    """Return the attributes of a call's measurements: few values each, so that series stay few."""
    served = record["outcome"] == "ok" and record["status"] == 200
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation_name(record),
        "gen_ai.provider.name": provider(record.get("api")),
        "aoai_gateway.client": record["client"] or "",
    }
    if record["deployment"]:
        found["gen_ai.request.model"] = deployments.label(record["deployment"], exists=served)
    if record["model"]:
        found["gen_ai.response.model"] = record["model"]
    error = error_type(record)
    if error:
        found["error.type"] = error
    return found


KIND_FIELDS = (*CALL_ATTRIBUTES, "operation", "api", "deployment", "finish_reason", "error")
"""The fields of a record that say of what kind a call was."""

ATTEMPT_KIND_FIELDS = (*ATTEMPT_ATTRIBUTES, "failure")


def kind_attributes(kind: Record) -> dict[str, Any]:
    """Return the attributes of the spans of all calls of a kind. ``kind``: the fields of `KIND_FIELDS`."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation_name(kind),
        "gen_ai.provider.name": provider(kind["api"]),
        "gen_ai.request.model": kind["asked_deployment"] or kind["deployment"] or "",
    }
    found |= _said(kind, CALL_ATTRIBUTES)
    if kind["finish_reason"]:
        found["gen_ai.response.finish_reasons"] = tuple(kind["finish_reason"].split(", "))
    error = error_type(kind)
    if error:
        found["error.type"] = error
    return found


def call_attributes(record: Record) -> dict[str, Any]:
    """Return the other attributes of a call's span."""
    found = _said(record, CALL_FIGURES)
    if record["first_token_ms"] is not None and record["streaming"]:
        found["gen_ai.response.time_to_first_chunk"] = record["first_token_ms"] / 1000
    return found


def attempt_kind_attributes(kind: Record, api: str | None) -> dict[str, Any]:
    """Return the attributes of the spans of all attempts of a kind (`ATTEMPT_KIND_FIELDS`)."""
    found: dict[str, Any] = {"gen_ai.provider.name": provider(api)}
    found |= _said(kind, ATTEMPT_ATTRIBUTES)
    if kind["failure"]:
        found["error.type"] = str(kind["status"] or kind["failure"])
    return found


def attempt_attributes(attempt: Record) -> dict[str, Any]:
    """Return the other attributes of an attempt's span."""
    return _said(attempt, ATTEMPT_FIGURES)


def _said(about: Record, table: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for field, name in table.items() if (value := about[field]) is not None}


def error_type(record: Record) -> str:
    """Return ``error.type``; empty for a call that went well."""
    if record["error"]:
        return str(record["error"])
    if record["status"] is not None and record["status"] >= 400:
        return str(record["status"])
    return "" if record["outcome"] == "ok" else str(record["outcome"])
