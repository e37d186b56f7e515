"""A form (multipart/form-data) -> the JSON object that its fields make, so that both are shown in one way.

A file with text in it is that text; another one is a data URL, with the type that its sender gave it.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.wire.forms import MOST_HEAD, NotAFormError, is_form, read_form

if TYPE_CHECKING:
    from aoai_gateway.wire.forms import Field

_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([\w.+-]+/[\w.+-]+)", re.IGNORECASE)
_TEXTS = ("text/", "application/json", "application/jsonl", "application/x-ndjson")
UNKNOWN = "application/octet-stream"


def decode_body(body: bytes, content_type: str) -> Any:
    """Decode a form, or else JSON. Raises Unreadable if it is not what it says.

    The value of a form's field that comes several times is a list.
    """
    if not is_form(content_type):
        return decode(body)
    try:
        fields = read_form(body, content_type)
    except NotAFormError as error:
        raise Unreadable(str(error)) from None
    found: dict[str, Any] = {}
    for field in fields:
        value = _value(body, field)
        if field.name in found:
            before = found[field.name]
            found[field.name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            found[field.name] = value
    return found


def _value(body: bytes, field: Field) -> str:
    value = body[field.start : field.end]
    if not field.is_file:
        return value.decode(errors="replace")
    head = body[max(0, field.start - MOST_HEAD) : field.start - 2]
    # What precedes the delimiter belongs to the part before.
    named = _TYPE.search(head, max(0, head.rfind(b"\r\n--")))
    media = named[1].decode().lower() if named else UNKNOWN
    if media.startswith(_TEXTS) or media == UNKNOWN:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return f"data:{media};base64,{base64.b64encode(value).decode()}"
