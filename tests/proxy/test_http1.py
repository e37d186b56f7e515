"""The client's side of HTTP/1, fed with bytes: heads that are too large, no HTTP, or cut off."""

from __future__ import annotations

import json
import logging

import pytest
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import (
    ReceiveHttp,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
)
from mitmproxy.test import tflow

from aoai_gateway.config.models import Limits
from aoai_gateway.proxy.http1 import GatewayHttp1Server
from aoai_gateway.proxy.own_responses import error_response
from aoai_gateway.proxy.stream_events import WholeRequest, WholeResponse
from aoai_gateway.wire import errors

HEAD = b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


class Clock:
    """Times that a test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Connection:
    """One client connection, and what the server did about it."""

    def __init__(self, max_head: int = 1024, **limits: int) -> None:
        self.client = tflow.tclient_conn()
        self.clock = Clock()
        self.server = GatewayHttp1Server(
            context.Context(self.client, Options()), Limits(**limits), clock=self.clock
        )
        self.server._max_head = max_head  # the configuration counts in kilobytes
        self.commands: list[commands.Command] = []
        self.timers: list[tuple[commands.RequestWakeup, float]] = []
        self.answers_at_once = False
        """Whether a request that is all there is answered while it is read."""
        self.feed(events.Start())

    def feed(self, event: events.Event) -> None:
        for command in self.server.handle_event(event):
            self.commands.append(command)
            if isinstance(command, commands.RequestWakeup):
                self.timers.append((command, self.clock.now + command.delay))
            elif isinstance(command, ReceiveHttp) and self.answers_at_once:
                assert isinstance(command.event, WholeRequest)
                self.feed(WholeResponse(command.event.stream_id, http.Response.make(200, b"")))

    def receive(self, *parts: bytes) -> Connection:
        for part in parts:
            self.feed(events.DataReceived(self.client, part))
        return self

    def pass_time(self, seconds: float) -> Connection:
        """Let time go by, and the timers that are set fire."""
        end = self.clock.now + seconds
        while self.timers and (first := min(self.timers, key=lambda timer: timer[1]))[1] <= end:
            self.timers.remove(first)
            self.clock.now = first[1]
            self.feed(events.Wakeup(first[0]))
        self.clock.now = end
        return self

    @property
    def sent(self) -> bytes:
        return b"".join(c.data for c in self.commands if isinstance(c, commands.SendData))

    @property
    def received(self) -> list[type]:
        """The kinds of events that the stream gets; of a request that is all there, those it stands for."""
        kinds: list[type] = []
        for event in (c.event for c in self.commands if isinstance(c, ReceiveHttp)):
            if isinstance(event, WholeRequest):
                kinds += [RequestHeaders, *([RequestData] if event.data else []), RequestEndOfMessage]
            else:
                kinds.append(type(event))
        return kinds

    @property
    def closed(self) -> bool:
        return any(isinstance(c, commands.CloseConnection) for c in self.commands)

    @property
    def logged(self) -> str:
        return "\n".join(c.message for c in self.commands if isinstance(c, commands.Log))

    def refused(self) -> tuple[int, str]:
        """Status and code of the answer in JSON, after which nothing more happens."""
        assert self.closed
        assert self.received == []
        head, _, body = self.sent.partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head
        assert b"html" not in self.sent.lower()
        assert f"content-length: {len(body)}".encode() in head
        before = list(self.commands)
        self.receive(HEAD + b"{}", b"x" * 5_000)
        assert self.commands == before
        return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_a_request() -> None:
    assert Connection().receive(HEAD + b"{}").received == [RequestHeaders, RequestData, RequestEndOfMessage]


def test_a_request_byte_by_byte() -> None:
    connection = Connection().receive(*(bytes([byte]) for byte in HEAD + b"{}"))
    assert connection.received[0] is RequestHeaders
    assert connection.received[-1] is RequestEndOfMessage
    assert connection.sent == b""


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: odd\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_its_answer_in_json(head: bytes) -> None:
    assert Connection().receive(head).refused() == (400, "head_malformed")


@pytest.mark.parametrize("chunk", [1, 7, 100, 5_000])
def test_a_head_that_never_ends_is_refused_at_the_limit(chunk: int) -> None:
    endless = b"GET / HTTP/1.1\r\nx: " + b"y" * 5_000
    connection = Connection()
    for begin in range(0, len(endless), chunk):
        connection.receive(endless[begin : begin + chunk])
        if connection.closed:
            break
    assert connection.refused() == (431, "head_too_large")


def test_a_head_of_just_the_limit_is_read() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert Connection(len(head)).receive(head).received == [RequestHeaders, RequestEndOfMessage]
    assert Connection(len(head) - 1).receive(head).refused() == (431, "head_too_large")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_a_body_in_the_same_packet_is_no_head(end: bytes) -> None:
    head = b"POST / HTTP/1.1\nHost: x\nContent-Length: 5000" + end
    connection = Connection(100).receive(head + b"x" * 5_000)
    assert connection.received == [RequestHeaders, RequestData, RequestEndOfMessage]


def test_a_head_that_is_cut_off_is_not_logged() -> None:
    connection = Connection().receive(b"GET / HTTP/1.1\r\napi-key: SECRET\r\n")
    connection.feed(events.ConnectionClosed(connection.client))
    assert "SECRET" not in connection.logged
    assert connection.logged != ""
    assert connection.closed


def test_a_malformed_head_is_not_logged() -> None:
    connection = Connection().receive(b"GET / HTTP/1.1\r\nSECRET\r\n\r\n")
    assert "SECRET" not in connection.logged
    assert b"SECRET" not in connection.sent


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_trailers_are_dropped() -> None:
    connection = Connection().receive(CHUNKED, b"2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert connection.received == [RequestHeaders, RequestData, RequestEndOfMessage]


def test_a_malformed_body_ends_the_connection() -> None:
    connection = Connection().receive(CHUNKED, b"zz\r\n")
    assert connection.received == [RequestHeaders, RequestProtocolError]
    assert connection.closed


def test_a_body_that_breaks_off_ends_the_request() -> None:
    connection = Connection().receive(HEAD, b"{")
    connection.feed(events.ConnectionClosed(connection.client))
    assert connection.received[-1] is RequestProtocolError


def test_an_error_is_a_whole_response() -> None:
    response = error_response(errors.rate_limited("Too much.", 3))
    assert (response.status_code, response.headers["retry-after-ms"]) == (429, "3000")
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.raw_content or b"")


def test_nothing_is_logged_behind_our_back(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Connection().receive(b"GET / HTTP/1.1\r\napi-key: SECRET\r\nno colon\r\n\r\n")
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_empty_lines_before_a_request_are_ignored(lines: bytes) -> None:
    assert Connection().receive(lines + HEAD + b"{}").received[0] is RequestHeaders
    assert Connection().receive(lines, HEAD, b"{}").received[0] is RequestHeaders


def test_empty_lines_without_end_are_refused() -> None:
    assert Connection().receive(b"\r\n" * 100).refused() == (400, "head_malformed")


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"2\r\n{}x\r\n", b"-1\r\n", b"0x2\r\n{}\r\n"])
def test_a_malformed_chunk_is_answered(chunk: bytes) -> None:
    connection = Connection().receive(CHUNKED, chunk)
    head, _, body = connection.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "body_malformed"
    assert connection.closed


def test_a_body_that_ends_early_is_answered_to_a_half_closed_client() -> None:
    connection = Connection().receive(HEAD, b"{")
    connection.client.state = ConnectionState.CAN_WRITE
    connection.feed(events.ConnectionClosed(connection.client))
    assert b"body_malformed" in connection.sent


def test_a_head_of_too_many_lines_is_refused() -> None:
    connection = Connection(max_head=64 * 1024)
    connection.receive(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 600 + b"\r\n")
    assert connection.refused() == (431, "head_too_large")


def test_a_chunk_line_without_end_is_answered() -> None:
    connection = Connection().receive(HEAD.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"))
    connection.receive(*[b"0" * 4096] * 5)
    assert b" 400 " in connection.sent
    assert connection.closed


# --- time ----------------------------------------------------------------------------------------------


def answered(connection: Connection) -> Connection:
    """Have a request, which is all there, answered."""
    stream_id = connection.server.stream_id
    connection.feed(ResponseHeaders(stream_id, http.Response.make(200, b"")))
    connection.feed(ResponseEndOfMessage(stream_id))
    return connection


def test_a_connection_that_says_nothing_is_closed():
    silent = Connection(head_seconds=30).pass_time(29)
    assert not silent.closed
    assert silent.pass_time(2).closed
    assert silent.sent == b""


def test_a_head_has_its_time_from_its_first_byte():
    slow = Connection(head_seconds=30, keep_alive_seconds=300)
    answered(slow.receive(HEAD + b"{}")).pass_time(200)
    slow.receive(b"POST / HT").pass_time(29)
    for _ in range(20):
        slow.receive(b"x")
    assert not slow.closed
    slow.pass_time(2)
    assert slow.closed
    assert b'"code": "request_timeout"' in slow.sent


def test_an_idle_connection_is_kept_for_a_while():
    idle = answered(Connection(head_seconds=30, keep_alive_seconds=100).receive(HEAD + b"{}"))
    assert not idle.pass_time(99).closed
    answered(idle.receive(HEAD + b"{}"))
    assert not idle.pass_time(99).closed
    assert idle.pass_time(2).closed


def test_no_time_runs_while_a_request_is_under_way():
    busy = Connection(head_seconds=30, keep_alive_seconds=100).receive(HEAD + b"{}")
    assert not busy.pass_time(10_000).closed
    assert not answered(busy).pass_time(99).closed


def test_requests_in_quick_succession_set_few_timers():
    quick = Connection(head_seconds=30, keep_alive_seconds=300)
    for _ in range(1000):
        answered(quick.receive(HEAD + b"{}")).pass_time(0.01)
    assert len([c for c in quick.commands if isinstance(c, commands.RequestWakeup)]) <= 2


def test_a_timer_that_was_replaced_ends_no_later_request():
    kept = Connection(head_seconds=30, keep_alive_seconds=300)
    answered(kept.receive(HEAD + b"{}")).pass_time(100)
    # A head in two parts has less time than the connection: an earlier timer takes the place of the first.
    answered(kept.receive(HEAD[:10]).pass_time(1).receive(HEAD[10:] + b"{}")).pass_time(190)
    kept.receive(HEAD + b"{}").pass_time(20)
    assert not kept.closed
    assert answered(kept).sent.count(b" 200 ") == 3


# --- pipelining ----------------------------------------------------------------------------------------


def test_thousands_of_requests_that_came_at_once_are_answered_one_after_the_other():
    """As one that is refused by its head is: while it is read."""
    count, many = 3000, Connection()
    many.answers_at_once = True
    many.receive(HEAD.replace(b": 2", b": 0") * count)
    assert many.sent.count(b" 200 ") == count
    assert not many.closed


def test_the_last_of_many_requests_of_a_half_closed_client_is_answered():
    many = Connection()
    many.receive(HEAD + b"{}" + HEAD + b"{}")
    many.answers_at_once = True
    many.client.state = ConnectionState.CAN_WRITE
    many.feed(events.ConnectionClosed(many.client))
    answered(many)
    assert many.sent.count(b" 200 ") == 2
    assert many.closed
