"""The wire format of protocol buffers, as far as OTLP's messages need it (protobuf.dev, "Encoding").

A message is its fields, one after the other: each a number and a type in one varint, and a value.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MASK = (1 << 64) - 1

_double, _fixed64, _fixed32 = Struct("<d").pack, Struct("<Q").pack, Struct("<I").pack


def varint(number: int) -> bytes:
    """Write a whole number; a negative one as its two's complement of 64 bits."""
    number &= _MASK
    if number < 0x80:
        return _SMALL[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = [bytes((number,)) for number in range(0x80)]


@lru_cache
def tag(field: int, kind: int = _BYTES) -> bytes:
    """Write what begins a field."""
    return varint(field << 3 | kind)


def whole(field: int, number: int) -> bytes:
    """Write a field of a whole number, a truth value or an enumeration."""
    return tag(field, _VARINT) + varint(number)


def fixed64(field: int, number: int) -> bytes:
    """Write a field of eight bytes: a time in nanoseconds, say."""
    return tag(field, _FIXED64) + _fixed64(number & _MASK)


def fixed32(field: int, number: int) -> bytes:
    """Write a field of four bytes."""
    return tag(field, _FIXED32) + _fixed32(number)


def double(field: int, number: float) -> bytes:
    """Write a field of a number with a fraction."""
    return tag(field, _FIXED64) + _double(number)


def data(field: int, value: bytes) -> bytes:
    """Write a field of bytes, or of a message that is written already."""
    return b"%b%b%b" % (tag(field), varint(len(value)), value)


def text(field: int, value: str) -> bytes:
    """Write a field of text. Halves of surrogate pairs are no text; each becomes a question mark."""
    return data(field, value.encode(errors="replace"))
