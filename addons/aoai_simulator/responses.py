"""Bodies and frames of the Responses API."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aoai_simulator import hosted_tools
from aoai_simulator.chat import DONE, encode, obfuscation
from aoai_simulator.completions import Completion, ToolCall
from aoai_simulator.filler_text import logprob_of, logprobs_of
from aoai_simulator.replies import (
    EVENT_STREAM_TYPE,
    Frames,
    Whole,
    compact,
    error,
    event_frame,
    invalid_request,
    json_reply,
)
from aoai_simulator.requests import Ask

SINCE = "2025-03-01"
"""The first api-version with the Responses API."""

_ECHOED: Mapping[str, Any] = {
    "max_tool_calls": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A response's identity. `resource_secret` binds encrypted reasoning to the resource."""

    deployment: str
    ident: str
    created: int
    resource_secret: bytes


def too_old() -> Whole:
    """400 for an api-version without the Responses API."""
    return error(
        400,
        "BadRequest",
        f"Azure OpenAI Responses API is enabled only for api-version {SINCE}-preview and later",
    )


SIDES = frozenset({"responses/compact", "responses/input_tokens"})
"""Operations beside a response: what it would take, and a conversation made short."""


def side(operation: str, tokens: int, made: Made) -> Whole:
    """The answer to one of the `SIDES`, whose input has so many tokens."""
    if operation == "responses/input_tokens":
        return json_reply({"object": "response.input_tokens", "input_tokens": tokens})
    usage = {"input_tokens": tokens, "output_tokens": 16, "total_tokens": tokens + 16}
    item = {
        "type": "compaction",
        "id": f"cmp_{made.ident}",
        "encrypted_content": encrypt(made.resource_secret, made.ident),
    }
    body = {
        "id": f"resp_{made.ident}",
        "object": "response.compaction",
        "created_at": made.created,
        "output": [item],
        "usage": usage,
    }
    return json_reply(body, tokens + 16)


def encrypt(secret: bytes, text: str) -> str:
    """Reasoning as only the resource with this secret takes it back."""
    nonce = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:24]
    return "gAAAAA" + urlsafe_b64encode(nonce + hashlib.sha256(secret + nonce).digest()).decode()


def foreign_reasoning(ask: Ask, secret: bytes) -> Whole | None:
    """400 when the input carries encrypted reasoning of another resource."""
    items = ask.body.get("input")
    for item in items if isinstance(items, list) else ():
        content = item.get("encrypted_content") if isinstance(item, dict) else None
        if content is not None and not _verifies(content, secret):
            return invalid_request(
                f"The encrypted content {str(content)[:8]}… could not be verified.",
                code="invalid_encrypted_content",
            )
    return None


def _verifies(content: object, secret: bytes) -> bool:
    if not isinstance(content, str) or not content.startswith("gAAAAA"):
        return False
    try:
        raw = urlsafe_b64decode(content[6:])
    except ValueError:
        return False
    return raw[24:] == hashlib.sha256(secret + raw[:24]).digest()


def usage(ask: Ask, completion: Completion) -> dict[str, Any]:
    """The `usage` object of the Responses API."""
    return {
        "input_tokens": ask.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion.tokens,
        "output_tokens_details": {"reasoning_tokens": completion.reasoning_tokens},
        "total_tokens": ask.prompt_tokens + completion.tokens,
    }


def body(ask: Ask, completion: Completion, made: Made) -> dict[str, Any]:
    """The finished response object. `model` is the deployment: Azure puts the snapshot into a header."""
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(completion.finish)
    return {
        **started_response(ask, made),
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "content_filters": [_filter("prompt"), _filter("completion")],
        "output": _output(ask, completion, made),
        "service_tier": ask.sampling.service_tier,
        "usage": usage(ask, completion),
    }


def whole(ask: Ask, completion: Completion, made: Made) -> Whole:
    """The JSON answer; that of a background response says only that it waits."""
    total = ask.prompt_tokens + completion.tokens
    if ask.body.get("background") is True:
        return json_reply({**started_response(ask, made), "status": "queued"}, total)
    return json_reply(body(ask, completion, made), total, completion.tokens)


def _filter(source: str) -> dict[str, Any]:
    safe = {"filtered": False, "severity": "safe"}
    return {
        "blocked": False,
        "content_filter_offsets": {"check_offset": 0, "end_offset": 0, "start_offset": 0},
        "content_filter_results": dict.fromkeys(("hate", "self_harm", "sexual", "violence"), safe),
        "source_type": source,
    }


