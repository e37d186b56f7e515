"""Forms (multipart/form-data, RFC 7578), and request bodies that are forms.

A form carries a file of many megabytes, and beside it the fields that decide something: ``model``, which may
stand behind the file, and ``stream``. Only the delimiters are searched and the parts' heads read. Each field
is known by the span of its value, so that one can be replaced and all other bytes go on as they came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aoai_gateway.wire.errors import invalid_body
from aoai_gateway.wire.json_members import JsonObject, NotJsonError
from aoai_gateway.wire.operation import Model
from aoai_gateway.wire.operations import FOR_BATCHES
from aoai_gateway.wire.request_body import EditPoints, RequestBody, Span, checked_model
from aoai_gateway.wire.stored import StoredText
from aoai_gateway.wire.targets import Target

MOST_PARTS = 1_000
MOST_HEAD = 8 * 1024
"""Bytes of a part's head."""

MOST_LINE_ENDS = 64
"""Bytes that may follow the last boundary."""

LONGEST_VALUE = 1_024
"""Bytes of a field's value that is looked at."""

_PARAMETER = re.compile(r"\s*;\s*([\w!#$&+.^-]+)\s*=\s*(?:\"([^\"\\]*)\"|([^\s;\",]+))\s*", re.ASCII)
LONGEST_BOUNDARY = 70
_PART_PARAMETER = re.compile(rb";[ \t]*([\w.*-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*+)\"|([^\s;\"]++))[ \t]*")
LONGEST_NAME = 256
_PLAIN_NAME = re.compile(rb"(?! )[^\x00-\x1f\x7f\"\\%]+(?<! )")
"""A name that all readers read as the same one: some undo a backslash, or ``%22`` as browsers write it."""
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:")
_SAYS_DISPOSITION = re.compile(rb"content-disposition:", re.IGNORECASE)
_DISPOSITION = re.compile(rb"content-disposition:[ \t]*form-data(?=[ \t]*;)", re.IGNORECASE)


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


def read_form(raw: bytes | StoredText, content_type: str) -> list[Field]:
    """The parts of a form, in their order.

    Raises `NotAFormError`: no boundary, a part without a name, an end that is missing, and all that another
    reader may take for another form, since the client's rights are decided by what is read here.
    """
    delimiter = b"--" + _boundary(content_type).encode("latin-1", "replace")
    at = 2 if raw.startswith(b"\r\n" + delimiter) else 0
    if not raw.startswith(delimiter, at):
        raise NotAFormError("it does not begin with its boundary")
    if raw.count(b"\n" + delimiter) != raw.count(b"\r\n" + delimiter) or b"\r" + delimiter in raw:
        raise NotAFormError("a delimiter does not stand after CRLF")
    fields: list[Field] = []
    while True:
        after = at + len(delimiter)
        if raw[after : after + 2] == b"--":
            if len(raw) > after + 2 + MOST_LINE_ENDS or raw[after + 2 :].strip(b"\r\n"):
                raise NotAFormError("more follows its last boundary")
            return fields
        head = raw.find(b"\r\n", after, after + 80)
        if head < 0 or raw[after:head].strip(b" \t"):
            raise NotAFormError("a delimiter is not alone in its line")
        end = raw.find(b"\r\n\r\n", head, head + MOST_HEAD)
        if end < 0:
            raise NotAFormError("a part has no end of its head")
        at = raw.find(b"\r\n" + delimiter, head)
        if at < 0:
            raise NotAFormError("it ends before its last boundary")
        if at < end + 4:
            raise NotAFormError("a delimiter stands in a part's head, or at once after it")
        fields.append(_field(raw[head:end], end + 4, at))
        at += 2
        if len(fields) > MOST_PARTS:
            raise NotAFormError("it has too many parts")


def _boundary(content_type: str) -> str:
    """Return the one boundary that a content type names; its parameters are those of RFC 9110 §5.6.6."""
    at = len("multipart/form-data")
    content_type = content_type.strip()
    found: list[str] = []
    while at < len(content_type):
        parameter = _PARAMETER.match(content_type, at)
        if parameter is None:
            raise NotAFormError("the parameters of its content type cannot be read")
        if parameter[1].lower().startswith("boundary"):
            found.append(parameter[2] or parameter[3] or "")
        at = parameter.end()
    if not any(found):
        raise NotAFormError("its content type names no boundary")
    if len(found) > 1 or len(found[0]) > LONGEST_BOUNDARY:
        raise NotAFormError("its content type does not name one boundary")
    return found[0]


