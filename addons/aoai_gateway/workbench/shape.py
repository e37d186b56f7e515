"""A call's bodies -> what the page shows of them: of bounded size, and nothing in it is code.

The request stays the JSON that it is, so that it can be edited and sent again. Its long strings, such as
images and pasted books, are replaced by a *stand-in*: ``{"$kept": pointer, …}``. The pointer (RFC 6901) leads
to the string in the original body; what the page sends back is filled in from there, so nothing is lost.

Everything here is a pure function of bytes and facts, and raises nothing for what is in a body. A part that
is replaced (a picture, a sound, a pasted book) can be had whole.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aoai_gateway.inspect.views import completion
from aoai_gateway.inspect.views.answer import Answer
from aoai_gateway.inspect.views.attachments import byte_size, describe
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, word
from aoai_gateway.workbench.form_bodies import decode_body
from aoai_gateway.workbench.page_requests import NotFoundError

LONGEST_STRING = 100_000
"""Characters; a longer string is kept behind, and its head shown."""

HEAD = 4_000
BUDGET = 2_000_000
"""Characters of a body that are shown; once they are used up, the rest is kept behind, whole lists too."""

SLOT = 80
"""Characters that a list or an object needs for each of its values: each can be a stand-in at least."""

MOST_RAW = 200_000
MOST_ANSWER = 1_000_000
"""Characters of all parts of an answer."""

MOST_PARTS = 2_000
LARGEST_INTEGER = 2**53 - 1
"""Beyond it, a browser has no exact numbers."""

KEPT = "$kept"

MEDIA = ("image", "audio")
"""Kinds of content that the page shows as pictures and sounds."""


def shapes(request: bytes, answer: bytes, facts: Facts, request_type: str = "") -> bytes:
    """Return request and answer as the members of a JSON object, without its braces.

    ``facts`` are those of the answer; ``request_type`` is the request's content type.
    """
    asked = request_shape(request, request_type)
    shown = {"request": asked, "answer": answer_shape(answer, facts) if answer else None}
    return as_json(shown)[1:-1]


def request_shape(body: bytes, content_type: str = "") -> dict[str, Any]:
    """Return the request: ``body`` as JSON with stand-ins, or ``raw`` and ``problem`` if it is no JSON.

    A form is shown as if it were JSON. A request without a body has neither: ``empty`` is true.
    """
    if not body:
        return {"body": None, "empty": True}
    try:
        return {"body": _Cutter().cut(decode_body(body, content_type), "", "")}
    except Unreadable as error:
        return {"body": None, "raw": _raw(body), "problem": str(error)}
    except RecursionError:
        return {"body": None, "raw": _raw(body), "problem": "it is nested too deeply"}


def answer_shape(body: bytes, facts: Facts) -> dict[str, Any]:
    """Return the answer: ``choices`` with their parts, ``error``, ``usage``, ``notes``, and ``raw``.

    ``media`` are stand-ins for images and sounds, which may be all of it.
    """
    kind = facts.content_type.partition("/")[0]
    if kind in MEDIA:
        words = f"{facts.content_type}, {byte_size(len(body))}"
        return {"raw": "", "raw_length": len(body), "choices": [], "media": [_stand_in("", kind, words)]}
    shown: dict[str, Any] = {"raw": _raw(body), "raw_length": len(body)}
    try:
        answer = completion.answer_of(body, facts)
        if answer is None:
            document = decode(body)
            # A transcript is nothing but its text, or has more about it beside.
            said = document.get("text") if isinstance(document, Mapping) else None
            if not isinstance(said, str):
                said = completion.show(body, facts)
            return shown | {"choices": [], "text": said[:MOST_RAW], "media": _media(document)}
    except (Unreadable, RecursionError) as error:
        return shown | {"choices": [], "problem": str(error)}
    return shown | {
        "choices": _choices(answer),
        "prompt_verdicts": [verdict._asdict() for verdict in answer.prompt_verdicts],
        "error": answer.error,
        "broken": answer.broken,
        "notes": answer.notes,
        "model": answer.model,
        "id": answer.ident,
        "usage": asdict(answer.usage) if answer.usage is not None else None,
    }


def _media(document: Any) -> list[dict[str, Any]]:
    """Find the images and sounds in an answer."""
    found, left = [], [_Cutter().cut(document, "", "")]
    while left:
        value = left.pop()
        if isinstance(value, dict) and KEPT in value:
            if value["kind"] in MEDIA:
                found.append(value)
        elif isinstance(value, dict | list):
            left += reversed(value.values() if isinstance(value, dict) else value)
    return found[:MOST_PARTS]


def _choices(answer: Answer) -> list[dict[str, Any]]:
    found, room, places = [], MOST_ANSWER, MOST_PARTS
    for choice in answer.choices[:MOST_PARTS]:
        parts = []
        for part in choice.parts[:places]:
            shown = part.text[: min(LONGEST_STRING, room)]
            room -= len(shown)
            length = {"length": len(part.text)} if len(shown) < len(part.text) else {}
            parts.append({"kind": part.kind, "title": part.title, "text": shown, **length})
        places -= len(parts)
        verdicts = [verdict._asdict() for verdict in choice.verdicts]
        found.append({"finish": choice.finish, "parts": parts, "verdicts": verdicts})
    return found


def _raw(body: bytes) -> str:
    return body[:MOST_RAW].decode(errors="replace")


class _Cutter:
    """Copies a decoded JSON value with stand-ins for what is long, and for what a browser cannot hold."""

    def __init__(self) -> None:
        self._left = BUDGET

    def cut(self, value: Any, key: str, pointer: str) -> Any:
        if isinstance(value, dict):
            return self._dict(value, pointer)
        if isinstance(value, list):
            return self._list(value, key, pointer)
        if isinstance(value, str):
            return self._string(value, key, pointer)
        if isinstance(value, int | float) and not _is_exact(value):
            return _stand_in(pointer, "data", f"the number {word(value)}")
        return value

    def _dict(self, value: dict[str, Any], pointer: str) -> dict[str, Any]:
        if not self._takes(len(value) * SLOT + sum(map(len, value))):
            return _stand_in(pointer, "data", f"an object of {_count(value, 'member')}")
        return {k: self.cut(v, k, f"{pointer}/{_escaped(k)}") for k, v in value.items()}

    def _list(self, value: list[Any], key: str, pointer: str) -> Any:
        described = describe(value, key)
        if described is not None:
            return _stand_in(pointer, *described)
        if not self._takes(len(value) * SLOT):
            return _stand_in(pointer, "data", f"a list of {_count(value, 'element')}")
        # The last messages are those that are looked at.
        cut = [self.cut(value[place], key, f"{pointer}/{place}") for place in reversed(range(len(value)))]
        cut.reverse()
        return cut

    def _string(self, value: str, key: str, pointer: str) -> Any:
        described = describe(value, key)
        if described is not None:
            return _stand_in(pointer, *described)
        if len(value) <= SLOT or (len(value) <= LONGEST_STRING and self._takes(len(value))):
            return value
        head = value[:HEAD] if self._takes(HEAD) else ""
        words = f"{len(value):,} characters"
        return {**_stand_in(pointer, "text", words), "head": head, "length": len(value)}

    def _takes(self, characters: int) -> bool:
        """Take so many characters of the budget. False if fewer are left."""
        if characters > self._left:
            return False
        self._left -= characters
        return True


def _stand_in(pointer: str, kind: str, words: str) -> dict[str, Any]:
    return {KEPT: pointer, "kind": kind, "words": words}


def _is_exact(number: float) -> bool:
    if isinstance(number, int):
        return abs(number) <= LARGEST_INTEGER
    return math.isfinite(number)


def _count(value: dict[str, Any] | list[Any], what: str) -> str:
    return f"{len(value):,} {what}{'' if len(value) == 1 else 's'}"


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
    """Return the members of a request, or nothing if it is none."""
    try:
        return dict(mapping(decode(body)))
    except Unreadable:
        return {}


def dump(document: Any) -> bytes:
    """Write JSON as bytes; halves of surrogate pairs stay escapes. Raises ValueError for infinite numbers."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(document, allow_nan=False).encode()


