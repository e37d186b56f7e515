"""How much text a body holds, without reading it."""

from __future__ import annotations

SMALL_BODY = 8192
"""Bytes of a body that is not worth a look."""

SHORTEST_ATTACHMENT = 1024
"""Bytes of a string without a space in it that is taken for base64."""


def text_size(raw: bytes) -> int:
    """Give the bytes of a body, less those of images, audio and files, whose length says nothing."""
    if len(raw) < SMALL_BODY:
        return len(raw)
    strings = (part for part in raw.split(b'"') if len(part) >= SHORTEST_ATTACHMENT)
    return len(raw) - sum(len(s) for s in strings if s.isascii() and b" " not in s and b"\\u" not in s)
