"""The answer to one attempt on the wire, and what it means for the attempt.

An :class:`UpstreamResponse` takes the response's events of one backend connection and says, once it can, what
became of the attempt, in the engine's words:

- A status that may be replayed: `Answered` at once. The engine then has its body run out (`Drained`), so
  that the connection stays usable.
- A stream: held back until it shows something other than a preamble. An error then is `Failed`, as if it
  had come as the status that it stands for, if that is replayed; anything else is `Answered`, and delivery
  begins with what was held.
- Any other answer: its whole body is read first, so that one which breaks off can still be replayed. One
  with 200 that says ``"status": "failed"`` is `Failed` in the same way.

It keeps its own deadline (``due``) but has no timer; its owner tells it when the time has come. Before the
last deadline it asks whether the backend still gives any sign of life
(:mod:`~aoai_gateway.routing.responsiveness`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from mitmproxy.proxy.layers.http import (
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from wsproto.utilities import generate_accept_token

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.effects import Answered, Drained, Ended, Failed
from aoai_gateway.engine.failures import falls_back, fault_of, is_failure, is_replayed, version_refused
from aoai_gateway.proxy import answers
from aoai_gateway.proxy.heads import NO_HEAD, HeaderIndex
from aoai_gateway.proxy.session_side import Preamble
from aoai_gateway.proxy.stream_events import DEADLINE_SLACK
from aoai_gateway.proxy.unfolding import Unfolding
from aoai_gateway.routing.responsiveness import Liveness
from aoai_gateway.wire.backend_errors import NO_REASON, OUT_OF_CAPACITY, describe, status_of
from aoai_gateway.wire.content_coding import MOST_AT_ONCE, NotDecodedError, decode, readable
from aoai_gateway.wire.operation import Cost
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import Verdict
from aoai_gateway.wire.usage import AnswerFacts, read_answer

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.proxy.layers.http import HttpEvent

    from aoai_gateway.config.models import Replay
    from aoai_gateway.engine.attempt import Attempt, Fault
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import AttemptTimeouts, Result
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.delivered import Delivered
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.model_names import ModelNames

CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What an error's code looks like; anything else a backend puts there is not to be shown."""

MAX_ANSWER = 256 * 1024 * 1024
"""Bytes of an answer that is not a stream; more than that is none of Azure's."""


class Phase(Enum):
    """What an upstream response is waiting for."""

    HEADERS = auto()
    PREAMBLE = auto()
    """The first event of a stream that is not preamble."""
    BODY = auto()
    """The end of an answer that is no stream."""
    FAILED_BODY = auto()
    """The end of a failed answer's body."""
    OPENING = auto()
    """The first message of a session that shows what becomes of the client's first one."""
    OVER = auto()
    """Its fate is known."""


