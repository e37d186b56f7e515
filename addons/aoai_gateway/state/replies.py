"""What Redis answers, in the second version of its protocol (RESP), read as it comes.

A line begins with the kind of the answer: ``+`` a status, ``-`` an error, ``:`` a number, ``$`` the length
of a text that follows, ``*`` how many answers an array holds, each in the same way.
(https://redis.io/docs/latest/develop/reference/protocol-spec/)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

LONGEST_LINE: Final = 64 * 1024
"""Bytes; Redis's own lines have some hundred at most."""

LARGEST_TEXT: Final = 16 * 1024 * 1024
"""Bytes of one text."""

MOST_ANSWERS: Final = 1_000_000
"""In one array."""

DEEPEST: Final = 16
"""Arrays within arrays."""

_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
}
"""The classes of redis-py for errors by their first word; any other is a ResponseError."""

_TEXT, _NUMBER, _ARRAY, _ERROR, _STATUS = b"$:*-+"


class ReplyReader:
    """Reads answers out of pieces that end anywhere.

    Texts and statuses are bytes, numbers int, arrays lists, nothing is None, and an error is an exception,
    which is not raised.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._open: list[tuple[list[Any], int]] = []
        """The arrays that are not whole yet, the outermost first, and how many answers each will hold."""

    def read(self, data: bytes) -> list[Any]:
        """Return the answers that are whole by now. Raises InvalidResponse on what is no answer."""
        buffer = self._rest + data if self._rest else data
        whole: list[Any] = []
        start = 0
        while (end := buffer.find(b"\r\n", start)) >= 0:
            kind, word, after = buffer[start], buffer[start + 1 : end], end + 2
            value: Any
            if kind == _TEXT:
                length = _number(word, LARGEST_TEXT)
                value = None
                if length >= 0:
                    after += length + 2
                    if len(buffer) < after:
                        break
                    value = buffer[end + 2 : after - 2]
            elif kind == _NUMBER:
                value = _number(word)
            elif kind == _ARRAY:
                count = _number(word, MOST_ANSWERS)
                if count > 0:
                    if len(self._open) >= DEEPEST:
                        raise InvalidResponse("arrays in arrays")
                    self._open.append(([], count))
                    start = after
                    continue
                value = [] if count == 0 else None
            elif kind == _ERROR:
                value = _error(word)
            elif kind == _STATUS:
                value = word
            else:
                raise InvalidResponse("no answer of Redis")
            start = after
            if self._open:
                self._put(value, whole)
            else:
                whole.append(value)
        self._rest = buffer[start:]
        if end < 0 and len(self._rest) > LONGEST_LINE:
            raise InvalidResponse("a line without an end")
        return whole

    def _put(self, value: Any, whole: list[Any]) -> None:
        """Put an answer into the array that it belongs to, and that, once it is full, into its own."""
        while self._open:
            array, count = self._open[-1]
            array.append(value)
            if len(array) < count:
                return
            self._open.pop()
            value = array
        whole.append(value)


def _number(word: bytes, most: int | None = None) -> int:
    try:
        number = int(word)
    except ValueError:
        raise InvalidResponse("no number") from None
    if most is not None and not -1 <= number <= most:
        raise InvalidResponse(f"a length of {number}")
    return number


def _error(word: bytes) -> Exception:
    text = word.decode(errors="replace")
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    try:
        return ResponseError(text) if kind is None else kind(rest)
    except (ValueError, IndexError):  # where to, of one that has moved, cannot be read
        return ResponseError(text)
