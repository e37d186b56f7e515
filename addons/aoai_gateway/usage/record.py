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
    from aoai_gateway.engine.call import Call
    from aoai_gateway.quota.effective_policy import PolicyAction
    from aoai_gateway.routing.order import Skip
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.hints import Headers

SCHEMA = 1

FIELDS: Mapping[str, type] = {
    "schema": int,
    "time": str,
    "call": str,
    "client": str,
    "priority": str,
    "operation": str,
    "api": str,
    "deployment": str,
    "endpoint": str,
    "standin": str,
    "model": str,
    "streaming": bool,
    "max_tokens": int,
    "outcome": str,
    "status": int,
    "error": str,
    "finish_reason": str,
    "input_tokens": int,
    "output_tokens": int,
    "cached_tokens": int,
    "reasoning_tokens": int,
    "reserved_tokens": int,
    "charged_tokens": int,
    "clamped": str,
    "degraded": str,
    "dry_run": str,
    "asked_deployment": str,
    "waited_ms": float,
    "in_line_ms": float,
    "first_token_ms": float,
    "duration_ms": float,
    "client_retry": int,
    "response_id": str,
    "attempts": list,
    "skipped": list,
    "count": int,
    "address": str,
    "user": str,
    "region": str,
    "provisioned": bool,
    "service_tier": str,
    "cache_write_tokens": int,
    "input_audio_tokens": int,
    "output_audio_tokens": int,
    "delivered_tokens": int,
    "prompt_tokens_counted": int,
    "cost": float,
    "chunk_gap_p50_ms": float,
    "chunk_gap_max_ms": float,
    "policy": list,
    "refused_by": dict,
    "retry_after_ms": float,
    "client_request_id": str,
    "backend_request_id": str,
    "backend_processing_ms": float,
    "traceparent": str,
    "run_by": str,
    "utilization": float,
    "fallback": str,
    "service_tier_requested": str,
    "spillover": dict,
    "cached_audio_tokens": int,
    "responses": int,
    "messages_in": int,
    "messages_out": int,
    "close_code": int,
    "closed_by": str,
    "usage_of": str,
    "fallback_refused": str,
    "request_ms": float,
}
"""The fields of every record, in their order, and the types of their values, which may be null."""

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

_LENGTHS_READ = frozenset(map(len, _READ))
"""Most of the other headers are told from these by their length, in less time than their names take."""

LONGEST_ID = 256

COST_DIGITS = 8

QUOTA_EXCEEDED = ("quota_exceeded", "budget_exceeded")

_NULLS: dict[str, Any] = dict.fromkeys(FIELDS) | {"schema": SCHEMA, "streaming": False, "count": 1}
"""What is copied to begin a record."""

_NOTICES = (
    ("clamped", Notice.CLAMPED),
    ("degraded", Notice.DEGRADED),
    ("dry_run", Notice.DRY_RUN),
    ("fallback", Notice.FALLBACK),
)

_OF_SESSIONS = ("responses", "messages_in", "messages_out", "close_code", "closed_by")
"""Fields of a record that are those of a `Session`."""


def usage_record(call: Call) -> dict[str, Any]:
    """Make the record of a finished call."""
    # Most fields of most calls are null. A copy of nulls, in which the others are set, takes a quarter of
    # the time of a dictionary that is made field by field.
    record = _NULLS.copy()
    body, usage, attempts, prompt = call.body, call.usage, call.attempts, call.prompt
    started, target = call.started, call.target
    record["time"] = written_time(started + call.unix_offset)
    record["call"] = call.id
    record["client"] = call.client.name
    record["priority"] = _priority(call)
    record["operation"] = target.operation.name
    record["api"] = target.api
    record["deployment"] = call.deployment or None
    record["model"] = call.model
    if body is not None:
        record["streaming"] = body.stream
        record["max_tokens"] = body.max_tokens
        record["service_tier_requested"] = call.requested_tier
    record["outcome"] = call.outcome.value if call.outcome else None
    record["status"] = call.status
    record["finish_reason"] = call.finish_reason
    if usage is not None:
        record["input_tokens"] = usage.input_tokens
        record["output_tokens"] = usage.output_tokens
        record["cached_tokens"] = usage.cached_tokens
        record["reasoning_tokens"] = usage.reasoning_tokens
        record["cache_write_tokens"] = usage.cache_write_tokens
        record["input_audio_tokens"] = usage.input_audio_tokens
        record["output_audio_tokens"] = usage.output_audio_tokens
        record["cached_audio_tokens"] = usage.cached_audio_tokens
    record["reserved_tokens"] = call.reserved_tokens
    record["charged_tokens"] = call.charged_tokens
    record["waited_ms"] = call.waited and _ms(0.0, call.waited)
    record["in_line_ms"] = call.queue_wait and _ms(0.0, call.queue_wait)
    record["request_ms"] = call.request_seconds and _ms(0.0, call.request_seconds)
    if call.first_content is not None:
        record["first_token_ms"] = _ms(started, call.first_content)
    if call.ended is not None:
        record["duration_ms"] = _ms(started, call.ended)
    record["response_id"] = call.response_id
    record["attempts"] = [_attempt(each, started) for each in attempts]
    # Each record has lists of its own: a plugin may change the lists of its record.
    record["skipped"] = [_skip(each) for each in call.skipped] if call.skipped else []
    record["policy"] = [_action(each) for each in call.policy] if call.policy else []
    if call.user is not None:
        record["user"] = shown_user(call)
    record["service_tier"] = call.service_tier
    record["delivered_tokens"] = call.delivered_tokens
    record["prompt_tokens_counted"] = prompt.tokens if prompt is not None else None
    if call.served:
        record["cost"] = cost_of(call)
    if attempts:
        _add_last_attempt(record, attempts[-1])
    if call.chunk_gaps is not None:
        middle, longest = call.chunk_gaps
        record["chunk_gap_p50_ms"], record["chunk_gap_max_ms"] = _ms(0.0, middle), _ms(0.0, longest)
    headers = _headers_read(call.headers)
    if headers:
        record["client_retry"] = _retry_count(headers)
        record["client_request_id"] = _header(headers, *CLIENT_REQUEST_IDS)
        record["traceparent"] = _header(headers, TRACEPARENT)
    _add_what_is_rare(record, call)
    return record


