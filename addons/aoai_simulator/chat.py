"""Bodies and frames of chat/completions and completions, in the form of captures from 2026."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from aoai_simulator import models
from aoai_simulator.completions import Completion, ToolCall
from aoai_simulator.filler_text import legacy_logprobs, logprob_of, logprobs_of
from aoai_simulator.replies import EVENT_STREAM_TYPE, Frames, Whole, compact, json_reply
from aoai_simulator.requests import Ask

DONE = b"data: [DONE]\n\n"

_SAFE: dict[str, Any] = {
    name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_FILTER = [
    {
        "prompt_index": 0,
        "content_filter_results": {
            "hate": _SAFE["hate"],
            "jailbreak": {"detected": False, "filtered": False},
            **{name: _SAFE[name] for name in ("self_harm", "sexual", "violence")},
        },
    }
]
_BLOCKED = {**_SAFE, "violence": {"filtered": True, "severity": "medium"}}
_PROTECTED = b'{"protected_material_text":{"detected":false,"filtered":false}}'

PROMPT_FILTER_FRAME = b"data: %s\n\n" % compact(
    {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": _PROMPT_FILTER,
    }
)

_PADDING = "zRjujFSemAF9d4G5HwxkF8EZi5gjGw66pQv1LmN0bYtX3cKsUoWn7aDhTfRe2VyC"


@lru_cache(maxsize=4096)
def encode(piece: str) -> bytes:
    """A piece as a JSON string; pieces are short and recur."""
    return compact(piece)


def obfuscation(number: int) -> bytes:
    """The random-looking padding of the `number`-th frame, so that sizes do not give tokens away."""
    start = number * 7 % 48
    return _PADDING[start : start + 1 + number * 5 % 16].encode()


def usage(ask: Ask, completions: tuple[Completion, ...]) -> dict[str, Any]:
    """The `usage` object of chat and completions."""
    output = sum(completion.tokens for completion in completions)
    return {
        "completion_tokens": output,
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": sum(completion.reasoning_tokens for completion in completions),
            "rejected_prediction_tokens": 0,
        },
        "prompt_tokens": ask.prompt_tokens,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
        "total_tokens": ask.prompt_tokens + output,
    }


def whole(ask: Ask, completions: tuple[Completion, ...], model: str, ident: str, created: int) -> Whole:
    """The JSON answer. `model` is the snapshot, `ident` the bare id, `created` Unix seconds."""
    chat = ask.operation == "chat/completions"
    totals = usage(ask, completions)
    body = {
        "choices": [
            (_chat_choice if chat else _text_choice)(ask, completion, index, ident)
            for index, completion in enumerate(completions)
        ],
        "created": created,
        "id": ("chatcmpl-" if chat else "cmpl-") + ident,
        "model": model,
        "object": "chat.completion" if chat else "text_completion",
        "prompt_filter_results": _PROMPT_FILTER,
        "service_tier": ask.sampling.service_tier,
        "system_fingerprint": None,
        "usage": totals,
    }
    return json_reply(body, totals["total_tokens"], totals["completion_tokens"])


def _chat_choice(ask: Ask, completion: Completion, index: int, ident: str) -> dict[str, Any]:
    message: dict[str, Any] = {
        "annotations": [],
        "content": completion.text,
        "refusal": None,
        "role": "assistant",
    }
    if completion.calls:
        message["content"] = None
        message.update(_calls(completion, index, ident))
    return {
        "content_filter_results": _BLOCKED if completion.finish == "content_filter" else _SAFE,
        "finish_reason": completion.finish,
        "index": index,
        "logprobs": _logprobs(ask, completion),
        "message": message,
    }


def _calls(completion: Completion, choice: int, ident: str) -> dict[str, Any]:
    """The members of a message that hold its tool calls."""
    first = completion.calls[0]
    if first.tool.kind == "legacy":
        return {"function_call": {"arguments": first.text, "name": first.tool.name}}
    return {
        "tool_calls": [
            _call(call, number, choice, ident, call.text) for number, call in enumerate(completion.calls)
        ]
    }


def _call(call: ToolCall, number: int, choice: int, ident: str, text: str) -> dict[str, Any]:
    """A tool call with `text` as its arguments, or as the input of a custom tool."""
    custom = call.tool.kind == "custom"
    kind, member = ("custom", "input") if custom else ("function", "arguments")
    suffix = f"{choice}{number}" if choice or number else ""
    return {
        kind: {member: text, "name": call.tool.name},
        "id": f"call_{ident[: 24 - len(suffix)]}{suffix}",
        "type": kind,
    }


def _logprobs(ask: Ask, completion: Completion) -> dict[str, Any] | None:
    top = ask.sampling.top_logprobs
    if top is None or completion.calls:
        return None
    return {"content": logprobs_of(completion.pieces, top), "refusal": None}


def _text_choice(ask: Ask, completion: Completion, index: int, ident: str) -> dict[str, Any]:
    return {
        "content_filter_results": _BLOCKED if completion.finish == "content_filter" else _SAFE,
        "finish_reason": completion.finish,
        "index": index,
        "logprobs": _text_logprobs(ask, completion.pieces, 0),
        "text": completion.text,
    }


def _text_logprobs(ask: Ask, pieces: Sequence[str], offset: int) -> dict[str, Any] | None:
    top = ask.sampling.top_logprobs
    return None if top is None else legacy_logprobs(pieces, top, offset)


class _Envelope:
    """The common part of all frames of one stream, encoded once."""

    def __init__(self, ask: Ask, model: str, ident: str, created: int) -> None:
        chat = ask.operation == "chat/completions"
        name = ("chatcmpl-" if chat else "cmpl-") + ident
        self._middle = f'"created":{created},"id":"{name}","model":{json.dumps(model)},'.encode()
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        tier = compact(ask.sampling.service_tier)
        self._end = b'"object":"%s","service_tier":%s,"system_fingerprint":null' % (kind, tier)
        self._no_usage = b',"usage":null' if ask.include_usage else b""
        self._obfuscate = ask.obfuscate
        self._number = 0

    def frame(self, choices: bytes, totals: bytes = b"") -> bytes:
        """One `data:` frame around the elements of `choices`."""
        padding = b""
        if self._obfuscate:
            self._number += 1
            padding = b'"obfuscation":"%s",' % obfuscation(self._number)
        tail = totals or self._no_usage
        return b'data: {"choices":[%s],%s%s%s%s}\n\n' % (choices, self._middle, padding, self._end, tail)


def stream(
    ask: Ask,
    completions: tuple[Completion, ...],
    model: str,
    ident: str,
    created: int,
    *,
    late_filter: bool = False,
) -> Frames:
    """The event stream. Arguments as for `whole`.

    `late_filter` is the asynchronous content filter: its verdicts come in frames of their own, without
    `delta` and `id`, the last one after the frames with the finish_reason.
    """
    envelope = _Envelope(ask, model, ident, created)
    chat = ask.operation == "chat/completions"
    start = [PROMPT_FILTER_FRAME]
    if chat:
        start += [
            envelope.frame(_role(completion, index, ident)) for index, completion in enumerate(completions)
        ]
    content = _deltas(ask, completions, envelope, ident)
    end = [envelope.frame(_finish(completion, index, chat)) for index, completion in enumerate(completions)]
    if late_filter and chat:
        ends = [len(completion.text) for completion in completions]
        end = [
            *(_verdict(index, 0, size // 2) for index, size in enumerate(ends)),
            *end,
            *(_verdict(index, size // 2, size) for index, size in enumerate(ends)),
        ]
    totals = usage(ask, completions)
    if ask.include_usage:
        end.append(envelope.frame(b"", b',"usage":' + compact(totals)))
    return Frames(
        headers=(EVENT_STREAM_TYPE,),
        frames=(*start, *content, *end, DONE),
        early=0,
        first=len(start),
        last=len(start) + len(content),
        tokens=totals["total_tokens"],
        prompt_tokens=ask.prompt_tokens,
    )


def chat_preamble(ask: Ask, model: str, ident: str, created: int) -> tuple[bytes, bytes]:
    """The frames that come before any content: the prompt filter's verdict, and the (first) role."""
    envelope = _Envelope(ask, models.snapshot(model), ident, created)
    return PROMPT_FILTER_FRAME, envelope.frame(_role(Completion((), "stop"), 0, ident))


