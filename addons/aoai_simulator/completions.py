"""The simulated model's answer to an `Ask`, before any wire format."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

from aoai_simulator import filler_text as words
from aoai_simulator.output_formats import JsonForm
from aoai_simulator.pattern_filler import text_for
from aoai_simulator.replies import InvalidError
from aoai_simulator.requests import Ask
from aoai_simulator.schema_filler import UnfillableError, fill
from aoai_simulator.tokenizer import Tokenizer
from aoai_simulator.tools import Tool

PROMPT_FILTER_TRIGGER = "trigger-prompt-filter"
"""A prompt that contains this is answered with AOAI's 400 `content_filter`."""

OUTPUT_FILTER_TRIGGER = "trigger-output-filter"
"""An answer to a prompt with this stops after a few tokens with finish_reason `content_filter`."""

REASONING_TOKENS = 32
_BEFORE_FILTER = 5

Finish = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the client is to run: the tool, and its arguments or input in pieces."""

    tool: Tool
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Completion:
    """One choice: its text in pieces, its tool calls, and why it ended.

    `hosted` are built-in tools that the service itself runs before the text.
    """

    pieces: tuple[str, ...]
    finish: Finish
    reasoning_tokens: int = 0
    calls: tuple[ToolCall, ...] = ()
    hosted: tuple[Tool, ...] = ()

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        """Completion tokens, reasoning included."""
        return len(self.pieces) + sum(len(call.pieces) for call in self.calls) + self.reasoning_tokens


def complete(ask: Ask, seed: int, length: int | None, tokenizer: Tokenizer) -> tuple[Completion, ...]:
    """All choices of a call; `length` is the natural number of pieces, None for one drawn from the prompt.

    Raises InvalidError when nothing satisfies a schema of the request.
    """
    return tuple(_choice(ask, seed, index, length, tokenizer) for index in range(ask.choices))


def _choice(ask: Ask, seed: int, index: int, length: int | None, tokenizer: Tokenizer) -> Completion:
    limit = ask.sampling.max_tokens
    reasoning = 0
    if ask.reasons:
        reasoning = REASONING_TOKENS if limit is None else min(REASONING_TOKENS, limit)
        limit = None if limit is None else limit - reasoning
    tools = ask.toolbox.choose(ask.conversation)
    calls = tuple(_call(tool, ask, index, tokenizer) for tool in tools if tool.kind != "hosted")
    made = Completion(
        pieces=() if calls else _text(ask, seed + index, index, length, tokenizer),
        finish=_tool_finish(ask, calls),
        reasoning_tokens=reasoning,
        calls=calls,
        hosted=() if calls else tuple(tool for tool in tools if tool.kind == "hosted"),
    )
    made = replace(made, pieces=_stopped(made.pieces, ask.sampling.stop))
    if OUTPUT_FILTER_TRIGGER in ask.text:
        made = replace(_cut(made, _BEFORE_FILTER), finish="content_filter")
    if limit is not None and made.tokens - reasoning > limit:
        made = replace(_cut(made, limit), finish="length")
    return made


def _tool_finish(ask: Ask, calls: tuple[ToolCall, ...]) -> Finish:
    """Azure ends a choice that was made to call one function with `stop`."""
    if not calls or ask.toolbox.mode == "named":
        return "stop"
    return "function_call" if calls[0].tool.kind == "legacy" else "tool_calls"


def _text(ask: Ask, seed: int, index: int, length: int | None, tokenizer: Tokenizer) -> tuple[str, ...]:
    said = ask.last[len(words.ECHO) :].lstrip() if ask.last.startswith(words.ECHO) else None
    source = words.digest(seed, ask.text)
    if ask.form is not None:
        return tokenizer.split(_json(ask.form, said, source, index), ask.model)
    if said is not None:
        return tokenizer.split(said, ask.model)
    return words.prose(source, words.natural_length(source) if length is None else length)


def _json(form: JsonForm, said: str | None, source: bytes, index: int) -> str:
    """JSON in the demanded form; the user's own text, if it has that form."""
    if said is not None:
        try:
            if form.accepts(json.loads(said)):
                return said
        except (ValueError, RecursionError):
            pass
    if form.schema is None:
        text = said if said is not None else "".join(words.prose(source, 12))
        return json.dumps({"answer": text}, ensure_ascii=False)
    try:
        return json.dumps(fill(form.schema, variant=index), ensure_ascii=False)
    except UnfillableError as error:
        raise form.unfillable() from error


def _call(tool: Tool, ask: Ask, index: int, tokenizer: Tokenizer) -> ToolCall:
    if tool.kind == "custom":
        return ToolCall(tool, tokenizer.split(_input(tool, ask), ask.model))
    try:
        arguments = fill(tool.parameters, variant=index)
    except UnfillableError as error:
        message = f"Invalid schema for function '{tool.name}': no value satisfies it."
        raise InvalidError(message, param="tools", code="invalid_function_parameters") from error
    text = json.dumps(arguments if isinstance(arguments, dict) else {}, ensure_ascii=False)
    return ToolCall(tool, tokenizer.split(text, ask.model))


def _input(tool: Tool, ask: Ask) -> str:
    """The input of a custom tool: a text of its regular grammar, else the user's words."""
    form = tool.definition.get("format")
    grammar = form.get("grammar", form) if isinstance(form, dict) else None
    if isinstance(grammar, dict) and grammar.get("syntax") == "regex":
        text = text_for(str(grammar.get("definition")))
        if text is not None:
            return text
    return ask.last or tool.name


def _stopped(pieces: tuple[str, ...], stops: tuple[str, ...]) -> tuple[str, ...]:
    """The pieces up to the first stop sequence, which is left out."""
    text = "".join(pieces)
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    if not ends:
        return pieces
    left, kept = min(ends), []
    for piece in pieces:
        if len(piece) > left:
            kept += [piece[:left]] if left else []
            break
        kept.append(piece)
        left -= len(piece)
    return tuple(kept)


def _cut(completion: Completion, length: int) -> Completion:
    """The first pieces of a completion, those of its calls after those of its text."""
    pieces = completion.pieces[:length]
    left = length - len(pieces)
    calls = []
    for call in completion.calls:
        calls.append(replace(call, pieces=call.pieces[:left]))
        left -= len(calls[-1].pieces)
        if left <= 0:
            break
    return replace(completion, pieces=pieces, calls=tuple(calls))
