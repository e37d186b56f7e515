"""Patterns over names: ``*`` stands for any run of characters, ``?`` for one.

Nothing else is special, not even the brackets of a shell's patterns, so every name without ``*`` and
``?`` matches just itself.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

_WILD = re.compile(r"[*?]")


def is_pattern(text: str) -> bool:
    """Return whether a text can match other names than itself."""
    return _WILD.search(text) is not None


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches the whole of a name."""
    return _compiled(pattern).fullmatch(name) is not None if is_pattern(pattern) else pattern == name


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Return whether one of the patterns matches the whole of a name."""
    return any(matches(pattern, name) for pattern in patterns)


def matches_deployment(pattern: str, name: str) -> bool:
    """Return whether a pattern matches the whole of a deployment's name, of which the case does not count."""
    return matches(pattern.lower(), name.lower())


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # A name may come from a client and be long. Each piece between two stars is best found as early as
    # possible, for good: the atomic groups keep the search from trying every later place, too.
    first, *rest = (
        "".join("." if letter == "?" else re.escape(letter) for letter in piece)
        for piece in pattern.split("*")
    )
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    return re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last, re.DOTALL)
