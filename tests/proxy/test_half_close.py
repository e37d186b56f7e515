"""Clients that have sent all they will: what they are sent to find out whether they are still there."""

from __future__ import annotations

from itertools import pairwise

import pytest
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.layers.http import (
    ReceiveHttp,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
)
from mitmproxy.test import tflow

from aoai_gateway.config.models import Limits
from aoai_gateway.proxy.half_close import COMMENT, STATUS_LINE
from aoai_gateway.proxy.http1 import GatewayHttp1Server

EVENT = b"data: {}\n\n"


class Clock:
    """A time that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Client:
    """A connection with a request that is all there, and has no answer yet."""

    def __init__(self, version: str = "1.1", *fields: str, method: str = "GET") -> None:
        self.connection = tflow.tclient_conn()
        self.connection.tls = False
        self.clock = Clock()
        self.is_reset = False
        self.server = GatewayHttp1Server(
            context.Context(self.connection, Options()),
            Limits(),
            clock=self.clock,
            is_reset=lambda: self.is_reset,
        )
        self.commands: list[commands.Command] = []
        self._timers: list[tuple[float, commands.RequestWakeup]] = []
        self.feed(events.Start())
        head = "\r\n".join([f"{method} /openai/v1/models HTTP/{version}", "Host: x", *fields, "", ""])
        self.feed(events.DataReceived(self.connection, head.encode()))
        self.taken()

    def feed(self, event: events.Event) -> None:
        for command in self.server.handle_event(event):
            self.commands.append(command)
            if isinstance(command, commands.RequestWakeup):
                self._timers.append((self.clock.now + command.delay, command))

    def end_sending(self) -> Client:
        self.connection.state &= ~ConnectionState.CAN_READ
        self.feed(events.ConnectionClosed(self.connection))
        return self

    def pass_time(self, seconds: float) -> bytes:
        """Let time go by; gives what the client is sent meanwhile."""
        end = self.clock.now + seconds
        while self._timers and (first := min(self._timers, key=lambda timer: timer[0]))[0] <= end:
            self._timers.remove(first)
            self.clock.now = first[0]
            self.feed(events.Wakeup(first[1]))
        self.clock.now = end
        return self.taken()

    def begin(self, *fields: tuple[bytes, bytes]) -> bytes:
        response = http.Response.make(200)
        response.headers = http.Headers(fields)
        self.feed(ResponseHeaders(self.server.stream_id, response))
        return self.taken()

    def pass_on(self, data: bytes) -> bytes:
        self.feed(ResponseData(self.server.stream_id, data))
        return self.taken()

    def end(self) -> bytes:
        self.feed(ResponseEndOfMessage(self.server.stream_id))
        return self.taken()

    def taken(self) -> bytes:
        """What has been sent since the last time."""
        sent = b"".join(c.data for c in self.commands if isinstance(c, commands.SendData))
        self._is_gone = any(
            isinstance(c, ReceiveHttp) and isinstance(c.event, RequestProtocolError) for c in self.commands
        )
        self._is_closed = any(isinstance(c, commands.CloseConnection) for c in self.commands)
        self.commands.clear()
        return sent

    @property
    def is_gone(self) -> bool:
        """Whether, before the last look at what was sent, the request ended since its client has left."""
        return self._is_gone

    @property
    def is_closed(self) -> bool:
        return self._is_closed


STREAM = (b"content-type", b"text/event-stream")


def test_the_status_line_comes_ahead_ever_more_slowly() -> None:
    client = Client().end_sending()
    times = []
    for second in range(300):
        if sent := client.taken() if not second else client.pass_time(1):
            assert sent == STATUS_LINE[len(times) : len(times) + 1]
            times.append(second)
    assert len(times) == len(STATUS_LINE)
    assert times[0] == 0
    assert all(later >= 2 * before for before, later in pairwise(times))
    assert client.begin(STREAM).startswith(b"200 OK\r\n")


@pytest.mark.parametrize("ahead", [1, 3])
def test_an_answer_is_whole_and_ends_the_connection(ahead: int) -> None:
    client = Client().end_sending()
    sent = client.taken() + (client.pass_time(4) if ahead == 3 else b"")
    assert sent == STATUS_LINE[:ahead]
    answer = sent + client.begin((b"content-length", b"2")) + client.pass_on(b"{}") + client.end()
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
    assert client.is_closed
    assert client.pass_time(600) == b""


def test_a_reset_that_is_there_ends_the_request_at_once() -> None:
    client = Client().end_sending()
    client.is_reset = True
    client.pass_time(0)
    assert client.is_gone


def test_a_reset_ends_the_request_soon() -> None:
    client = Client().end_sending()
    client.pass_time(0.02)
    assert not client.is_gone
    client.is_reset = True
    client.pass_time(0.02)
    assert client.is_gone


def test_a_reset_is_seen_long_after() -> None:
    client = Client().end_sending()
    client.pass_time(400)
    assert not client.is_gone
    client.is_reset = True
    client.pass_time(1)
    assert client.is_gone


def test_a_connection_that_was_reset_is_not_waited_for() -> None:
    client = Client()
    client.is_reset = True
    assert client.end_sending().taken() == b""
    assert client.is_gone


def test_what_cannot_be_sent_to_is_gone() -> None:
    client = Client()
    client.connection.state = ConnectionState.CLOSED
    assert client.end_sending().taken() == b""
    assert client.is_gone


def test_its_second_end_is_a_hang_up() -> None:
    client = Client().end_sending()
    client.taken()
    client.end_sending().taken()
    assert client.is_gone


def test_the_end_of_tls_is_a_hang_up() -> None:
    client = Client()
    client.connection.tls = True
    assert client.end_sending().taken() == b""
    assert client.is_gone


def test_a_session_is_no_use_to_it() -> None:
    client = Client("1.1", "Connection: Upgrade", "Upgrade: websocket")
    assert client.end_sending().taken() == b""
    assert client.is_gone


@pytest.mark.parametrize(("version", "comment"), [("1.1", b"3\r\n:\n\n\r\n"), ("1.0", b":\n\n")])
def test_a_stream_that_pauses_has_comments(version: str, comment: bytes) -> None:
    client = Client(version)
    client.begin(STREAM)
    client.pass_on(EVENT)
    assert client.end_sending().taken() == b""
    assert client.pass_time(0.15) == b""
    assert client.pass_time(0.3) == comment
    # Later, too, and no less often than each 15 s.
    sent = client.pass_time(100)
    assert sent.replace(comment, b"") == b""
    assert 100 // 15 <= sent.count(comment) <= 12
    client.is_reset = True
    client.pass_time(1)
    assert client.is_gone


def test_a_stream_that_flows_has_none() -> None:
    client = Client("1.0")
    client.end_sending()
    client.begin(STREAM)
    for _ in range(100):
        assert client.pass_on(EVENT) == EVENT
        assert client.pass_time(0.5) == b""


@pytest.mark.parametrize(
    "head",
    [
        [STREAM, (b"content-encoding", b"gzip")],
        [STREAM, (b"content-length", b"1000")],
        [(b"content-type", b"audio/mpeg")],
        [],
    ],
)
def test_no_other_answer_has_comments(head: list[tuple[bytes, bytes]]) -> None:
    client = Client()
    client.begin(*head)
    client.pass_on(EVENT)
    client.end_sending().taken()
    assert client.pass_time(60) == b""


def test_a_comment_waits_for_the_end_of_an_event() -> None:
    client = Client("1.0")
    client.begin(STREAM)
    client.pass_on(b"data: {")
    client.end_sending().taken()
    assert client.pass_time(60) == b""
    client.pass_on(b"}\n")
    assert client.pass_time(60) == b""
    client.pass_on(b"\n\n")
    assert client.pass_time(60).startswith(COMMENT)


def test_further_requests_are_answered_first() -> None:
    client = Client()
    client.feed(events.DataReceived(client.connection, b"GET /openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"))
    client.end_sending()
    for connection in (b"", b"connection: close\r\n"):
        answer = client.taken() + client.begin((b"content-length", b"0")) + client.end()
        assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + connection + b"\r\n"
    assert client.is_closed


@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        (b"\r\n", b""),
        (b"GET /openai/v1", b""),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", b"body_malformed"),
    ],
)
def test_half_a_further_request_is_not_waited_for(rest: bytes, answer: bytes) -> None:
    client = Client()
    client.feed(events.DataReceived(client.connection, rest))
    client.end_sending()
    client.taken()
    client.begin((b"content-length", b"0"))
    sent = client.end()
    assert client.is_closed
    assert answer in sent
    assert bool(sent) == bool(answer)
