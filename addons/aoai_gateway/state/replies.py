"""What Redis answers, read as it comes by hiredis, and in the exceptions of redis-py.

hiredis makes room for an array as soon as its header is there: a billion elements are eight gigabytes at
once, and each look of the garbage collector at them takes half a minute. So headers are looked at before
hiredis reads them. What comes is searched for one with too many digits, which costs next to nothing; only if
it has one, it is walked through, since the same letters may stand in a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from hiredis import Reader
from redis import exceptions

_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "ASK": exceptions.AskError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MOVED": exceptions.MovedError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "TRYAGAIN": exceptions.TryAgainError,
}
"""The classes of redis-py for errors by their first word; any other is a ResponseError."""


LARGEST_ARRAY: Final = 99_999
"""Elements of an array: of the breaks of a thousand backends in ten classes there are 30,000."""

LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of an answer, as it travels: the largest that is asked for are pages of a hundred entries."""

_TOO_LARGE: Final = re.compile(rb"\n[*~>%]\d{6}")
"""How an array begins that has more elements, after the line before, if these are not letters of a text."""

_LENGTH: Final = 7
"""Bytes of such a begin that may have come in the pieces before."""


class ReplyReader:
    """Reads the second version of Redis's protocol (RESP), out of pieces that end anywhere.

    Texts and statuses are bytes, numbers int, arrays lists, nothing is None, and an error is an exception,
    which is not raised.
    """

    def __init__(self) -> None:
        self._reader = Reader(protocolError=exceptions.InvalidResponse, replyError=_error, errors="replace")
        self._pieces: list[bytes] = []
        """What came since an element of an answer last ended together with a piece."""
        self._end = b"\n"
        """The last bytes of them, or of the element before."""
        self._size = 0
        """Bytes of the pieces that came since an answer last ended."""

    def read(self, data: bytes) -> list[Any]:
        """Return the answers that are whole now. Raises InvalidResponse on other bytes, or too many."""
        seen = self._end + data
        if _TOO_LARGE.search(seen):
            _check_arrays(b"".join((*self._pieces, data)))
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            raise exceptions.InvalidResponse(f"an answer of more than {LARGEST_ANSWER >> 20} MiB")
        reader = self._reader
        reader.feed(data)
        answers = []
        while (answer := reader.gets()) is not False:  # 0 is an answer
            answers.append(answer)
        if answers:
            self._size = 0
        # Of an element's first byte, hiredis says that it has no more of it.
        if reader.has_data() or not data.endswith(b"\n"):
            self._pieces.append(data)
            self._end = seen[-_LENGTH:]
        elif self._pieces:
            self._pieces.clear()
            self._end = b"\n"
        return answers


def _check_arrays(raw: bytes) -> None:
    """Look at the headers of elements that follow on each other; the last one may be cut off."""
    at = 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        kind, count = raw[at : at + 1], (raw[at + 1 : end] if end >= 0 else raw[at + 1 :].rstrip(b"\r"))
        if not count.isdigit():
            count = b""
        if kind in b"*~>%" and len(count) > len(str(LARGEST_ARRAY)):
            raise exceptions.InvalidResponse(f"an array of {count[:20].decode()} elements")
        if end < 0:
            return
        at = end + 2 + (int(count[:20]) + 2 if kind == b"$" and count else 0)


def _error(text: str) -> Exception:
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    try:
        return exceptions.ResponseError(text) if kind is None else kind(rest)
    except (ValueError, IndexError):  # where to, of one that has moved, cannot be read
        return exceptions.ResponseError(text)
