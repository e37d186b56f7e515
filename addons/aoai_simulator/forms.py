"""What a request for a thing sends: the members of a JSON object, or the fields and the file of a form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_simulator.replies import Whole, invalid_request
from aoai_simulator.requests import read_object

_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?')


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: `fields`, and the content and name of a file, if there was one."""

    fields: Mapping[str, Any]
    file: bytes | None = None
    filename: str = ""


def read_sent(content_type: str, body: bytes) -> Sent | Whole:
    """Read a body; an empty one sends nothing. Gives AOAI's 400 for one that is neither JSON nor a form."""
    if not body:
        return Sent({})
    if not content_type.startswith("multipart/form-data"):
        read = read_object(body)
        return read if isinstance(read, Whole) else Sent(read)
    boundary = _BOUNDARY.search(content_type)
    parts = body.split(b"--" + boundary[1].encode()) if boundary else []
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        return invalid_request("Could not parse the multipart form.")
    fields: dict[str, str] = {}
    file: tuple[bytes, str] | None = None
    for part in parts[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        value = value.removesuffix(b"\r\n")
        name, filename = (re.search(rb'; %s="([^"]*)"' % key, head) for key in (b"name", b"filename"))
        if filename is not None:
            file = (value, filename[1].decode(errors="replace"))
        elif name is not None:
            fields[name[1].decode(errors="replace")] = value.decode(errors="replace")
    return Sent(fields, *file) if file is not None else Sent(fields)