def _field(head: bytes, start: int, end: int) -> Field:
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise NotAFormError("a part's head has a line end that is not CRLF")
    # The first is the rest of the delimiter's line.
    lines = head.split(b"\r\n")[1:]
    if not all(_HEADER.match(line) for line in lines):
        raise NotAFormError("a part's head has a line that is no header, or is folded")
    said = [line for line in lines if _SAYS_DISPOSITION.match(line)]
    if len(said) != 1 or not _DISPOSITION.match(said[0]):
        raise NotAFormError("a part does not say that it is form-data, or says it twice")
    parameters = _part_parameters(said[0])
    names = [value for name, value in parameters if name.startswith(b"name")]
    if len(names) != 1 or (b"name", names[0]) not in parameters or len(names[0]) > LONGEST_NAME:
        raise NotAFormError("a part does not have one name")
    if not _PLAIN_NAME.fullmatch(names[0]):
        raise NotAFormError("a part's name has characters that stand for others")
    is_file = any(name.startswith(b"filename") for name, _ in parameters)
    return Field(names[0].decode(errors="replace"), is_file, start, end)


def _part_parameters(line: bytes) -> list[tuple[bytes, bytes]]:
    """Return the parameters of a part's ``content-disposition``, their names in lower case."""
    disposition = _DISPOSITION.match(line)
    assert disposition is not None
    at, found = disposition.end(), []
    while (parameter := _PART_PARAMETER.match(line, at)) is not None:
        found.append((parameter[1].lower(), parameter[2] or parameter[3] or b""))
        at = parameter.end()
    if line[at:].strip(b" \t;"):
        raise NotAFormError("the parameters of a part cannot be read")
    return found


# --- request bodies ----------------------------------------------------------------------------

_FORM_FACTS = ("model", "stream", "user")
_PURPOSE, _BATCH = FOR_BATCHES
_FILE_FACTS = (_PURPOSE, "file", "user")
_IMAGE_FACTS = ("n", "size", "quality", "partial_images")
"""What is priced of a form that asks for images."""

LONGEST_SESSION = 128 * 1024
"""Bytes of the settings of a session, which are decoded on the event loop."""


def parse_form(target: Target, content_type: str, raw: bytes | StoredText) -> RequestBody:
    """Read the facts of a body that is a form. Raises `GatewayError` 400."""
    facts = _FORM_FACTS + (_IMAGE_FACTS if target.operation.family == "images" else ())
    if target.operation.model is Model.LINES:
        facts = _FILE_FACTS
    if target.operation.model_in:
        facts = (*facts, "session")
    try:
        named = read_form(raw, content_type)
    except NotAFormError as error:
        raise invalid_body(f"The request body is not a form: {error}.") from None
    fields = [field for field in named if field.name in facts]
    for field in named:
        # Some receivers make no difference, and the client's rights are decided by these fields.
        if field.name not in facts and (name := field.name.casefold()) in facts:
            raise invalid_body(f"The field '{name}' must be written so.", param=name)
    by_name = {field.name: field for field in fields}
    if len(by_name) != len(fields):
        twice = next(name for name in facts if sum(field.name == name for field in fields) > 1)
        raise invalid_body(f"'{twice}' stands more than once in the form.", param=twice)
    values: dict[str, str] = {}
    session, file = by_name.pop("session", None), by_name.pop("file", None)
    held = _model_of_session(target, raw, session) if session is not None else None
    for field in by_name.values():
        try:
            values[field.name] = raw[field.start : min(field.end, field.start + LONGEST_VALUE)].decode()
        except UnicodeDecodeError:
            raise invalid_body(f"'{field.name}' is not UTF-8.", param=field.name) from None
    model = by_name.get("model")
    place = held[1] if held is not None else None if model is None else (model.start, model.end)
    return RequestBody(
        target.operation,
        raw if isinstance(raw, bytes) else b"",
        dict(values),
        is_json=False,
        model=checked_model(held[0] if held is not None else values.get("model")),
        stream=target.operation.streams and (target.stream or values.get("stream", "").lower() == "true"),
        references=target.references,
        edits=EditPoints(
            model=place,
            file=(file.start, file.end) if file and may_mean(values.get(_PURPOSE, ""), _BATCH) else None,
        ),
    )


def may_mean(written: str, value: str) -> bool:
    """Whether any receiver may read a value as this one."""
    return written.strip().casefold() == value


def _model_of_session(target: Target, raw: bytes | StoredText, field: Field) -> tuple[str, Span] | None:
    """The model that a form names in the JSON of its field ``session``, and where its name stands."""
    if field.end - field.start > LONGEST_SESSION:
        raise invalid_body("'session' is too long.", param="session")
    try:
        document = JsonObject(raw[field.start : field.end])
    except NotJsonError as error:
        raise invalid_body(f"'session' is not a JSON object: {error}.", param="session") from None
    found = document.text_at(way[1:] for way in target.operation.model_in if way[0] == "session")
    if found is None:
        return None
    # Without its quotes: a form's values are replaced as they are.
    start, end = document.span_of(found)
    return str(found.value), (field.start + start + 1, field.start + end - 1)
