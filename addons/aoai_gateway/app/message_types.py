"""The types of a message's fields, checked without an exception for each that is right (mitmproxy 12).

mitmproxy checks each field of a request or a response when it is made. For a field that may be None it
raises an exception, and catches it, for each type that the value has not. Each of these refers to itself, so
it stays until a garbage collection, with the frames of all that was under way: the request, its flow, its
stream. That was a tenth of what a call costs, and most of the garbage that it leaves.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from mitmproxy.http import MessageData


def install() -> None:
    """Have mitmproxy's messages check their fields in the short way; again, it changes nothing."""
    if _check_fields is not None:  # it is, where Python runs with -O
        MessageData.__post_init__ = _check  # type: ignore[method-assign]  # in its place, on purpose


def _check(self: MessageData) -> None:
    for name, kind in _kinds(type(self)):
        if not isinstance(getattr(self, name), kind):
            # An int where a float is expected is right, too; and what is wrong is said there.
            _check_fields(self)
            return


@cache
def _kinds(of: type[MessageData]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in fields(of))


_check_fields: Any = getattr(MessageData, "__post_init__", None)
