"""What an event stream means, read as it passes.

A `StreamReader` sits between a backend and a client. It is fed what comes and returns what goes on: whole
events, as they came. An unfinished event waits for its end. No SDK can use half an event, and a client that
never has half of one can be told that the backend broke off (`StreamReader.break_off`).

Meanwhile it answers what replay, policy and accounting want to know:

- *verdict*: may the call still be replayed? A stream begins with a preamble that says nothing yet
  (``response.created``, ``response.queued``, ``response.in_progress``, the prompt's filter results, a role
  without content). Azure OpenAI has been seen to refuse a call right after it, inside a 200 that has begun:
  an error with a throttling code. Whoever holds back what `StreamReader.feed` returned while the verdict is
  UNDECIDED can send the call elsewhere when it turns REFUSED, and the client never knows.
- *usage, finish reasons, ids, delivered characters, errors, the end*.

Hundreds of chunks pass per call, so a chunk is not decoded to learn that it is one more piece of text. Up to
the first content every event is decoded; after it only those that hold bytes such as ``"error"`` or
``"usage":{``. Inside a JSON string those quotes would be escaped, so text of a model rarely looks like that,
and what was decoded decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from aoai_gateway.wire.errors import GatewayError, stream_error_event
from aoai_gateway.wire.hints import is_throttle_error
from aoai_gateway.wire.json_members import NotJsonError, read_document, without_member
from aoai_gateway.wire.sse import MAX_EVENT_BYTES, SseEvent, SseScanner, parse_fields
from aoai_gateway.wire.usage import Usage, facts_of


class Kind(Enum):
    """What one event is to the gateway."""

    PREAMBLE = auto()  # says nothing: a preamble, a comment, a keep-alive
    REFUSAL = auto()  # a throttling error, with nothing but preamble before it
    ERROR = auto()  # any other error
    CONTENT = auto()
    USAGE = auto()  # the chunk that include_usage adds: usage, and no choices
    TERMINAL = auto()  # the end, as it should be


class Verdict(Enum):
    """Whether a stream's call can still be replayed."""

    UNDECIDED = auto()  # only preamble so far
    REFUSED = auto()
    ACCEPTED = auto()


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error event's code and type (never its message), and whether they mean throttling."""

    code: str | None
    type: str | None
    throttled: bool


_PREAMBLE_EVENTS = frozenset({b"response.created", b"response.queued", b"response.in_progress"})
_COMPLETE_EVENTS = frozenset({b"response.completed", b"response.incomplete"})
_DONE = b"[DONE]"

# The keys, by operation, whose strings are what a model delivers.
_TEXT_KEYS: Mapping[str, tuple[bytes, ...]] = {
    "chat.completions": (
        b'"content"',
        b'"arguments"',
        b'"reasoning_content"',
        b'"reasoning"',
        b'"refusal"',
        b'"input"',
    ),
    "completions": (b'"text"',),
    "responses": (b'"delta"',),
}
_PLAIN_DELTA = b'"delta":{"content":"'
_STRING_VALUE = re.compile(rb'\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"([^"\\]{1,64})"')
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_PROMPT_RESULTS = re.compile(rb'"prompt_(?:filter_results|annotations)"')
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d{1,9})')


