"""A flow's comment, marker and metadata: what became of the call, in one line and in filterable fields.

A comment begins with the first words of the prompt, by which people know their calls. Then it says what is
remarkable (an error, a replay, a wait), who asked for what and where it went, and figures. A marker says the
most important of it as a picture; a call of which nothing is remarkable has none.

The metadata is saved with the flow, so it holds plain values only, and nothing secret. What each key means:
``docs/reference/flow-metadata.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.call import Notice, Outcome
from aoai_gateway.engine.end_users import shown_user
from aoai_gateway.inspect.asked import last_words

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.flow import Flow

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.wire.gateway_error import GatewayError

BUG = ":boom:"
"""💥 a bug of the gateway"""
TRUNCATED = ":scissors:"
"""✂ a backend broke off its answer"""
BACKENDS_OUT = ":no_entry:"
"""⛔ no backend was left"""
RATE_LIMITED = ":vertical_traffic_light:"
"""🚦 over one of the client's own quotas"""
REFUSED = ":no_entry_sign:"
"""🚫 refused by the gateway: key, path, size, access, limits of a request"""
CALLERS_ERROR = ":warning:"
"""⚠ a backend answered with an error that is the caller's"""
CLIENT_GONE = ":wave:"
"""👋 the client hung up"""
DEGRADED = ":chart_with_downwards_trend:"
"""📉 served in a lesser way, since it was over a quota"""
REPLAYED = ":repeat:"
"""🔁 replayed: a failed attempt came before"""
WAITED = ":hourglass_flowing_sand:"
"""⏳ held back for a while"""
FAILED = ":x:"
"""❌ one failed attempt of a call"""
COMPARED = ":balance_scale:"
"""⚖ a comparison of answers, without a call behind it"""
MARKERS = (
    BUG,
    TRUNCATED,
    BACKENDS_OUT,
    RATE_LIMITED,
    REFUSED,
    CALLERS_ERROR,
    CLIENT_GONE,
    DEGRADED,
    REPLAYED,
    WAITED,
    FAILED,
    COMPARED,
)
"""All that the gateway sets; another one is the user's own, and stays."""

BARE_CODES = {"401": "unknown key", "404": "unknown path"}
"""Azure's codes that are only the status again, in words."""

HELD = "gateway_held"

KEPT_ON_REPLAY = ("gateway_client", "gateway_only_backend", "gateway_run_by")
"""What is still true of a flow that is replayed."""

WORTH_TELLING = 0.1
"""Seconds of waiting from which on it is worth a word."""

SEPARATOR = " · "


def is_marked_by_a_person(flow: Flow) -> bool:
    """Whether a user has marked a flow by hand: with a marker that the gateway does not set."""
    return bool(flow.marked) and flow.marked not in MARKERS


def annotate(flow: http.HTTPFlow, call: Call, conversation: str | None = None) -> None:
    """Write on a call's flow how it ended: comment, metadata, story, marker."""
    flow.comment = comment(call)
    flow.metadata.update(metadata(call))
    if conversation is not None:
        flow.metadata["gateway_conversation"] = conversation
    if call.decisions:
        held = flow.metadata.get(HELD)
        first = [_told(f"{held}; the times are from then on")] if held else []
        flow.metadata["gateway_story"] = [*first, *call.decisions]
    if not is_marked_by_a_person(flow):
        flow.marked = marker(call)


def add_to_story(flow: http.HTTPFlow, what: str) -> None:
    """Tell what happened to a flow's call after its story was told; nothing if none was."""
    story = flow.metadata.get("gateway_story")
    if isinstance(story, list):
        flow.metadata["gateway_story"] = [*story, _told(what)]


def _told(what: str) -> str:
    """Write a line of a story that has no time of its own."""
    return f"{'':>9}  {what}"


def annotate_refusal(flow: http.HTTPFlow, error: GatewayError) -> None:
    """Say on the flow of a request that never became a call why it was refused."""
    client = flow.metadata.get("gateway_client")
    flow.comment = SEPARATOR.join([_named(error), *([str(client)] if client else [])])
    flow.metadata["gateway_outcome"] = Outcome.REJECTED.value
    flow.metadata["gateway_error"] = error.code
    flow.metadata["gateway_story"] = [f"refused before it was a call: {_named(error)}: {error.message}"]
    if not is_marked_by_a_person(flow):
        flow.marked = REFUSED


