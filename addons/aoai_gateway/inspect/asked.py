"""The question of a prompt: the first words of its last user message, in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aoai_gateway.inspect.views.shapes import text

LONGEST = 80
"""Characters of the line."""

_READ = 8 * LONGEST
"""Characters of a message that are looked at; the rest may be megabytes."""

_OPENING = re.compile(r"\s{0,80}<([a-zA-Z][\w-]{0,40})>")


def last_words(body: Mapping[str, Any], longest: int = LONGEST) -> str:
    """Return the begin of the last user message of a decoded request, "" where there is none to be read.

    Without a user's message it is the last message of any role; of several inputs the last one.
    """
    asked = next((body[key] for key in ("messages", "input", "prompt") if key in body), "")
    return shortened(_text_of(_last(asked)), longest)


def shortened(said: str, longest: int = LONGEST) -> str:
    """Return the begin of a text in one line, an ellipsis at its end if there is more.

    Unprintable characters are left out: control characters, and marks that change the direction of a line.
    """
    words = said[: 8 * longest].split()
    line = " ".join(words)
    if not line.isprintable():
        line = " ".join(filter(None, map(_printable, words)))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _printable(word: str) -> str:
    return "".join(filter(str.isprintable, word))


def _last(asked: object) -> object:
    if not isinstance(asked, list) or not asked:
        return asked
    said = (each for each in reversed(asked) if isinstance(each, Mapping) and each.get("role") == "user")
    return next((each for each in said if not _holds_results(each)), asked[-1])


def _holds_results(message: Mapping[str, Any]) -> bool:
    """Whether a user's message is no person's: Claude gets the results of tools in the user's name."""
    parts = message.get("content")
    return isinstance(parts, list) and any(
        isinstance(part, Mapping) and part.get("type") == "tool_result" for part in parts
    )


def _text_of(message: object) -> str:
    """Join the texts of a message, which may be a text itself, or hold parts."""
    if isinstance(message, Mapping):
        message = message.get("content")
    if isinstance(message, str):
        return message[:_READ]
    parts = message if isinstance(message, list) else []
    said = [text(part.get("text")) for part in parts if isinstance(part, Mapping)]
    own = [each for each in said if not _is_tagged(each)]
    return " ".join(each[:_READ] for each in own if each) or " ".join(each[:_READ] for each in said)


def _is_tagged(said: str) -> bool:
    """Whether a part is one element in angle brackets, as Claude Code puts before the words of its user."""
    opening = _OPENING.match(said)
    return opening is not None and said[-_READ:].rstrip().endswith(f"</{opening[1]}>")