def _verdict(index: int, start: int, stop: int) -> bytes:
    """A frame of the asynchronous content filter for a range of characters."""
    choice = {
        "content_filter_offsets": {"check_offset": start, "end_offset": stop, "start_offset": start},
        "content_filter_results": _SAFE,
        "finish_reason": None,
        "index": index,
    }
    return b"data: %s\n\n" % compact({"choices": [choice], "created": 0, "id": "", "model": "", "object": ""})


def _role(completion: Completion, index: int, ident: str) -> bytes:
    """The first delta of a choice; that of a tool call names the tool as well."""
    if not completion.calls:
        return _choice(b"{}", b'"delta":{"content":"","refusal":null,"role":"assistant"}', b"null", index)
    message = {"content": None, "refusal": None, "role": "assistant"}
    message.update(_call_start(completion.calls[0], 0, index, ident))
    return _choice(b"{}", b'"delta":' + compact(message), b"null", index)


def _call_start(call: ToolCall, number: int, choice: int, ident: str) -> dict[str, Any]:
    if call.tool.kind == "legacy":
        return {"function_call": {"arguments": "", "name": call.tool.name}}
    return {"tool_calls": [{**_call(call, number, choice, ident, ""), "index": number}]}


def _deltas(ask: Ask, completions: tuple[Completion, ...], envelope: _Envelope, ident: str) -> list[bytes]:
    """The content frames of all choices, which take turns."""
    if ask.operation == "chat/completions":
        each = [_chat_deltas(ask, completion, index, ident) for index, completion in enumerate(completions)]
    else:
        each = [_text_deltas(ask, completion) for completion in completions]
    frames = []
    for turn in zip_longest(*each):
        for index, delta in enumerate(turn):
            if delta is not None:
                payload, probabilities = delta
                frames.append(envelope.frame(_choice(_PROTECTED, payload, b"null", index, probabilities)))
    return frames


