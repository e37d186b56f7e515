"""Text from outside, made safe to print: it holds no terminal commands and stays on its line.

Input of operators, messages of backends and names of clients come from outside. A terminal takes
control characters in it for commands (ANSI X3.64), an editor shows text with directional marks in another
order than it has, and a line feed would begin a line that looks like the log's own. Half of a surrogate pair,
which JSON can spell, has no encoding at all: to print it is an error.
"""

from __future__ import annotations

import re

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


def is_encodable(text: str) -> bool:
    """Whether a text has an encoding: JSON can spell halves of surrogate pairs (RFC 8259 §8.2)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
