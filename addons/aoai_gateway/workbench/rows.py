"""A flow -> a line of the list: plain strings and numbers, the same keys for every call."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.bounded import Bounded
from aoai_gateway.inspect.asked import last_words
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, word
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.workbench.calls import kind_of
from aoai_gateway.workbench.form_bodies import decode_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mitmproxy.http import HTTPFlow

    from aoai_gateway.config.models import Config

MOST_READ = 128 * 1024
"""Bytes of a body that is decoded for its first words; a larger one is told by its size."""

MOST_ERROR = 16 * 1024
"""Bytes of a failed answer that is decoded for the code of its error."""

MOST_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Digest:
    """What a line tells of a prompt: its first words, and the thread that it belongs to."""

    prompt: str
    thread: str
    deployment: str = ""


class Rows:
    """Makes lines of flows; what is read of a prompt is remembered as long as its bytes are the same."""

    def __init__(self) -> None:
        self._digests: Bounded[str, tuple[tuple[int, int], Digest]] = Bounded(MOST_REMEMBERED)

    def row(self, flow: HTTPFlow, config: Config | None) -> dict[str, Any]:
        """Return the line of a call. ``cost`` is in the currency of ``prices``; times are milliseconds."""
        noted, facts = flow.metadata, Facts(metadata=flow.metadata)
        digest = self._digest(flow)
        operation, deployment = kind_of(flow.request.method, flow.request.path)
        response = flow.response
        taken, given = facts.number("gateway_tokens_in"), facts.number("gateway_tokens_out")
        deployment = str(noted.get("gateway_deployment") or deployment or digest.deployment)
        return {
            "id": flow.id,
            "call": str(noted.get("gateway_call", "")),
            "at": round(1000 * flow.timestamp_created),
            "client": str(noted.get("gateway_client", "")),
            "operation": operation,
            "deployment": deployment,
            "asked": str(noted.get("gateway_asked", "")),
            "backend": str(noted.get("gateway_backend", "")),
            "only": str(noted.get("gateway_only_backend", "")),
            "state": _state(flow),
            "status": response.status_code if response is not None else None,
            "outcome": str(noted.get("gateway_outcome", "")),
            "error": _error(flow),
            "attempts": facts.number("gateway_attempts"),
            "waited_ms": facts.number("gateway_waited_ms"),
            "degraded": str(noted.get("gateway_degraded", "")),
            "clamped": str(noted.get("gateway_clamped", "")),
            "first_ms": facts.number("gateway_first_content_ms"),
            "duration_ms": facts.number("gateway_duration_ms"),
            "tokens_in": taken,
            "tokens_out": given,
            "cost": _cost(config, deployment, taken, given, facts.number("gateway_tokens_cached") or 0),
            "prompt": digest.prompt,
            "thread": str(noted.get("gateway_conversation", "")) or digest.thread,
            "by": str(noted.get("gateway_run_by", "")),
            "held": flow.comment if flow.intercepted else "",
        }

    def _digest(self, flow: HTTPFlow) -> Digest:
        raw = flow.request.raw_content or b""
        # Not the bytes themselves, which would outlive their flow.
        state = len(raw), hash(raw) if len(raw) <= MOST_READ else 0
        known = self._digests.get(flow.id)
        if known is not None and known[0] == state:
            return known[1]
        headers = flow.request.headers
        digest = read_digest(raw, headers.get("content-encoding"), headers.get("content-type", ""))
        self._digests.put(flow.id, (state, digest))
        return digest


def read_digest(raw: bytes, coding: str | None = None, content_type: str = "") -> Digest:
    """Read the first words of a prompt, and what tells its thread; never raises for what is in it."""
    if len(raw) > MOST_READ:
        return Digest(f"(a prompt of {len(raw) / 1_000_000:.1f} MB)", "")
    if not raw:
        return Digest("", "")
    try:
        content = readable(raw, coding, MOST_READ)
        body = mapping(decode_body(content, content_type))
        model = body.get("model")
        return Digest(last_words(body), _thread(body), model if isinstance(model, str) else "")
    except (Unreadable, RecursionError):
        return Digest("(no JSON)", "")


def _thread(body: Mapping[str, Any]) -> str:
    """Name a conversation by how it begins: clients send all of it again with each turn.

    A chat is known by its messages up to the first of the user; "" for what has no turns.
    """
    messages = body.get("messages", body.get("input"))
    if not isinstance(messages, list) or not messages:
        return ""
    begin = [_unmarked(body["system"])] if "system" in body else []
    for message in messages[:8]:
        begin.append(_unmarked(message))
        if isinstance(message, dict) and message.get("role") == "user":
            break
    written = json.dumps(begin, sort_keys=True).encode()
    return "~" + hashlib.blake2b(written, digest_size=6).hexdigest()


def _unmarked(said: Any) -> Any:
    """Leave out the marks of Claude's cache, which move to the newest message with each turn."""
    if isinstance(said, list):
        return [_unmarked_part(part) for part in said]
    if isinstance(said, dict) and isinstance(said.get("content"), list):
        return {**_unmarked_part(said), "content": [_unmarked_part(part) for part in said["content"]]}
    return _unmarked_part(said)


def _unmarked_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if name != "cache_control"}


def _state(flow: HTTPFlow) -> str:
    if flow.intercepted:
        return "held"
    if flow.response is None and flow.error is None:
        return "running"
    if flow.metadata.get("gateway_duration_ms") is None and flow.live:
        return "running"
    return "done"


def _error(flow: HTTPFlow) -> str:
    """Name the error of a call: the gateway's own, what broke it off, or the code of a backend's."""
    response = flow.response
    own = str(flow.metadata.get("gateway_error", "") or (flow.error.msg if flow.error else ""))
    if own or response is None or response.status_code < 400:
        return own
    raw = response.raw_content or b""
    if len(raw) > MOST_ERROR:
        return ""
    try:
        body = mapping(decode(readable(raw, response.headers.get("content-encoding"), MOST_ERROR)))
    except (Unreadable, RecursionError):
        return ""
    error = mapping(body.get("error"))
    named = (word(error.get(key)) for key in ("code", "type"))
    return next((name for name in named if name not in ("", str(response.status_code))), "")


def _cost(
    config: Config | None, deployment: str, taken: float | None, given: float | None, cached: float
) -> float | None:
    price = config.price_of(deployment) if config is not None and deployment else None
    if price is None or taken is None:
        return None
    return price.cost(int(taken), int(given or 0), int(cached))
