"""Which form an answer has: that of its operation, or where that is not known, the one that it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aoai_gateway.inspect.views import chat, messages, responses
from aoai_gateway.inspect.views.answer import Answer
from aoai_gateway.inspect.views.shapes import word
from aoai_gateway.inspect.views.sse import Events


class Form(NamedTuple):
    """How answers of one form are read. ``holds_errors``: whether one that failed is still an answer."""

    from_body: Callable[[Mapping[str, Any]], Answer]
    from_events: Callable[[Events], Answer]
    holds_errors: bool = False


CHAT = Form(chat.from_body, chat.from_events)
RESPONSES = Form(responses.from_body, responses.from_events, holds_errors=True)
MESSAGES = Form(messages.from_body, messages.from_events)

_BY_OPERATION = {"responses": RESPONSES, "messages": MESSAGES}


def form_of(operation: str) -> Form:
    """Return the form of an operation's answers, by its SDK name."""
    return _BY_OPERATION.get(operation, CHAT)


def form_of_events(events: Events, operation: str) -> Form:
    """Return the form of a stream, which may be of an unknown operation."""
    names = [name for name, _ in events.named[:3]]
    if any(name.startswith("response.") for name in names):
        return RESPONSES
    return MESSAGES if messages.EVENTS.intersection(names) else form_of(operation)


def form_of_body(body: Mapping[str, Any], operation: str = "") -> Form | None:
    """Return the form of a decoded answer; None if it is none of those with a text."""
    if body.get("object") == "response" or "output" in body:
        return RESPONSES
    if body.get("error"):
        return None
    if word(body.get("type")) == "message":
        return MESSAGES
    if isinstance(body.get("choices"), list):
        return CHAT
    return RESPONSES if operation == "responses" else None
