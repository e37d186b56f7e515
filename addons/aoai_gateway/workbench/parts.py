"""A part of a request's body, whole: a picture, a sound, a pasted book."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode, word
from aoai_gateway.workbench.faults import NotFoundError
from aoai_gateway.workbench.shape import at

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOUNDS = ("audio/wav", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/webm")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,", re.ASCII)


def part(body: bytes, pointer: str) -> tuple[str, bytes]:
    """Find a part of a body: its media type, and the data. A pure function; raises NotFoundError."""
    try:
        whole = decode(body)
        found = at(whole, pointer)
    except (KeyError, Unreadable):
        raise NotFoundError("There is no such part in the call.") from None
    text = found if isinstance(found, str) else json.dumps(found)
    head = _DATA_URL.match(text)
    media, data = (head[1] or "", text[head.end() :]) if head else (_media_beside(whole, pointer), text)
    if (media := media.lower()) in (*PICTURES, *SOUNDS):
        try:
            return media, base64.b64decode(data + "=" * (-len(data) % 4), validate=False)
        except binascii.Error:
            pass
    return "text/plain; charset=utf-8", text.encode(errors="replace")


def _media_beside(whole: Any, pointer: str) -> str:
    """The type of bare base64, which Claude's images have beside it."""
    source, _, name = pointer.rpartition("/")
    around = at(whole, source) if name == "data" else None
    return word(around.get("media_type")) if isinstance(around, dict) else ""