def _chat_deltas(ask: Ask, completion: Completion, index: int, ident: str) -> Iterator[tuple[bytes, bytes]]:
    """The payloads of one choice, each with its logprobs."""
    for number, call in enumerate(completion.calls):
        if number:
            yield b'"delta":' + compact(_call_start(call, number, index, ident)), b"null"
        if call.tool.kind == "legacy":
            before, after = b'"delta":{"function_call":{"arguments":', b"}}"
        elif call.tool.kind == "custom":
            before, after = b'"delta":{"tool_calls":[{"custom":{"input":', b'},"index":%d}]}' % number
        else:
            before, after = b'"delta":{"tool_calls":[{"function":{"arguments":', b'},"index":%d}]}' % number
        for piece in call.pieces:
            yield before + encode(piece) + after, b"null"
    top = ask.sampling.top_logprobs
    for place, piece in enumerate(completion.pieces):
        probabilities = b"null"
        if top is not None:
            entry = logprob_of(piece, place, top)
            probabilities = compact({"content": [entry], "refusal": None})
        yield b'"delta":{"content":' + encode(piece) + b"}", probabilities


def _text_deltas(ask: Ask, completion: Completion) -> Iterator[tuple[bytes, bytes]]:
    offset = 0
    for piece in completion.pieces:
        yield b'"text":' + encode(piece), compact(_text_logprobs(ask, [piece], offset))
        offset += len(piece)


def _finish(completion: Completion, index: int, chat: bool) -> bytes:
    verdict = compact(_BLOCKED) if completion.finish == "content_filter" else b"{}"
    return _choice(
        verdict, b'"delta":{}' if chat else b'"text":""', b'"%s"' % completion.finish.encode(), index
    )


def _choice(
    verdict: bytes, payload: bytes, finish: bytes, index: int, probabilities: bytes = b"null"
) -> bytes:
    return b'{"content_filter_results":%s,%s,"finish_reason":%s,"index":%d,"logprobs":%s}' % (
        verdict,
        payload,
        finish,
        index,
        probabilities,
    )
