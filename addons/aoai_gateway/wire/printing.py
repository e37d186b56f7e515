"""Text from outside, made fit to be printed: no terminal obeys it, and it stays on its line.

What an operator types, what a backend says and what a client is called come from outside. A terminal takes
control characters in it for commands (ANSI X3.64), an editor shows text with directional marks in another
order than it has, and a line feed would begin a line that looks like the log's own.
"""

from __future__ import annotations

import re

_DIRECTIONS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNPRINTABLE = re.compile(f"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}]")
_UNPRINTABLE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTIONS}]")


def printable(text: str) -> str:
    """Give a text as one line without control characters and directional marks: a space stands for each."""
    return _UNPRINTABLE.sub(" ", text)


def printable_lines(text: str) -> str:
    """Do the same with a text of several lines: line feeds and tabs stay."""
    return _UNPRINTABLE_IN_LINES.sub(" ", text)
