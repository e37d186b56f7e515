"""One attempt on the wire: what every event means in every phase."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from aoai_gateway.engine.attempt import Attempt, FailureKind
from aoai_gateway.engine.call import Call, Setup
from aoai_gateway.engine.effects import Answered, AttemptTimeouts, Drained, Failed
from aoai_gateway.proxy import upstream_response as module
from aoai_gateway.proxy.upstream_response import UpstreamResponse
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.routing.responsiveness import SHORTEST, Liveness
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.targets import parse_target
from tests.engine_driver import ANYBODY, CHAT, RESPONSES, config

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
FILTER = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
REFUSAL = b'data: {"error":{"code":"429","message":"too many"}}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'


class Wire:
    """An upstream response, a clock, and short names for events."""

    def __init__(self, path: str = CHAT, *, stream: bool = True, reused: bool = False, **replay: Any) -> None:
        setup_config = config("a", replay=replay)
        target = parse_target("POST", path)
        setup = Setup(setup_config, RoutingTable(setup_config))
        call = Call("id", ANYBODY, target, setup, 0.0, 0.0, {})
        body = {"model": "gpt", "messages": [], "input": "hi", "stream": stream}
        call.body = parse_body(target, "application/json", json.dumps(body).encode())
        self.now = 100.0
        self.liveness = Liveness()
        self.received = UpstreamResponse(
            call,
            Attempt(1, setup.table.backends[0], self.now, liveness=self.liveness),
            reused=reused,
            timeouts=AttemptTimeouts(connect=1, first_byte=5, preamble=3, idle=7),
            remove_usage=False,
            now=self.now,
        )

    def head(self, status: int = 200, fields: dict[str, str] | None = None) -> Any:
        response = http.Response.make(status, b"", fields or {})
        return self.received.receive(ResponseHeaders(1, response, False), self.now)

    def data(self, data: bytes) -> Any:
        return self.received.receive(ResponseData(1, data), self.now)

    def end(self) -> Any:
        return self.received.receive(ResponseEndOfMessage(1), self.now)

    def drop(self, message: str = "server closed connection") -> Any:
        return self.received.receive(
            ResponseProtocolError(1, message, ErrorCode.GENERIC_SERVER_ERROR), self.now
        )

    def late(self) -> Any:
        self.now = self.received.due
        return self.received.deadline_passed(self.now)


# --- before the headers ------------------------------------------------------------------------------


@pytest.mark.parametrize("reused", [True, False])
def test_a_drop_before_the_headers_says_whether_the_connection_was_new(reused: bool) -> None:
    failed = Wire(reused=reused).drop()
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.reused) == (FailureKind.DROPPED, reused)


def test_what_is_no_http_is_not_repeated_in_the_reason() -> None:
    failed = Wire(reused=True).drop("unexpected server response: b'SECRET'")
    assert (failed.kind, failed.reused) == (FailureKind.PROTOCOL, False)
    assert "SECRET" not in failed.reason


def test_no_headers_in_time() -> None:
    attempt = Wire()
    assert attempt.received.due == 105
    failed = attempt.late()
    assert (failed.kind, failed.reason) == (FailureKind.TIMEOUT, "no answer within 5 s")
    assert attempt.data(TEXT) is None, "what comes later is not looked at"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_the_backends_fault(status: int) -> None:
    failed = Wire().head(status, {"location": "https://elsewhere.example/SECRET"})
    assert failed.kind is FailureKind.PROTOCOL
    assert failed.reason == f"a redirect ({status}); check the endpoint's url"


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_a_status_that_may_be_replayed_is_known_at_once(status: int) -> None:
    answered = Wire().head(status, {**JSON, "retry-after": "3"})
    assert isinstance(answered, Answered)
    assert (answered.status, answered.headers.get("retry-after")) == (status, "3")


# --- answers that are no stream ----------------------------------------------------------------------


@pytest.mark.parametrize(("status", "stream"), [(200, False), (400, True), (404, False), (201, True)])
def test_other_answers_are_known_when_they_are_complete(status: int, stream: bool) -> None:
    attempt = Wire(stream=stream)
    assert attempt.head(status, JSON) is None
    assert attempt.data(b'{"a":') is None
    assert attempt.data(b"1}") is None
    answered = attempt.end()
    assert (answered.status, attempt.received.ended, attempt.received.streaming) == (status, True, False)
    assert attempt.received.take_body() == b'{"a":1}'
    assert attempt.received.take_body() == b"", "once"


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    attempt = Wire(stream=False, reused=True)
    attempt.head(200, JSON)
    attempt.data(b'{"a":')
    failed = attempt.drop()
    assert (failed.kind, failed.reused) == (FailureKind.DROPPED, False), "it was taken; not idle"


@pytest.mark.parametrize(
    "body", [b"", b'{"id": "chatc', b"<html>Sign in</html>", b'"text"', b"null", b"  \r\n"]
)
def test_a_200_that_is_no_object_of_json_is_no_answer(body: bytes) -> None:
    attempt = Wire(stream=False)
    attempt.head(200, JSON)
    attempt.data(body)
    failed = attempt.end()
    assert (failed.kind, failed.reused) == (FailureKind.PROTOCOL, False)
    assert failed.reason == "its answer is no JSON, or only a part of it"


@pytest.mark.parametrize("status", [201, 202, 203])
def test_a_page_is_no_answer_with_any_status_of_success(status: int) -> None:
    attempt = Wire(stream=False)
    attempt.head(status, {"content-type": "text/html"})
    attempt.data(b"<html>Sign in</html>")
    failed = attempt.end()
    assert (failed.kind, failed.reason) == (
        FailureKind.PROTOCOL,
        "its answer is no JSON, or only a part of it",
    )


TRANSCRIPTIONS = "/openai/deployments/gpt/audio/transcriptions?api-version=v1"
SPEECH = "/openai/deployments/gpt/audio/speech?api-version=v1"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [201, 202, 204, 205, 304])
@pytest.mark.parametrize(
    "path", [CHAT, "/openai/v1/responses", TRANSCRIPTIONS, SPEECH, "/openai/v1/embeddings"]
)
def test_a_success_with_nothing_in_it_is_no_answer(path: str, status: int, stream: bool) -> None:
    attempt = Wire(path, stream=stream)
    assert attempt.head(status, {}) is None
    failed = attempt.end()
    assert (failed.kind, failed.reused) == (FailureKind.PROTOCOL, False)
    assert failed.reason == f"its answer ({status}) has no body"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/openai/v1/responses", TRANSCRIPTIONS, SPEECH])
def test_a_part_of_an_answer_is_no_answer(path: str, stream: bool) -> None:
    attempt = Wire(path, stream=stream)
    failed = attempt.head(206, {"content-range": "bytes 0-1/99", "content-type": "application/json"})
    assert failed is not None
    assert (failed.kind, failed.reason) == (
        FailureKind.PROTOCOL,
        "a part of an answer (206), though all of it was asked for",
    )


def test_a_part_of_a_file_may_be_asked_for() -> None:
    attempt = Wire(stream=False)
    attempt.received._call.target = parse_target("GET", "/openai/v1/files/file_1/content")
    answered = attempt.head(206, {"content-range": "bytes 0-1/99", "content-type": "text/plain"})
    assert isinstance(answered, Answered)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/openai/v1/responses/resp_1", 204),
        ("POST", "/openai/v1/responses/resp_1/cancel", 204),
        ("POST", "/openai/v1/what/is/not/known", 204),
        ("GET", "/openai/v1/files/file_1", 304),
        # A recording without speech.
        ("POST", TRANSCRIPTIONS, 200),
    ],
)
def test_what_asks_for_no_content_may_be_answered_without(method: str, path: str, status: int) -> None:
    attempt = Wire(stream=False)
    attempt.received._call.target = parse_target(method, path)
    attempt.head(status, {})
    assert isinstance(attempt.end(), Answered)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, b" " * 9000 + b'{"a": 1}\r\n'),
        (CHAT, b'\xef\xbb\xbf{"a": 1}'),
        # What is asked for with a form can be answered in plain text (response_format: srt).
        (TRANSCRIPTIONS, b"1\n00:00 --> 00:01\nHi\n"),
    ],
)
def test_blanks_around_an_answer_and_texts_are_no_failure(path: str, body: bytes) -> None:
    attempt = Wire(stream=False)
    attempt.received._call.target = parse_target("POST", path)
    attempt.head(200, {})
    attempt.data(body)
    assert isinstance(attempt.end(), Answered)


def test_every_part_of_an_answer_gives_it_more_time() -> None:
    attempt = Wire(stream=False)
    attempt.now = 104
    attempt.head(200, JSON)
    assert attempt.received.due == 111
    attempt.now = 110
    attempt.data(b"{")
    assert attempt.received.due == 117
    failed = attempt.late()
    assert (failed.kind, failed.reason) == (FailureKind.TIMEOUT, "no answer within 7 s")


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 10)
    attempt = Wire(stream=False)
    attempt.head(200, JSON)
    assert attempt.data(b"x" * 10) is None
    assert attempt.data(b"x").kind is FailureKind.PROTOCOL


# --- streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "fields", "streams"),
    [
        (True, SSE, True),
        (False, SSE, True),
        (True, {"content-type": "Text/Event-Stream; charset=utf-8"}, True),
        (True, {}, True),
        (True, {"content-type": "text/plain"}, True),
        (True, JSON, False),
        (False, {}, False),
    ],
)
def test_what_is_a_stream(stream: bool, fields: dict[str, str], streams: bool) -> None:
    attempt = Wire(stream=stream)
    assert attempt.head(200, fields) is None
    assert attempt.received.streaming is streams


def test_a_stream_is_held_back_until_it_shows_content() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    for part in (FILTER, ROLE, TEXT[:10]):
        assert attempt.data(part) is None
    answered = attempt.data(TEXT[10:])
    assert isinstance(answered, Answered)
    assert attempt.received.take_body() == FILTER + ROLE + TEXT
    assert attempt.received.first_content == 100


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (CHAT, (REFUSAL,)),
        (CHAT, (FILTER, ROLE, REFUSAL)),
        (CHAT, (ROLE + REFUSAL,)),
        (RESPONSES, (CREATED, b'event: error\ndata: {"type":"error","code":"rate_limit_exceeded"}\n\n')),
    ],
)
def test_a_refusal_after_a_preamble_is_a_failure(path: str, parts: tuple[bytes, ...]) -> None:
    attempt = Wire(path)
    attempt.head(200, {**SSE, "retry-after-ms": "70"})
    results = [attempt.data(part) for part in parts]
    failed = results[-1]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert (failed.kind, failed.status) == (FailureKind.REFUSED_IN_STREAM, 429)
    assert failed.headers.get("retry-after-ms") == "70"
    assert "too many" not in failed.reason, "the message may quote the prompt"


def test_a_refusal_after_content_is_the_clients() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    assert isinstance(attempt.data(TEXT + REFUSAL), Answered)


def test_a_preamble_that_takes_long_goes_out() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    attempt.data(ROLE)
    attempt.now = 102
    attempt.data(FILTER)
    assert attempt.received.due == 103, "not put off by more of it"
    assert isinstance(attempt.late(), Answered)
    assert attempt.received.take_body() == ROLE + FILTER


def test_a_preamble_that_grows_large_goes_out() -> None:
    attempt = Wire(preamble_kb=1)
    attempt.head(200, SSE)
    assert attempt.data(b": " + b"x" * 1_000 + b"\n\n") is None
    assert isinstance(attempt.data(b": " + b"x" * 100 + b"\n\n"), Answered)


@pytest.mark.parametrize("how", ["end", "drop"])
def test_a_stream_that_ends_before_any_content_is_a_failure(how: str) -> None:
    attempt = Wire(reused=True)
    attempt.head(200, SSE)
    attempt.data(ROLE)
    failed = getattr(attempt, how)()
    assert (failed.kind, failed.reused) == (FailureKind.DROPPED, False)


def test_an_empty_stream_that_says_so_is_an_answer() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    result = attempt.data(DONE) or attempt.end()
    assert isinstance(result, Answered)
    assert attempt.received.take_body() == DONE


def test_a_stream_in_a_coding_is_to_be_decoded() -> None:
    attempt = Wire()
    assert attempt.head(200, {**SSE, "content-encoding": "gzip"}) is None
    assert attempt.received.unfolding is not None
    assert attempt.received.reader is not None
    assert attempt.received.response is not None
    assert "content-encoding" not in attempt.received.response.headers


@pytest.mark.parametrize("ending", [b"", b"\n"])
def test_a_refusal_without_its_last_empty_line_is_a_refusal(ending: bytes) -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    assert attempt.data(REFUSAL.rstrip(b"\n") + ending) is None
    failed = attempt.end()
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.REFUSED_IN_STREAM


# --- a failed answer's body --------------------------------------------------------------------------


def failing(**replay: Any) -> Wire:
    attempt = Wire(**replay)
    attempt.head(429, JSON)
    attempt.received.drain(attempt.now)
    return attempt


def test_a_failed_body_runs_out() -> None:
    attempt = failing()
    assert attempt.received.due == 102
    assert attempt.data(b"a") is None
    assert attempt.received.due == 102, "a body that drips is not waited for"
    assert attempt.data(b"b") is None
    assert attempt.end() == Drained(100, b"ab")


def test_a_failed_body_is_bounded_in_time() -> None:
    attempt = failing()
    attempt.data(b"a")
    assert attempt.late() == Drained(102, None)


def test_a_failed_body_is_bounded_in_size() -> None:
    attempt = failing(error_body_kb=1)
    assert attempt.data(b"x" * 1024) is None
    assert attempt.data(b"x") == Drained(100, None)
    assert attempt.end() is None


def test_a_failed_body_that_breaks_off() -> None:
    attempt = failing()
    attempt.data(b"a")
    assert attempt.drop() == Drained(100, None)


# --- delivery ----------------------------------------------------------------------------------------


def test_what_is_delivered_gives_the_stream_more_time() -> None:
    attempt = Wire()
    attempt.received.came(200)
    attempt.received.came(203)
    assert (attempt.received.due, attempt.received.first_content) == (210, 200)


def test_events_after_its_fate_is_known_mean_nothing() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    attempt.data(TEXT)
    assert [attempt.data(TEXT), attempt.end(), attempt.drop()] == [None, None, None]


# --- silence -----------------------------------------------------------------------------------------


def silent(**but: Any) -> Wire:
    """A call that has waited in vain, as another one has, at a backend that answers within half a second."""
    wire = Wire(**but)
    wire.liveness.sent("id", wire.now, 0.5)
    wire.liveness.sent("another", wire.now, 0.5)
    wire.received._expect(wire.now + 5, wire.now)
    return wire


def test_a_silent_backend_is_given_up_long_before_the_deadline() -> None:
    wire = silent()
    assert wire.received.due == 100 + SHORTEST
    failed = wire.late()
    assert (failed.kind, failed.silent) == (FailureKind.TIMEOUT, True)
    # It was idle before, too; that is no silence.
    assert failed.reason == f"silent for {SHORTEST:.1f} s, to all calls"


def test_a_backend_that_is_heard_of_elsewhere_is_waited_for() -> None:
    wire = silent()
    wire.liveness.hear(100.9)
    assert wire.late() is None
    assert wire.received.due == pytest.approx(100.9 + SHORTEST)
    assert wire.late().silent


def test_one_call_alone_is_waited_for_until_its_deadline() -> None:
    wire = silent()
    wire.liveness.ended("another")
    failed = None
    while failed is None:
        failed = wire.late()
    assert (wire.now, failed.silent, failed.reason) == (105, False, "no answer within 5 s")


def test_each_event_is_a_sign_of_life_but_a_broken_connection_is_none() -> None:
    wire = Wire(stream=False)
    wire.drop()
    assert wire.liveness.heard < 0
    wire = Wire(stream=False)
    wire.head(200, JSON)
    assert wire.liveness.heard == 100


def test_a_failed_answers_body_is_not_a_matter_of_silence() -> None:
    wire = silent(error_body_seconds=2)
    wire.head(429, JSON)
    wire.received.drain(wire.now)
    assert wire.late() == Drained(102, None)


# --- what comes too late to be replayed ---------------------------------------------------------------


def test_the_first_content_is_no_preamble_that_was_let_through() -> None:
    attempt = Wire()
    attempt.head(200, SSE)
    attempt.data(ROLE)
    assert isinstance(attempt.late(), Answered)
    attempt.received.came(attempt.now)
    assert attempt.received.first_content is None
    attempt.now += 30
    assert attempt.received.reader is not None
    attempt.received.reader.feed(TEXT)
    attempt.received.came(attempt.now)
    assert attempt.received.first_content == attempt.now


def test_a_failure_at_the_very_end_that_is_not_replayed_is_the_end() -> None:
    attempt = Wire(RESPONSES)
    attempt.received._call.body = parse_body(
        attempt.received._call.target, "application/json", b'{"model":"gpt","input":"hi","background":true}'
    )
    attempt.head(200, SSE)
    failed = (
        b'event: response.failed\ndata: {"type":"response.failed","response":{"id":"r","error":null}}\n\n'
    )
    assert attempt.data(CREATED + failed) is None
    assert isinstance(attempt.end(), Answered)
    assert attempt.received.ended, "no more events come, so none may be waited for"
