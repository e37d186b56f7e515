"""A flow's comment, marker and metadata: what became of the call, in one line and in filterable fields.

The metadata is saved with the flow, so it holds plain strings and numbers only, and nothing secret.

========================  ===============================================================================
key                       value
========================  ===============================================================================
gateway_client            name of the client
gateway_call              id of the call; failed attempts carry the same one
gateway_deployment        the virtual deployment that was asked for
gateway_backend           ``standin@endpoint`` of the last (or this) attempt
gateway_outcome           ``ok``, ``rejected``, ``backends_out``, ``truncated``, ``client_gone``, ``error``
gateway_attempts          number of attempts
gateway_attempt           on the flow of a failed attempt: which one it was, from 1
gateway_reason            on the flow of a failed attempt: why it failed
gateway_tokens_in         prompt tokens
gateway_tokens_out        completion tokens
gateway_first_content_ms  of a stream: milliseconds until its first content
gateway_chunk_gap_p50_ms  of a stream whose body is stored: the median time between two of its chunks
gateway_chunk_gap_max_ms  … and the longest
gateway_messages_gone     how many messages of a long realtime session are no longer kept
========================  ===============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.call import Outcome

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.flow import Flow

    from aoai_gateway.call import Attempt, Call

MARKERS = {
    Outcome.BACKENDS_OUT: ":no_entry:",
    Outcome.TRUNCATED: ":scissors:",
    Outcome.ERROR: ":boom:",
}
REPLAYED = ":repeat:"
FAILED = ":x:"


def annotate(flow: http.HTTPFlow, call: Call) -> None:
    """Say on a call's flow what became of it."""
    flow.comment = comment(call)
    flow.metadata.update(metadata(call))
    if not flow.marked:
        marker = MARKERS.get(call.outcome) if call.outcome else None
        flow.marked = marker or (REPLAYED if len(call.attempts) > 1 else "")


def is_marked_by_a_person(flow: Flow) -> bool:
    """Whether somebody has marked a flow by hand: with a marker that is none of the gateway's."""
    return bool(flow.marked) and flow.marked not in (*MARKERS.values(), REPLAYED, FAILED)


def forget(flow: http.HTTPFlow) -> None:
    """Take back what was said of a flow before it is replayed; only its client's name is still true."""
    for name in [n for n in flow.metadata if n.startswith("gateway_") and n != "gateway_client"]:
        del flow.metadata[name]
    flow.comment = ""
    if not is_marked_by_a_person(flow):
        flow.marked = ""


def annotate_attempt(flow: http.HTTPFlow, call: Call, attempt: Attempt) -> None:
    """Say on a failed attempt's flow what went wrong."""
    flow.comment = attempt_comment(call, attempt)
    flow.metadata.update(
        {
            "gateway_client": call.client.name,
            "gateway_call": call.id,
            "gateway_deployment": call.deployment,
            "gateway_backend": attempt.backend.name,
            "gateway_attempt": attempt.number,
            "gateway_reason": attempt.reason,
        }
    )
    flow.marked = FAILED


def comment(call: Call) -> str:
    """Tell a call in one line: client, deployment → backend, attempts, tokens, time to first token."""
    parts = [f"{call.client.name}: {call.deployment or '?'}"]
    attempt = call.attempt
    if attempt is not None:
        parts[0] += f" → {attempt.backend.name}"
        if len(call.attempts) > 1:
            failed = ", ".join(f"{a.backend.name} {a.reason}" for a in call.attempts[:-1])
            parts.append(f"attempt {len(call.attempts)} (after {failed})")
    if call.error is not None:
        parts.append(f"{call.error.status} {call.error.code}")
    elif call.status is not None and call.status >= 300:
        parts.append(str(call.status))
    if call.outcome in (Outcome.TRUNCATED, Outcome.CLIENT_GONE, Outcome.ERROR):
        parts.append(call.outcome.value.replace("_", " "))
    parts += [f"{name.removeprefix('x-gateway-')}: {what}" for name, what in call.told.items()]
    if call.waited >= 0.1:
        parts.append(f"waited {call.waited:.1f} s")
    if call.usage is not None:
        parts.append(f"{call.usage.input_tokens} tokens in, {call.usage.output_tokens} out")
    if call.first_content is not None:
        parts.append(f"first token after {1000 * (call.first_content - call.started):.0f} ms")
    return "; ".join(parts)


def attempt_comment(call: Call, attempt: Attempt) -> str:
    """Tell a failed attempt in one line: backend, reason, break."""
    text = f"attempt {attempt.number} of {call.client.name}: {call.deployment} → {attempt.backend.name}"
    text += f" failed: {attempt.reason}"
    if attempt.break_seconds is not None:
        text += f"; break of {attempt.break_seconds:.1f} s"
    return text


def metadata(call: Call) -> dict[str, str | int | float]:
    """Give the call's fields for filters such as ``~meta "gateway_client: Team 1"``."""
    fields: dict[str, str | int | float] = {
        "gateway_client": call.client.name,
        "gateway_call": call.id,
        "gateway_attempts": len(call.attempts),
    }
    if call.deployment:
        fields["gateway_deployment"] = call.deployment
    if call.attempt is not None:
        fields["gateway_backend"] = call.attempt.backend.name
    if call.outcome is not None:
        fields["gateway_outcome"] = call.outcome.value
    if call.first_content is not None:
        fields["gateway_first_content_ms"] = round(1000 * (call.first_content - call.started))
    if call.usage is not None:
        fields["gateway_tokens_in"] = call.usage.input_tokens
        fields["gateway_tokens_out"] = call.usage.output_tokens
    return fields
