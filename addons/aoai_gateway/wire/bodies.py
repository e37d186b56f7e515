"""Request bodies: the facts that policies and routing need, and edits that leave the rest as it came.

Most bodies are JSON; some are forms, which carry a file beside the same facts; some operations have none.
What a body is, its operation's row says. JSON is decoded once. An edit then replaces the bytes of one value,
or inserts one member after the opening brace, and every other byte goes to the backend as the client wrote
it: key order, white space, escapes, the form of numbers. That keeps prompt caches warm, costs no re-encoding
of a large body, and lets a backend see exactly what a debugger of prompts sees.

A large body is not decoded on the event loop: Python's decoder lets nothing else run until it is done. Of
such a body only the facts and the short, flat members are kept.

A key that stands twice at the top level is an error, however it is spelled: JSON parsers disagree on which
of the two counts, and the gateway must judge what the backend will read.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from aoai_gateway.wire.batch_file import read_file
from aoai_gateway.wire.content_coding import NotDecodedError, decode
from aoai_gateway.wire.errors import GatewayError, body_too_large, invalid_body
from aoai_gateway.wire.forms import LONGEST_VALUE, Field, NotAFormError, is_form, read_form
from aoai_gateway.wire.json_members import Member, NotJsonError, read_document, read_object
from aoai_gateway.wire.operations import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    FOR_BATCHES,
    RESPONSES,
    Body,
    Model,
    State,
)
from aoai_gateway.wire.references import references_in
from aoai_gateway.wire.request_body import EditPoints, RequestBody, Span
from aoai_gateway.wire.sizes import text_size
from aoai_gateway.wire.stored import InMemory, Stored, StoredText
from aoai_gateway.wire.targets import Target, knows_stream_options

LARGEST_NUMBER = 2**31 - 1
"""For token counts and the like. Also keeps shared counters far from where floats lose integers."""

LARGE_BODY = 128 * 1024
"""Bytes of a body; one with more is decoded elsewhere. To decode so many takes half a millisecond, and 10 ms
for a body that was made to be slow (the worst known one is an array of empty arrays)."""

SHORT_LINES = 8 * 1024
"""The same of a body that may hold lines: each of 400 lines takes some 20 µs."""

REQUEST_CODINGS = ("gzip", "deflate", "br", "zstd")
"""Content codings of requests that are read."""

SHORT_MEMBER = 4096
"""Characters of a value that is kept of a large body, too. It must also be flat: there is no telling how deep
another one is."""

_SPEAKABLE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_LONGEST_MODEL = 256


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
        return _parse_json(target, raw, short=short)
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


def _parse_json(target: Target, raw: bytes, *, short: bool) -> RequestBody:
    text = _decode(raw)
    try:
        members = read_document(text)
    except NotJsonError as error:
        raise invalid_body(f"The request body is not a JSON object: {error}.") from None
    by_key = {member.key: member for member in members}
    if len(by_key) != len(members):
        raise _duplicate(members)
    return _Reader(target, text, raw, by_key).read(short=short)


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
        model=_checked_model(held[0] if held is not None else values.get("model")),
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
    part = raw[field.start : field.end]
    text = _decode(part)
    try:
        members = read_document(text)
    except NotJsonError as error:
        raise invalid_body(f"'session' is not a JSON object: {error}.", param="session") from None
    by_key = {member.key: member for member in members}
    if len(by_key) != len(members):
        raise _duplicate(members)
    reader = _Reader(target, text, part, by_key)
    ways = (way[1:] for way in target.operation.model_in if way[0] == "session")
    found = next(filter(None, map(reader.nested, ways)), None)
    if found is None:
        return None
    # Without its quotes: a form's values are replaced as they are.
    start, end = field.start + reader.byte(found.value_start), field.start + reader.byte(found.end)
    return str(found.value), (start + 1, end - 1)


def _checked_model(model: str | None) -> str | None:
    if not model:
        # Microsoft's samples for JavaScript write "" where the client has the deployment, and so the path.
        return None
    # Printable also rules out lone surrogates, which no log and no header could take.
    if len(model) > _LONGEST_MODEL or not model.isprintable():
        raise invalid_body("'model' must be the name of a deployment.", param="model")
    return model


def _decode(raw: bytes) -> str:
    if not raw:
        raise invalid_body("The request body is empty, and this operation takes a JSON object.")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise invalid_body("The request body begins with a byte order mark. Send UTF-8 without one.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise invalid_body(f"The request body is not UTF-8 (at byte {error.start}).") from None


def _duplicate(members: list[Member]) -> GatewayError:
    seen: set[str] = set()
    for member in members:
        if member.key in seen:
            break
        seen.add(member.key)
    if not _SPEAKABLE_KEY.fullmatch(member.key):
        return invalid_body("A key occurs more than once at the top level of the request body.")
    return invalid_body(f"'{member.key}' occurs more than once in the request body.", param=member.key)


class _Reader:
    """Takes the facts out of the members, checking the types of those that decide something."""

    def __init__(self, target: Target, text: str, raw: bytes, members: dict[str, Member]) -> None:
        self.operation = target.operation
        self.target = target
        self.text = text
        self.raw = raw
        self.members = members
        self.ascii = len(text) == len(raw)

    def read(self, *, short: bool) -> RequestBody:
        keys = self.operation.bounds
        bounds = {key: self.integer(key, 0) for key in keys}
        given = [bound for bound in bounds.values() if bound is not None]
        stateful = self.operation.state is not State.NONE
        include_usage, points = self.stream_options()
        return RequestBody(
            operation=self.operation,
            raw=self.raw,
            parsed={
                member.key: member.value
                for member in self.members.values()
                if not short or member.is_flat(SHORT_MEMBER)
            },
            whole=not short,
            text_size=text_size(self.raw),
            prompts=self.prompts() if self.operation is COMPLETIONS else 1,
            model=self.model(),
            stream=self.operation.streams and (self.target.stream or bool(self.boolean("stream"))),
            max_tokens=max(given, default=None),
            n=self.count("n") if self.operation in (CHAT_COMPLETIONS, COMPLETIONS) else 1,
            best_of=self.count("best_of") if self.operation is COMPLETIONS else 1,
            include_usage=include_usage,
            background=self.operation is RESPONSES and bool(self.boolean("background")),
            store=self.boolean("store"),
            previous_response_id=self.string("previous_response_id") if stateful else None,
            conversation_id=self.conversation_id() if stateful else None,
            prompt_cache_key=self.string("prompt_cache_key"),
            has_encrypted_reasoning=stateful and self.has_encrypted_reasoning(),
            references=self.references() if stateful else (),
            edits=EditPoints(
                brace=self.byte(self.text.index("{") + 1),
                has_members=bool(self.members),
                model=self.model_span() if self.operation.model.in_body else None,
                max_tokens=self.max_tokens_spans(keys),
                max_tokens_key=self.max_tokens_key(keys),
                n=self.span("n") if self.operation in (CHAT_COMPLETIONS, COMPLETIONS) else None,
                best_of=self.span("best_of") if self.operation is COMPLETIONS else None,
                **points,
            ),
        )

    def value(self, key: str) -> Any:
        member = self.members.get(key)
        return None if member is None else member.value

    def boolean(self, key: str) -> bool | None:
        value = self.value(key)
        if value is None or isinstance(value, bool):
            return value
        raise invalid_body(f"'{key}' must be true or false.", param=key)

    def integer(self, key: str, least: int) -> int | None:
        value = self.value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid_body(f"'{key}' must be an integer.", param=key)
        if not least <= value <= LARGEST_NUMBER:
            raise invalid_body(f"'{key}' must be from {least} to {LARGEST_NUMBER}.", param=key)
        return value

    def count(self, key: str) -> int:
        value = self.integer(key, 1)
        return 1 if value is None else value

    def string(self, key: str) -> str | None:
        value = self.value(key)
        if value is None or isinstance(value, str):
            return value
        raise invalid_body(f"'{key}' must be a string.", param=key)

    def model(self) -> str | None:
        if not self.operation.model.in_body:
            return None
        held = self.nested_model()
        return _checked_model(self.string("model") if held is None else str(held.value))

    def nested_model(self) -> Member | None:
        """The model where it does not stand at the top of the body."""
        if "model" in self.members:
            return None
        return next(filter(None, map(self.nested, self.operation.model_in)), None)

    def nested(self, way: tuple[str, ...]) -> Member | None:
        """The text at the end of a way through the body's objects. Raises GatewayError if it is ambiguous."""
        members = self.members
        for step in way[:-1]:
            member = members.get(step)
            if member is None or not isinstance(member.value, dict):
                return None
            try:
                inner, _ = read_object(self.text, member.value_start)
            except NotJsonError as error:
                raise invalid_body(f"'{step}' is invalid: {error}.", param=step) from None
            members = {each.key: each for each in inner}
            if len(members) != len(inner):
                raise invalid_body(f"A key occurs more than once in '{step}'.", param=step)
        found = members.get(way[-1])
        return found if found is not None and isinstance(found.value, str) else None

    def model_span(self) -> Span | None:
        held = self.nested_model()
        return self.span("model") if held is None else (self.byte(held.value_start), self.byte(held.end))

    def prompts(self) -> int:
        prompt = self.value("prompt")
        several = isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list)
        return len(prompt) if several else 1

    def conversation_id(self) -> str | None:
        value = self.value("conversation")
        if isinstance(value, dict):
            value = value.get("id")
        return value if isinstance(value, str) else None

    def has_encrypted_reasoning(self) -> bool:
        items = self.value("input")
        return isinstance(items, list) and any(
            isinstance(item, dict) and item.get("encrypted_content") for item in items
        )

    def references(self) -> tuple[str, ...]:
        named = (self.string("previous_response_id"), self.conversation_id())
        names = (*self.target.references, *(name for name in named if name), *references_in(self.raw))
        return tuple(dict.fromkeys(names))

    def stream_options(self) -> tuple[bool | None, dict[str, Any]]:
        """The client's value, and the edit points that concern it."""
        member = self.members.get("stream_options")
        if member is None:
            return None, {}
        if member.value is None:
            return None, {"stream_options_null": self.span("stream_options")}
        if not isinstance(member.value, dict):
            raise invalid_body("'stream_options' must be an object.", param="stream_options")
        try:
            inner, _ = read_object(self.text, member.value_start)
        except NotJsonError as error:
            # It is JSON, as has been seen; too much of it.
            message = f"'stream_options' is invalid: {error}."
            raise invalid_body(message, param="stream_options") from None
        if len(inner) != len(member.value):
            raise invalid_body("A key occurs more than once in 'stream_options'.", param="stream_options")
        points: dict[str, Any] = {
            "stream_options_brace": self.byte(member.value_start + 1),
            "stream_options_has_members": bool(inner),
        }
        asked = member.value.get("include_usage")
        if asked is not None and not isinstance(asked, bool):
            raise invalid_body(
                "'stream_options.include_usage' must be true or false.", param="stream_options.include_usage"
            )
        for option in inner:
            if option.key == "include_usage":
                points["include_usage"] = (self.byte(option.value_start), self.byte(option.end))
        return asked, points

    def max_tokens_spans(self, keys: tuple[str, ...]) -> tuple[Span, ...]:
        """The bounds that are given; without any, one that is null: to add its key would double it."""
        present = [(self.value(key), span) for key in keys if (span := self.span(key)) is not None]
        given = tuple(span for value, span in present if value is not None)
        return given or tuple(span for _, span in present[:1])

    def max_tokens_key(self, keys: tuple[str, ...]) -> str | None:
        if not keys:
            return None
        # max_completion_tokens came to Azure with the same api-versions as stream_options.
        if self.operation is CHAT_COMPLETIONS and not knows_stream_options(
            self.target.api, self.target.api_version
        ):
            return "max_tokens"
        return keys[0]

    def span(self, key: str) -> Span | None:
        member = self.members.get(key)
        return None if member is None else (self.byte(member.value_start), self.byte(member.end))

    def byte(self, offset: int) -> int:
        """From an offset into the text to one into the bytes."""
        return offset if self.ascii else len(self.text[:offset].encode())