def as_json(found: Any) -> bytes:
    """Write an answer for the page."""
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    # What models and clients say may hold halves of surrogate pairs.
    return text.encode("utf-8", "replace")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOUNDS = ("audio/wav", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/webm")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,", re.ASCII)


_SOUND_OF_FORMAT = {"wav": "audio/wav", "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac"}


def part(body: bytes, pointer: str, content_type: str = "") -> tuple[str, bytes]:
    """Find a part of a body: its media type, and the data. A pure function; raises NotFoundError.

    ``content_type`` is the body's; an empty pointer leads to all of one that is an image or a sound itself.
    """
    own = content_type.partition(";")[0].strip().lower()
    if not pointer and own in (*PICTURES, *SOUNDS):
        return own, body
    try:
        document = decode_body(body, content_type)
        found = at(document, pointer)
    except (KeyError, Unreadable):
        raise NotFoundError("There is no such part in the call.") from None
    text = found if isinstance(found, str) else json.dumps(found)
    head = _DATA_URL.match(text)
    media, data = (head[1] or "", text[head.end() :]) if head else (_media_beside(document, pointer), text)
    if (media := media.lower()) in (*PICTURES, *SOUNDS):
        try:
            return media, base64.b64decode(data + "=" * (-len(data) % 4), validate=False)
        except binascii.Error:
            pass
    return "text/plain; charset=utf-8", text.encode(errors="replace")


def _media_beside(whole: Any, pointer: str) -> str:
    """Tell the type of bare base64: Claude's images and OpenAI's sounds have it beside them."""
    source, _, name = pointer.rpartition("/")
    if name == "b64_json":
        format_of_all = word(whole.get("output_format")) if isinstance(whole, dict) else ""
        return f"image/{format_of_all or 'png'}"
    around = at(whole, source) if name == "data" else None
    if not isinstance(around, dict):
        return ""
    return word(around.get("media_type")) or _SOUND_OF_FORMAT.get(word(around.get("format")), "")
