"""Request bodies that are JSON: the facts that policies and routing need, and where they stand.

JSON is decoded once. An edit then replaces the bytes of one value, or inserts one member after the opening
brace; so of each value that may be edited, its place is noted.

A key that stands twice at the top level is an error, however it is spelled: JSON parsers disagree on which
of the two counts, and the gateway must judge what the backend will read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aoai_gateway.wire.errors import invalid_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.json_members import Member, NotJsonError, read_document, read_object
from aoai_gateway.wire.operation import State
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES
from aoai_gateway.wire.request_body import EditPoints, RequestBody, Span
from aoai_gateway.wire.resource_names import references_in
from aoai_gateway.wire.targets import Target, knows_stream_options

LARGEST_NUMBER = 2**31 - 1
"""The largest count of tokens or answers that is read, far below where floats lose integers."""

SHORT_MEMBER = 4096
"""Characters of a value that is kept of a large body, too. It must also be flat: there is no telling how deep
another one is."""

SMALL_BODY = 8192
"""Bytes of a body that is not worth a look."""

SHORTEST_ATTACHMENT = 1024
"""Bytes of a string without a space in it that is taken for base64."""

_SPEAKABLE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_LONGEST_MODEL = 256


def parse_json(target: Target, raw: bytes, *, short: bool) -> RequestBody:
    """Read a body that is a JSON object. ``short``: keep only what is short of it.

    Raises `GatewayError` 400.
    """
    try:
        return _reader_of(target, raw).read(short=short)
    except NotJsonError as error:
        raise invalid_body(f"The request body is not a JSON object: {error}.") from None


def text_at(target: Target, raw: bytes, ways: Iterable[tuple[str, ...]]) -> tuple[str, Span] | None:
    """Find the text at the end of the first of some ways through a JSON object that leads to one.

    Returns it, and its place in the bytes, without the quotes. Raises `NotJsonError`, and `GatewayError` 400
    where a key on the way occurs twice.
    """
    reader = _reader_of(target, raw)
    found = next(filter(None, map(reader.nested, ways)), None)
    if found is None:
        return None
    return str(found.value), (reader.byte(found.value_start) + 1, reader.byte(found.end) - 1)


def _reader_of(target: Target, raw: bytes) -> _Reader:
    text = _text_of(raw)
    members = read_document(text)
    by_key = {member.key: member for member in members}
    if len(by_key) != len(members):
        raise _duplicate(members)
    return _Reader(target, text, raw, by_key)


def checked_model(model: str | None) -> str | None:
    """Return a deployment's name as a body gives it, None for none. Raises `GatewayError` 400."""
    if not model:
        # Microsoft's samples for JavaScript write "" where the client has the deployment, and so the path.
        return None
    # Printable also rules out lone surrogates, which no log and no header could take.
    if len(model) > _LONGEST_MODEL or not model.isprintable():
        raise invalid_body("'model' must be the name of a deployment.", param="model")
    return model


def _text_of(raw: bytes) -> str:
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
        return checked_model(self.string("model") if held is None else str(held.value))

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