def started_response(ask: Ask, made: Made) -> dict[str, Any]:
    """The response object as it is before there is any output."""
    return {
        "id": f"resp_{made.ident}",
        "object": "response",
        "created_at": made.created,
        "status": "in_progress",
        "background": ask.body.get("background") is True,
        "content_filters": None,
        "error": None,
        "incomplete_details": None,
        "model": made.deployment,
        "output": [],
        "reasoning": {"effort": None, "summary": None, **_mapping(ask.body.get("reasoning"))},
        "service_tier": "auto",
        "store": ask.body.get("store") is not False,
        "text": {"format": {"type": "text"}, "verbosity": "medium", **_mapping(ask.body.get("text"))},
        "usage": None,
        **{name: _or_default(ask.body.get(name), default) for name, default in _ECHOED.items()},
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _or_default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _output(ask: Ask, completion: Completion, made: Made) -> list[dict[str, Any]]:
    """All items of the answer: reasoning, built-in tools, and then calls or a message."""
    items = [*_items_before(ask, completion, made)]
    items += [
        _call_item(call, number, completion, made, done=True) for number, call in enumerate(completion.calls)
    ]
    if _speaks(completion, items):
        items.append(_message(ask, completion, made, done=True))
    return items


def _items_before(ask: Ask, completion: Completion, made: Made) -> list[dict[str, Any]]:
    items = [_reasoning(ask, made)] if completion.reasoning_tokens else []
    approved = "mcp_approval_request" in ask.conversation.called
    for number, tool in enumerate(completion.hosted):
        ident = f"{made.ident}{number}" if number else made.ident
        items += hosted_tools.items(tool, ident, ask.last, approved=approved)
    return items


def _speaks(completion: Completion, items: list[dict[str, Any]]) -> bool:
    """Whether there is a message; the calls that a client has to run end an answer."""
    return not completion.calls and not any(map(hosted_tools.ends_answer, items))


def _reasoning(ask: Ask, made: Made) -> dict[str, Any]:
    item: dict[str, Any] = {"id": f"rs_{made.ident}", "type": "reasoning", "summary": []}
    include = ask.body.get("include")
    if isinstance(include, list) and "reasoning.encrypted_content" in include:
        item["encrypted_content"] = encrypt(made.resource_secret, made.ident)
    return item


def _status(completion: Completion, *, done: bool) -> str:
    if not done:
        return "in_progress"
    return "incomplete" if completion.finish in ("length", "content_filter") else "completed"


def _call_item(
    call: ToolCall, number: int, completion: Completion, made: Made, *, done: bool
) -> dict[str, Any]:
    custom = call.tool.kind == "custom"
    suffix = str(number) if number else ""
    return {
        "id": f"{'ctc' if custom else 'fc'}_{made.ident}{suffix}",
        "type": "custom_tool_call" if custom else "function_call",
        "status": _status(completion, done=done),
        "input" if custom else "arguments": call.text if done else "",
        "call_id": f"call_{made.ident[: 24 - len(suffix)]}{suffix}",
        "name": call.tool.name,
        **({"namespace": call.tool.namespace} if call.tool.namespace else {}),
    }


def _message(ask: Ask, completion: Completion, made: Made, *, done: bool) -> dict[str, Any]:
    return {
        "id": f"msg_{made.ident}",
        "type": "message",
        "status": _status(completion, done=done),
        "content": [_part(ask, completion.pieces)] if done else [],
        "role": "assistant",
    }


def _part(ask: Ask, pieces: Sequence[str]) -> dict[str, Any]:
    top = ask.sampling.top_logprobs
    listed = [] if top is None else logprobs_of(pieces, top)
    return {"type": "output_text", "annotations": [], "logprobs": listed, "text": "".join(pieces)}


class EventSequence:
    """Writes the events of one stream, and numbers them."""

    def __init__(self) -> None:
        self._number = 0

    def event(self, kind: str, **fields: Any) -> bytes:
        """An event with its number."""
        number = self._number
        self._number += 1
        return event_frame(kind, {"type": kind, "sequence_number": number, **fields})

    def delta(self, kind: bytes, place: bytes, piece: str, obfuscate: bool) -> bytes:
        """A delta event; like `event`, but only the piece is encoded. `place` says which item it is for."""
        number = self._number
        self._number += 1
        padding = b',"obfuscation":"%s"' % obfuscation(number) if obfuscate else b""
        fields = b'{"type":"%s","sequence_number":%d,%s,"delta":%s%s}'
        data = fields % (kind, number, place, encode(piece), padding)
        return b"event: %s\ndata: %s\n\n" % (kind, data)


def stream(ask: Ask, completion: Completion, made: Made, *, done_marker: bool = True) -> Frames:
    """The event stream; `done_marker` ends it with `data: [DONE]`, as captures from Azure have it."""
    sequence = EventSequence()
    started = started_response(ask, made)
    start = [sequence.event("response.created", response=started)]
    if ask.body.get("background") is True:
        start.append(sequence.event("response.queued", response={**started, "status": "queued"}))
    start.append(sequence.event("response.in_progress", response=started))
    early = len(start)
    before = _items_before(ask, completion, made)
    for index, item in enumerate(before):
        start += _at_once(sequence, item, index)
    content: list[bytes] = []
    end: list[bytes] = []
    for number, call in enumerate(completion.calls):
        place = len(before) + number
        content += _call_events(sequence, call, number, completion, made, place, ask.obfuscate)
    if _speaks(completion, before):
        opened, content, end = _message_events(sequence, ask, completion, made, len(before))
        start += opened
    final = body(ask, completion, made)
    end.append(sequence.event(f"response.{final['status']}", response=final))
    if done_marker:
        end.append(DONE)
    first = len(start)
    return Frames(
        headers=(EVENT_STREAM_TYPE,),
        frames=(*start, *content, *end),
        early=early,
        first=first,
        last=first + len(content),
        tokens=ask.prompt_tokens + completion.tokens,
        prompt_tokens=ask.prompt_tokens,
    )


def _at_once(sequence: EventSequence, item: dict[str, Any], index: int) -> list[bytes]:
    """The events of an item that comes as a whole: reasoning, or the use of a built-in tool."""
    kind = item["type"]
    opened = {**item, "status": "in_progress"} if "status" in item else item
    events = [sequence.event("response.output_item.added", output_index=index, item=opened)]
    events += [
        sequence.event(f"response.{kind}.{step}", item_id=item["id"], output_index=index)
        for step in hosted_tools.STEPS.get(kind, ())
    ]
    return [*events, sequence.event("response.output_item.done", output_index=index, item=item)]


def _call_events(
    sequence: EventSequence,
    call: ToolCall,
    number: int,
    completion: Completion,
    made: Made,
    index: int,
    obfuscate: bool,
) -> list[bytes]:
    item = _call_item(call, number, completion, made, done=False)
    events = [sequence.event("response.output_item.added", output_index=index, item=item)]
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    custom = call.tool.kind == "custom"
    kind, member = ("custom_tool_call_input", "input") if custom else ("function_call_arguments", "arguments")
    name, place = f"response.{kind}.delta".encode(), compact(at)[1:-1]
    events += [sequence.delta(name, place, piece, obfuscate) for piece in call.pieces]
    finished = _call_item(call, number, completion, made, done=True)
    events += [
        sequence.event(f"response.{kind}.done", **at, **{member: call.text}),
        sequence.event("response.output_item.done", output_index=index, item=finished),
    ]
    return events


def _message_events(
    sequence: EventSequence, ask: Ask, completion: Completion, made: Made, index: int
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The events before, of and after a message's text."""
    item = _message(ask, completion, made, done=False)
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index, "content_index": 0}
    start = [
        sequence.event("response.output_item.added", output_index=index, item=item),
        sequence.event("response.content_part.added", **at, part=_part(ask, ())),
    ]
    content = []
    kind, place = b"response.output_text.delta", compact({**at, "logprobs": []})[1:-1]
    top = ask.sampling.top_logprobs
    for number, piece in enumerate(completion.pieces):
        if top is not None:
            place = compact({**at, "logprobs": [logprob_of(piece, number, top)]})[1:-1]
        content.append(sequence.delta(kind, place, piece, ask.obfuscate))
    part = _part(ask, completion.pieces)
    finished = _message(ask, completion, made, done=True)
    end = [
        sequence.event("response.output_text.done", **at, logprobs=part["logprobs"], text=part["text"]),
        sequence.event("response.content_part.done", **at, part=part),
        sequence.event("response.output_item.done", output_index=index, item=finished),
    ]
    return start, content, end
