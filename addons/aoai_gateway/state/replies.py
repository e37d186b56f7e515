"""What Redis answers, read as it comes by hiredis, and in the exceptions of redis-py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hiredis import Reader
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


def reply_reader() -> Reader:
    """Return a reader of the second version of Redis's protocol (RESP), out of pieces that end anywhere.

    Texts and statuses are bytes, numbers int, arrays lists, nothing is None, and an error is an exception,
    which is not raised. Raises InvalidResponse on what is no answer.
    """
    return Reader(protocolError=InvalidResponse, replyError=_error, errors="replace")


def _error(text: str) -> Exception:
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    try:
        return ResponseError(text) if kind is None else kind(rest)
    except (ValueError, IndexError):  # where to, of one that has moved, cannot be read
        return ResponseError(text)