def _add_last_attempt(record: dict[str, Any], attempt: Attempt) -> None:
    """Note what the last attempt tells of the call."""
    backend = attempt.backend
    standin = backend.standin
    record["endpoint"] = backend.endpoint.name
    if standin is not None:
        record["standin"] = standin.name
        # What was spilled over from provisioned throughput is not served by it.
        record["provisioned"] = standin.provisioned and attempt.spillover is None
    record["region"] = attempt.region
    record["backend_request_id"] = attempt.request_id
    record["backend_processing_ms"] = attempt.processing_ms
    record["utilization"] = attempt.utilization
    if attempt.spillover is not None:
        record["spillover"] = _spillover(attempt)


def _add_what_is_rare(record: dict[str, Any], call: Call) -> None:
    """Note what has happened to few calls."""
    error, session = call.error, call.session
    if error is not None:
        record["error"] = error.code
        record["refused_by"] = _refused_by(call)
        record["retry_after_ms"] = _retry_after_ms(error)
    if call.notices:
        for field, notice in _NOTICES:
            record[field] = call.notices.get(notice)
    if session is not None:
        for field in _OF_SESSIONS:
            record[field] = getattr(session, field)
    if call.asked:
        record["asked_deployment"] = call.asked
    record["run_by"] = call.run_by
    record["usage_of"] = call.usage_of
    record["fallback_refused"] = call.fallback_refused


def empty_record() -> dict[str, Any]:
    """Make the record of a request that never became a call: all fields, and nothing known yet."""
    return _NULLS | {"count": None, "attempts": [], "skipped": [], "policy": []}


def empty_attempt() -> dict[str, Any]:
    """Make an attempt of which nothing is known yet."""
    return dict.fromkeys(ATTEMPT_FIELDS) | {"resent": False, "skipped": []}


def written_time(seconds: float) -> str:
    """Write a time since the epoch as records have it: RFC 3339, UTC, to the millisecond."""
    return rfc3339(seconds, "milliseconds")


def _attempt(attempt: Attempt, begun: float) -> dict[str, Any]:
    """``begun``: when the call began."""
    started, answered = attempt.started, attempt.answered
    ended, content = attempt.ended, attempt.first_content
    # As `_ms` has them. There are three or four in each record.
    return {
        "backend": attempt.backend.name,
        "status": attempt.status,
        "failure": attempt.failure.value if attempt.failure else None,
        "reason": attempt.reason or None,
        "break_ms": _ms(0.0, attempt.break_seconds) if attempt.break_seconds is not None else None,
        "answered_ms": None if answered is None else floor(10_000 * (answered - started) + 0.5) / 10,
        "duration_ms": None if ended is None else floor(10_000 * (ended - started) + 0.5) / 10,
        "resent": attempt.resent,
        "skipped": [_skip(each) for each in attempt.skipped] if attempt.skipped else [],
        "region": attempt.region,
        "request_id": attempt.request_id,
        "started_ms": floor(10_000 * (started - begun) + 0.5) / 10,
        "first_token_ms": None if content is None else floor(10_000 * (content - started) + 0.5) / 10,
        "spillover": _spillover(attempt) if attempt.spillover is not None else None,
    }


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
    for each in reversed(call.policy):
        if each.action == "quota" and not each.dry_run:
            return {
                "quota": each.what,
                "deployment": each.deployment,
                "limit": each.limit,
                "asked": each.asked,
                "left": each.given,
            }
    return None


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
        name = _READ.get(name_sent.lower()) if len(name_sent) in _LENGTHS_READ else None
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
    value = headers.get(RETRY_COUNT, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else None
