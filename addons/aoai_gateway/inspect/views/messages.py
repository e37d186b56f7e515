"""Claude's messages, whole or as the events of a stream -> an `Answer`.

A stream builds the message up block by block, so it is put together first and then read like a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aoai_gateway.inspect.views.answer import Answer, Choice, Part, sources
from aoai_gateway.inspect.views.errors import summary
from aoai_gateway.inspect.views.responses import as_yaml
from aoai_gateway.inspect.views.shapes import index, mapping, mappings, text, word
from aoai_gateway.inspect.views.sse import Events
from aoai_gateway.wire.usage import read_usage

EVENTS = frozenset(
    (
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "ping",
    )
)
"""The events of its streams, but for errors, which others have too."""

_USUAL_TIERS = ("", "standard")
_GROWING = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Kinds of deltas → the member of a block that each makes longer."""


def from_body(message: Mapping[str, Any]) -> Answer:
    """Read a message."""
    answer = Answer(model=word(message.get("model")), ident=word(message.get("id")))
    usage = mapping(message.get("usage"))
    answer.usage = read_usage(usage)
    if message.get("error"):
        answer.error = summary(message["error"])
    parts = [part for block in mappings(message.get("content")) for part in _parts(block)]
    answer.choices = [Choice(parts, word(message.get("stop_reason")))]
    if sequence := text(message.get("stop_sequence")):
        answer.notes.append(f"It stopped at {sequence!r}.")
    if (tier := word(usage.get("service_tier"))) not in _USUAL_TIERS:
        answer.notes.append(f"Service tier: {tier}.")
    used = {key: value for key, value in mapping(usage.get("server_tool_use")).items() if value}
    if said := ", ".join(f"{word(key).replace('_', ' ')} {word(value)}" for key, value in used.items()):
        answer.notes.append(f"Tools of the service: {said}.")
    return answer


def from_events(events: Events) -> Answer:
    """Read an event stream."""
    message: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    blocks: dict[int, _Block] = {}
    error: object = None
    ended = False
    for name, body in events.named:
        match name:
            case "message_start":
                message.update(mapping(body.get("message")))
                usage.update(mapping(message.get("usage")))
            case "content_block_start":
                blocks[index(body.get("index"), len(blocks))] = _Block(mapping(body.get("content_block")))
            case "content_block_delta":
                block = blocks.setdefault(index(body.get("index"), 0), _Block({"type": "text"}))
                block.take(mapping(body.get("delta")))
            case "message_delta":
                message.update(mapping(body.get("delta")))
                said = mapping(body.get("usage"))
                usage.update({key: value for key, value in said.items() if value is not None})
            case "message_stop":
                ended = True
            case _ if name == "error" or body.get("error"):
                error = body.get("error") or body
    content = [block.whole() for _, block in sorted(blocks.items())]
    answer = from_body({**message, "content": content, "usage": usage})
    if error:
        answer.error = summary(error)
    answer.broken = not ended and not answer.error and not events.unread
    answer.notes += events.notes()
    return answer


class _Block:
    """One block of content, as it grows."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._start = start
        self._pieces: dict[str, list[str]] = {}
        self._citations: list[Any] = []

    def take(self, delta: Mapping[str, Any]) -> None:
        kind = word(delta.get("type"))
        if kind == "citations_delta":
            self._citations.append(delta.get("citation"))
        elif kind == "input_json_delta":
            self._pieces.setdefault("input", []).append(text(delta.get("partial_json")))
        elif member := _GROWING.get(kind):
            self._pieces.setdefault(member, []).append(text(delta.get(member)))

    def whole(self) -> dict[str, Any]:
        """Put it together. The input of a tool stays the text that it came as: it may be cut off."""
        grown = {
            member: (text(self._start.get(member)) if member != "input" else "") + "".join(pieces)
            for member, pieces in self._pieces.items()
        }
        cited = {"citations": self._citations} if self._citations else {}
        return {**self._start, **{key: value for key, value in grown.items() if value}, **cited}


def _parts(block: Mapping[str, Any]) -> list[Part]:
    kind = word(block.get("type"))
    if kind == "text":
        return [*([Part("text", said)] if (said := text(block.get("text"))) else []), *_cited(block)]
    if kind == "thinking":
        return [Part("titled", text(block.get("thinking")), "thinking")]
    if kind.endswith("tool_use"):
        given = block.get("input")
        what = "tool call" if kind == "tool_use" else kind.removesuffix("_use").replace("_", " ") + " call"
        words = [f"{what} {word(block.get('name'))}".strip(), word(block.get("id"))]
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return [Part("json", arguments, " · ".join(filter(None, words)))]
    rest = {key: value for key, value in block.items() if key not in ("type", "id", "signature", "data")}
    return [Part("titled", as_yaml(rest) if rest else "", kind.replace("_", " ") or "block")]


def _cited(block: Mapping[str, Any]) -> list[Part]:
    return sources(
        (word(one.get("title")) or word(one.get("document_title")), word(one.get("url")))
        for one in mappings(block.get("citations"))
    )
