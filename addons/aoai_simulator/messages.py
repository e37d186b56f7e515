"""Claude at a resource: its prompt cache, and its answers in the forms of Anthropic's Messages API.

Bodies, frames, errors and limit headers. No I/O, no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from aoai_simulator.chat import encode
from aoai_simulator.completions import Completion
from aoai_simulator.limits import Headers
from aoai_simulator.message_requests import COUNT, Cached, cached_part, read_message_ask
from aoai_simulator.replies import (
    EVENT_STREAM_TYPE,
    JSON_TYPE,
    Frames,
    InvalidError,
    Reply,
    Whole,
    compact,
    event_frame,
    json_reply,
)
from aoai_simulator.requests import Ask
from aoai_simulator.targets import Target
from aoai_simulator.tokenizer import Tokenizer

PREFIX = "/anthropic/"

MAX_CACHED = 1000
"""Prompts in the cache; the one that was put in first goes first."""

CHARACTERS_PER_TOKEN = 4

_ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_FINISHES = {"length": "max_tokens", "content_filter": "refusal"}
_REASONING = "Let me think about what is asked for, step by step."


def shaped(path: str, reply: Whole) -> Whole:
    """The reply to a request for a path: an error below ``/anthropic/`` in Anthropic's shape."""
    if reply.status < 400 or not path.startswith(PREFIX):
        return reply
    try:
        message = json.loads(reply.body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return reply
    error = {"type": _ERROR_TYPES.get(reply.status, "api_error"), "message": message}
    body = {"type": "error", "error": error, "request_id": None}
    return Whole(reply.status, (*limit_headers(reply.headers, None), JSON_TYPE), compact(body))


def limit_headers(headers: Headers, unix_time: float | None) -> Headers:
    """Azure's headers as Anthropic writes them; without `unix_time`, no resets, which are times."""
    found: list[tuple[str, str]] = []
    for name, value in headers:
        parts = name.removeprefix("x-ratelimit-").split("-")
        if name in ("content-type", "retry-after-ms", "x-ratelimit-type") or parts[0] == "renewalperiod":
            continue
        if not name.startswith("x-ratelimit-"):
            found.append((name, value))
        elif parts[0] != "reset":
            found.append((f"anthropic-ratelimit-{parts[1]}-{parts[0]}", value))
        elif unix_time is not None:
            at = datetime.fromtimestamp(unix_time + int(value), UTC).isoformat(timespec="seconds")
            found.append((f"anthropic-ratelimit-{parts[1]}-reset", at.replace("+00:00", "Z")))
    return tuple(found)


def count(tokens: int) -> Whole:
    """The answer of ``count_tokens``."""
    return json_reply({"input_tokens": tokens})


def whole(ask: Ask, completion: Completion, model: str, ident: str, cached: Cached) -> Whole:
    """A whole message."""
    totals = _usage(ask, completion, cached)
    body = {
        **_message(model, ident),
        "content": list(_content(ask, completion, ident)),
        "stop_reason": _reason(completion),
        "usage": totals,
    }
    return json_reply(body, _all(totals), totals["output_tokens"])


def stream(ask: Ask, completion: Completion, model: str, ident: str, cached: Cached) -> Frames:
    """The event stream of a message."""
    totals = _usage(ask, completion, cached)
    start = {**_message(model, ident), "content": [], "usage": {**totals, "output_tokens": 1}}
    frames = [_event("message_start", message=start)]
    first = 0
    for index, block in enumerate(_content(ask, completion, ident)):
        frames.append(_event("content_block_start", index=index, content_block=_hollow(block)))
        if not index:
            frames.append(_event("ping"))
            first = len(frames)
        before = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
        )
        frames += [before + delta + b"}\n\n" for delta in _deltas(block, completion)]
        frames.append(_event("content_block_stop", index=index))
    last = max(first, len(frames) - 1)
    delta = {"stop_reason": _reason(completion), "stop_sequence": None}
    frames.append(_event("message_delta", delta=delta, usage=totals))
    frames.append(_event("message_stop"))
    first = first or len(frames) - 2
    return Frames(
        (EVENT_STREAM_TYPE,),
        tuple(frames),
        0,
        first,
        max(first, last),
        tokens=_all(totals),
        prompt_tokens=ask.prompt_tokens,
    )


