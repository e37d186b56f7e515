"""An edited document -> JSON text, of which all that was not edited stays as it was, byte by byte.

There are three documents: the JSON text; ``base``, what a person was shown of it; and ``edited``, what came
back. Where the two latter agree, the text is left alone: its numbers, escapes, white space, order, members
that stand twice. Where they differ, only the value that differs is written anew.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from aoai_gateway.inspect.views.yaml_writer import Kept
from aoai_gateway.wire.json_members import Member, past_blanks, read_object
from aoai_gateway.wire.printing import is_encodable

_DECODER = json.JSONDecoder()


def apply_edit(text: str, base: Any, edited: Any) -> str:
    """Make ``text`` say what ``edited`` does. Raises ValueError if ``text`` is not JSON."""
    start = past_blanks(text, 0)
    _, end = _DECODER.raw_decode(text, start)
    return text[:start] + _Patch(text).value(start, end, base, edited) + text[end:]


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true differ; the order of members does not matter."""
    if isinstance(one, Kept) or isinstance(other, Kept):
        return isinstance(one, Kept) and isinstance(other, Kept) and one.number == other.number
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class _Patch:
    """Writes edited values in the style of the text around them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ascii = text.isascii()
        spaced = re.search(r'"\s*:( ?)', text)
        self._after_colon = spaced[1] if spaced else " "
        self._after_comma = " " if self._after_colon else ""

    def value(self, start: int, end: int, base: Any, edited: Any) -> str:
        """The new text of the value that stands at [start, end)."""
        if same(base, edited):
            return self._text[start:end]
        if isinstance(base, dict) and isinstance(edited, dict):
            return self._object(start, end, base, edited)
        if isinstance(base, list) and isinstance(edited, list):
            return self._array(start, end, base, edited)
        return self.dump(edited)

    def _object(self, start: int, end: int, base: Mapping[str, Any], edited: Mapping[str, Any]) -> str:
        text = self._text
        members, _ = read_object(text, start)
        # Of a member that stands twice the last one counts, and was shown.
        counts = {member.key: member for member in members}
        kept = [member for member in members if member.key in edited]
        written = []
        for member in kept:
            key = text[member.start : member.value_start]
            if counts[member.key] is member and member.key in base:
                value = self.value(member.value_start, member.end, base[member.key], edited[member.key])
            else:
                value = text[member.value_start : member.end]
            written.append(key + value)
        written += [
            self._string(key) + ":" + self._after_colon + self.dump(value)
            for key, value in edited.items()
            if key not in counts
        ]
        return self._joined(
            "{", "}", start, end, [(m.start, m.end) for m in members], _at(members, kept), written
        )

    def _array(self, start: int, end: int, base: list[Any], edited: list[Any]) -> str:
        text = self._text
        places = _elements(text, start)
        head = 0
        while head < min(len(base), len(edited)) and same(base[head], edited[head]):
            head += 1
        tail = 0
        while tail < min(len(base), len(edited)) - head and same(base[-1 - tail], edited[-1 - tail]):
            tail += 1
        from_base: list[int | None] = list(range(head))
        middle, new = len(base) - head - tail, len(edited) - head - tail
        from_base += [head + number if number < middle else None for number in range(new)]
        from_base += range(len(base) - tail, len(base))
        written = [
            self.dump(value) if place is None else self.value(*places[place], base[place], value)
            for place, value in zip(from_base, edited, strict=True)
        ]
        return self._joined("[", "]", start, end, places, from_base, written)

    def _joined(
        self,
        opening: str,
        closing: str,
        start: int,
        end: int,
        places: list[tuple[int, int]],
        origins: list[int | None],
        written: list[str],
    ) -> str:
        """Put elements together, between them what stood between them before."""
        text = self._text
        if not written:
            return opening + closing
        if not places:
            return opening + ("," + self._after_comma).join(written) + closing
        between = [text[end_:start_] for (_, end_), (start_, _) in itertools.pairwise(places)]
        usual = between[0] if between else "," + self._after_comma
        parts = [text[start : places[0][0]], written[0]]
        before = origins[0] if origins else None
        for number, one in enumerate(written[1:], 1):
            origin = origins[number] if number < len(origins) else None
            adjacent = before is not None and origin == before + 1
            parts += [between[before] if adjacent and before is not None else usual, one]
            before = origin
        return "".join([*parts, text[places[-1][1] : end]])

    def dump(self, value: Any) -> str:
        """Write a new value."""
        if isinstance(value, Kept):
            return self.dump(value.value)
        if isinstance(value, str):
            return self._string(value)
        comma = "," + self._after_comma
        if isinstance(value, dict):
            members = (self._string(k) + ":" + self._after_colon + self.dump(v) for k, v in value.items())
            return "{" + comma.join(members) + "}"
        if isinstance(value, list):
            return "[" + comma.join(map(self.dump, value)) + "]"
        return json.dumps(value)

    def _string(self, value: str) -> str:
        written = json.dumps(value, ensure_ascii=self._ascii)
        return written if written.isascii() or is_encodable(written) else json.dumps(value)


def _at(members: list[Member], kept: list[Member]) -> list[int | None]:
    places = {id(member): place for place, member in enumerate(members)}
    return [places[id(member)] for member in kept]


def _elements(text: str, start: int) -> list[tuple[int, int]]:
    """Where the elements of the array that begins at ``start`` stand."""
    places: list[tuple[int, int]] = []
    position = past_blanks(text, start + 1)
    while text[position] != "]":
        _, end = _DECODER.raw_decode(text, position)
        places.append((position, end))
        position = past_blanks(text, end)
        if text[position] == ",":
            position = past_blanks(text, position + 1)
    return places