def annotate_attempt(flow: http.HTTPFlow, call: Call, attempt: Attempt) -> None:
    """Say on a failed attempt's flow what went wrong."""
    asked = call.asked or call.deployment
    flow.comment = attempt_comment(call, attempt)
    flow.metadata.update(
        {
            "gateway_client": call.client.name,
            "gateway_call": call.id,
            "gateway_deployment": call.deployment,
            "gateway_backend": attempt.backend.name,
            "gateway_attempt": attempt.number,
            "gateway_reason": attempt.reason,
            "gateway_path": call.target.with_deployment(asked),
        }
    )
    if call.asked:
        flow.metadata["gateway_asked"] = call.asked
    flow.marked = FAILED


def forget(flow: http.HTTPFlow) -> None:
    """Take back what was said of a flow before it is replayed."""
    for name in [n for n in flow.metadata if n.startswith("gateway_") and n not in KEPT_ON_REPLAY]:
        del flow.metadata[name]
    flow.comment = ""
    if not is_marked_by_a_person(flow):
        flow.marked = ""


def marker(call: Call) -> str:
    """Choose the marker of a call: that of the most important thing that can be said of it."""
    by_outcome = {
        Outcome.ERROR: BUG,
        Outcome.TRUNCATED: TRUNCATED,
        Outcome.BACKENDS_OUT: BACKENDS_OUT,
        Outcome.CLIENT_GONE: CLIENT_GONE,
        Outcome.CLIENT_STALLED: CLIENT_GONE,
    }
    if call.outcome in by_outcome:
        return by_outcome[call.outcome]
    if call.error is not None:
        return RATE_LIMITED if call.error.status == 429 else REFUSED
    if call.status is not None and call.status >= 400:
        return CALLERS_ERROR
    if Notice.DEGRADED in call.notices:
        return DEGRADED
    if len(call.attempts) > 1:
        return REPLAYED
    return WAITED if call.waited >= WORTH_TELLING else ""


WORDS = 40
"""Characters of the prompt in a comment."""


def _prompt(call: Call) -> list[str]:
    """Return the first words of a prompt; none of a body that was too large to be kept decoded."""
    body = call.body
    words = last_words(body.parsed, WORDS) if body is not None and body.whole else ""
    return [f"“{words}”"] if words else []


def comment(call: Call) -> str:
    """Tell a call in one line: prompt; what is remarkable; client, deployment → backend; figures."""
    parts = [*_prompt(call), *_remarkable(call), _route(call)]
    if call.usage is not None:
        parts.append(f"{call.usage.input_tokens} tokens in, {call.usage.output_tokens} out")
    if (session := call.session) is not None:
        parts.append(f"{session.responses} responses, closed by the {session.closed_by or 'gateway'}")
    if call.first_content is not None and call.streaming:
        parts.append(f"first token after {1000 * (call.first_content - call.started):.0f} ms")
    return SEPARATOR.join(parts)


def _remarkable(call: Call) -> list[str]:
    parts = []
    said = {
        Outcome.TRUNCATED: "broken off",
        Outcome.CLIENT_GONE: "client hung up",
        Outcome.CLIENT_STALLED: "client did not read",
        Outcome.ERROR: "bug of the gateway",
    }
    if call.outcome in said:
        parts.append(said[call.outcome])
    if call.error is not None:
        parts.append(_named(call.error))
    elif call.status is not None and call.status >= 300:
        parts.append(str(call.status))
    notices = dict(call.notices)
    if degraded := notices.pop(Notice.DEGRADED, None):
        parts.append(f"degraded: {degraded}")
    failed = [attempt for attempt in call.attempts if attempt.failure is not None]
    if failed:
        tried = ", ".join(f"{attempt.backend.name} {attempt.reason}" for attempt in failed)
        parts.append(f"tried {tried}" if failed[-1] is call.attempt else f"replayed after {tried}")
    if call.attempt is not None and (spilled := spilled_from(call.attempt)) is not None:
        parts.append(f"spilled over from {spilled}")
    if call.waited >= WORTH_TELLING:
        parts.append(f"waited {call.waited:.1f} s")
    return parts + [f"{notice.value}: {words}" for notice, words in notices.items()]


