"""Decoded JSON that may be anything: each reader gives what it expects, or the empty thing of its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aoai_gateway.wire.json_members import fault_at

_LONGEST_WORD = 200


class Unreadable(ValueError):  # noqa: N818 - it names a state of a body; nothing has failed
    """A body that is not JSON; ``str()`` of it says what and where, and quotes nothing."""


def decode(data: bytes) -> Any:
    """Decode a JSON text. Raises `Unreadable`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not UTF-8") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(fault_at(text, error.pos)) from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except ValueError:
        # CPython bounds the digits of an integer.
        raise Unreadable("it holds a number of too many digits") from None


def mapping(value: object) -> Mapping[str, Any]:
    """The object itself, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The array itself, or an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Mapping[str, Any]]:
    """An array's objects."""
    return [item for item in items(value) if isinstance(item, dict)]


def text(value: object) -> str:
    """The string itself, or an empty one."""
    return value if isinstance(value, str) else ""


def word(value: object) -> str:
    """A string or number that stands in a line among others: one line, bounded."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    line = " ".join(str(value).split()) if isinstance(value, str) else _number(value)
    return line if len(line) <= _LONGEST_WORD else line[:_LONGEST_WORD] + "…"


def index(value: object, default: int) -> int:
    """A plausible index, or the default."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10_000:
        return default
    return value


def _number(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # CPython bounds the digits of an integer
        return "a number of too many digits"
