"""The meaning of an event stream, read as it passes.

A `StreamReader` sits between a backend and a client. It is fed the bytes that come and returns those that go
on: whole events, as they came. An unfinished event waits for its end. No SDK can use half an event, and a
client that never has half of one can be told that the backend broke off (`StreamReader.break_off`).

Meanwhile it answers the questions of replay, policy and accounting:

- *verdict*: may the call still be replayed? A stream begins with a preamble without content
  (``response.created``, ``response.queued``, ``response.in_progress``, the prompt's filter results, a role
  without content). Azure OpenAI has been seen to refuse a call right after it, and to fail, inside a 200 that
  has begun. `backend_errors` lists the errors that would be replayed as a status. The events that
  `StreamReader.feed` returns while the verdict is UNDECIDED can be held back, so that the call can be sent
  elsewhere when it turns REFUSED, and the client never knows.
- *is it complete?* Azure OpenAI ends a stream with ``[DONE]`` or a response's last event. Other servers leave
  that out. Where the HTTP message ended as it should, and each choice that began has its finish reason, the
  stream is complete, too. An answer that is delimited by the connection's end (HTTP/1.0) ends so by
  definition: the finish reasons are all the evidence there is, and they suffice. A message that was cut short
  is a break, with all finish reasons as well: usage and late filter verdicts come after them.
- *usage, finish reasons, ids, the delivered text, errors*.

Hundreds of chunks pass per call, so a chunk is not decoded to learn that it is one more piece of text. Up to
the first content every event is decoded; after it only those that hold bytes such as ``"error"``,
``"usage":{``, a finish reason or a choice not yet seen. Inside a JSON string those quotes would be escaped,
so text of a model rarely looks like that, and what was decoded decides. An event of more than `LARGE_EVENT`
bytes is never decoded, for that could take seconds: it is searched for what matters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aoai_gateway.wire.backend_errors import BLOCKED, LONGEST_CODE, NO_REASON, status_of
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.dialects import OPENAI, Dialect
from aoai_gateway.wire.gateway_error import GatewayError, stream_error_event
from aoai_gateway.wire.model_names import ModelNames
from aoai_gateway.wire.references import MOST_ITEMS, references_in
from aoai_gateway.wire.sse import (
    HEAD,
    LARGE_EVENT,
    MAX_EVENT_BYTES,
    SseEvent,
    SseScanner,
    decoded,
    parse_fields,
    type_of,
)
from aoai_gateway.wire.stream_kinds import NOTHING, Kind, StreamError, Verdict
from aoai_gateway.wire.usage import AnswerFacts, Usage, facts_of, search_answer, without_usage

_PREAMBLE_EVENTS = frozenset({b"response.created", b"response.queued", b"response.in_progress"})
_COMPLETE_EVENTS = frozenset({b"response.completed", b"response.incomplete", b"response.cancelled"})
_WITH_CHOICES = frozenset({"chat.completions", "completions"})
_NOT_TEXT = frozenset({b"response.audio.delta", b"response.output_audio.delta"})
_DONE = b"[DONE]"
_DONE_EVENT = b"done"

_MOST_CHOICES = 1_000
_FINISH_REASON = re.compile(rb'"finish_reason"[ \t\r\n]*+:[ \t\r\n]*+"')
_INDEX = re.compile(rb'"index"[ \t\r\n]*+:[ \t\r\n]*+(\d{1,4})')
_ERROR_FIRST = re.compile(rb'[ \t\r\n]*+\{[ \t\r\n]*+"error"[ \t\r\n]*+:[ \t\r\n]*+[{"]')
_CODE = re.compile(rb'"code"[ \t\r\n]*+:[ \t\r\n]*+"?([A-Za-z0-9_.-]{1,64})')
_USAGE_OBJECT = re.compile(rb'"usage"[ \t\r\n]*+:[ \t\r\n]*+\{')
_PROMPT_RESULTS = re.compile(rb'"prompt_(?:filter_results|annotations)"')
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number"[ \t\r\n]*+:[ \t\r\n]*+(\d{1,9})')


class StreamReader:
    """Reads one stream of the operation ``operation_name``.

    Those of ``chat.completions`` and ``completions`` are chunks with choices, those of ``responses`` (and of
    a response that is resumed) are its events. Any other stream (``audio.transcriptions``, ``threads.runs``)
    is read for its usage and its errors; it is complete when its HTTP message ended as it should. So it is in
    OpenAI's ``dialect``; another one reads all of its streams in its own way.

    ``remove_usage``: the gateway has added ``include_usage`` to a call whose client did not ask for it. The
    chunk that this brings, and the ``"usage":null`` in every other one, are taken out again: the client gets
    the bytes of a backend that was not asked. A chunk with both choices and usage (some servers) stays, and
    loses its usage.

    ``names``: the names of deployments that are replaced in events. One of more than ``max_event_bytes``,
    which is passed on in pieces, stays as it came.
    """

    def __init__(
        self,
        operation_name: str,
        *,
        dialect: Dialect = OPENAI,
        remove_usage: bool = False,
        names: ModelNames | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self.operation_name = operation_name
        self.dialect = dialect
        self.remove_usage = remove_usage
        self._names = names or None
        self._has_replaced = False
        self.verdict = Verdict.UNDECIDED
        self.usage: Usage | None = None
        self.response_id: str | None = None
        self.model: str | None = None
        self.service_tier: str | None = None
        self.made: list[str] = []
        """References that only this resource can resolve, the last one first (`wire.references`)."""
        self.finish_reasons: list[str] = []
        self.error: StreamError | None = None
        self.terminal_seen = False
        """The stream marked its own end: ``[DONE]``, a response's last event, or an error."""
        self.content_events = 0
        self.delivered = Delivered(operation_name)
        """The text, to be counted where no usage comes."""
        self._scanner = SseScanner(max_event_bytes)
        self._last = b""
        self._is_response = operation_name.partition(".")[0] == "responses"
        self._has_choices = operation_name in _WITH_CHOICES
        # Functions, since a method of its own would have the reader refer to itself.
        cls = type(self)
        self._read = cls._read_chunk if self._has_choices else cls._read_typed
        if self._is_response:
            self._read = cls._read_response
        self._own_reader = dialect.event_reader() if dialect.event_reader is not None else None
        if self._own_reader is not None:
            self._read = cls._read_own
        self._begun: set[int] = set()
        """Choices of which anything has come; `_finished`: those with a finish reason."""
        self._finished: set[int] = set()
        self._pieces = 0
        """Bytes of an event that is passed on in pieces."""
        self._half = False
        """The stream ended within an event."""
        self._failed_without_reason = False

    def keeps_size(self) -> bool:
        """Whether as many bytes go out as come in; from then on no name is replaced, so that it stays true.

        Asked once, before the head of an answer with a length is sent.
        """
        if self.remove_usage or self._has_replaced:
            return False
        self._names = None
        return True

    @property
    def client_mid_event(self) -> bool:
        """Whether the client has part of an event (one over the limit, which is passed on in pieces)."""
        return self._scanner.oversized

    @property
    def is_blocked(self) -> bool:
        """Whether the content filter has ended it before anything was delivered."""
        reasons = set(self.finish_reasons)
        return bool(reasons) and reasons <= BLOCKED and not self.delivered and self._begun <= self._finished

    def feed(self, data: bytes) -> bytes:
        """Read what came; returns what the client is to get of it now."""
        events = self._scanner.feed(data)
        if len(events) == 1:
            return self._take(events[0])
        return b"".join([self._take(event) for event in events])

    def flush(self) -> bytes:
        """Return the held-back part of an unfinished event: the backend's stream is over.

        By the standard such an event does not count. But some servers leave out the last empty line, so it
        is read if it is complete in itself: only after this are `verdict` and `is_complete` final.
        """
        self._half = self._scanner.oversized
        self.delivered.beyond, self._pieces = self.delivered.beyond + self._pieces, 0
        rest = self._scanner.finish()
        event, data = parse_fields(rest)
        whole = data.endswith(b"}") if len(data) > LARGE_EVENT else decoded(data) is not None
        if whole or data.startswith(_DONE) or event == _DONE_EVENT:
            shown = self._take(SseEvent(rest, event, data))
        else:
            shown = self._with_names(rest)
            self._half = self._half or bool(data or event)
        if self._failed_without_reason and self.verdict is Verdict.UNDECIDED:
            self._fail(None, None, NO_REASON)
        return shown

    def is_complete(self, *, cut_short: bool) -> bool:
        """Whether the stream that has come to its end, and was flushed, is all of the answer.

        ``cut_short``: the HTTP message did not end as it should. See the module's docstring for the rule.
        """
        if self.terminal_seen:
            return True
        if cut_short or self._half or len(self._begun) >= _MOST_CHOICES:
            return False
        if self._own_reader is not None:
            return self._own_reader.is_finished
        if not self._has_choices and not self._is_response:
            return self.content_events > 0
        return bool(self._begun) and self._begun <= self._finished

    def break_off(self, error: GatewayError) -> bytes:
        """Return the bytes that the client gets instead of the rest: the backend broke off.

        The bytes that `flush` returned are not to be sent then. See `stream_error_event` for
        `client_mid_event`.
        """
        if self.dialect.error_event is not None:
            return (b"\n\n" if self.client_mid_event else b"") + self.dialect.error_event(error)
        number = _SEQUENCE_NUMBER.search(self._last)
        return stream_error_event(
            "responses" if self._is_response else self.operation_name,
            error,
            mid_event=self.client_mid_event,
            sequence_number=int(number[1]) + 1 if number else 0,
        )

    def classify(self, event: SseEvent) -> Kind:
        """Return the kind of the next event, and record its facts."""
        if not event.whole:
            self._pieces += len(event.raw)
            if not event.data:
                return self._content()
            # The last piece, with an excerpt of the whole.
            self.delivered.beyond += self._pieces if self._is_text(event) else 0
            self._pieces = 0
        data = event.data
        if not data and event.event != _DONE_EVENT:
            return Kind.PREAMBLE
        if data.startswith(_DONE) or event.event == _DONE_EVENT:
            self.terminal_seen = True
            self._accept()
            return Kind.TERMINAL
        self._last = data
        return self._read(self, event)

    def _is_text(self, event: SseEvent) -> bool:
        """Whether most of an event is output of the model."""
        if self._own_reader is not None:
            return self._own_reader.read(event, accepted=True).delivers
        if not self._is_response:
            return True
        name = event.event or type_of(event.data)
        return name.endswith(b".delta") and name not in _NOT_TEXT

    def _take(self, event: SseEvent) -> bytes:
        kind, raw = self.classify(event), event.raw
        if not event.whole:
            return raw
        if self.remove_usage and raw.find(b'"usage"') >= 0:
            if kind is Kind.USAGE and not _PROMPT_RESULTS.search(event.data):
                return b""
            raw = without_usage(event)
        return self._with_names(raw)

    def _with_names(self, raw: bytes) -> bytes:
        if self._names is None:
            return raw
        shown = self._names.in_event(raw)
        self._has_replaced = self._has_replaced or shown is not raw
        return shown

    # --- chat and completions ------------------------------------------------------------------------

    def _read_chunk(self, event: SseEvent) -> Kind:
        data = event.data
        if len(data) > LARGE_EVENT:
            return self._search_chunk(data)
        if self.verdict is not Verdict.UNDECIDED and not self._worth_decoding(data):
            self.delivered.read(data)
            return self._content()
        chunk = decoded(data)
        if chunk is None:
            return self._content()
        if chunk.get("error"):
            return self._failed(chunk["error"])
        self._note(facts := facts_of(chunk))
        choices = chunk.get("choices")
        if facts.usage and choices == []:
            self._accept()
            return Kind.USAGE
        if not isinstance(choices, list):
            return self._content()
        self._note_choices(choices)
        if all(_is_hollow(choice) for choice in choices):
            return Kind.PREAMBLE
        self.delivered.read(data)
        return self._content()

    def _worth_decoding(self, data: bytes) -> bool:
        """Whether a chunk may hold more than text. (On short bytes ``find`` is faster than ``in``.)"""
        if data.find(b'"error"') >= 0:
            return True
        plain = data.find(b'"finish_reason":null') >= 0 and data.count(b'"finish_reason"') == 1
        if not plain and _FINISH_REASON.search(data):
            return True
        first = data.find(b'"index":0')
        plain = first >= 0 and 0 in self._begun and data.find(b'"index"', first + 1) < 0
        if not plain and any(int(number) not in self._begun for number in _INDEX.findall(data)):
            return True
        if data.find(b'"usage":null') >= 0 or data.find(b'"usage"') < 0:
            return False
        return _USAGE_OBJECT.search(data) is not None

    def _note_choices(self, choices: list[Any]) -> None:
        for choice in choices[:_MOST_CHOICES]:
            if not isinstance(choice, Mapping):
                continue
            index, reason = choice.get("index", 0), choice.get("finish_reason")
            if not isinstance(index, int) or len(self._begun) >= _MOST_CHOICES:
                continue
            if reason or "delta" in choice or "text" in choice:
                self._begun.add(index)
            if isinstance(reason, str) and reason:
                self._finished.add(index)
                self.finish_reasons.append(reason[:64])

    def _search_chunk(self, data: bytes) -> Kind:
        """Read a chunk that is too large to be decoded."""
        if _ERROR_FIRST.match(data[:HEAD]):
            return self._failed_large(data)
        self._note(facts := search_answer(data))
        indexes = _INDEX.findall(data[:HEAD]) or _INDEX.findall(data[-HEAD:])
        index = int(indexes[-1]) if indexes else 0
        self._begun.add(index)
        if facts.finish_reasons:
            self._finished.add(index)
            self.finish_reasons += facts.finish_reasons
        self.delivered.read(data)
        return self._content()

    # --- responses -----------------------------------------------------------------------------------

    def _read_response(self, event: SseEvent) -> Kind:
        name = event.event or type_of(event.data)
        if name.endswith(b".delta"):
            if name not in _NOT_TEXT:
                self.delivered.read(event.data)
            return self._content()
        if name in _PREAMBLE_EVENTS:
            if self.response_id is None:
                self._note_response(event.data)
            return Kind.PREAMBLE
        if name in _COMPLETE_EVENTS or name == b"response.output_item.done":
            self.made = [*references_in(event.data), *self.made][:MOST_ITEMS]
        if name in _COMPLETE_EVENTS:
            self._note_response(event.data)
            self.terminal_seen = True
            self._accept()
            return Kind.TERMINAL
        if name == b"response.failed":
            self.terminal_seen = True
            error = self._note_response(event.data)
            if error or self.verdict is not Verdict.UNDECIDED:
                return self._failed(error)
            self._failed_without_reason = True
            return Kind.PREAMBLE  # Azure sends the reason in an "error" event, before it or after it
        if name == b"error" or (not event.event and _ERROR_FIRST.match(event.data[:HEAD])):
            if len(event.data) > LARGE_EVENT:
                return self._failed_large(event.data)
            body = decoded(event.data) or {}
            return self._failed(body.get("error") or body)
        return self._content()

    def _note_response(self, data: bytes) -> object:
        """Record the facts in an event's ``response``, and return its ``error``."""
        if len(data) > LARGE_EVENT:
            facts = search_answer(data)
        else:
            facts = facts_of((decoded(data) or {}).get("response"))
        self._note(facts)
        if facts.status in ("completed", "incomplete", "failed", "cancelled"):
            self.finish_reasons = list(facts.finish_reasons)
        return facts.error

    # --- others --------------------------------------------------------------------------------------

    def _read_typed(self, event: SseEvent) -> Kind:
        """Read an event of which only errors, usage and ids concern the gateway."""
        data = event.data
        is_error = event.event == b"error" or _ERROR_FIRST.match(data[:HEAD])
        if len(data) > LARGE_EVENT:
            if is_error:
                return self._failed_large(data)
            self._note(search_answer(data))
            return self._content()
        if is_error or self._may_tell(data):
            body = decoded(data) or {}
            if is_error:
                return self._failed(body.get("error") or body)
            self._note(facts_of(body))
            self.made = [*references_in(data), *self.made][:MOST_ITEMS]
        return self._content()

    def _may_tell(self, data: bytes) -> bool:
        return data.find(b'"id"') >= 0 or _USAGE_OBJECT.search(data) is not None

    # --- other dialects ------------------------------------------------------------------------------

    def _read_own(self, event: SseEvent) -> Kind:
        """Read an event as the dialect's own reader has it."""
        assert self._own_reader is not None
        reading = self._own_reader.read(event, accepted=self.verdict is not Verdict.UNDECIDED)
        if reading.error is not None:
            return self._failed(reading.error)
        if reading.facts is not NOTHING:
            self._note(reading.facts)
            self.finish_reasons = list(reading.facts.finish_reasons) or self.finish_reasons
            if self.delivered.prompt is None:
                self.delivered.prompt = self._own_reader.prompt
        if reading.delivers:
            self.delivered.read(event.data)
        if reading.kind is Kind.CONTENT:
            return self._content()
        if reading.kind is Kind.TERMINAL:
            self.terminal_seen = True
            self._accept()
        return reading.kind

    # --- all -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self.verdict is Verdict.UNDECIDED:  # a refusal stays one with any events after it
            self.verdict = Verdict.ACCEPTED

    def _content(self) -> Kind:
        self._accept()
        self.content_events += 1
        return Kind.CONTENT

    def _note(self, facts: AnswerFacts) -> None:
        self.usage = facts.usage or self.usage
        self.response_id = self.response_id or facts.response_id
        self.model = self.model or facts.model
        # The last word counts: a response begins with what was asked for, and ends with what was given.
        self.service_tier = facts.service_tier or self.service_tier

    def _failed(self, error: object) -> Kind:
        details: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
        code, type_ = details.get("code"), details.get("type")
        if self.error is not None and not details:
            return self._fail(self.error.code, self.error.type, self.error.status)
        return self._fail(
            str(code)[:LONGEST_CODE] if code is not None else None,
            type_[:LONGEST_CODE] if isinstance(type_, str) else None,
            status_of(details),
        )

    def _failed_large(self, data: bytes) -> Kind:
        code = _CODE.search(data[:LARGE_EVENT])
        return self._failed({"code": code[1].decode()} if code else {})

    def _fail(self, code: str | None, type_: str | None, status: int | None) -> Kind:
        self.error = StreamError(code, type_, status)
        self.terminal_seen = True
        if self.verdict is Verdict.UNDECIDED and status is not None:
            self.verdict = Verdict.REFUSED
            return Kind.REFUSAL
        self._accept()
        return Kind.ERROR


def _is_hollow(choice: object) -> bool:
    """Whether a choice of a chunk holds no content: at most a role, filter results and nulls."""
    if not isinstance(choice, Mapping) or choice.get("finish_reason") or choice.get("text"):
        return False
    delta = choice.get("delta") or {}
    return isinstance(delta, Mapping) and not any(value for name, value in delta.items() if name != "role")
