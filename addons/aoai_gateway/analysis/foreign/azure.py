"""Logs of Azure API Management (APIM) and of Azure OpenAI itself, as Log Analytics exports them.

APIM writes two tables, ``ApiManagementGatewayLogs`` (statuses and times) and ``ApiManagementGatewayLlmLog``
(tokens; one row for each part of a long message, of which only that with the deployment has them). Rows of a
join on ``CorrelationId`` have all. Azure OpenAI's own ``RequestResponse`` logs have no tokens.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from aoai_gateway.analysis.foreign.form import Form, Row, Unusable, only_attempt, plain_record

TIMES = ("TimeGenerated", "Timestamp")

OPERATIONS = {
    "chatcompletions": "chat.completions",
    "chat/completions": "chat.completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "createresponse": "responses",
    "messages": "messages",
    "completions": "completions",
}
"""The operations by a part of their name, or of a path; the first that fits counts."""

CLIENT_LEFT = "ClientConnectionFailure"
"""APIM's reason where the client was gone; without an answer by then, the status is 0 or empty."""

_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")


def _gateway_record(row: Row) -> tuple[float, dict[str, Any]] | None:
    """Make the record of a row of the gateway's log, alone or with the columns of the other table."""
    at, status, own = row.began(*TIMES), row.count("ResponseCode"), row.count("BackendResponseCode")
    url = row.url("Url")
    named = _DEPLOYMENT.search(url.path)
    deployment = row.text("DeploymentName") or (unquote(named[1]) if named else None)
    operation = _operation(row.text("OperationId") or "", url.path)
    if operation is None and row.count("PromptTokens") is not None:
        operation = "chat.completions"
    reason = row.text("LastErrorReason")
    left = reason == CLIENT_LEFT or status == 0
    if (status is None and not left) or (operation is None and deployment is None):
        return None  # of another API behind the same gateway
    duration, backend_ms = row.number("TotalTime"), row.number("BackendTime")
    host = row.url("BackendUrl").hostname or row.text("BackendId")
    reached = host is not None and own is not None
    attempt = only_attempt(f"{deployment or ''}@{host}", own, answered_ms=backend_ms, duration_ms=duration)
    refused_here = not left and status is not None and status >= 400 and own != status
    return at, plain_record(
        at,
        call=row.text("CorrelationId"),
        client=row.text("ApimSubscriptionId"),
        operation=operation,
        deployment=deployment,
        endpoint=host,
        standin=deployment,
        model=row.text("ModelName"),
        streaming=row.flag("IsStreamCompletion"),
        outcome="client_gone" if left else "rejected" if refused_here else "ok",
        status=status or None,
        error=(reason or "refused by APIM") if refused_here else None,
        duration_ms=duration,
        attempts=[attempt] if reached else [],
        region=row.text("Region"),
        input_tokens=row.count("PromptTokens"),
        output_tokens=row.count("CompletionTokens"),
    )


def _llm_record(row: Row) -> tuple[float, dict[str, Any]] | None:
    """Make the record of a row of the other table alone."""
    at, taken = row.began(*TIMES), row.count("PromptTokens")
    if row.text("DeploymentName") is None and row.text("ModelName") is None:
        return None  # a part of a message
    return at, plain_record(
        at,
        call=row.text("CorrelationId"),
        client=row.text("ApimSubscriptionId"),
        operation=_operation(row.text("OperationName") or "", "") or "chat.completions",
        deployment=row.text("DeploymentName") or row.text("ModelName"),
        model=row.text("ModelName"),
        streaming=row.flag("IsStreamCompletion"),
        outcome="ok",
        status=200,
        region=row.text("Region"),
        input_tokens=taken,
        output_tokens=row.count("CompletionTokens"),
    )


def _openai_record(row: Row) -> tuple[float, dict[str, Any]] | None:
    if row.text("Category") not in (None, "RequestResponse"):
        return None
    at, status, more = row.began(*TIMES), row.count("ResultSignature"), row.members("properties_s")
    if status is None:
        return None
    details = Row(more)
    deployment = details.text("modelDeploymentName")
    resource = row.text("Resource")
    duration = row.number("DurationMs")
    return at, plain_record(
        at,
        call=row.text("CorrelationId"),
        client=details.text("objectId") or row.text("CallerIPAddress"),
        operation=_operation(row.text("OperationName") or "", ""),
        deployment=deployment,
        endpoint=resource.lower() if resource else None,
        standin=deployment,
        model=details.text("modelName"),
        streaming=(details.text("streamType") or "").lower() == "streaming",
        outcome="ok",
        status=status,
        duration_ms=duration,
        attempts=[only_attempt(f"{deployment}@{resource.lower()}", status, duration_ms=duration)]
        if resource and deployment
        else [],
        region=row.text("Location_s") or row.text("location_s"),
    )


def _operation(name: str, path: str) -> str | None:
    said = f"{name} {path}".lower().replace("_", "")
    return next((found for part, found in OPERATIONS.items() if part in said), None)


GATEWAY_LOG = Form(
    "APIM's gateway log",
    frozenset(("CorrelationId", "ResponseCode")),
    _gateway_record,
    "A subscription is a client. Tokens, models and streams are those of ApiManagementGatewayLlmLog, joined "
    "on CorrelationId; without them all are 0. No costs, no first tokens, no retries between backends.",
    not_beside="APIM's LLM log",
)

LLM_LOG = Form(
    "APIM's LLM log",
    frozenset(("CorrelationId", "PromptTokens", "CompletionTokens", "DeploymentName")),
    _llm_record,
    "It has calls that were answered, and neither clients nor times nor costs; joined with "
    "ApiManagementGatewayLogs on CorrelationId, its rows tell clients, refusals and durations.",
    not_beside="APIM's gateway log",
)

OPENAI_LOG = Form(
    "Azure OpenAI's request log",
    frozenset(("OperationName", "DurationMs", "ResultSignature", "properties_s")),
    _openai_record,
    "It has no tokens, no costs and no first tokens. A client is an object of Entra ID or, where a key was "
    "used, an address, of which Azure leaves the end out.",
)

METRICS = Unusable(
    "Azure Monitor's metrics",
    frozenset(("MetricName", "TimeGrain")),
    "they are sums over all calls of some minutes, and tell no client. The log "
    "ApiManagementGatewayLlmLog, or a capture, has calls",
)
