"""Request bodies: the facts that policies and routing need, and edits that leave the rest as it came.

A body is decoded once. An edit then replaces the bytes of one value, or inserts one member after the opening
brace, and every other byte goes to the backend as the client wrote it: key order, white space, escapes, the
form of numbers. That keeps prompt caches warm, costs no re-encoding of a large body, and lets a backend see
exactly what a debugger of prompts sees.

A large body is not decoded on the event loop: Python's decoder lets nothing else run until it is done. Of
such a body only the facts and the short, flat members are kept.

A key that stands twice at the top level is an error, however it is spelled: JSON parsers disagree on which
of the two counts, and the gateway must judge what the backend will read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aoai_gateway.wire.errors import GatewayError, invalid_body, missing_deployment
from aoai_gateway.wire.json_members import Member, NotJsonError, read_document, read_object
from aoai_gateway.wire.operations import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    Operation,
    Target,
    knows_stream_options,
)
from aoai_gateway.wire.references import references_in
from aoai_gateway.wire.sizes import text_size

LARGEST_NUMBER = 2**31 - 1
"""For token counts and the like. Also keeps shared counters far from where floats lose integers."""

LARGE_BODY = 128 * 1024
"""Bytes of a body; one with more is decoded elsewhere. To decode so many takes half a millisecond, and 10 ms
for a body that was made to be slow (the worst known one is an array of empty arrays)."""

SHORT_MEMBER = 4096
"""Characters of a value that is kept of a large body, too. It must also be flat: there is no telling how deep
another one is."""

_MAX_TOKENS_KEYS: Mapping[Operation, tuple[str, ...]] = {
    CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    EMBEDDINGS: (),
    RESPONSES: ("max_output_tokens",),
}
_FORMS = ("multipart/", "application/x-www-form-urlencoded")
_SPEAKABLE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_LONGEST_MODEL = 256

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A JSON request body and its facts.

    ``parsed`` is the decoded object, not to be changed; where ``whole`` is False, only its short, flat
    members. ``text_size`` is the bytes of the body less those of images, audio and files, ``prompts`` the
    number of prompts in a call for completions. ``max_tokens`` is the completion's bound as the client gave
    it (in chat the larger of ``max_completion_tokens`` and ``max_tokens``), ``include_usage`` the same member
    of ``stream_options``; None where the request has none. ``n`` and ``best_of`` are 1 where absent. The repr
    holds no content.
    """

    operation: Operation
    raw: bytes = field(repr=False)
    parsed: dict[str, Any] = field(repr=False)
    whole: bool = True
    text_size: int = 0
    prompts: int = 1
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    best_of: int = 1
    include_usage: bool | None = None
    background: bool = False
    store: bool | None = None
    previous_response_id: str | None = field(default=None, repr=False)
    conversation_id: str | None = field(default=None, repr=False)
    prompt_cache_key: str | None = field(default=None, repr=False)
    has_encrypted_reasoning: bool = False
    references: tuple[str, ...] = field(default=(), repr=False)
    """References that only one resource can resolve, the most telling first (`wire.references`)."""
    _edits: _EditPoints = field(default_factory=lambda: _EditPoints(), repr=False)

    def deployment(self, target: Target) -> str:
        """The deployment that is asked for: the path's wins, as on Azure, else ``model``.

        Raises `GatewayError` 400 when neither names one.
        """
        name = target.deployment or self.model
        if name is None:
            raise missing_deployment()
        return name

    @property
    def max_tokens_key(self) -> str | None:
        """The member that gives ``max_tokens``, or that would give it; None where nothing can."""
        keys = _MAX_TOKENS_KEYS.get(self.operation, ())
        given = (
            key for key in keys if self.max_tokens is not None and self.parsed.get(key) == self.max_tokens
        )
        return next(given, self._edits.max_tokens_key)

    def without_raw(self) -> RequestBody:
        """The same facts, without the bytes: the caller of the parser has those."""
        return replace(self, raw=b"")

    def with_model(self, name: str) -> bytes:
        """The body with ``model`` set to ``name``; unchanged when it has no ``model``."""
        return self.edited(model=name)

    def edited(
        self,
        model: str | None = None,
        include_usage: bool = False,
        max_tokens: int | None = None,
        n: int | None = None,
        best_of: int | None = None,
    ) -> bytes:
        """The body with some values set, and all other bytes as they came.

        ``model``: replaced where there is one, never added (a classic call may do without).
        ``include_usage``: ``stream_options.include_usage`` becomes true; only streaming calls may have it.
        ``max_tokens``: every bound that the body gives is set to it; without any, the operation's own is
        added (in chat ``max_completion_tokens`` where the api-version knows it).
        ``n``, ``best_of``: replaced where they are given, never added (absent, they are 1).
        """
        points = self._edits
        changes: list[tuple[Span, bytes]] = []
        added: list[bytes] = []
        if model is not None and model != self.model and points.model is not None:
            changes.append((points.model, json.dumps(model).encode()))
        if include_usage and self.include_usage is not True:
            if points.include_usage is not None:
                changes.append((points.include_usage, b"true"))
            elif points.stream_options_brace is not None:
                comma = b"," if points.stream_options_has_members else b""
                place = points.stream_options_brace
                changes.append(((place, place), b'"include_usage":true' + comma))
            elif points.stream_options_null is not None:
                changes.append((points.stream_options_null, b'{"include_usage":true}'))
            else:
                added.append(b'"stream_options":{"include_usage":true}')
        if max_tokens is not None:
            changes += [(span, b"%d" % max_tokens) for span in points.max_tokens]
            if not points.max_tokens and points.max_tokens_key is not None:
                added.append(b'"%s":%d' % (points.max_tokens_key.encode(), max_tokens))
        for span, count in ((points.n, n), (points.best_of, best_of)):
            if span is not None and count is not None:
                changes.append((span, b"%d" % count))
        if added:
            comma = b"," if points.has_members else b""
            changes.append(((points.brace, points.brace), b",".join(added) + comma))
        return _apply(self.raw, changes)


