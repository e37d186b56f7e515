"""Request bodies: the facts that policies and routing need, and edits that leave the rest as it came.

Most bodies are JSON (:mod:`~aoai_gateway.wire.json_body`); some are forms, which carry a file beside the same
facts; some operations have none. What a body is, its operation's row says. An edit replaces the bytes of one
value, or inserts one member, and every other byte goes to the backend as the client wrote it: key order,
white space, escapes, the form of numbers. That keeps prompt caches warm, costs no re-encoding of a large
body, and lets a backend see exactly what a debugger of prompts sees.

A large body is not decoded on the event loop: Python's decoder lets nothing else run until it is done. Of
such a body only the facts and the short, flat members are kept.
"""

from __future__ import annotations

import re
from dataclasses import replace

from aoai_gateway.wire.batch_file import read_file
from aoai_gateway.wire.content_coding import NotDecodedError, decode
from aoai_gateway.wire.errors import body_too_large, invalid_body
from aoai_gateway.wire.forms import LONGEST_VALUE, Field, NotAFormError, is_form, read_form
from aoai_gateway.wire.json_body import checked_model, parse_json, text_at
from aoai_gateway.wire.json_members import NotJsonError
from aoai_gateway.wire.operation import Body, Model
from aoai_gateway.wire.operations import FOR_BATCHES
from aoai_gateway.wire.request_body import EditPoints, RequestBody, Span
from aoai_gateway.wire.stored import InMemory, Stored, StoredText
from aoai_gateway.wire.targets import Target

LARGE_BODY = 128 * 1024
"""Bytes of a body; one with more is decoded elsewhere. To decode so many takes half a millisecond, and 10 ms
for a body that was made to be slow (the worst known one is an array of empty arrays)."""

SHORT_LINES = 8 * 1024
"""The same of a body that may hold lines: each of 400 lines takes some 20 µs."""

REQUEST_CODINGS = ("gzip", "deflate", "br", "zstd")
"""Content codings of requests that are read."""


def is_read_elsewhere(target: Target, size: int) -> bool:
    """Whether to read a body takes too long for the event loop; lines are slower than one document."""
    return size > (SHORT_LINES if target.operation.model is Model.LINES else LARGE_BODY)


def coding_of(header: str | None) -> str | None:
    """The content coding that a ``content-encoding`` names; None for ``identity``, or without one.

    Raises `GatewayError` 400 for one that is not read.
    """
    coding = (header or "identity").strip().lower()
    if coding in ("identity", ""):
        return None
    if coding not in REQUEST_CODINGS:
        raise invalid_body(
            f"The request body has a content-encoding that is not read. Use {', '.join(REQUEST_CODINGS)}.",
            code="unsupported_media_type",
        )
    return coding


def decode_body(raw: bytes, coding: str, most: int) -> bytes:
    """Undo the content coding of a body. Raises `GatewayError`: 413 if it has more than ``most`` bytes."""
    try:
        return decode(raw, coding, most)
    except NotDecodedError as error:
        if error.too_large:
            raise body_too_large(most) from None
        raise invalid_body("The request body is not in the coding that its content-encoding says.") from None


def is_upload(target: Target, content_type: str | None) -> bool:
    """Whether a body is a form, or bytes of which nothing is read: then it need not be in memory."""
    expected = target.operation.body
    if is_form(content_type):
        return expected in (Body.FORM, Body.ANY)
    return expected is Body.ANY and content_type is not None and not _says_json(content_type)


def parse_upload(target: Target, content_type: str | None, stored: Stored) -> RequestBody:
    """Read the facts of an upload (`is_upload`) that is not in memory. Raises `GatewayError` 400.

    The lines of a batch's input file are left to be read: they stand at ``edits.file``.
    """
    if is_form(content_type):
        return replace(_parse_form(target, content_type or "", StoredText(stored)), stored=stored)
    return replace(_opaque(target, b""), stored=stored)


def parse_body(target: Target, content_type: str | None, raw: bytes, *, short: bool = False) -> RequestBody:
    """Decode and check the body of a call to ``target``. ``short``: keep only what is short of it.

    Where JSON is expected, a missing or odd content type is let pass (curl and old clients send such), a form
    is not. Raises `GatewayError` 400 that names the fault and its place, and quotes no content.
    """
    expected = target.operation.body
    if expected is Body.JSON and content_type and content_type.strip().lower().startswith(_FORMS):
        raise invalid_body(
            "This operation takes JSON, not a form. Send content-type: application/json.",
            code="unsupported_media_type",
        )
    if expected in (Body.FORM, Body.ANY) and is_form(content_type):
        form = _parse_form(target, content_type or "", raw)
        span = form.edits.file
        return form if span is None else form.with_lines(read_file(InMemory(raw), *span))
    may_be_empty = target.operation.model is not Model.REQUIRED
    if expected is Body.NONE or (not raw and may_be_empty):
        return _opaque(target, raw)
    if expected is Body.JSON or _says_json(content_type):
        return parse_json(target, raw, short=short)
    if expected is Body.FORM:
        raise invalid_body(
            "This operation takes a form. Send content-type: multipart/form-data with its boundary.",
            code="unsupported_media_type",
        )
    return _opaque(target, raw)


_FORMS = ("multipart/", "application/x-www-form-urlencoded")
_JSON_TYPE = re.compile(r"\s*application/(?:[a-z0-9.-]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_FORM_FACTS = ("model", "stream", "user")
_PURPOSE, _BATCH = FOR_BATCHES
_FILE_FACTS = (_PURPOSE, "file", "user")
_IMAGE_FACTS = ("n", "size", "quality", "partial_images")
"""What is priced of a form that asks for images."""


def _says_json(content_type: str | None) -> bool:
    return content_type is not None and _JSON_TYPE.fullmatch(content_type) is not None


def _opaque(target: Target, raw: bytes) -> RequestBody:
    """A body that nothing is known of, or none."""
    return RequestBody(
        target.operation, raw, {}, is_json=False, stream=target.stream, references=target.references
    )


def _parse_form(target: Target, content_type: str, raw: bytes | StoredText) -> RequestBody:
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
            file=(file.start, file.end) if file and _means(values.get(_PURPOSE, ""), _BATCH) else None,
        ),
    )


def has_unread_lines(body: RequestBody) -> bool:
    """Whether any receiver may find, by what a body says, lines of a batch that are not read here."""
    unread = body.operation.unread_lines
    if unread is None:
        return False
    name, value = unread
    found = [each for key, each in body.parsed.items() if key.casefold() == name]
    return any(not value or _means(str(each), value) for each in found)


def _means(written: str, value: str) -> bool:
    """Whether any receiver may read a value as this one."""
    return written.strip().casefold() == value


def _model_of_session(target: Target, raw: bytes | StoredText, field: Field) -> tuple[str, Span] | None:
    """The model that a form names in the JSON of its field ``session``, and where its name stands."""
    if field.end - field.start > LARGE_BODY:
        raise invalid_body("'session' is too long.", param="session")
    ways = (way[1:] for way in target.operation.model_in if way[0] == "session")
    try:
        found = text_at(target, raw[field.start : field.end], ways)
    except NotJsonError as error:
        raise invalid_body(f"'session' is not a JSON object: {error}.", param="session") from None
    if found is None:
        return None
    # Without its quotes: a form's values are replaced as they are.
    model, (start, end) = found
    return model, (field.start + start, field.start + end)
