"""Request bodies: the facts that policies and routing need, and where what may be edited stands.

Most bodies are JSON, which is decoded once; some are forms, which carry a file beside the same facts
(`wire.forms`); some operations have none. What a body is, its operation's row says. An edit (`RequestBody`)
replaces the bytes of one value, or inserts one member, and every other byte goes to the backend as the client
wrote it: key order, white space, escapes, the form of numbers. That keeps prompt caches warm, costs no
re-encoding of a large body, and lets a backend see exactly what a debugger of prompts sees.

A large body is not decoded on the event loop: Python's decoder lets nothing else run until it is done. Of
such a body only the facts and the short, flat members are kept.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from aoai_gateway.wire.batch_file import read_file
from aoai_gateway.wire.content_coding import NotDecodedError, decode
from aoai_gateway.wire.errors import body_too_large, invalid_body
from aoai_gateway.wire.forms import is_form, may_mean, parse_form
from aoai_gateway.wire.json_members import JsonObject, NotJsonError
from aoai_gateway.wire.operation import NAMED_IN_BODY, Body, Model, State
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES
from aoai_gateway.wire.references import references_in
from aoai_gateway.wire.request_body import EditPoints, RequestBody, Span, checked_model
from aoai_gateway.wire.stored import InMemory, Stored, StoredText
from aoai_gateway.wire.targets import Target, knows_stream_options

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

SMALL_BODY = 8192
"""Bytes of a body that is not worth a look."""

SHORTEST_ATTACHMENT = 1024
"""Bytes of a string without a space in it that is taken for base64."""


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
        return replace(parse_form(target, content_type or "", StoredText(stored)), stored=stored)
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
        form = parse_form(target, content_type or "", raw)
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


def _says_json(content_type: str | None) -> bool:
    return content_type is not None and _JSON_TYPE.fullmatch(content_type) is not None


def _opaque(target: Target, raw: bytes) -> RequestBody:
    """A body that nothing is known of, or none."""
    return RequestBody(
        target.operation, raw, {}, is_json=False, stream=target.stream, references=target.references
    )


def has_unread_lines(body: RequestBody) -> bool:
    """Whether any receiver may find, by what a body says, lines of a batch that are not read here."""
    unread = body.operation.unread_lines
    if unread is None:
        return False
    name, value = unread
    found = [each for key, each in body.parsed.items() if key.casefold() == name]
    return any(not value or may_mean(str(each), value) for each in found)


def _parse_json(target: Target, raw: bytes, *, short: bool) -> RequestBody:
    """Read a body that is a JSON object. ``short``: keep only what is short of it.

    Raises `GatewayError` 400.
    """
    try:
        return _Reader(target, raw).read(short=short)
    except NotJsonError as error:
        raise invalid_body(f"The request body is not a JSON object: {error}.") from None


class _Reader(JsonObject):
    """Takes the facts out of the members, checking the types of those that decide something."""

    def __init__(self, target: Target, raw: bytes) -> None:
        super().__init__(raw)
        self.target = target
        self.operation = target.operation

    def read(self, *, short: bool) -> RequestBody:
        keys = self.operation.bounds
        bounds = {key: self.integer(key, 0) for key in keys}
        given = [bound for bound in bounds.values() if bound is not None]
        stateful = self.operation.state is not State.NONE
        include_usage, points = self.stream_options()
        model, model_place = self.model()
        previous = self.string("previous_response_id") if stateful else None
        conversation = self.conversation_id() if stateful else None
        return RequestBody(
            operation=self.operation,
            raw=self.raw,
            parsed=self.short_values() if short else self.values,
            whole=not short,
            text_size=text_size(self.raw),
            prompts=self.prompts() if self.operation is COMPLETIONS else 1,
            model=model,
            stream=self.operation.streams and (self.target.stream or bool(self.boolean("stream"))),
            max_tokens=max(given, default=None),
            n=self.count("n") if self.operation in (CHAT_COMPLETIONS, COMPLETIONS) else 1,
            best_of=self.count("best_of") if self.operation is COMPLETIONS else 1,
            include_usage=include_usage,
            background=self.operation is RESPONSES and bool(self.boolean("background")),
            store=self.boolean("store"),
            previous_response_id=previous,
            conversation_id=conversation,
            prompt_cache_key=self.string("prompt_cache_key"),
            has_encrypted_reasoning=stateful and self.has_encrypted_reasoning(),
            references=self.references(previous, conversation) if stateful else (),
            edits=EditPoints(
                brace=self.byte(self.text.index("{") + 1),
                has_members=bool(self.members),
                model=model_place,
                max_tokens=self.max_tokens_spans(keys),
                max_tokens_key=self.max_tokens_key(keys),
                n=self.span("n") if self.operation in (CHAT_COMPLETIONS, COMPLETIONS) else None,
                best_of=self.span("best_of") if self.operation is COMPLETIONS else None,
                **points,
            ),
        )

    def short_values(self) -> dict[str, Any]:
        return {key: member.value for key, member in self.members.items() if member.is_flat(SHORT_MEMBER)}

    def model(self) -> tuple[str | None, Span | None]:
        """The deployment that is named, and where."""
        if self.operation.model not in NAMED_IN_BODY:
            return None, None
        if "model" in self.members:
            return checked_model(self.string("model")), self.span("model")
        held = self.text_at(self.operation.model_in)
        return (None, None) if held is None else (checked_model(str(held.value)), self.span_of(held))

    def prompts(self) -> int:
        prompt: Any = self.values.get("prompt")
        several = isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list)
        return len(prompt) if several else 1

    def conversation_id(self) -> str | None:
        value = self.values.get("conversation")
        if isinstance(value, dict):
            value = value.get("id")
        return value if isinstance(value, str) else None

    def has_encrypted_reasoning(self) -> bool:
        items = self.values.get("input")
        return isinstance(items, list) and any(
            isinstance(item, dict) and item.get("encrypted_content") for item in items
        )

    def references(self, *named: str | None) -> tuple[str, ...]:
        names = (*self.target.references, *filter(None, named), *references_in(self.raw))
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
        inner = self.members_of(member)
        points: dict[str, Any] = {
            "stream_options_brace": self.byte(member.value_start + 1),
            "stream_options_has_members": bool(inner),
        }
        asked = member.value.get("include_usage")
        if asked is not None and not isinstance(asked, bool):
            raise invalid_body(
                "'stream_options.include_usage' must be true or false.", param="stream_options.include_usage"
            )
        if "include_usage" in inner:
            points["include_usage"] = self.span_of(inner["include_usage"])
        return asked, points

    def max_tokens_spans(self, keys: tuple[str, ...]) -> tuple[Span, ...]:
        """The bounds that are given; without any, one that is null: to add its key would double it."""
        present = [(self.values.get(key), span) for key in keys if (span := self.span(key)) is not None]
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


def text_size(raw: bytes) -> int:
    """Return the bytes of a body, less those of images, audio and files, whose length means no tokens."""
    size = len(raw)
    if size < SMALL_BODY:
        return size
    attachments = start = 0
    while start + SHORTEST_ATTACHMENT <= size:
        # A body can have a million quotes. Looking back from where a long string would still go on passes
        # over all the short ones before it at once.
        quote = raw.rfind(b'"', start, start + SHORTEST_ATTACHMENT)
        if quote >= 0:
            start = quote + 1
            continue
        end = raw.find(b'"', start + SHORTEST_ATTACHMENT)
        end = size if end < 0 else end
        if _is_attachment(raw, start, end):
            attachments += end - start
        start = end + 1
    return size - attachments


def _is_attachment(raw: bytes, start: int, end: int) -> bool:
    if raw.find(b" ", start, end) >= 0 or raw.find(b"\\u", start, end) >= 0:
        return False
    return raw[start:end].isascii()