@dataclass(frozen=True, slots=True)
class _EditPoints:
    """Where edits go, as offsets into the raw bytes."""

    brace: int = 0  # right after the document's opening brace
    has_members: bool = False
    model: Span | None = None
    max_tokens: tuple[Span, ...] = ()
    max_tokens_key: str | None = None  # which key to add when there is none
    n: Span | None = None
    best_of: Span | None = None
    include_usage: Span | None = None
    stream_options_brace: int | None = None  # right after its opening brace
    stream_options_has_members: bool = False
    stream_options_null: Span | None = None


def _apply(raw: bytes, changes: list[tuple[Span, bytes]]) -> bytes:
    if not changes:
        return raw
    pieces: list[bytes | memoryview] = []
    position = 0
    view = memoryview(raw)  # slices of it copy nothing; the body can be large
    for (start, end), new in sorted(changes):
        pieces += (view[position:start], new)
        position = end
    pieces.append(view[position:])
    return b"".join(pieces)


def parse_body(target: Target, content_type: str | None, raw: bytes, *, short: bool = False) -> RequestBody:
    """Decode and check the body of a call to ``target``. ``short``: keep only what is short of it.

    A missing or odd content type is let pass (curl and old clients send such), a form is not. Raises
    `GatewayError` 400 that names the fault and its place, and quotes no content.
    """
    if content_type and content_type.strip().lower().startswith(_FORMS):
        raise invalid_body(
            "This operation takes JSON, not a form. Send content-type: application/json.",
            code="unsupported_media_type",
        )
    text = _decode(raw)
    try:
        members = read_document(text)
    except NotJsonError as error:
        raise invalid_body(f"The request body is not a JSON object: {error}.") from None
    by_key = {member.key: member for member in members}
    if len(by_key) != len(members):
        raise _duplicate(members)
    return _Reader(target, text, raw, by_key).read(short=short)


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
        keys = _MAX_TOKENS_KEYS.get(self.operation, ())
        bounds = {key: self.integer(key, 0) for key in keys}
        given = [bound for bound in bounds.values() if bound is not None]
        stateful = self.operation is RESPONSES
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
            stream=self.operation.streams and bool(self.boolean("stream")),
            max_tokens=max(given, default=None),
            n=self.count("n") if self.operation in (CHAT_COMPLETIONS, COMPLETIONS) else 1,
            best_of=self.count("best_of") if self.operation is COMPLETIONS else 1,
            include_usage=include_usage,
            background=stateful and bool(self.boolean("background")),
            store=self.boolean("store"),
            previous_response_id=self.string("previous_response_id") if stateful else None,
            conversation_id=self.conversation_id() if stateful else None,
            prompt_cache_key=self.string("prompt_cache_key"),
            has_encrypted_reasoning=stateful and self.has_encrypted_reasoning(),
            references=self.references() if stateful else (),
            _edits=_EditPoints(
                brace=self.byte(self.text.index("{") + 1),
                has_members=bool(self.members),
                model=self.span("model"),
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
        model = self.string("model")
        if model is None:
            return None
        # Printable also rules out lone surrogates, which no log and no header could take.
        if not 0 < len(model) <= _LONGEST_MODEL or not model.isprintable():
            raise invalid_body("'model' must be the name of a deployment.", param="model")
        return model

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
        return (*(name for name in named if name), *references_in(self.raw))

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
