"""The members of a JSON object and their places, so that one can be edited and the rest left as it came.

Python's own C decoder does the work: it reads one key or one value at a time and returns its end. That
is as fast as ``json.loads`` of the whole text, exact for every valid JSON text (escapes, nesting, white
space), and gives the values and their places in one pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from json import JSONDecodeError
from json.scanner import make_scanner
from typing import Any, NamedTuple, NoReturn

from aoai_gateway.wire.errors import invalid_body
from aoai_gateway.wire.gateway_error import GatewayError

MOST_MEMBERS = 1_000
"""The most members of an object whose members are read one by one. No request has a tenth of it, and Azure
refuses members that it does not know; hundreds of thousands of them would take seconds."""

LARGEST_NUMBER = 2**31 - 1
"""The largest count of tokens or answers that is read, far below where floats lose integers."""

_SPEAKABLE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class NotJsonError(ValueError):
    """The text is not JSON. ``str()`` of it names the fault and its place, and quotes nothing of the text."""


class Member(NamedTuple):
    """One member of an object; its places are offsets into the text: ``"key"`` starts at ``start``."""

    key: str
    value: Any
    start: int
    value_start: int
    end: int

    def is_flat(self, most: int) -> bool:
        """Whether the value is short and has no depth: a plain one, or an object of plain ones.

        ``most``: characters of a short one.
        """
        if self.end - self.value_start > most or isinstance(self.value, list):
            return False
        inner = self.value.values() if isinstance(self.value, dict) else ()
        return not any(isinstance(value, dict | list) for value in inner)


def _no_constant(name: str) -> NoReturn:
    raise NotJsonError(f"it holds {name}, which JSON does not have")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_value_at = make_scanner(_DECODER)  # type: ignore[arg-type]  # typeshed takes it for a scanner
"""Reads the value that begins at a place of a text. Raises StopIteration where none does."""

# White space of RFC 8259 §2, and nothing else that Python's \s would take.
_BLANK = re.compile(r"[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*+:[ \t\n\r]*+")
_DELIMITER = re.compile(r"[ \t\n\r]*+([,}])[ \t\n\r]*+")


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def fault_at(text: str, position: int, expected: str = "something else is expected") -> str:
    """Return what is wrong where a decoder could not go on: ``a comma is expected (line 1, column 9)``.

    Decoders of several versions have several words, and places, for the same mistake. So this looks at the
    text itself. It quotes none of it.
    """
    comma = _trailing_comma(text, position)
    if comma is not None:
        return f"nothing follows a comma {_place(text, comma)}"
    met = text[position : position + 1]
    if not met:
        expected = "it ends before it is complete"
    elif met < " ":
        expected = "a control character in a text must be escaped"
    elif met == '"' and not _STRING.match(text, position):
        expected = "a text has no closing quote"
    elif "\\" in text[max(0, position - 2) : position + 1]:
        expected = "a text holds an unknown escape"
    return f"{expected} {_place(text, position)}"


def _trailing_comma(text: str, position: int) -> int | None:
    """Return the place of a comma before a closing bracket, if the position is that of either."""
    if text[position : position + 1] in ("}", "]"):
        position = len(text[:position].rstrip(" \t\n\r")) - 1
    after = past_blanks(text, position + 1)
    is_last = text[position : position + 1] == "," and text[after : after + 1] in ("}", "]")
    return position if is_last else None


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"(line {line}, column {position - text.rfind('\n', 0, position)})"


def read_object(text: str, start: int = 0) -> tuple[list[Member], int]:
    """The members of the object that begins at ``start`` (its ``{``), in order, and where it ends.

    Raises `NotJsonError`; a nesting that is too deep to decode, and too many members, count as that.
    """
    try:
        return _read_object(text, start)
    except JSONDecodeError as error:
        raise NotJsonError(fault_at(text, error.pos)) from None
    except StopIteration as error:
        raise NotJsonError(fault_at(text, error.value)) from None
    except RecursionError:
        raise NotJsonError("it is nested too deeply") from None
    except NotJsonError:
        raise
    except ValueError:
        # CPython bounds the digits of an integer, against quadratic conversion.
        raise NotJsonError("it holds a number of too many digits") from None


def _read_object(text: str, start: int) -> tuple[list[Member], int]:
    if text[start : start + 1] != "{":
        raise NotJsonError(f"an object is expected {_place(text, start)}")
    members: list[Member] = []
    position = past_blanks(text, start + 1)
    if text[position : position + 1] == "}":
        return members, position + 1
    while True:
        if text[position : position + 1] != '"':
            raise NotJsonError(fault_at(text, position, "a name in double quotes is expected"))
        key, end = _value_at(text, position)
        colon = _COLON.match(text, end)
        if colon is None:
            raise NotJsonError(fault_at(text, past_blanks(text, end), "a colon is expected"))
        value_start = colon.end()
        value, end = _value_at(text, value_start)
        members.append(Member(key, value, position, value_start, end))
        if len(members) > MOST_MEMBERS:
            raise NotJsonError(f"it has more than {MOST_MEMBERS} members")
        delimiter = _DELIMITER.match(text, end)
        if delimiter is None:
            raise NotJsonError(fault_at(text, past_blanks(text, end), "a comma is expected"))
        if delimiter[1] == "}":
            return members, delimiter.end(1)
        position = delimiter.end()


def read_document(text: str) -> list[Member]:
    """The members of the object that ``text`` is, with nothing but white space around it.

    Raises `NotJsonError` also when it is valid JSON but no object.
    """
    start = past_blanks(text, 0)
    if start < len(text) and text[start] != "{" and _is_json(text):
        raise NotJsonError("it is not an object")
    members, end = read_object(text, start)
    end = past_blanks(text, end)
    if end != len(text):
        raise NotJsonError(f"more follows after its end {_place(text, end)}")
    return members


def without_member(text: str, members: list[Member], key: str) -> str:
    """The object's text without the member ``key``, with its comma and the white space that came with it."""
    for index, member in enumerate(members):
        if member.key == key:
            if index > 0:
                return text[: members[index - 1].end] + text[member.end :]
            if len(members) > 1:
                return text[: member.start] + text[members[1].start :]
            return text[: member.start] + text[member.end :]
    return text


def replaced(data: bytes, changes: Iterable[tuple[tuple[int, int], bytes]], offset: int = 0) -> bytes:
    """Return the data with other bytes at some places, which are in order and count from ``offset``."""
    pieces: list[bytes | memoryview] = []
    view, done = memoryview(data), 0  # slices of it copy nothing; the data can be large
    for (start, end), new in changes:
        pieces += (view[done : start - offset], new)
        done = end - offset
    pieces.append(view[done:])
    return b"".join(pieces)


def past_blanks(text: str, position: int) -> int:
    """Return the position of the first character from ``position`` on that is no blank of JSON."""
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class JsonObject:
    """The JSON object that a request's body is, or a part of it; types are checked as members are asked for.

    A key that stands twice at the top is an error, however it is spelled: JSON parsers disagree on which of
    the two counts, and the gateway must judge what the backend will read. Raises `NotJsonError` for what is
    no object, and `GatewayError` 400 for anything else, as its methods do.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.text = _text_of(raw)
        members = read_document(self.text)
        self.members = {member.key: member for member in members}
        if len(self.members) != len(members):
            raise _duplicate(members)
        self.values: dict[str, Any] = {member.key: member.value for member in members}
        self._is_ascii = len(self.text) == len(raw)

    def boolean(self, key: str) -> bool | None:
        """The value of a member that is true or false; None without it, as for null."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise invalid_body(f"'{key}' must be true or false.", param=key)

    def integer(self, key: str, least: int) -> int | None:
        """The same of one that is a number, and no less than this."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid_body(f"'{key}' must be an integer.", param=key)
        if not least <= value <= LARGEST_NUMBER:
            raise invalid_body(f"'{key}' must be from {least} to {LARGEST_NUMBER}.", param=key)
        return value

    def count(self, key: str) -> int:
        """The same of one that is a number of things, 1 without it."""
        value = self.integer(key, 1)
        return 1 if value is None else value

    def string(self, key: str) -> str | None:
        """The same of one that is a text."""
        value = self.values.get(key)
        if value is None or isinstance(value, str):
            return value
        raise invalid_body(f"'{key}' must be a string.", param=key)

    def text_at(self, ways: Iterable[tuple[str, ...]]) -> Member | None:
        """The text to which the first of some ways through the objects leads that leads to one."""
        return next(filter(None, map(self._text_at, ways)), None)

    def _text_at(self, way: tuple[str, ...]) -> Member | None:
        members = self.members
        for step in way[:-1]:
            member = members.get(step)
            if member is None or not isinstance(member.value, dict):
                return None
            members = self.members_of(member)
        found = members.get(way[-1])
        return found if found is not None and isinstance(found.value, str) else None

    def members_of(self, member: Member) -> dict[str, Member]:
        """The members of a member that is an object itself."""
        name = member.key
        try:
            inner, _ = read_object(self.text, member.value_start)
        except NotJsonError as error:
            # It is JSON, as has been seen; too much of it.
            raise invalid_body(f"'{name}' is invalid: {error}.", param=name) from None
        members = {each.key: each for each in inner}
        if len(members) != len(inner):
            raise invalid_body(f"A key occurs more than once in '{name}'.", param=name)
        return members

    def span(self, key: str) -> tuple[int, int] | None:
        """Where the value of a member stands in the bytes."""
        member = self.members.get(key)
        return None if member is None else self.span_of(member)

    def span_of(self, member: Member) -> tuple[int, int]:
        """Where the value of a member, of this object or within it, stands in the bytes."""
        return self.byte(member.value_start), self.byte(member.end)

    def byte(self, offset: int) -> int:
        """Turn an offset into the text into one into the bytes."""
        return offset if self._is_ascii else len(self.text[:offset].encode())


def _text_of(raw: bytes) -> str:
    if not raw:
        raise invalid_body("The request body is empty, and this operation takes a JSON object.")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise invalid_body("The request body begins with a byte order mark. Send UTF-8 without one.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise invalid_body(f"The request body is not UTF-8 (at byte {error.start}).") from None


def _duplicate(members: list[Member]) -> GatewayError:
    seen: set[str] = set()
    for member in members:
        if member.key in seen:
            break
        seen.add(member.key)
    if not _SPEAKABLE_KEY.fullmatch(member.key):
        return invalid_body("A key occurs more than once at the top level of the request body.")
    return invalid_body(f"'{member.key}' occurs more than once in the request body.", param=member.key)
