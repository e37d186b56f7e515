"""Flows of a capture (mitmproxy's dump file) as usage records, as far as they tell.

What the gateway has captured says in its flows' metadata what became of a call. What another proxy has
captured is read from requests and answers: it knows no clients and no attempts. Which quota refused a call is
not in a flow, so the cause is the error's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from mitmproxy.exceptions import FlowReadException
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from aoai_gateway.analysis.record_check import NoRecordError, is_time
from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.record import empty_attempt, empty_record, written_time
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.targets import parse_target
from aoai_gateway.wire.usage import read_answer

if TYPE_CHECKING:
    from mitmproxy.flow import Flow

    from aoai_gateway.wire.targets import Target
    from aoai_gateway.wire.usage import AnswerFacts

NAMES = {
    "client": "client",
    "user": "user",
    "call": "call",
    "deployment": "deployment",
    "asked_deployment": "asked",
    "outcome": "outcome",
    "error": "error",
    "clamped": "clamped",
    "degraded": "degraded",
    "dry_run": "dry_run",
    "waited_ms": "waited_ms",
    "in_line_ms": "queue_ms",
    "first_token_ms": "first_content_ms",
    "duration_ms": "duration_ms",
    "chunk_gap_p50_ms": "chunk_gap_p50_ms",
    "chunk_gap_max_ms": "chunk_gap_max_ms",
    "input_tokens": "tokens_in",
    "output_tokens": "tokens_out",
    "cached_tokens": "tokens_cached",
    "run_by": "run_by",
}
"""Fields of the record, and what they are called in a flow's metadata, after ``gateway_``."""


def flows_of(file: BinaryIO) -> Iterator[Flow]:
    """Read a capture. Raises OSError, and NoRecordError where it is damaged, after the flows before that."""
    try:
        yield from FlowReader(file).stream()
    except FlowReadException:
        raise NoRecordError("it is damaged from there on, or of a newer mitmproxy") from None


def record_of(flow: Flow) -> tuple[float, dict[str, Any]] | None:
    """Make a flow's record, with its time; None of what is no call: attempts, health checks, a console.

    Raises an exception of any kind where the metadata are not as the gateway writes them.
    """
    if not isinstance(flow, HTTPFlow) or "gateway_attempt" in flow.metadata:
        return None
    try:
        target = parse_target(flow.request.method, flow.request.path)
    except GatewayError:
        return None
    at = flow.request.timestamp_start or 0.0
    if not is_time(at):
        raise ValueError("no time")
    record = (
        empty_record()
        | {"time": written_time(at), "count": 1}
        | _asked(flow, target)
        | _answered(flow, target)
    )
    said = {field: flow.metadata.get(f"gateway_{name}") for field, name in NAMES.items()}
    record |= {field: value for field, value in said.items() if value is not None}
    record["attempts"] = [_attempt(each) for each in flow.metadata.get("gateway_timeline") or ()]
    record["standin"], _, endpoint = str(flow.metadata.get("gateway_backend") or "").rpartition("@")
    record["endpoint"] = endpoint or (flow.request.host if "gateway_outcome" not in flow.metadata else None)
    return at, record


def _asked(flow: HTTPFlow, target: Target) -> dict[str, Any]:
    asked = {"operation": target.operation.name, "api": target.api, "deployment": target.deployment}
    try:
        body = parse_body(target, flow.request.headers.get("content-type"), flow.request.raw_content or b"")
    except GatewayError:
        return asked
    return asked | {
        "deployment": body.deployment(target) or None,
        "streaming": body.stream,
        "max_tokens": body.max_tokens,
    }


def _answered(flow: HTTPFlow, target: Target) -> dict[str, Any]:
    """Read the answer itself; what the metadata says goes before it."""
    response = flow.response
    if response is None:
        return {"outcome": Outcome.CLIENT_GONE.value}
    begun, ended = flow.request.timestamp_start, response.timestamp_end
    found: dict[str, Any] = {
        "outcome": (Outcome.OK if flow.error is None else Outcome.TRUNCATED).value,
        "status": response.status_code,
        "region": response.headers.get("x-ms-region"),
        "duration_ms": round(1000 * (ended - begun), 1) if ended and begun else None,
    }
    facts = _facts(
        target,
        response.headers.get("content-type", ""),
        readable(response.raw_content, response.headers.get("content-encoding")),
    )
    usage = facts.usage
    found |= {
        "model": facts.model,
        "response_id": facts.response_id,
        "service_tier": facts.service_tier,
        "finish_reason": ", ".join(facts.finish_reasons) or None,
    }
    if usage is None:
        return found
    return found | {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def _facts(target: Target, content_type: str, body: bytes) -> AnswerFacts | StreamReader:
    if not content_type.lower().startswith("text/event-stream"):
        return read_answer(body)
    reader = StreamReader(target.operation.name)
    reader.feed(body)
    reader.flush()
    return reader


def _attempt(said: Mapping[str, Any]) -> dict[str, Any]:
    started, answered, ended = (said.get(name) for name in ("started", "answered", "ended"))
    failed = bool(said.get("reason"))
    return empty_attempt() | {
        "backend": said["backend"],
        "status": said.get("status"),
        "failure": ("status" if said.get("status") else "dropped") if failed else None,
        "reason": said.get("reason"),
        "answered_ms": _span(started, answered),
        "duration_ms": _span(started, ended),
        "started_ms": started,
    }


def _span(begin: int | None, end: int | None) -> int | None:
    return None if begin is None or end is None else end - begin
