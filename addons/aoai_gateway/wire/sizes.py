"""How much text a body holds, without reading it."""

from __future__ import annotations

SMALL_BODY = 8192
"""Bytes of a body that is not worth a look."""

SHORTEST_ATTACHMENT = 1024
"""Bytes of a string without a space in it that is taken for base64."""


def text_size(raw: bytes) -> int:
    """Return the bytes of a body, less those of images, audio and files, whose length means no tokens."""
    size = len(raw)
    if size < SMALL_BODY:
        return size
    attachments = start = 0
    while start + SHORTEST_ATTACHMENT <= size:
        # A body can have a million quotes. Looking back from where a long string would still go on passes
        # over all the short ones before it at once.
        quote = raw.rfind(b'"', start, start + SHORTEST_ATTACHMENT)
        if quote >= 0:
            start = quote + 1
            continue
        end = raw.find(b'"', start + SHORTEST_ATTACHMENT)
        end = size if end < 0 else end
        if _is_attachment(raw, start, end):
            attachments += end - start
        start = end + 1
    return size - attachments


def _is_attachment(raw: bytes, start: int, end: int) -> bool:
    if raw.find(b" ", start, end) >= 0 or raw.find(b"\\u", start, end) >= 0:
        return False
    return raw[start:end].isascii()
