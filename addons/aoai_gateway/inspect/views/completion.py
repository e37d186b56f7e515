"""A response's body -> what is in it, by the form that it has; and the Completion view of it.

The form is that of its operation, or where that is not known, the one that it looks like. A server's realtime
message has a view, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aoai_gateway.inspect.views import chat, embeddings, errors, messages, responses
from aoai_gateway.inspect.views.answer import Answer, lay_out
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, text, word
from aoai_gateway.inspect.views.sse import Events, read_events


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
    """Return the form of a decoded answer; None if its form has no text."""
    if body.get("object") == "response" or "output" in body:
        return RESPONSES
    if body.get("error"):
        return None
    if word(body.get("type")) == "message":
        return MESSAGES
    if isinstance(body.get("choices"), list):
        return CHAT
    return RESPONSES if operation == "responses" else None


MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A larger JSON answer is not decoded."""

EVENT_STREAM = "text/event-stream"


def show(data: bytes, facts: Facts) -> str:
    """Lay out a response's body; never raises for what is in it."""
    try:
        return _show(data, facts)
    except RecursionError:
        return "It is nested too deeply to be shown.\n\n" + data.decode(errors="replace")


def is_stream(data: bytes, facts: Facts) -> bool:
    """Whether a body is an event stream: some servers leave out the content type."""
    if facts.content_type:
        return facts.content_type == EVENT_STREAM
    return data[:256].lstrip().startswith((b"data:", b"event:", b":"))


def _show(data: bytes, facts: Facts) -> str:
    if is_stream(data, facts):
        events = read_events(data)
        if not events.named and not events.done:
            return "An event stream without an event that could be read.\n\n" + data.decode(errors="replace")
        return lay_out(form_of_events(events, facts.operation).from_events(events), facts)
    if facts.operation == "embeddings" and len(data) > embeddings.MAX_DECODED_BYTES:
        return lay_out(embeddings.from_large(data), facts)
    try:
        if len(data) > MAX_ANSWER_BYTES:
            raise Unreadable(f"{len(data):,} bytes are too many to be looked at")
        body = decode(data)
    except Unreadable as error:
        return f"Not JSON: {error}. This is the body as it came.\n\n" + data.decode(errors="replace")
    if not isinstance(body, Mapping):
        return json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    return _show_object(body, facts)


def _show_object(body: Mapping[str, Any], facts: Facts) -> str:
    form = form_of_body(body)
    if form is not None and (form.holds_errors or (facts.status or 200) < 400):
        return lay_out(form.from_body(body), facts)
    if body.get("error") or (facts.status or 200) >= 400:
        return errors.show(body, facts)
    if facts.operation == "embeddings" or (
        word(body.get("object")) == "list" and "embedding" in mapping_of_first(body)
    ):
        return lay_out(embeddings.from_body(body), facts)
    return responses.as_yaml(body) + "\n"


def mapping_of_first(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first element of a list object."""
    data = body.get("data")
    return mapping(data[0]) if isinstance(data, list) and data else {}


def answer_of(data: bytes, facts: Facts) -> Answer | None:
    """Read an answer; None if its form has no text. Raises `Unreadable` and RecursionError."""
    if is_stream(data, facts):
        return form_of(facts.operation).from_events(read_events(data))
    body = decode(data)
    if not isinstance(body, Mapping):
        return None
    if body.get("error") and not (facts.operation == "responses" and "output" in body):
        return Answer(error=errors.summary(body["error"]))
    form = form_of_body(body, facts.operation)
    return form.from_body(body) if form is not None else None


def show_message(data: bytes, facts: Facts) -> str:
    """Lay out one message that a realtime server sent; never raises for what is in it."""
    try:
        body = decode(data)
    except Unreadable as error:
        return f"Not JSON: {error}.\n" + data.decode(errors="replace")
    try:
        return _show_message(mapping(body), facts)
    except RecursionError:
        return "It is nested too deeply to be shown.\n"


def _show_message(body: Mapping[str, Any], facts: Facts) -> str:
    kind = word(body.get("type"))
    head = " · ".join(filter(None, [kind or "message", word(body.get("item_id"))]))
    if kind == "error" or body.get("error"):
        return f"{head}\n⚠ {errors.summary(body.get('error') or body)}\n"
    if response := mapping(body.get("response")):
        return f"{head}\n{lay_out(responses.from_body(response), facts)}"
    for member in ("delta", "transcript", "text"):
        said = text(body.get(member))
        if said and "audio.delta" not in kind:
            return f"{head}\n{said}\n"
    rest = {key: value for key, value in body.items() if key not in ("type", "event_id", "item_id")}
    return f"{head}\n{responses.as_yaml(rest)}\n" if rest else f"{head}\n"
