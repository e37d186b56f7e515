"""What the simulated model says to an `Ask`, before any wire format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aoai_gateway.simulator import models, words
from aoai_gateway.simulator.asks import Ask

PROMPT_FILTER_TRIGGER = "trigger-prompt-filter"
"""A prompt that contains this is answered with AOAI's 400 `content_filter`."""

OUTPUT_FILTER_TRIGGER = "trigger-output-filter"
"""An answer to a prompt with this stops after a few tokens with finish_reason `content_filter`."""

REASONING_TOKENS = 32
_BEFORE_FILTER = 5

Finish = Literal["stop", "length", "content_filter", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One choice: its pieces (the arguments, for a function call) and why it ended."""

    pieces: tuple[str, ...]
    finish: Finish
    reasoning_tokens: int = 0

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        """Completion tokens, reasoning included."""
        return len(self.pieces) + self.reasoning_tokens


def complete(ask: Ask, model: str, seed: int, length: int | None) -> tuple[Completion, ...]:
    """All choices of a call; `length` is the natural number of pieces, None for one drawn from the prompt."""
    return tuple(_choice(ask, model, seed + index, length) for index in range(ask.choices))


def _choice(ask: Ask, model: str, seed: int, length: int | None) -> Completion:
    limit = ask.max_tokens
    reasoning = 0
    if models.reasons(model):
        reasoning = REASONING_TOKENS if limit is None else min(REASONING_TOKENS, limit)
        limit = None if limit is None else limit - reasoning
    source = words.digest(seed, ask.text)
    finish: Finish = "stop"
    if ask.function is not None:
        pieces = words.split(json.dumps(_arguments(ask.function)))
        finish = "stop" if ask.function_named else "tool_calls"
    elif ask.last.startswith(words.ECHO):
        pieces = words.split(ask.last[len(words.ECHO) :].lstrip())
    else:
        pieces = words.prose(source, words.natural_length(source) if length is None else length)
    if OUTPUT_FILTER_TRIGGER in ask.text:
        pieces, finish = pieces[:_BEFORE_FILTER], "content_filter"
    if limit is not None and len(pieces) > limit:
        pieces, finish = pieces[:limit], "length"
    return Completion(pieces, finish, reasoning)


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that fit the function's JSON Schema, as far as types and enums go."""
    schema = function.get("parameters")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {name: _value(name, spec) for name, spec in properties.items() if isinstance(spec, dict)}


def _value(name: str, spec: Mapping[str, Any]) -> Any:
    enum, kind = spec.get("enum"), spec.get("type")
    if isinstance(enum, list) and enum:
        return enum[0]
    if isinstance(kind, list) and kind:
        kind = kind[0]
    return {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}.get(str(kind), name)
