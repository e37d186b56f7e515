"""A call's bodies -> what the page shows of them: of bounded size, and nothing in it is code.

The request stays the JSON that it is, so that it can be edited and sent again. Its long strings, such as
images and pasted books, are replaced by a *stand-in*: ``{"$kept": pointer, …}``. The pointer (RFC 6901) leads
to the string in the original body; what the page sends back is filled in from there, so nothing is lost.

Everything here is a pure function of bytes and facts, and raises nothing for what is in a body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aoai_gateway.inspect.views import chat, completion, errors, responses
from aoai_gateway.inspect.views.answer import Answer
from aoai_gateway.inspect.views.attachments import describe
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping
from aoai_gateway.inspect.views.sse import read_events

LONGEST_STRING = 100_000
"""Characters; a longer string is kept behind, and its head shown."""

HEAD = 4_000
BUDGET = 2_000_000
"""Characters of all strings of a body; when they are used up, even short paragraphs are kept behind."""

PARAGRAPH = 500
MOST_RAW = 200_000
KEPT = "$kept"


def request_shape(body: bytes) -> dict[str, Any]:
    """Give the request: ``body`` as JSON with stand-ins, or ``raw`` and ``problem`` if it is no JSON."""
    try:
        document = decode(body)
        return {"body": _Cutter().cut(document, "", "")}
    except Unreadable as error:
        return {"body": None, "raw": _raw(body), "problem": str(error)}
    except RecursionError:
        return {"body": None, "raw": _raw(body), "problem": "it is nested too deeply"}


def answer_shape(body: bytes, facts: Facts) -> dict[str, Any]:
    """Give the answer: ``choices`` with their parts, ``error``, ``usage``, ``notes``, and ``raw``."""
    shown: dict[str, Any] = {"raw": _raw(body), "raw_length": len(body)}
    try:
        answer = _answer(body, facts)
    except (Unreadable, RecursionError) as error:
        return shown | {"choices": [], "problem": str(error)}
    if answer is None:
        return shown | {"choices": [], "text": completion.show(body, facts)[:MOST_RAW]}
    return shown | {
        "choices": [
            {
                "finish": choice.finish,
                "parts": [_part(part.kind, part.title, part.text) for part in choice.parts],
                "verdicts": [verdict._asdict() for verdict in choice.verdicts],
            }
            for choice in answer.choices
        ],
        "prompt_verdicts": [verdict._asdict() for verdict in answer.prompt_verdicts],
        "error": answer.error,
        "broken": answer.broken,
        "notes": answer.notes,
        "model": answer.model,
        "id": answer.ident,
        "usage": asdict(answer.usage) if answer.usage is not None else None,
    }


def _answer(body: bytes, facts: Facts) -> Answer | None:
    if completion.is_stream(body, facts):
        events = read_events(body)
        return responses.from_events(events) if facts.operation == "responses" else chat.from_events(events)
    document = decode(body)
    if not isinstance(document, Mapping):
        return None
    if document.get("error") and not (facts.operation == "responses" and "output" in document):
        return Answer(error=errors.summary(document["error"]))
    if facts.operation == "responses":
        return responses.from_body(document)
    return chat.from_body(document) if isinstance(document.get("choices"), list) else None


def _part(kind: str, title: str, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"kind": kind, "title": title, "text": text[:LONGEST_STRING]}
    if len(text) > LONGEST_STRING:
        part["length"] = len(text)
    return part


def _raw(body: bytes) -> str:
    return body[:MOST_RAW].decode(errors="replace")


class _Cutter:
    """Copies a decoded JSON value with stand-ins for long strings."""

    def __init__(self) -> None:
        self._left = BUDGET

    def cut(self, value: Any, key: str, pointer: str) -> Any:
        if isinstance(value, dict):
            return {k: self.cut(v, k, f"{pointer}/{_escaped(k)}") for k, v in value.items()}
        if isinstance(value, str):
            return self._string(value, key, pointer)
        if isinstance(value, list):
            described = describe(value, key)
            if described is not None:
                return {KEPT: pointer, "kind": described[0], "words": described[1]}
            return [self.cut(item, key, f"{pointer}/{place}") for place, item in enumerate(value)]
        return value

    def _string(self, value: str, key: str, pointer: str) -> Any:
        described = describe(value, key)
        if described is not None:
            return {KEPT: pointer, "kind": described[0], "words": described[1]}
        self._left -= len(value)
        if len(value) > LONGEST_STRING or (self._left < 0 and len(value) > PARAGRAPH):
            return {
                KEPT: pointer,
                "kind": "text",
                "words": f"{len(value):,} characters",
                "head": value[:HEAD],
                "length": len(value),
            }
        return value


def at(document: Any, pointer: str) -> Any:
    """Follow a JSON pointer. Raises KeyError where it leads nowhere."""
    value = document
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            raise KeyError(pointer)
    return value


def filled(document: Any, original: Any) -> Any:
    """Put the original's strings back in the place of stand-ins. Raises KeyError for a pointer of no use."""
    if isinstance(document, dict):
        pointer = document.get(KEPT)
        if isinstance(pointer, str):
            return at(original, pointer)
        return {key: filled(value, original) for key, value in document.items()}
    if isinstance(document, list):
        return [filled(value, original) for value in document]
    return document


def has_stand_ins(document: Any) -> bool:
    """Whether an edited body refers to the original."""
    if isinstance(document, dict):
        return isinstance(document.get(KEPT), str) or any(map(has_stand_ins, document.values()))
    return isinstance(document, list) and any(map(has_stand_ins, document))


def whole(body: bytes) -> dict[str, Any]:
    """Give the members of a request, or nothing if it is none."""
    try:
        return dict(mapping(decode(body)))
    except Unreadable:
        return {}


def dump(document: Any) -> bytes:
    """Write JSON as bytes; halves of surrogate pairs stay escapes."""
    try:
        return json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document).encode()


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
