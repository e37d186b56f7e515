"""A batch's input file: JSON lines, each a request that names its deployment in ``body.model``.

The deployment decides which resources may take the file, and its standin's name takes its place in each line.
Only where the names stand is kept of the file, which has up to 200 MB and is read by parts of whole lines. A
fault in it is a fact that is found, not an exception: an endpoint that takes every deployment judges the file
itself.

Azure's rules for the file, and the codes of what breaks them, are those of its batch API: 100,000 lines, one
deployment in all of them, UTF-8 without a byte order mark.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import batched

from aoai_gateway.wire.errors import invalid_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.json_members import Member, NotJsonError, read_document, read_object
from aoai_gateway.wire.stored import BLOCK, Pieces, Stored, StoredText

MOST_LINES = 100_000
LONGEST_LINE = 16 * 1024 * 1024
"""Bytes of a line, which is in memory as a whole while it is read."""

_LONGEST_NAME = 256
_MARK = b"\xef\xbb\xbf"


class LineTooLongError(ValueError):
    """A line has more than `LONGEST_LINE` bytes."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What was found in lines of a file.

    ``model``: the deployment that they name; None without a line, or if there is a ``fault``. ``first``: the
    number of the line that names it first, from 1. ``count``: lines that were read, blank ones too.
    ``places``: the offset in the body of each name, with its quotes, and its end, by turns. ``named``: bytes
    of all of these names.
    """

    model: str | None = None
    first: int = 0
    count: int = 0
    places: array[int] = field(default_factory=lambda: array("Q"), repr=False)
    named: int = 0
    fault: GatewayError | None = None

    def then(self, more: Lines) -> Lines:
        """Add what was found in the lines that follow, which were read with `read_lines`' ``before``."""
        self.places.extend(more.places)
        return Lines(more.model, more.first, more.count, self.places, self.named + more.named, more.fault)

    def without_places(self) -> Lines:
        """What a reader of the lines that follow has to know."""
        return Lines(self.model, self.first, self.count)

    def ended(self) -> Lines:
        """The same at the end of the file, where it is a fault that no line was found."""
        if self.fault is None and self.model is None:
            return Lines(count=self.count, fault=_fault(None, "has no lines", "empty_file"))
        return self

    def too_long(self) -> Lines:
        """The same, with the fault that the next line is too long."""
        text = f"has more than {LONGEST_LINE // 1024**2} MB"
        return Lines(count=self.count, fault=_fault(self.count + 1, text, "invalid_json_line"))

    def renamed(self, body: Stored, model: str) -> Pieces:
        """The body that holds the file, with this name in each line, and all other bytes as they came."""
        new = json.dumps(model).encode()
        return Pieces(body, _Changes(self.places, new), len(self.places) // 2 * len(new) - self.named)


class _Changes:
    """A hundred thousand places as `Pieces` takes them, made one at a time."""

    def __init__(self, places: array[int], new: bytes) -> None:
        self._places, self._new = places, new

    def __iter__(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        return (((start, end), self._new) for start, end in batched(self._places, 2))


def whole_lines(body: Stored, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Parts of whole lines between two places, and where each part begins.

    A part is about a `BLOCK`, or one line that is longer. Each byte is read three times at most. Raises
    `LineTooLongError`.
    """
    text = StoredText(body)
    while start < end:
        part = body.read(start, min(start + BLOCK, end))
        if not part:
            return  # it is closed
        after = start + len(part)
        if after < end and (cut := part.rfind(b"\n") + 1):
            part = part[:cut]
        elif after < end:
            found = text.find(b"\n", after, start + LONGEST_LINE)
            if found < 0 and end - start > LONGEST_LINE:
                raise LineTooLongError
            part = body.read(start, end if found < 0 else found + 1)
        yield start, part
        start += len(part)


def read_file(body: Stored, start: int, end: int) -> Lines:
    """All lines of the file between two places of a body. Takes seconds for a large one."""
    found = Lines()
    try:
        for at, part in whole_lines(body, start, end):
            found = found.then(read_lines(part, at, found.without_places()))
            if found.fault is not None:
                return found
    except LineTooLongError:
        return found.too_long()
    return found.ended()


def read_lines(part: bytes, at: int, before: Lines) -> Lines:
    """What a part of whole lines names. ``at``: its place in the body; ``before``: what the earlier ones do.

    It ends at the first fault.
    """
    model, first, count = before.model, before.first, before.count
    places: array[int] = array("Q")
    named = 0
    for line in part.removesuffix(b"\n").split(b"\n"):
        count += 1
        start, at = at, at + len(line) + 1
        if not line.strip(b" \t\r"):
            continue
        found = _read_line(line, count)
        if isinstance(found, GatewayError):
            return Lines(count=count, fault=found)
        name, span = found
        if model is None:
            model, first = name, count
        elif name.lower() != model.lower():
            text = f"names another deployment than line {first}; all lines must name the same one"
            return Lines(count=count, fault=_fault(count, text, "model_mismatch"))
        places.extend((start + span[0], start + span[1]))
        named += span[1] - span[0]
        if len(places) > 2 * MOST_LINES:
            text = f"has more than {MOST_LINES:,} lines"
            return Lines(count=count, fault=_fault(None, text, "too_many_tasks"))
    return Lines(model, first, count, places, named)


def _read_line(line: bytes, number: int) -> tuple[str, tuple[int, int]] | GatewayError:
    """Return the deployment that a line names, and where its name stands in it, or the fault."""
    if number == 1 and line.startswith(_MARK):
        return _fault(None, "begins with a byte order mark. Send UTF-8 without one", "invalid_json_line")
    try:
        text = line.decode()
        members = read_document(text)
        body = _only(members, "body")
        inner = read_object(text, body.value_start)[0] if body is not None else []
        model, url = _only(inner, "model"), _only(members, "url")
    except UnicodeDecodeError:
        return _fault(number, "is not UTF-8", "invalid_json_line")
    except NotJsonError as error:
        return _fault(number, f"is not a request in JSON: {error}", "invalid_json_line")
    if url is not None and isinstance(url.value, str) and "/deployments/" in url.value.lower():
        # Nothing says which of the two would count.
        return _fault(number, "names a deployment in its 'url'; name it in 'body.model' alone", "invalid_url")
    if model is None or not isinstance(model.value, str) or not 0 < len(model.value) <= _LONGEST_NAME:
        return _fault(number, "names no deployment. Put its name into 'body.model'", "missing_deployment")
    if len(text) == len(line):
        return model.value, (model.value_start, model.end)
    start = len(text[: model.value_start].encode())
    return model.value, (start, start + len(text[model.value_start : model.end].encode()))


def _only(members: list[Member], key: str) -> Member | None:
    found = [member for member in members if member.key == key]
    if len(found) > 1:
        raise NotJsonError(f"'{key}' stands in it more than once")
    return found[0] if found else None


def _fault(number: int | None, text: str, code: str) -> GatewayError:
    line = "" if number is None else f"line {number} of "
    subject = f"{line}the batch's input file"
    return invalid_body(f"{subject[0].upper()}{subject[1:]} {text}.", param="file", code=code)
