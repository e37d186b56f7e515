"""The usage record of a finished call. No prompt, no answer, no key.

``schema`` is its version. Fields are only added; a reader ignores those that it does not know. Times are in
milliseconds, except ``time`` (the call's begin, RFC 3339 in UTC). Fields that do not apply are null.
``count`` is 1, except for requests that were answered before they became calls, of which one record may stand
for many (see :mod:`~aoai_gateway.usage.early`); ``address`` is where those came from.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Any

from aoai_gateway.engine import money
from aoai_gateway.engine.call import Notice
from aoai_gateway.engine.end_users import shown_user
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call, PolicyAction
    from aoai_gateway.routing.order import Skip
    from aoai_gateway.wire.errors import GatewayError
    from aoai_gateway.wire.hints import Headers

SCHEMA = 1

FIELDS = (
    "schema",
    "time",
    "call",
    "client",
    "priority",
    "operation",
    "api",
    "deployment",
    "endpoint",
    "standin",
    "model",
    "streaming",
    "max_tokens",
    "outcome",
    "status",
    "error",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "reserved_tokens",
    "charged_tokens",
    "clamped",
    "degraded",
    "dry_run",
    "asked_deployment",
    "waited_ms",
    "in_line_ms",
    "first_token_ms",
    "duration_ms",
    "client_retry",
    "response_id",
    "attempts",
    "skipped",
    "count",
    "address",
    "user",
    "region",
    "provisioned",
    "service_tier",
    "cache_write_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "delivered_tokens",
    "prompt_tokens_counted",
    "cost",
    "chunk_gap_p50_ms",
    "chunk_gap_max_ms",
    "policy",
    "refused_by",
    "retry_after_ms",
    "client_request_id",
    "backend_request_id",
    "backend_processing_ms",
    "traceparent",
    "run_by",
    "utilization",
    "fallback",
    "service_tier_requested",
    "spillover",
    "cached_audio_tokens",
    "responses",
    "messages_in",
    "messages_out",
    "close_code",
    "closed_by",
    "usage_of",
    "fallback_refused",
)
"""The fields of every record, in their order."""

ATTEMPT_FIELDS = (
    "backend",
    "status",
    "failure",
    "reason",
    "break_ms",
    "answered_ms",
    "duration_ms",
    "resent",
    "skipped",
    "region",
    "request_id",
    "started_ms",
    "first_token_ms",
    "spillover",
)
"""The fields of each of its attempts."""


CLIENT_REQUEST_IDS = ("x-ms-client-request-id", "x-client-request-id", "x-request-id")
"""Headers by which clients name their requests."""

RETRY_COUNT, TRACEPARENT = "x-stainless-retry-count", "traceparent"

_READ = {name.encode(): name for name in (*CLIENT_REQUEST_IDS, RETRY_COUNT, TRACEPARENT)}
"""The client's headers that a record has something of."""

LONGEST_ID = 256

COST_DIGITS = 8

QUOTA_EXCEEDED = ("quota_exceeded", "budget_exceeded")


