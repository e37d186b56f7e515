"""A text that a regular expression matches. The expression is never run: it comes from a peer."""

from __future__ import annotations

import re
from re import _constants as ops  # type: ignore[attr-defined]  # the parse tree of re has no public name
from re import _parser  # type: ignore[attr-defined]  # likewise
from typing import Any

MAX_PATTERN = 2_000
MAX_TEXT = 5_000

_CATEGORIES = {
    ops.CATEGORY_DIGIT: "1",
    ops.CATEGORY_NOT_DIGIT: "a",
    ops.CATEGORY_SPACE: " ",
    ops.CATEGORY_NOT_SPACE: "a",
    ops.CATEGORY_WORD: "a",
    ops.CATEGORY_NOT_WORD: "-",
}
_PREFERRED = (
    "a1A-_ .:/0bcdefghijklmnopqrstuvwxyzBCDEFGHIJKLMNOPQRSTUVWXYZ23456789,;!?@#$%&*+=()[]{}<>|~^'\"\\`\n\t"
)


def is_pattern(pattern: str) -> bool:
    """Whether Python's parser can read the expression."""
    return _parsed(pattern) is not None


def text_for(pattern: str, least: int = 0, most: int | None = None) -> str | None:
    """A text of `least` to `most` characters that the expression matches; None if none was found.

    Look-arounds and word boundaries are taken as satisfied.
    """
    tree = _parsed(pattern)
    if tree is None:
        return None
    for extra in (0, 1, 2, 4, 8, 16, 32, 64, 128, least):
        made = _Maker(extra)
        try:
            text = made.sequence(tree)
        except _TooLongError:
            break
        if len(text) < least:
            text = _padded(text, tree, least)
        if len(text) >= least and (most is None or len(text) <= most):
            return text
    return None


def _parsed(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        return None
    try:
        return _parser.parse(pattern)
    except (re.error, RecursionError, OverflowError, ValueError):
        return None


def _padded(text: str, tree: Any, least: int) -> str:
    """Longer, at an end that the expression leaves open."""
    anchors = [argument for operation, argument in tree if operation is ops.AT]
    if not any(anchor in (ops.AT_END, ops.AT_END_STRING) for anchor in anchors):
        return text.ljust(least, "a")
    if not any(anchor in (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING) for anchor in anchors):
        return text.rjust(least, "a")
    return text


class _TooLongError(Exception):
    pass


class _Maker:
    """Makes a text from a parsed expression; repetitions are done `extra` times more than they must."""

    def __init__(self, extra: int) -> None:
        self._extra = extra
        self._groups: dict[int, str] = {}
        self._left = MAX_TEXT

    def sequence(self, tree: Any) -> str:
        return "".join(self._one(operation, argument) for operation, argument in tree)

    def _once_more(self, inner: Any) -> str:
        self._left -= 1  # what is repeated may be empty in the end
        if self._left < 0:
            raise _TooLongError
        return self.sequence(inner)

    def _one(self, operation: Any, argument: Any) -> str:
        self._left -= 1
        if self._left < 0:
            raise _TooLongError
        if operation is ops.LITERAL:
            return chr(argument)
        if operation is ops.NOT_LITERAL:
            return next(letter for letter in _PREFERRED if ord(letter) != argument)
        if operation is ops.ANY:
            return "a"
        if operation is ops.IN:
            return _member(argument)
        if operation is ops.BRANCH:
            return self.sequence(argument[1][0])
        if operation is ops.SUBPATTERN:
            text = self.sequence(argument[3])
            if argument[0] is not None:
                self._groups[argument[0]] = text
            return text
        if operation in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
            least, most, inner = argument
            times = min(int(most), int(least) + self._extra)
            return "".join(self._once_more(inner) for _ in range(times if len(inner) else 0))
        if operation is ops.GROUPREF:
            return self._groups.get(argument, "")
        if operation is ops.ATOMIC_GROUP:
            return self.sequence(argument)
        return ""  # anchors, boundaries, look-arounds


def _member(members: list[tuple[Any, Any]]) -> str:
    """A character of a class such as `[a-f\\d]`, or one outside of a negated class."""
    if members and members[0][0] is ops.NEGATE:
        return next((letter for letter in _PREFERRED if not _holds(members[1:], letter)), "\N{SECTION SIGN}")
    operation, argument = members[0]
    if operation is ops.LITERAL:
        return chr(argument)
    if operation is ops.RANGE:
        return chr(argument[0])
    return _CATEGORIES.get(argument, "a")


def _holds(members: list[tuple[Any, Any]], letter: str) -> bool:
    for operation, argument in members:
        if operation is ops.LITERAL and ord(letter) == argument:
            return True
        if operation is ops.RANGE and argument[0] <= ord(letter) <= argument[1]:
            return True
        if operation is ops.CATEGORY and _in_category(argument, letter):
            return True
    return False


def _in_category(category: Any, letter: str) -> bool:
    kinds = {
        ops.CATEGORY_DIGIT: letter.isdecimal(),
        ops.CATEGORY_SPACE: letter.isspace(),
        ops.CATEGORY_WORD: letter.isalnum() or letter == "_",
        ops.CATEGORY_NOT_DIGIT: not letter.isdecimal(),
        ops.CATEGORY_NOT_SPACE: not letter.isspace(),
        ops.CATEGORY_NOT_WORD: not (letter.isalnum() or letter == "_"),
    }
    return kinds.get(category, True)