class UpstreamResponse:
    """The response side of one attempt. Times are monotonic seconds."""

    def __init__(
        self,
        call: Call,
        attempt: Attempt,
        *,
        reused: bool,
        timeouts: AttemptTimeouts,
        remove_usage: bool,
        now: float,
        names: ModelNames | None = None,
    ) -> None:
        self.response: http.Response | None = None
        self.head = NO_HEAD
        """The fields of the answer."""
        self.reader: StreamReader | None = None
        """Set while the answer is an event stream."""
        self.unfolding: Unfolding | None = None
        """Set while what goes to the client as it comes is in a coding that is undone."""
        self.preamble: Preamble | None = None
        """What has come of a session that the client's first message opens."""
        self.streaming = False
        """Whether the answer goes to the client as it comes."""
        self.ended = False
        """Whether its last byte has come."""
        self.cut_short = False
        """Whether it ended in some other way than HTTP has it."""
        self.decoded: bytes | None = None
        """The body of an answer that is no stream, decoded; None if it is too large to be decoded at once."""
        self.facts = AnswerFacts()
        """What that body says, where it could be decoded."""
        self.first_content: float | None = None
        self._call = call
        self._backend = attempt.backend
        self._replay: Replay = call.setup.config.replay
        self._reused = reused
        self._timeouts = timeouts
        self._remove_usage = remove_usage
        self._names = names
        self._phase = Phase.HEADERS
        self._is_blocked = False
        """Whether a stream has been refused before any content, so that the call may fall back."""
        self._body: list[bytes] = []
        self._size = 0
        # One that has nothing to remember is false.
        self._liveness = Liveness() if attempt.liveness is None else attempt.liveness
        self._sent = now
        self._must_end = now + call.setup.config.limits.answer_seconds
        self._expect(now + timeouts.first_byte, now)

    def _expect(self, limit: float, now: float) -> None:
        """Set the time until which something must come, and the time (``due``) to look at it next."""
        self._limit = limit = min(limit, self._must_end)
        self.due = min(limit, self._liveness.ask_again(self._call.id, now))

    def request_sent(self, now: float) -> None:
        """Note that all of a long request has been sent; its answer is waited for from now on."""
        self._sent = now
        self._must_end = now + self._call.setup.config.limits.answer_seconds
        if self._phase is Phase.HEADERS:
            self._expect(now + self._timeouts.first_byte, now)

    @property
    def is_plain(self) -> bool:
        """Whether the end of an answer that is no stream is waited for."""
        return self._phase is Phase.BODY

    def receive_body(self, data: bytes, now: float) -> Result:
        """Take in all of the body of an answer that is no stream (`is_plain`)."""
        self._body.append(data)
        self.ended, self._phase = True, Phase.OVER
        return self._read_answer(now)

    def take_body(self) -> bytes:
        """Return what has been held back or read so far, once."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    def came(self, now: float) -> None:
        """Note that something of a stream came, which is being delivered."""
        self._liveness.hear(now)
        self.due = min(now + self._timeouts.idle, self._must_end)
        # What cannot be read counts as content; a preamble that was let through after a while does not.
        reads_preamble = self.reader is not None and self.reader.verdict is Verdict.UNDECIDED
        if self.first_content is None and not reads_preamble:
            self.first_content = now

    def client_read_at(self, at: float) -> None:
        """Note that until then the client had something to read, so that the backend was not listened to."""
        self.due = max(self.due, min(at + self._timeouts.idle, self._must_end))

    def stream_ended(self, now: float) -> Ended:
        """Return how the stream that was delivered has ended, or what of it there is until now."""
        reader = self.reader
        if reader is None:
            return Ended(now, complete=True, first_content=self.first_content)
        complete = reader.is_complete(cut_short=self.cut_short)
        failed, error = "", reader.error
        if error is not None and error.status is not None and self._may_fail_inside:
            # Nothing is told of an error that is the caller's.
            failed = f"failed in its stream: {_named(error.status, error.code, error.type)}"
        return Ended(
            now,
            complete=complete,
            reason="" if complete else "ended its stream without saying so",
            failed=failed,
            first_content=self.first_content,
            usage=reader.usage,
            model=reader.model,
            response_id=reader.response_id,
            made=tuple(reader.made),
            finish_reason=", ".join(reader.finish_reasons) or None,
            service_tier=reader.service_tier,
            delivered=reader.delivered,
        )

    def stream_broken_off(self, now: float, reason: str) -> Ended:
        """Return how the stream has ended whose connection did not end as HTTP has it."""
        self.cut_short = True
        result = self.stream_ended(now)
        if self.reader is not None and result.complete:
            return result
        return replace(result, complete=False, reason=reason)

    def drain(self, now: float) -> None:
        """Wait for the end of a failed answer's body, within its bounds."""
        self._phase = Phase.FAILED_BODY
        self.due = self._limit = now + self._replay.error_body_seconds

    def receive(self, event: HttpEvent, now: float) -> Result | None:
        """Take in an event of the response. Returns the attempt's fate once it is known."""
        if not isinstance(event, ResponseProtocolError):
            self._liveness.hear(now)
        result: Result | None = None
        match self._phase:
            case Phase.HEADERS:
                result = self._in_headers(event, now)
            case Phase.PREAMBLE:
                result = self._in_preamble(event, now)
            case Phase.BODY:
                result = self._in_body(event, now)
            case Phase.FAILED_BODY:
                result = self._in_failed_body(event, now)
            case Phase.OPENING:
                result = self._in_opening(event, now)
        if result is not None:
            self._phase = Phase.OVER
        return result

    def deadline_passed(self, now: float) -> Result | None:
        """Return what it means that nothing came in time; None: wait on, until the new ``due``."""
        if now < self._limit - DEADLINE_SLACK:
            if not self._liveness.is_lost(self._call.id, now):
                self._expect(self._limit, now)
                return None
            self._phase = Phase.OVER
            quiet = now - max(self._liveness.heard, self._sent)
            return Failed(now, FailureKind.TIMEOUT, f"silent for {quiet:.1f} s, to all calls", silent=True)
        phase, self._phase = self._phase, Phase.OVER
        if phase is Phase.FAILED_BODY:
            return Drained(now, None)
        if self._is_blocked and (refusal := answers.refusal_in_stream(self._call, self.reader)) is not None:
            return self._blocked(now, refusal)
        if phase in (Phase.PREAMBLE, Phase.OPENING):
            # It may be thinking; from here on the client sees what comes.
            return self._answered(now)
        seconds = self._timeouts.first_byte if phase is Phase.HEADERS else self._timeouts.idle
        return Failed(now, FailureKind.TIMEOUT, f"no answer within {seconds:.3g} s")

    # --- phases ----------------------------------------------------------------------------------------

    def _in_headers(self, event: HttpEvent, now: float) -> Result | None:
        if isinstance(event, ResponseProtocolError):
            if "closed connection" in event.message:
                return Failed(now, FailureKind.DROPPED, "dropped the connection", reused=self._reused)
            return Failed(now, FailureKind.PROTOCOL, "what it sent is no HTTP response")
        if not isinstance(event, ResponseHeaders):
            return None
        response = self.response = event.response
        self.head = HeaderIndex(response.data.headers.fields)
        status = response.status_code
        why_not = answers.is_no_answer(self._call, status)
        if why_not is not None:
            return Failed(now, FailureKind.PROTOCOL, why_not)
        if is_failure(status):
            return Answered(now, status, self.head)
        if self._call.target.operation.websocket and status < 300:
            return self._in_handshake(status, now)
        if status in (200, 206) and answers.is_download(self._call, self.head):
            self.streaming = True
            if status == 200:  # a part (206) does not begin where its coding does
                with suppress(NotDecodedError):
                    self.unfolding = Unfolding.of(response)
            return self._answered(now)
        if status == 200 and answers.is_stream(self._call, self.head):
            return self._in_stream_head(response, now)
        self._phase = Phase.BODY
        self._expect(now + self._timeouts.idle, now)
        return None

    def _in_stream_head(self, response: http.Response, now: float) -> Result | None:
        """Begin to read a stream of events."""
        try:
            self.unfolding = Unfolding.of(response)
        except NotDecodedError:
            return Failed(now, FailureKind.PROTOCOL, "its stream is in an unknown coding")
        self.streaming = True
        operation = self._call.target.operation
        self.reader = StreamReader(
            operation.name, dialect=operation.dialect, remove_usage=self._remove_usage, names=self._names
        )
        self._phase = Phase.PREAMBLE
        self._expect(now + self._timeouts.preamble, now)
        return None

    def _in_handshake(self, status: int, now: float) -> Result | None:
        """Take in the answer to a WebSocket's handshake (RFC 6455 §4.1)."""
        key = (self._call.headers.get("sec-websocket-key") or "").encode()
        expected = generate_accept_token(key).decode()
        if status != 101 or (self.head.get("sec-websocket-accept") or "").strip() != expected:
            return Failed(now, FailureKind.PROTOCOL, f"no WebSocket there ({status})")
        self.streaming = True
        if self._call.target.operation.opened_by:
            self.preamble = Preamble()
            self._phase = Phase.OPENING
            self._expect(now + self._timeouts.preamble, now)
            return None
        return self._answered(now)

    def _in_opening(self, event: HttpEvent, now: float) -> Result | None:
        """Take in what comes before a session has shown what becomes of its first message."""
        preamble = self.preamble
        assert preamble is not None
        if isinstance(event, ResponseEndOfMessage | ResponseProtocolError):
            return Failed(now, FailureKind.DROPPED, "ended its session before any content")
        if not isinstance(event, ResponseData):
            return None
        if not preamble.feed(event.data) and preamble.received <= self._replay.preamble_kb * 1024:
            return None
        error = preamble.error
        status = error.get("status") if error is not None else None
        if isinstance(status, int) and is_failure(status) and is_replayed(self._call, status):
            assert error is not None and self.response is not None
            self._body = [preamble.held[-1][0]]
            return self._failed_inside(now, status, (error.get("code"), error.get("type")), "its session")
        if preamble.closed is not None and not preamble.held:
            return Failed(now, FailureKind.DROPPED, "closed its session before any content")
        return self._answered(now)

    def _in_preamble(self, event: HttpEvent, now: float) -> Result | None:
        assert self.reader is not None
        if isinstance(event, ResponseData):
            output = self.reader.feed(event.data)
            if output:
                self._body.append(output)
            self._size += len(event.data)
            if self.reader.verdict is Verdict.REFUSED:
                return self._refused(now)
            if self.reader.verdict is Verdict.ACCEPTED and not self._may_fall_back(now):
                self.first_content = now
                return self._answered(now)
            if self._size > self._replay.preamble_kb * 1024:
                return self._answered(now)
        elif isinstance(event, ResponseEndOfMessage | ResponseProtocolError):
            self._body.append(self.reader.flush())
            self.cut_short = isinstance(event, ResponseProtocolError)
            if self.reader.verdict is Verdict.REFUSED:
                self.ended = True
                return self._refused(now)
            if self.reader.is_complete(cut_short=self.cut_short):
                self.ended = True
                refusal = answers.refusal_in_stream(self._call, self.reader)
                return self._answered(now) if refusal is None else self._blocked(now, refusal)
            return Failed(now, FailureKind.DROPPED, "ended its stream before any content")
        return None

    def _may_fall_back(self, now: float) -> bool:
        """Whether the stream is still held back, since only its end is to come before the call falls back."""
        if answers.refusal_in_stream(self._call, self.reader) is None:
            return False
        if not self._is_blocked:
            self._is_blocked = True
            self._expect(now + self._replay.error_body_seconds, now)
        return True

    def _blocked(self, now: float, refusal: Refusal) -> Failed:
        told = self.stream_ended(now)
        return self._kept(now, f"{refusal} in its stream", refusal=refusal, told=told)

    def _refused(self, now: float) -> Failed | Answered:
        assert self.reader is not None and self.reader.error is not None
        error = self.reader.error
        assert error.status is not None
        if not self._may_fail_inside or not is_replayed(self._call, error.status):
            return self._answered(now)
        return self._failed_inside(now, error.status, (error.code, error.type), "its stream")

    @property
    def _may_fail_inside(self) -> bool:
        """Whether an error inside a 200 is about this call, and not about a response that it looks up."""
        return self._call.target.operation.cost is not Cost.NONE

    def _failed_inside(self, now: float, status: int, names: tuple[object, object], where: str) -> Failed:
        """Take an error inside a 200 for the status that it stands for."""
        assert self.response is not None
        body = self.response.data.content = self.take_body()
        verb = "refused" if status in OUT_OF_CAPACITY else "failed"
        return Failed(
            now,
            FailureKind.REFUSED_IN_STREAM,
            f"{verb} in {where}: {_named(status, *names)}",
            status=status,
            # What a healthy 200 says about its limits is no hint for a failure.
            headers=self.head if status in OUT_OF_CAPACITY else None,
            body=body if self.decoded is None else self.decoded,
        )

    def _in_body(self, event: HttpEvent, now: float) -> Result | None:
        if isinstance(event, ResponseData):
            self._body.append(event.data)
            self._size += len(event.data)
            self._expect(now + self._timeouts.idle, now)
            if self._size > MAX_ANSWER:
                return Failed(now, FailureKind.PROTOCOL, "its answer is too large")
        elif isinstance(event, ResponseEndOfMessage):
            self.ended = True
            return self._read_answer(now)
        elif isinstance(event, ResponseProtocolError):
            return Failed(now, FailureKind.DROPPED, "broke off its answer")
        return None

    def _read_answer(self, now: float) -> Result:
        """Read an answer that is no stream, as far as that is a matter of a moment."""
        assert self.response is not None
        self._body = [body := b"".join(self._body)]
        coding, status = self.head.get("content-encoding"), self.response.status_code
        if answers.lacks_body(self._call, status, body):
            return Failed(now, FailureKind.PROTOCOL, f"its answer ({status}) has no body")
        try:
            self.decoded = body if coding is None else decode(body, coding, MOST_AT_ONCE)
        except NotDecodedError as error:
            self.decoded = None if error.too_large else body
            is_part = error.broken and answers.expects_object(self._call, status)
            return self._no_object(now) if is_part else self._answered(now)
        if answers.expects_object(self._call, status) and not answers.is_object(self.decoded):
            return self._no_object(now)
        # All that is read there is a 4xx.
        if status >= 400 and (refused := self._read_refusal(now, status, self.decoded)) is not None:
            return refused
        facts = self.facts = read_answer(self.decoded)
        error_object = facts.error or {}
        if status == 200:
            reasons = facts.finish_reasons
            refusal = falls_back(self._call, status, None, error=facts.error, finish_reasons=reasons)
            if refusal is not None:
                reason, told = f"{refusal} in its answer", ended_of(now, facts)
                return self._kept(now, reason, refusal=refusal, told=told)
        failed = facts.status == "failed" or bool(error_object and not facts.finish_reasons)
        if status == 200 and failed and self._may_fail_inside:
            meant = status_of(error_object) if error_object else NO_REASON
            if meant is not None and is_replayed(self._call, meant):
                names = (error_object.get("code"), error_object.get("type"))
                return self._failed_inside(now, meant, names, "its answer")
        return self._answered(now)

    def _read_refusal(self, now: float, status: int, body: bytes) -> Result | None:
        """Return the meaning of a refusal, if it is more than an answer for the client."""
        instead = version_refused(self._call, self._backend, status, body)
        if instead is not None:
            return self._answered(now, instead)
        fault = fault_of(self._call, self._backend, status, body)
        refusal = falls_back(self._call, status, body) if fault is None else None
        if fault is None and refusal is None:
            return None
        return self._kept(now, describe(status, body), fault=fault, refusal=refusal)

    def _no_object(self, now: float) -> Failed:
        return Failed(now, FailureKind.PROTOCOL, "its answer is no JSON, or only a part of it")

    def _kept(
        self,
        now: float,
        reason: str,
        *,
        fault: Fault | None = None,
        refusal: Refusal | None = None,
        told: Ended | None = None,
    ) -> Failed:
        """Take an answer for a failure. All of it is there, and is kept: it may be the client's in the end.

        ``told``: the facts of one with 200.
        """
        assert self.response is not None
        content = self.response.data.content = self.take_body()
        return Failed(
            now,
            FailureKind.STATUS if told is None else FailureKind.REFUSED_IN_STREAM,
            reason,
            status=self.response.status_code,
            headers=self.head,
            body=content if self.reader is not None else self.decoded or b"",
            fault=fault,
            refusal=refusal,
            answer=told,
        )

    def _in_failed_body(self, event: HttpEvent, now: float) -> Result | None:
        if isinstance(event, ResponseData):
            self._size += len(event.data)
            if self._size > self._replay.error_body_kb * 1024:
                return Drained(now, None)
            self._body.append(event.data)
        elif isinstance(event, ResponseEndOfMessage):
            assert self.response is not None
            self.response.data.content = self.take_body()
            # What is read in it is the text; what is passed on or shown stays as it came.
            raw, coding = self.response.raw_content, self.head.get("content-encoding")
            return Drained(now, readable(raw, coding, MOST_AT_ONCE))
        elif isinstance(event, ResponseProtocolError):
            return Drained(now, None)
        return None

    def _answered(self, now: float, error: GatewayError | None = None) -> Answered:
        assert self.response is not None
        return Answered(now, self.response.status_code, self.head, error)


def ended_of(
    now: float, facts: AnswerFacts, *, made: tuple[str, ...] = (), delivered: Delivered | None = None
) -> Ended:
    """Return what a complete answer that is no stream has told."""
    return Ended(
        now,
        complete=True,
        usage=facts.usage,
        model=facts.model,
        response_id=facts.response_id,
        made=made,
        finish_reason=", ".join(facts.finish_reasons) or None,
        service_tier=facts.service_tier,
        delivered=delivered,
        seconds=facts.seconds,
        state=facts.status,
    )


def _named(status: int, *names: object) -> str:
    """Return the first of the names of an error that may be shown, or else its status."""
    return next((name for name in names if isinstance(name, str) and CODE.fullmatch(name)), str(status))