def usage_record(call: Call) -> dict[str, Any]:
    """Make the record of a finished call."""
    body, usage, attempt, session = call.body, call.usage, call.attempt, call.session
    gaps, headers = call.chunk_gaps, _headers_read(call.headers)
    return {
        "schema": SCHEMA,
        "time": written_time(call.started + call.unix_offset),
        "call": call.id,
        "client": call.client.name,
        "priority": _priority(call),
        "operation": call.target.operation.name,
        "api": call.target.api,
        "deployment": call.deployment or None,
        "endpoint": attempt.backend.endpoint.name if attempt else None,
        "standin": attempt.backend.standin.name if attempt and attempt.backend.standin else None,
        "model": call.model,
        "streaming": call.streaming,
        "max_tokens": body.max_tokens if body else None,
        "outcome": call.outcome.value if call.outcome else None,
        "status": call.status,
        "error": call.error.code if call.error else None,
        "finish_reason": call.finish_reason,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "reasoning_tokens": usage.reasoning_tokens if usage else None,
        "reserved_tokens": call.reserved_tokens,
        "charged_tokens": call.charged_tokens,
        "clamped": call.notices.get(Notice.CLAMPED),
        "degraded": call.notices.get(Notice.DEGRADED),
        "dry_run": call.notices.get(Notice.DRY_RUN),
        "asked_deployment": call.asked or None,
        "waited_ms": call.waited and _ms(0.0, call.waited),
        "in_line_ms": call.queue_wait and _ms(0.0, call.queue_wait),
        "first_token_ms": _ms(call.started, call.first_content),
        "duration_ms": _ms(call.started, call.ended),
        "client_retry": _retry_count(headers) if headers else None,
        "response_id": call.response_id,
        "attempts": [_attempt(a, call.started) for a in call.attempts],
        "skipped": [_skip(each) for each in call.skipped],
        "count": 1,
        "address": None,
        "user": shown_user(call),
        "region": attempt.region if attempt else None,
        "provisioned": _is_provisioned(attempt) if attempt else None,
        "service_tier": call.service_tier,
        "cache_write_tokens": usage.cache_write_tokens if usage else None,
        "input_audio_tokens": usage.input_audio_tokens if usage else None,
        "output_audio_tokens": usage.output_audio_tokens if usage else None,
        "delivered_tokens": call.delivered_tokens,
        "prompt_tokens_counted": call.prompt.tokens if call.prompt is not None else None,
        "cost": cost_of(call),
        "chunk_gap_p50_ms": _ms(0.0, gaps[0]) if gaps else None,
        "chunk_gap_max_ms": _ms(0.0, gaps[1]) if gaps else None,
        "policy": [_action(each) for each in call.policy],
        "refused_by": _refused_by(call) if call.error is not None else None,
        "retry_after_ms": _retry_after_ms(call.error) if call.error is not None else None,
        "client_request_id": _header(headers, *CLIENT_REQUEST_IDS) if headers else None,
        "backend_request_id": attempt.request_id if attempt else None,
        "backend_processing_ms": attempt.processing_ms if attempt else None,
        "traceparent": _header(headers, TRACEPARENT) if headers else None,
        "run_by": call.run_by,
        "utilization": attempt.utilization if attempt else None,
        "fallback": call.notices.get(Notice.FALLBACK),
        "service_tier_requested": call.requested_tier,
        "spillover": _spillover(attempt) if attempt else None,
        "cached_audio_tokens": usage.cached_audio_tokens if usage else None,
        "responses": session.responses if session else None,
        "messages_in": session.messages_in if session else None,
        "messages_out": session.messages_out if session else None,
        "close_code": session.close_code if session else None,
        "closed_by": session.closed_by if session else None,
        "usage_of": call.usage_of,
        "fallback_refused": call.fallback_refused,
    }


def empty_record() -> dict[str, Any]:
    """Make the record of a request that never became a call: all fields, and nothing known yet."""
    nothing: dict[str, Any] = {"streaming": False, "attempts": [], "skipped": [], "policy": []}
    return dict.fromkeys(FIELDS) | {"schema": SCHEMA} | nothing


def empty_attempt() -> dict[str, Any]:
    """Make an attempt of which nothing is known yet."""
    return dict.fromkeys(ATTEMPT_FIELDS) | {"resent": False, "skipped": []}


def written_time(seconds: float) -> str:
    """Write a time since the epoch as records have it: RFC 3339, UTC, to the millisecond."""
    return rfc3339(seconds, "milliseconds")


def _attempt(attempt: Attempt, begun: float) -> dict[str, Any]:
    """``begun``: when the call began."""
    started = attempt.started
    return {
        "backend": attempt.backend.name,
        "status": attempt.status,
        "failure": attempt.failure.value if attempt.failure else None,
        "reason": attempt.reason or None,
        "break_ms": _ms(0.0, attempt.break_seconds),
        "answered_ms": _ms(started, attempt.answered),
        "duration_ms": _ms(started, attempt.ended),
        "resent": attempt.resent,
        "skipped": [_skip(each) for each in attempt.skipped],
        "region": attempt.region,
        "request_id": attempt.request_id,
        "started_ms": _ms(begun, started),
        "first_token_ms": _ms(started, attempt.first_content),
        "spillover": _spillover(attempt),
    }


