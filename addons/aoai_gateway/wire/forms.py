"""Forms (multipart/form-data, RFC 7578): where the values of the short fields stand, and nothing copied.

A form carries a file of many megabytes, and beside it the fields that decide something: ``model``, which may
stand behind the file, and ``stream``. Only the delimiters are searched and the parts' heads read. Each field
is known by the span of its value, so that one can be replaced and all other bytes go on as they came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_PARTS = 1_000
MOST_HEAD = 8 * 1024
"""Bytes of a part's head."""

LONGEST_VALUE = 1_024
"""Bytes of a field's value that is looked at."""

_BOUNDARY = re.compile(r";\s*boundary\s*=\s*(?:\"([^\"\\]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_NAME = re.compile(rb";[ \t]*name[ \t]*=[ \t]*(?:\"([^\"]{0,256})\"|([^\s;\"]{1,256}))", re.IGNORECASE)
_FILENAME = re.compile(rb";[ \t]*filename\*?[ \t]*=", re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition[ \t]*:[ \t]*form-data(?=[ \t]*;)", re.IGNORECASE)


class NotAFormError(ValueError):
    """The body is not the form that its content type announces. ``str()`` says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Field:
    """One part of a form: ``start`` and ``end`` are offsets of its value into the body."""

    name: str
    is_file: bool
    start: int
    end: int


def is_form(content_type: str | None) -> bool:
    """Whether a content type announces such a form."""
    return (content_type or "").strip().lower().startswith("multipart/form-data")


def read_form(raw: bytes, content_type: str) -> list[Field]:
    """The parts of a form, in their order.

    Raises `NotAFormError`: no boundary, a part without a name, an end that is missing.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise NotAFormError("its content type names no boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    if raw.startswith(delimiter):
        at = 0
    else:
        # What stands before the first delimiter is no part (RFC 2046 §5.1.1).
        at = raw.find(b"\r\n" + delimiter, 0, MOST_HEAD) + 2
        if at < 2:
            raise NotAFormError("it does not begin with its boundary")
    fields: list[Field] = []
    while True:
        after = at + len(delimiter)
        if raw[after : after + 2] == b"--":
            return fields
        head = raw.find(b"\r\n", after, after + 80)
        if head < 0 or raw[after:head].strip(b" \t"):
            raise NotAFormError("a delimiter is not alone in its line")
        end = raw.find(b"\r\n\r\n", head, head + MOST_HEAD)
        if end < 0:
            raise NotAFormError("a part has no end of its head")
        at = raw.find(b"\r\n" + delimiter, end + 2)
        if at < 0:
            raise NotAFormError("it ends before its last boundary")
        fields.append(_field(raw[head:end], end + 4, max(at, end + 4)))
        at += 2
        if len(fields) > MOST_PARTS:
            raise NotAFormError("it has too many parts")


def _field(head: bytes, start: int, end: int) -> Field:
    lines = [line for line in head.split(b"\r\n") if _DISPOSITION.match(line)]
    if len(lines) != 1:
        raise NotAFormError("a part does not say that it is form-data, or says it twice")
    names = _NAME.findall(lines[0])
    if len(names) != 1:
        raise NotAFormError("a part does not have one name")
    name = (names[0][0] or names[0][1]).decode(errors="replace")
    return Field(name, _FILENAME.search(lines[0]) is not None, start, end)