class StreamReader:
    """Reads one stream of the operation ``operation_name`` (``chat.completions``, ``completions``,
    ``responses``).

    ``remove_usage``: the gateway has added ``include_usage`` to a call whose client did not ask for it. The
    chunk that this brings, and the ``"usage":null`` in every other one, are taken out again: the client gets
    the bytes of a backend that was not asked. A chunk with both choices and usage (some servers) stays, and
    loses its usage.
    """

    def __init__(
        self, operation_name: str, *, remove_usage: bool = False, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self.operation_name = operation_name
        self.remove_usage = remove_usage
        self.verdict = Verdict.UNDECIDED
        self.usage: Usage | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self.finish_reasons: list[str] = []
        self.error: StreamError | None = None
        self.terminal_seen = False
        """The stream said that it is over: ``[DONE]``, a response's last event, or an error. A stream that
        ends without was cut off."""
        self.content_events = 0
        self.delivered_characters = 0
        """Of text, tool arguments, refusals and reasoning: an estimate's base where no usage comes."""
        self._scanner = SseScanner(max_event_bytes)
        self._last = b""
        self._read = self._read_response if operation_name == "responses" else self._read_chunk
        self._text_keys = _TEXT_KEYS.get(operation_name, ())

    @property
    def mid_event(self) -> bool:
        """Whether the backend is in the midst of an event."""
        return self._scanner.mid_event

    @property
    def client_mid_event(self) -> bool:
        """Whether the client has part of an event (one over the limit, which is passed on in pieces)."""
        return self._scanner.oversized

    def feed(self, data: bytes) -> bytes:
        """Read what came; returns what the client is to get of it now."""
        events = self._scanner.feed(data)
        if len(events) == 1:
            return self._take(events[0])
        return b"".join([self._take(event) for event in events])

    def flush(self) -> bytes:
        """The backend's stream is over: what was held back of an unfinished event goes out as it is.

        By the standard such an event does not count. But some servers leave out the last empty line, so it
        is read if it is complete in itself: only after this is `terminal_seen` final.
        """
        rest = self._scanner.finish()
        event, data = parse_fields(rest)
        if data.startswith(_DONE) or _decode(data) is not None:
            self.classify(SseEvent(rest, event, data))
        return rest

    def break_off(self, error: GatewayError) -> bytes:
        """The backend broke off: what the client is to get instead of the rest.

        What `flush` returned is not to be sent then. See `stream_error_event` for `client_mid_event`.
        """
        number = _SEQUENCE_NUMBER.search(self._last)
        return stream_error_event(
            self.operation_name,
            error,
            mid_event=self.client_mid_event,
            sequence_number=int(number[1]) + 1 if number else 0,
        )

    def classify(self, event: SseEvent) -> Kind:
        """What the next event is; what it says is recorded."""
        if not event.whole:
            return self._content()
        data = event.data
        if not data:
            return Kind.PREAMBLE
        if data.startswith(_DONE):
            self.terminal_seen = True
            self._accept()
            return Kind.TERMINAL
        self._last = data
        return self._read(event)

    def _take(self, event: SseEvent) -> bytes:
        kind = self.classify(event)
        if not self.remove_usage or event.raw.find(b'"usage"') < 0:
            return event.raw
        if kind is Kind.USAGE and not _PROMPT_RESULTS.search(event.data):
            return b""
        return without_usage(event)

    # --- chat and completions ------------------------------------------------------------------------

    def _read_chunk(self, event: SseEvent) -> Kind:
        data = event.data
        if self.verdict is not Verdict.UNDECIDED and not _worth_decoding(data):
            self._count(data)
            if data.find(b'"finish_reason":null') < 0:
                self._finish(data)
            return self._content()
        chunk = _decode(data)
        if chunk is None:
            return self._content()
        if chunk.get("error"):
            return self._failed(chunk["error"])
        facts = facts_of(chunk)
        self.usage = facts.usage or self.usage
        self.response_id = self.response_id or facts.response_id
        self.model = self.model or facts.model
        choices = chunk.get("choices")
        if facts.usage and choices == []:
            self._accept()
            return Kind.USAGE
        if isinstance(choices, list) and all(_is_hollow(choice) for choice in choices):
            return Kind.PREAMBLE
        self._count(data)
        self._finish(data)
        return self._content()

    def _finish(self, data: bytes) -> None:
        for reason in _FINISH_REASON.findall(data):
            self.finish_reasons.append(reason.decode(errors="replace"))

    # --- responses -----------------------------------------------------------------------------------

    def _read_response(self, event: SseEvent) -> Kind:
        name = event.event or _type_of(event.data)
        if name.endswith(b".delta"):
            self._count(event.data)
            return self._content()
        if name in _PREAMBLE_EVENTS:
            if self.response_id is None:
                self._note_response(_decode(event.data))
            return Kind.PREAMBLE
        if name in _COMPLETE_EVENTS:
            self._note_response(_decode(event.data))
            self.terminal_seen = True
            self._accept()
            return Kind.TERMINAL
        if name == b"response.failed":
            self.terminal_seen = True
            error = self._note_response(_decode(event.data)).get("error")
            if error or self.verdict is not Verdict.UNDECIDED:
                return self._failed(error)
            return Kind.PREAMBLE  # Azure sends the reason in an "error" event, before it or after it
        if name == b"error":
            body = _decode(event.data) or {}
            return self._failed(body.get("error") or body)
        if not event.event and b'"error"' in event.data:
            body = _decode(event.data) or {}
            if body.get("error"):
                return self._failed(body["error"])
        return self._content()

    def _note_response(self, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Record what an event's ``response`` says; returns it, empty if there is none."""
        response = (body or {}).get("response")
        if not isinstance(response, Mapping):
            return {}
        facts = facts_of(response)
        self.usage = facts.usage or self.usage
        self.response_id = self.response_id or facts.response_id
        self.model = self.model or facts.model
        if response.get("status") in ("completed", "incomplete", "failed", "cancelled"):
            self.finish_reasons = list(facts.finish_reasons)
        return response

    # --- both ----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self.verdict is Verdict.UNDECIDED:  # a refusal stays one, whatever follows it
            self.verdict = Verdict.ACCEPTED

    def _content(self) -> Kind:
        self._accept()
        self.content_events += 1
        return Kind.CONTENT

    def _failed(self, error: object) -> Kind:
        details: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
        throttled = is_throttle_error(details)
        if self.error is None or details:
            code, type_ = details.get("code"), details.get("type")
            self.error = StreamError(
                str(code)[:64] if code is not None else None,
                type_[:64] if isinstance(type_, str) else None,
                throttled,
            )
        self.terminal_seen = True
        if self.verdict is Verdict.UNDECIDED and throttled:
            self.verdict = Verdict.REFUSED
            return Kind.REFUSAL
        self._accept()
        return Kind.ERROR

    def _count(self, data: bytes) -> None:
        """Add what a chunk delivers, in characters."""
        start = data.find(_PLAIN_DELTA) + len(_PLAIN_DELTA)
        if start >= len(_PLAIN_DELTA):  # the common chunk: a delta of nothing but text
            end = data.find(b'"', start)
            text = data[start:end]
            if data[end + 1 : end + 2] == b"}" and text.find(b"\\") < 0:
                self.delivered_characters += _characters(text)
                return
        for key in self._text_keys:
            at = data.find(key)
            while at >= 0:
                at += len(key)
                value = _STRING_VALUE.match(data, at)
                if value is not None:
                    self.delivered_characters += _characters(value[1])
                at = data.find(key, at)


def without_usage(event: SseEvent) -> bytes:
    """The event's bytes without the ``usage`` member of its data's top level."""
    raw, data = event.raw, event.data
    before, found, after = raw.partition(b',"usage":null')
    if found and after.find(b'"usage"') < 0 and before.find(b'"usage"') < 0:
        # include_usage puts it at the top level of every chunk; so the only one there is, is that.
        return before + after
    if data not in raw:
        return raw  # data over several lines: nobody sends JSON so
    try:
        text = data.decode()
        kept = without_member(text, read_document(text), "usage")
    except (UnicodeDecodeError, NotJsonError):
        return raw
    return raw.replace(data, kept.encode(), 1)


def _worth_decoding(data: bytes) -> bool:
    """Whether a chunk may hold an error or usage. (On short bytes ``find`` is faster than ``in``.)"""
    if data.find(b'"error"') >= 0:
        return True
    if data.find(b'"usage":null') >= 0 or data.find(b'"usage"') < 0:
        return False
    return _USAGE_OBJECT.search(data) is not None


def _is_hollow(choice: object) -> bool:
    """Whether a choice of a chunk holds no content: at most a role, filter results and nulls."""
    if not isinstance(choice, Mapping) or choice.get("finish_reason") or choice.get("text"):
        return False
    delta = choice.get("delta") or {}
    return isinstance(delta, Mapping) and not any(value for name, value in delta.items() if name != "role")


def _type_of(data: bytes) -> bytes:
    """The event's name, from its data: some recorders and proxies drop the ``event`` line."""
    kind = (_decode(data) or {}).get("type")
    return kind.encode(errors="replace") if isinstance(kind, str) else b""


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _characters(text: bytes) -> int:
    """How many characters a JSON string of these bytes, without its quotes, holds."""
    if b"\\" in text:
        try:
            return len(json.loads(b'"' + text + b'"'))
        except ValueError:
            return len(text)
    return len(text) if text.isascii() else len(text.decode(errors="replace"))