def _is_provisioned(attempt: Attempt) -> bool | None:
    """Whether provisioned throughput has served: not what was spilled over from it."""
    standin = attempt.backend.standin
    return None if standin is None else standin.provisioned and attempt.spillover is None


def _spillover(attempt: Attempt) -> dict[str, str | None] | None:
    spilled = attempt.spillover
    return {"from": spilled.start, "to": spilled.end, "error": spilled.error} if spilled else None


def _skip(skip: Skip) -> dict[str, Any]:
    return {
        "backend": skip.backend.name,
        "cause": skip.cause.value,
        "reason": skip.reason,
        "wait_ms": _ms(0.0, skip.seconds),
    }


def _action(action: PolicyAction) -> dict[str, Any]:
    return {
        "action": action.action,
        "what": action.what,
        "asked": action.asked,
        "given": action.given,
        "dry_run": action.dry_run,
        "limit": action.limit,
        "deployment": action.deployment,
        "retry_after_ms": _ms(0.0, action.seconds),
    }


def _refused_by(call: Call) -> dict[str, Any] | None:
    """Return the quota that the call was refused for: its kind and size, what was asked and what was left."""
    if call.error is None or call.error.code not in QUOTA_EXCEEDED:
        return None
    quotas = (each for each in reversed(call.policy) if each.action == "quota" and not each.dry_run)
    refused = next(quotas, None)
    if refused is None:
        return None
    return {
        "quota": refused.what,
        "deployment": refused.deployment,
        "limit": refused.limit,
        "asked": refused.asked,
        "left": refused.given,
    }


def _retry_after_ms(error: GatewayError) -> float | None:
    """Return what the client was told in ``retry-after-ms`` or ``retry-after``."""
    told = dict(error.headers)
    if "retry-after-ms" in told:
        return float(told["retry-after-ms"])
    return 1000 * float(told["retry-after"]) if "retry-after" in told else None


def cost_of(call: Call) -> float | None:
    """Return what the call costs by the price table; of an answer without usage, what was counted here."""
    if not call.served or call.goes_on:
        return None
    price = call.setup.config.price_of(call.deployment, call.model)
    if price is None:
        return None
    taken = call.prompt.tokens if call.prompt is not None else 0
    return round(money.cost(call, price, taken, call.delivered_tokens or 0), COST_DIGITS)


def _headers_read(headers: Headers) -> Mapping[str, str]:
    """Return the headers that a record has something of, by their names in lower case."""
    fields: Sequence[tuple[bytes, bytes]] | None = getattr(headers, "fields", None)
    if fields is None:
        return {name: value for name in _READ.values() if (value := headers.get(name)) is not None}
    # mitmproxy's go through all fields for each name that is asked for: here that is done once.
    found: dict[str, str] = {}
    for name_sent, sent in fields:
        name = _READ.get(name_sent.lower())
        if name is not None:
            text = sent.decode(errors="surrogateescape")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _header(headers: Mapping[str, str], *names: str) -> str | None:
    """Return the first of these headers that the client sent and that is fit for a record."""
    for name in names:
        value = headers.get(name)
        if value and len(value) <= LONGEST_ID and value.isprintable():
            return value
    return None


def _priority(call: Call) -> str | None:
    if call.cls is not None and call.setup.config.priorities:
        return call.cls.name
    return call.priority or call.client.priority


def _ms(begin: float, end: float | None) -> float | None:
    # To a tenth, as `round` would give it in twice the time.
    return None if end is None else floor(10_000 * (end - begin) + 0.5) / 10


def _retry_count(headers: Mapping[str, str]) -> int | None:
    value = headers.get(RETRY_COUNT)
    return (
        int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 6 else None
    )
