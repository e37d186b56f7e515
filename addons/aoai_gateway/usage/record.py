"""The usage record of a finished call. No prompt, no answer, no key.

Times are in milliseconds, except ``time`` (the call's begin, RFC 3339 in UTC). Fields that do not apply
are null. ``count`` is 1, except for requests that were answered before they became calls, of which one record
may stand for many (see :mod:`~aoai_gateway.usage.early`); ``address`` is where those came from. ``run_by``:
who has sent it from the workbench, in the name of the client.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.end_users import shown_user

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Attempt, Call
    from aoai_gateway.routing.order import Skip

FIELDS = (
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
    "run_by",
)
"""The fields of every record, in their order."""


def usage_record(call: Call) -> dict[str, Any]:
    """Make the record of a finished call."""
    body, usage, attempt = call.body, call.usage, call.attempt
    return {
        "time": written_time(call.started + call.wall),
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
        "clamped": call.told.get("x-gateway-clamped"),
        "degraded": call.told.get("x-gateway-degraded"),
        "dry_run": call.told.get("x-gateway-dry-run"),
        "asked_deployment": call.asked or None,
        "waited_ms": _ms(0.0, call.waited),
        "in_line_ms": _ms(0.0, call.queue_wait),
        "first_token_ms": _ms(call.started, call.first_content),
        "duration_ms": _ms(call.started, call.ended),
        "client_retry": _retry_count(call),
        "response_id": call.response_id,
        "attempts": [_attempt(a) for a in call.attempts],
        "skipped": [_skip(each) for each in call.skipped],
        "count": 1,
        "address": None,
        "user": shown_user(call),
        "run_by": call.run_by,
    }


def empty_record() -> dict[str, Any]:
    """Make the record of a request that never became a call: all fields, and nothing known yet."""
    return dict.fromkeys(FIELDS) | {"streaming": False, "attempts": [], "skipped": []}


def written_time(seconds: float) -> str:
    """Write a time since the epoch as records have it: RFC 3339, UTC, to the millisecond."""
    begun = datetime.fromtimestamp(seconds, UTC)
    return begun.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "backend": attempt.backend.name,
        "status": attempt.status,
        "failure": attempt.failure.value if attempt.failure else None,
        "reason": attempt.reason or None,
        "break_ms": _ms(0.0, attempt.break_seconds),
        "answered_ms": _ms(attempt.started, attempt.answered),
        "duration_ms": _ms(attempt.started, attempt.ended),
        "resent": attempt.resent,
        "skipped": [_skip(each) for each in attempt.skipped],
    }


def _skip(skip: Skip) -> dict[str, Any]:
    return {
        "backend": skip.backend.name,
        "cause": skip.cause.value,
        "reason": skip.reason,
        "wait_ms": _ms(0.0, skip.seconds),
    }


def _priority(call: Call) -> str | None:
    if call.cls is not None and call.setup.config.priorities:
        return call.cls.name
    return call.priority or call.client.priority


def _ms(begin: float, end: float | None) -> float | None:
    return None if end is None else round(1000 * (end - begin), 1)


def _retry_count(call: Call) -> int | None:
    value = call.headers.get("x-stainless-retry-count")
    return (
        int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 6 else None
    )
