"""A part of a body, whole: a picture, a sound, a pasted book."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode, word
from aoai_gateway.workbench.faults import NotFoundError
from aoai_gateway.workbench.form_bodies import decode_form
from aoai_gateway.workbench.shape import at

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOUNDS = ("audio/wav", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/webm")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,", re.ASCII)


_SOUND_OF_FORMAT = {"wav": "audio/wav", "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac"}


def part(body: bytes, pointer: str, content_type: str = "") -> tuple[str, bytes]:
    """Find a part of a body: its media type, and the data. A pure function; raises NotFoundError.

    ``content_type`` is the body's; an empty pointer leads to all of one that is an image or a sound itself.
    """
    own = content_type.partition(";")[0].strip().lower()
    if not pointer and own in (*PICTURES, *SOUNDS):
        return own, body
    try:
        whole = decode_form(body, content_type)
        if whole is None:
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
    """Tell the type of bare base64: Claude's images and OpenAI's sounds have it beside them."""
    source, _, name = pointer.rpartition("/")
    if name == "b64_json":
        format_of_all = word(whole.get("output_format")) if isinstance(whole, dict) else ""
        return f"image/{format_of_all or 'png'}"
    around = at(whole, source) if name == "data" else None
    if not isinstance(around, dict):
        return ""
    return word(around.get("media_type")) or _SOUND_OF_FORMAT.get(word(around.get("format")), "")
