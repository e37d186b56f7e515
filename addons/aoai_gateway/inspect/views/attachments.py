"""Images, sounds, files and other data inside a body: what one line says of them instead of their base64."""

from __future__ import annotations

import re

from aoai_gateway.tokens.images import size_of

_LONGEST_SHOWN = 256
"""Shorter data is shown: it says more than its description would."""

_LONGEST_UNBROKEN = 2_000
"""A longer string without a single blank is no text to be read."""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100},", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}", re.ASCII)
_DATA_MEMBERS = {
    "data": "audio",
    "file_data": "file",
    "b64_json": "image",
    "result": "image",
    "partial_image_b64": "image",
    "audio": "audio",
    "delta": "audio",
    "embedding": "data",
    "encrypted_content": "data",
    "signature": "data",
}
"""Members that hold bare base64, and what of. ``data`` can be an image or a document, too, which shows."""

_PDF = "JVBERi0"
"""``%PDF-`` in base64."""


def describe(value: object, key: str = "") -> tuple[str, str] | None:
    """Return what the value of a member ``key`` is, if it is not for reading: its kind, and a few words.

    The kinds are ``image``, ``audio``, ``file`` and ``data``. None for what can be shown as it is.
    """
    if isinstance(value, str):
        return _string(value, key)
    if isinstance(value, list) and len(value) > 64 and all(type(item) in (int, float) for item in value[:64]):
        first = ", ".join(map(_short, value[:4]))
        return "data", f"{len(value):,} numbers, the first ones {first}"
    return None


def _short(number: float) -> str:
    try:
        return format(number, ".6g")
    except OverflowError:  # an integer can have more digits than a float can hold
        return f"{'-' if number < 0 else ''}inf"


def _string(value: str, key: str) -> tuple[str, str] | None:
    if len(value) <= _LONGEST_SHOWN:
        return None
    head = value[:_LONGEST_SHOWN]
    found = _DATA_URL.match(head)
    if found:
        media = found[1] or "data"
        kind = media.partition("/")[0]
        payload = len(value) - found.end()
        words = [media, _dimensions(value), byte_size(_decoded(payload, value))]
        return kind if kind in ("image", "audio") else "file", _joined(words)
    if not _BASE64.fullmatch(head):
        return None
    if key in _DATA_MEMBERS:
        kind = _DATA_MEMBERS[key]
        words = ["encrypted" if key in ("encrypted_content", "signature") else "base64"]
        dimensions = _dimensions("data:image;base64," + value) if key == "data" or kind == "image" else ""
        if dimensions:
            kind = "image"
        elif value.startswith(_PDF):
            kind = "file"
        words.append(dimensions)
        return kind, _joined([*words, byte_size(_decoded(len(value), value))])
    if len(value) > _LONGEST_UNBROKEN and _BASE64.fullmatch(value[:_LONGEST_UNBROKEN]):
        return "data", f"{len(value):,} characters without a blank"
    return None


def byte_size(count: int) -> str:
    """A number of bytes for people: 340 bytes, 34.1 KB, 2.5 MB (powers of 1,000)."""
    if count < 1_000:
        return f"{count} bytes"
    if count < 999_950:
        return f"{count / 1_000:.1f} KB"
    return f"{count / 1_000_000:.1f} MB"


def _decoded(characters: int, value: str) -> int:
    """How many bytes base64 of so many characters, the last ones of ``value``, stands for."""
    padding = 2 if value.endswith("==") else int(value.endswith("="))
    return characters * 3 // 4 - padding


def _dimensions(url: str) -> str:
    size = size_of(url)
    return f"{size[0]} × {size[1]} pixels" if size else ""


def _joined(words: list[str]) -> str:
    return ", ".join(word for word in words if word)