def overloaded_stream(model: str, ident: str) -> Frames:
    """A 200 whose stream fails before any content."""
    start = {**_message(model, ident), "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    frames = (
        _event("message_start", message=start),
        _event("ping"),
        _event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
    )
    return Frames((EVENT_STREAM_TYPE,), frames, 2, 2, 3)


def _event(name: str, **members: Any) -> bytes:
    return event_frame(name, {"type": name, **members})


def _message(model: str, ident: str) -> dict[str, Any]:
    return {
        "model": model,
        "id": f"msg_{ident[:24]}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(ask: Ask, completion: Completion, cached: Cached) -> dict[str, Any]:
    thought = {"output_tokens_details": {"thinking_tokens": completion.reasoning_tokens}}
    return {
        "input_tokens": max(0, ask.prompt_tokens - cached.written - cached.read),
        "cache_creation_input_tokens": cached.written,
        "cache_read_input_tokens": cached.read,
        "cache_creation": {"ephemeral_5m_input_tokens": cached.written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": completion.tokens,
        "service_tier": "standard",
        **(thought if ask.reasons else {}),
    }


def _all(totals: Mapping[str, Any]) -> int:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return sum(int(totals[name]) for name in names)


def _reason(completion: Completion) -> str:
    found = _FINISHES.get(completion.finish)
    return found or ("tool_use" if completion.calls else "end_turn")


def _content(ask: Ask, completion: Completion, ident: str) -> Iterator[dict[str, Any]]:
    if completion.reasoning_tokens:
        yield {"type": "thinking", "thinking": _REASONING, "signature": f"sim{ident}"}
    if completion.pieces:
        yield {"type": "text", "text": completion.text}
    for number, call in enumerate(completion.calls):
        try:
            given = json.loads(call.text)
        except ValueError:  # cut at max_tokens
            given = {}
        yield {
            "type": "tool_use",
            "id": f"toolu_{ident[:22]}{number:02}",
            "name": call.tool.name,
            "input": given,
        }


def _hollow(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block as it begins: what its deltas bring is left out."""
    if block["type"] == "tool_use":
        return {**block, "input": {}}
    return {name: value if name == "type" else "" for name, value in block.items()}


def _deltas(block: Mapping[str, Any], completion: Completion) -> Iterator[bytes]:
    match block["type"]:
        case "thinking":
            yield b'{"type":"thinking_delta","thinking":' + encode(_REASONING) + b"}"
            yield compact({"type": "signature_delta", "signature": block["signature"]})
        case "text":
            for piece in completion.pieces:
                yield b'{"type":"text_delta","text":' + encode(piece) + b"}"
        case _:
            yield b'{"type":"input_json_delta","partial_json":""}'
            call = completion.calls[int(block["id"][-2:])]
            for piece in call.pieces:
                yield b'{"type":"input_json_delta","partial_json":' + encode(piece) + b"}"


class Claude:
    """The Claude deployments of a resource."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cached: OrderedDict[str, None] = OrderedDict()

    def reset(self) -> None:
        """Empty the cache."""
        self._cached.clear()

    def read(self, target: Target, headers: Mapping[str, str], body: Mapping[str, Any], model: str) -> Ask:
        """Understand a call. Raises InvalidError."""
        if headers.get("anthropic-version") is None:
            raise InvalidError("anthropic-version: header is required")
        return read_message_ask(body, model, self._tokenizer, counts=target.operation == COUNT)

    def answer(self, ask: Ask, completion: Completion, deployment: str, model: str, ident: str) -> Reply:
        """Answer a call; what its prompt puts into the cache is there the next time."""
        cached = self._look_up(ask, deployment)
        reply = stream if ask.stream else whole
        return reply(ask, completion, model, ident, cached)

    def _look_up(self, ask: Ask, deployment: str) -> Cached:
        part = cached_part(ask.body)
        if not part:
            return Cached()
        key = hashlib.sha256(f"{deployment}\n{part}".encode(errors="replace")).hexdigest()
        tokens = min(ask.prompt_tokens, len(part) // CHARACTERS_PER_TOKEN)
        if key in self._cached:
            return Cached(read=tokens)
        self._cached[key] = None
        if len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return Cached(written=tokens)
