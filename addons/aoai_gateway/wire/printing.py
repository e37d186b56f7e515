"""Text from outside, made safe to print: it holds no terminal commands and stays on its line.

Input of operators, messages of backends and names of clients come from outside. A terminal takes
control characters in it for commands (ANSI X3.64), an editor shows text with directional marks in another
order than it has, and a line feed would begin a line that looks like the log's own. Half of a surrogate pair,
which JSON can spell, has no encoding at all: to print it is an error.
"""

from __future__ import annotations

import re
from unicodedata import category, east_asian_width

_DIRECTIONS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_SURROGATES = "\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}{_SURROGATES}]")
_UNPRINTABLE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTIONS}{_SURROGATES}]")


def printable(text: str) -> str:
    """Return a text as one line; a space replaces each control character, directional mark and surrogate."""
    return _UNPRINTABLE.sub(" ", text)


def printable_lines(text: str) -> str:
    """Return a text of several lines in the same way: line feeds and tabs stay."""
    return _UNPRINTABLE_IN_LINES.sub(" ", text)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for each character of Chinese, say."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def cut(text: str, width: int, dots: str = "…") -> str:
    """Return a text of no more columns than these, with ``dots`` in place of what is cut off.

    One character stays, however few columns there are.
    """
    if width_of(text) <= width:
        return text
    kept, left = "", width - width_of(dots)
    for character in text:
        left -= _columns(character)
        if left < 0:
            break
        kept += character
    return (kept or text[:1]) + dots


def _columns(character: str) -> int:
    if category(character) in ("Mn", "Me", "Cf"):
        return 0  # it joins or marks the character before it
    return 2 if east_asian_width(character) in "WF" else 1


def is_encodable(text: str) -> bool:
    """Whether a text has an encoding: JSON can spell halves of surrogate pairs (RFC 8259 §8.2)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