def spilled_from(attempt: Attempt) -> str | None:
    """Name the deployment from which Azure spilled an attempt over; None if it did not."""
    spilled = attempt.spillover
    return None if spilled is None else spilled.start or attempt.backend.name


def _tiers(call: Call) -> str | None:
    """Tell the service tiers of a call, where it asked for one, or was served by another than the default."""
    if call.requested_tier is None and call.service_tier in (None, "default"):
        return None
    return f"{call.requested_tier or 'none'} -> {call.service_tier or 'unknown'}"


def _route(call: Call) -> str:
    text = f"{call.client.name}: {_asked(call)}"
    return text if call.attempt is None else f"{text} → {call.attempt.backend.name}"


def _named(error: GatewayError) -> str:
    """Name an error in few words."""
    return f"{error.status} {BARE_CODES.get(error.code, error.code)}"


def _asked(call: Call) -> str:
    """Name what a call is for: a deployment, or the operation where that has none."""
    if call.body is not None and not call.deployment:
        return call.target.operation.name
    return call.deployment or "?"


def attempt_comment(call: Call, attempt: Attempt) -> str:
    """Tell a failed attempt in one line: reason, backend, break."""
    asked = call.deployment or call.target.operation.name
    route = f"{call.client.name}: {asked} → {attempt.backend.name}"
    parts = [f"attempt {attempt.number} failed: {attempt.reason}", route]
    if attempt.break_seconds is not None:
        parts.append(f"break of {attempt.break_seconds:.1f} s")
    return SEPARATOR.join(parts)


def metadata(call: Call) -> dict[str, Any]:
    """Return the call's fields for filters such as ``~meta "gateway_client: Team 1"``."""
    usage, attempt = call.usage, call.attempt
    fields: dict[str, Any] = {
        "gateway_client": call.client.name,
        "gateway_user": shown_user(call),
        "gateway_call": call.id,
        "gateway_deployment": call.deployment or None,
        "gateway_asked": call.asked or None,
        "gateway_backend": attempt.backend.name if attempt is not None else None,
        "gateway_outcome": call.outcome.value if call.outcome is not None else None,
        "gateway_error": call.error.code if call.error is not None else None,
        "gateway_attempts": len(call.attempts),
        "gateway_clamped": call.notices.get(Notice.CLAMPED),
        "gateway_degraded": call.notices.get(Notice.DEGRADED),
        "gateway_spillover": spilled_from(attempt) if attempt is not None else None,
        "gateway_service_tier": _tiers(call),
        "gateway_fallback": call.notices.get(Notice.FALLBACK),
        "gateway_dry_run": call.notices.get(Notice.DRY_RUN),
        "gateway_waited_ms": _ms(0.0, call.waited) or None,
        "gateway_first_content_ms": _ms(call.started, call.first_content) if call.streaming else None,
        "gateway_chunk_gap_p50_ms": _ms(0.0, call.chunk_gaps[0]) if call.chunk_gaps else None,
        "gateway_chunk_gap_max_ms": _ms(0.0, call.chunk_gaps[1]) if call.chunk_gaps else None,
        "gateway_duration_ms": _ms(call.started, call.ended),
        "gateway_tokens_in": usage.input_tokens if usage is not None else None,
        "gateway_tokens_out": usage.output_tokens if usage is not None else None,
        "gateway_tokens_cached": (usage.cached_tokens if usage is not None else None) or None,
        "gateway_queue_ms": _ms(0.0, call.queue_wait) or None,
        "gateway_run_by": call.run_by,
        "gateway_timeline": [_times(call, attempt) for attempt in call.attempts] or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _times(call: Call, attempt: Attempt) -> dict[str, str | int | None]:
    """Return the times of an attempt, in milliseconds after the call's begin."""
    return {
        "backend": attempt.backend.name,
        "status": attempt.status,
        "reason": attempt.reason or None,
        "started": _ms(call.started, attempt.started),
        "answered": _ms(call.started, attempt.answered),
        "ended": _ms(call.started, attempt.ended),
    }


def _ms(begin: float, end: float | None) -> int | None:
    return None if end is None else round(1000 * (end - begin))
