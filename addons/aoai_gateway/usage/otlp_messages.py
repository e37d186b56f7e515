"""OTLP's messages about traces and metrics, as bytes: opentelemetry-proto, version 1, which is stable.

The SDK's spans and encoder take 150 µs for a call, in a thread that takes the time from traffic. Most
attributes of a call are those of the calls before it, so each is written once, and the bytes are kept.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, pack
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage.protobuf import data, double, fixed32, fixed64, tag, text, varint, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KEPT = 4_096
"""Attributes and names whose bytes are kept."""

SHORT = 0x80
"""Lengths below this take one byte."""

SERVER, CLIENT = 2, 3
"""Kinds of spans."""

ERROR = 2
"""A span's status."""

HAS_PARENTS_PLACE, IS_REMOTE = 0x100, 0x200
"""Flags of a span: whether it is known where its parent is; whether that is in another process."""

CUMULATIVE = 2

_ATTRIBUTES = 9
"""The number of the field, of spans as of points."""


def attribute(name: str, value: Any) -> bytes:
    """Write an attribute of a span, or of a point: a text, number or truth value, or several of these."""
    if type(value) is str:
        # Most are of this form: all lengths in one byte each.
        key, raw = _key(name), value.encode(errors="replace")
        size = len(raw)
        inner = len(key) + size + 4
        if inner < SHORT:
            return b"\x4a%c%b\x12%c\x0a%c%b" % (inner, key, size + 2, size, raw)
    return data(_ATTRIBUTES, _key_value(name, value))


kept_attribute = lru_cache(KEPT, typed=True)(attribute)
"""The same, for values that come again."""


@lru_cache(KEPT)
def _key(name: str) -> bytes:
    return text(1, name)


def _key_value(name: str, value: Any) -> bytes:
    return _key(name) + data(2, _value(value))


def _value(value: Any) -> bytes:
    match value:
        case bool():
            return whole(2, value)
        case int():
            return whole(3, value)
        case float():
            return double(4, value)
        case tuple() | list():
            return data(5, b"".join(data(1, _value(each)) for each in value))
        case _:
            return text(1, str(value))


def span(
    *,
    trace: bytes,
    own: bytes,
    parent: bytes,
    is_remote: bool,
    name: str,
    kind: int,
    begin: int,
    end: int,
    attributes: Sequence[bytes],
    error: str = "",
    first_token: int | None = None,
) -> bytes:
    """Write a span, as a field of its scope. Times are nanoseconds since the epoch.

    ``error``: why it did not go well; empty if it did. ``first_token``: when that came, as an event.
    """
    parts = [
        b"%b%b%b%b" % (_TRACE, trace, _OWN, own),
        _PARENT + parent if parent else b"",
        _name(name),
        _KINDS[kind],
        _TIMES(b"\x39", begin, b"\x41", end),
        *attributes,
        _REMOTE if is_remote else _LOCAL,
    ]
    if first_token is not None:
        parts.append(data(11, fixed64(1, first_token) + _FIRST_TOKEN))
    if error:
        parts.append(data(15, text(2, error) + whole(3, ERROR)))
    return data(2, b"".join(parts))


_TRACE, _OWN, _PARENT = (tag(field) + varint(size) for field, size in ((1, 16), (2, 8), (4, 8)))
_KINDS = {kind: whole(6, kind) for kind in (SERVER, CLIENT)}
_TIMES = Struct("<cQcQ").pack
"""The fields 7 and 8, each of eight bytes."""
_LOCAL, _REMOTE = fixed32(16, HAS_PARENTS_PLACE), fixed32(16, HAS_PARENTS_PLACE | IS_REMOTE)
_FIRST_TOKEN = text(2, "first token")


@lru_cache(KEPT)
def _name(name: str) -> bytes:
    return text(5, name)


def histogram_point(
    *, attributes: Iterable[bytes], begin: int, now: int, counts: Sequence[int], about: Mapping[str, float]
) -> bytes:
    """Write a point of a histogram. ``about``: its ``sum``, ``min`` and ``max``."""
    return b"".join(
        (
            *attributes,
            fixed64(2, begin),
            fixed64(3, now),
            fixed64(4, sum(counts)),
            double(5, about["sum"]),
            data(6, pack(f"<{len(counts)}Q", *counts)),
            double(11, about["min"]),
            double(12, about["max"]),
        )
    )


def histogram(name: str, unit: str, bounds: Sequence[float], points: Iterable[bytes]) -> bytes:
    """Write a metric, as a field of its scope."""
    written_bounds = data(7, pack(f"<{len(bounds)}d", *bounds))
    found = b"".join(data(1, point + written_bounds) for point in points)
    return data(2, text(1, name) + text(3, unit) + data(9, found + whole(2, CUMULATIVE)))


class Envelope:
    """What surrounds spans or metrics: the resource that they are about, and the scope that made them."""

    def __init__(self, resource: Mapping[str, Any], scope: str) -> None:
        attributes = b"".join(data(1, _key_value(name, value)) for name, value in resource.items())
        self._resource = data(1, attributes)
        self._scope = data(1, text(1, scope))

    def around(self, items: Sequence[bytes]) -> bytes:
        """Give the body of a request that exports these."""
        scope, size = self._scope, sum(map(len, items))
        scoped = tag(2) + varint(len(scope) + size)
        whole_size = len(self._resource) + len(scoped) + len(scope) + size
        return b"".join((tag(1), varint(whole_size), self._resource, scoped, scope, *items))
