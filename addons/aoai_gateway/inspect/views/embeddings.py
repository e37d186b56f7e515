"""Embeddings: how many, how long, their norm, and their first values. No reader needs more of a vector."""

from __future__ import annotations

import array
import base64
import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from aoai_gateway.inspect.views.answer import Answer, Choice, Part
from aoai_gateway.inspect.views.shapes import index, mappings, word
from aoai_gateway.wire.usage import read_answer, read_usage

MAX_DECODED_BYTES = 2 * 1024 * 1024
"""A larger answer is not decoded as a whole: it is some hundred vectors of which few are looked at."""

_SHOWN = 50
_FIRST_VALUES = 6
_LONGEST_VECTOR = 512 * 1024
_START = re.compile(rb'"embedding"\s*:\s*(?=["\[])')


def from_body(body: Mapping[str, Any]) -> Answer:
    """Read a decoded answer."""
    data = mappings(body.get("data"))
    lines = [
        _line(index(one.get("index"), place), one.get("embedding")) for place, one in enumerate(data[:_SHOWN])
    ]
    answer = Answer(model=word(body.get("model")), usage=read_usage(body.get("usage")))
    answer.choices = [_choice(len(data), lines)]
    return answer


def from_large(data: bytes) -> Answer:
    """Read the first vectors of an answer that is too large to be decoded on the event loop."""
    starts = [found.end() for found in _START.finditer(data)]
    lines = [
        _line(place, _value(data[start : start + _LONGEST_VECTOR])) for place, start in enumerate(starts[:3])
    ]
    facts = read_answer(data)
    answer = Answer(model=facts.model or "", usage=facts.usage)
    answer.choices = [_choice(len(starts), lines)]
    return answer


def vector_of(value: object) -> tuple[list[float], bool]:
    """The numbers of an embedding, and whether they came as base64 (little-endian 32-bit floats)."""
    if isinstance(value, list) and all(type(number) in (int, float) for number in value):
        try:
            return [float(number) for number in value], False
        except OverflowError:
            return [], False
    if not isinstance(value, str):
        return [], False
    try:
        numbers = array.array("f", base64.b64decode(value, validate=True))
    except ValueError:
        return [], True
    if sys.byteorder == "big":
        numbers.byteswap()
    return list(numbers), True


def _line(place: int, embedding: object) -> str:
    vector, encoded = vector_of(embedding)
    if not vector:
        return f"{place}: not a vector"
    first = ", ".join(f"{value:.6g}" for value in vector[:_FIRST_VALUES])
    more = ", …" if len(vector) > _FIRST_VALUES else ""
    norm = math.hypot(*vector)
    form = ", base64" if encoded else ""
    return f"{place}: {len(vector):,} dimensions{form}, L2 norm {norm:.6g}: [{first}{more}]"


def _choice(count: int, lines: list[str]) -> Choice:
    if count > len(lines):
        lines.append(f"… and {count - len(lines):,} more.")
    title = f"{count:,} embedding{'' if count == 1 else 's'}"
    return Choice([Part("titled", "\n".join(lines), title)])


def _value(raw: bytes) -> object:
    try:
        value, _ = json.JSONDecoder().raw_decode(raw.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value
