"""What a model said in an answer, as plain text: for reading several beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.inspect.views import completion
from aoai_gateway.inspect.views.answer import Answer, Choice
from aoai_gateway.inspect.views.shapes import Unreadable, decode

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow

    from aoai_gateway.inspect.views.facts import Facts
    from aoai_gateway.wire.usage import Usage


NOT_KEPT = "(The answer was streamed and not kept; with store_streamed_bodies it is.)"


@dataclass(frozen=True, slots=True)
class Said:
    """The text of an answer, the model that gave it, and its usage; an error is a text, too.

    ``plain`` is what the first choice says and nothing else; ``finish_reason`` why it ended.
    """

    text: str
    model: str = ""
    usage: Usage | None = None
    plain: str = ""
    finish_reason: str = ""


def said(data: bytes, facts: Facts) -> Said:
    """Read a decoded answer. A pure function that raises nothing."""
    try:
        return _read(data, facts)
    except (Unreadable, RecursionError):
        return Said(data.decode(errors="replace"))


def unread(flow: HTTPFlow) -> Said:
    """Return why a flow has no answer that could be read."""
    if flow.response is not None:
        return Said(NOT_KEPT)
    return Said(f"({flow.error.msg})" if flow.error is not None else "(No answer.)")


def _read(data: bytes, facts: Facts) -> Said:
    answer = completion.answer_of(data, facts)
    if answer is None:
        # What is JSON and no object has nothing to be laid out.
        is_object = isinstance(decode(data), Mapping)
        return Said(completion.show(data, facts) if is_object else data.decode(errors="replace"))
    if answer.error and not completion.is_stream(data, facts):
        return Said(answer.error)
    return _said(answer)


def _said(answer: Answer) -> Said:
    pieces = [answer.error] if answer.error else []
    for number, choice in enumerate(answer.choices, 1):
        if len(answer.choices) > 1:
            pieces.append(f"[choice {number}]")
        pieces += [f"[{part.title}] {part.text}" if part.title else part.text for part in choice.parts]
        if choice.finish not in ("", "stop", "completed", "end_turn"):
            pieces.append(f"[{choice.finish}]")
    if answer.broken:
        pieces.append("[broken off]")
    first = answer.choices[0] if answer.choices else Choice()
    plain = "".join(part.text for part in first.parts if part.kind == "text")
    text = "\n".join(piece for piece in pieces if piece)
    return Said(text, answer.model, answer.usage, plain, first.finish)
