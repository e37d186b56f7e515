"""The whole of the glue, without a socket: bytes in, bytes out, and nothing left behind."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer
from mitmproxy.test import taddons

from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.proxy import upstream_attempt as sending
from aoai_gateway.proxy.downstream_response import DownstreamResponse
from aoai_gateway.proxy.http1 import LAST_WORD_SECONDS
from aoai_gateway.proxy.upstream import MAX_HEAD, MAX_INTERIM
from aoai_gateway.runtime.held_bytes import Held
from aoai_gateway.runtime.stream_hooks import GatewayAskHook
from aoai_gateway.wire.bodies import LARGE_BODY, parse_body
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect, listen

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


STRANGER = (
    b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: gw\r\napi-key: no\r\ncontent-length: 1000\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(*backends: str, **parts: Any) -> Connection:
            plain = config(*(backends or ("a", "b")), **parts)
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            here = plain.but(aoai=plain.aoai.but(endpoints=endpoints))
            return connect(here, tctx.options)

        yield make


@pytest.fixture
def here(made: Callable[..., Connection]) -> Connection:
    return made()


def test_a_call(here: Connection) -> None:
    here.ask()
    assert here.sent["a.example"].startswith(
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: a.example\r\n"
    )
    assert b"api-key: key-of-a\r\n" in here.sent["a.example"]
    assert b"key-of-anybody" not in here.sent["a.example"]
    here.respond("a", 200, b'{"id":"x"}')
    assert b"x-gateway-backend: a@a" in here.received
    assert here.result() == (200, b'{"id":"x"}')
    assert here.at_rest


def test_what_a_request_takes_to_come_is_told_beside_what_its_call_takes(
    here: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Call] = []
    monkeypatch.setattr(here.gateway, "write_down", lambda call, *_: calls.append(call))
    body = b'{"model": "gpt", "messages": []}'
    head = (
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    here.feed(events.DataReceived(here.client, head + body[:9]))
    here.run_timers(2.5)
    here.feed(events.DataReceived(here.client, body[9:]))
    here.run_timers(1.0)
    here.respond("a", 200, b"{}")
    assert [(call.request_seconds, (call.ended or 0) - call.started) for call in calls] == [(2.5, 1.0)]
    here.ask()
    here.respond("a", 200, b"{}")
    assert calls[1].request_seconds == 0


def test_a_failed_attempt_is_replayed_unseen(here: Connection) -> None:
    here.ask()
    here.respond("a", 429)
    here.respond("b", 200)
    assert b"x-gateway-attempts: 2" in here.received
    assert here.result() == (200, b"{}")
    assert here.at_rest


def test_a_failed_body_that_comes_later_is_run_out_first(made: Callable[..., Connection]) -> None:
    """At the same endpoint, on the same connection: the next request must survive the end of the last."""
    here = made("ptu@a", "paygo@a")
    here.ask()
    here.answer("a", b"HTTP/1.1 429 x\r\ncontent-length: 2\r\n\r\n")
    assert here.sent["a.example"].count(b"POST") == 1
    here.answer("a", b"{}")
    assert here.sent["a.example"].count(b"POST") == 2
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert len(here.servers) == 1, "the connection is used again"
    assert here.at_rest


def test_a_failed_body_that_never_ends_is_cut(here: Connection) -> None:
    here.ask()
    here.answer("a", b"HTTP/1.1 503 x\r\ncontent-length: 2\r\n\r\n")
    here.run_timers(2.1)
    assert not here.server("a").connected
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert here.at_rest


def test_a_refused_connection_does_not_poison_the_next_call(here: Connection) -> None:
    here.refusing = {"a.example"}
    here.ask()
    here.respond("b", 200)
    assert here.result()[0] == 200
    here.refusing = set()
    here.run_timers(100)
    here.ask()
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert here.at_rest


def test_a_connection_that_takes_too_long_is_given_up(here: Connection) -> None:
    here.hanging = {"a.example"}
    here.ask()
    here.run_timers(14.9)
    assert "b.example" not in here.sent
    here.run_timers(0.2)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert here.at_rest


def test_a_backend_that_says_nothing_is_given_up(here: Connection) -> None:
    here.ask(stream=True, waits=30.0)
    here.run_timers(30.1)
    assert not here.server("a").connected
    here.answer("b", SSE + chunk(TEXT + DONE) + END)
    assert here.result()[0] == 200
    assert here.at_rest


def test_a_connection_that_was_closed_while_idle_is_no_failure(here: Connection) -> None:
    here.ask()
    here.respond("a", 200)
    here.ask()
    here.hang_up("a")
    assert here.gateway.engine.breaks.on(here.gateway.in_force().table.backends[0], here.clock.now) is None
    here.respond("a", 200)
    assert here.received.count(b"200 x") == 2
    assert here.at_rest


def test_a_stream_passes_as_it_comes(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + chunk(ROLE))
    assert here.received == b""
    here.answer("a", chunk(TEXT))
    assert ROLE + TEXT in here.received
    before = len(here.received)
    here.answer("a", chunk(TEXT))
    assert len(here.received) > before
    here.answer("a", chunk(DONE) + END)
    assert here.received.endswith(b"0\r\n\r\n")
    assert here.at_rest


def test_a_refusal_within_a_stream_is_replayed_unseen(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + chunk(ROLE))
    here.answer("a", chunk(b'data: {"error":{"code":"429"}}\n\n') + END)
    here.answer("b", SSE + chunk(TEXT + DONE) + END)
    assert b'"error"' not in here.received
    assert b"x-gateway-backend: b@b" in here.received
    assert here.at_rest


def test_a_stream_that_breaks_off_says_so(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.hang_up("a")
    assert b"upstream_disconnected" in here.received
    assert b"[DONE]" not in here.received
    assert here.at_rest


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_that_breaks_off_is_cut_once_its_error_could_be_read(here: Connection, version: str) -> None:
    here.ask(stream=True, version=version)
    here.answer("a", SSE + chunk(TEXT))
    here.hang_up("a")
    assert b"upstream_disconnected" in here.received
    here.run_timers(LAST_WORD_SECONDS - 0.01)
    assert here.client.connected, "some SDKs forget what they have not read"
    here.run_timers(0.02)
    assert not here.client.connected
    assert not here.received.endswith(b"0\r\n\r\n")


def test_an_answer_shorter_than_its_length_is_cut(here: Connection) -> None:
    here.ask(stream=True, stream_options={"include_usage": True})
    length = SSE.replace(b"transfer-encoding: chunked", b"content-length: 1000")
    here.answer("a", length + TEXT)
    here.hang_up("a")
    assert b"content-length: 1000" in here.received
    here.run_timers(1)
    assert not here.client.connected


@pytest.mark.parametrize(
    "began",
    [b"SSH-2.0-OpenSSH_9.9\r\n", b"220 mail ESMTP\r\n", b"\x15\x03\x03\x00\x02", b"\x00" * 18, b"HTTX"],
)
def test_what_does_not_begin_as_http_is_a_failure_at_once(here: Connection, began: bytes) -> None:
    here.ask()
    here.answer("a", began)
    assert here.sent["b.example"]


@pytest.mark.parametrize("began", [b"H", b"HTTP/", b"HTTP/1.1 200 OK\r\n"])
def test_the_beginning_of_an_answer_is_waited_for(here: Connection, began: bytes) -> None:
    here.ask()
    here.answer("a", began)
    assert "b.example" not in here.sent


def test_interim_answers_are_skipped(here: Connection) -> None:
    here.ask()
    here.answer("a", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 1")
    here.answer("a", b"02 Processing\r\n\r\n")
    assert here.received == b""
    here.respond("a", 200)
    assert here.result() == (200, b"{}")
    here.ask()
    here.respond("a", 200)
    assert here.result() == (200, b"{}"), "its connection stays usable"
    assert here.at_rest


@pytest.mark.parametrize("status", [101, 103])
def test_what_is_no_answer_without_end_is_the_backends_fault(here: Connection, status: int) -> None:
    here.ask()
    times = 1 if status == 101 else MAX_INTERIM + 1
    here.answer("a", b"HTTP/1.1 %d x\r\n\r\n" % status * times)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert not here.server("a").connected


def test_a_head_without_end_is_the_backends_fault(here: Connection) -> None:
    here.ask()
    here.answer("a", b"HTTP/1.1 200 x\r\nx: " + b"y" * (MAX_HEAD + 1))
    here.respond("b", 200)
    assert here.result()[0] == 200


def test_both_length_and_chunks(here: Connection) -> None:
    here.ask()
    both = SSE.replace(b"text/event-stream", b"application/json").replace(
        b"\r\n\r\n", b"\r\ncontent-length: 9\r\n\r\n"
    )
    here.answer("a", both + chunk(b"{}") + END)
    assert here.result() == (200, b"{}")
    assert not here.server("a").connected
    assert here.gateway.engine.breaks.on(here.gateway.in_force().table.backends[0], here.clock.now) is None
    assert here.at_rest


def test_trailers_of_a_backend_are_dropped(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT + DONE) + b"0\r\nX-Trailer: t\r\n\r\n")
    assert here.received.endswith(b"\r\n0\r\n\r\n")
    assert b"railer" not in here.received
    assert here.server("a").connected
    assert here.at_rest


def test_what_concerns_only_the_backends_connection_stays_there(here: Connection) -> None:
    here.ask()
    head = (
        b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 2\r\nupgrade: h2c\r\n"
        b"trailer: x\r\nproxy-authenticate: Basic\r\nconnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
        b'keep-alive: timeout=5\r\nX-Gateway-Backend: forged\r\nx-gateway-odd: 1\r\nalt-svc: h3=":443"\r\n'
        b"x-split: a\rset-cookie: b\x00\r\n\r\n"
    )
    here.answer("a", head + b"{}")
    got = here.received.lower()
    for name in (
        b"upgrade",
        b"trailer",
        b"proxy-auth",
        b"x-hop",
        b"keep-alive",
        b"forged",
        b"x-gateway-odd",
        b"alt-svc",
    ):
        assert name not in got
    assert b"x-split: a set-cookie: b\r\n" in got
    assert got.count(b"x-gateway-backend") == 1


def test_a_redirect_is_not_passed_on(here: Connection) -> None:
    here.ask()
    here.answer("a", b"HTTP/1.1 307 x\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n")
    here.respond("b", 200)
    assert b"evil" not in here.received
    assert here.result()[0] == 200
    here.ask(user="other")
    here.answer("a", b"HTTP/1.1 307 x\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n")
    here.respond("b", 200)
    assert here.gateway.engine.breaks.on(here.gateway.in_force().table.backends[0], here.clock.now)


# --- clients of HTTP/1.0 -----------------------------------------------------------------------------


def test_a_stream_for_http_1_0_ends_with_the_connection(here: Connection) -> None:
    here.ask(stream=True, version="1.0", connection="keep-alive")
    here.answer("a", SSE + chunk(TEXT) + chunk(DONE) + END)
    head, _, body = here.received.partition(b"\r\n\r\n")
    assert body == TEXT + DONE
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert not here.client.connected
    assert here.at_rest


@pytest.mark.parametrize(("connection", "kept"), [("", False), ("Keep-Alive", True), ("close", False)])
def test_http_1_0_keeps_a_connection_only_when_asked(here: Connection, connection: str, kept: bool) -> None:
    here.ask(version="1.0", connection=connection)
    here.respond("a", 200)
    assert (b"connection: keep-alive" in here.received) is kept
    assert b"content-length: 2" in here.received
    assert here.client.connected is kept


def test_a_client_that_asks_for_it_is_closed(here: Connection) -> None:
    here.ask(connection="Close")
    here.respond("a", 200)
    assert b"connection: close" in here.received
    assert not here.client.connected


def test_an_old_backend_is_no_reason_to_close_a_client(here: Connection) -> None:
    here.ask()
    here.answer("a", b"HTTP/1.0 200\r\ncontent-type: application/json\r\n\r\n{}")
    here.hang_up("a")
    assert here.received.startswith(b"HTTP/1.1 200 ")
    assert here.result() == (200, b"{}")
    assert here.client.connected


def test_a_stream_that_falls_silent_says_so(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.run_timers(119)
    here.answer("a", chunk(TEXT))
    here.run_timers(119)
    assert b"upstream_disconnected" not in here.received
    here.run_timers(2)
    assert b"upstream_disconnected" in here.received
    assert here.at_rest


def test_late_words_of_an_abandoned_attempt_reach_no_stream(here: Connection) -> None:
    here.ask(stream=True, waits=30.0)
    first = here.server("a") if here.servers else None
    here.run_timers(30.1)
    assert first is not None
    here.feed(events.DataReceived(first, SSE + chunk(b"data: LATE\n\n")))
    here.answer("b", SSE + chunk(TEXT + DONE) + END)
    assert b"LATE" not in here.received
    assert here.at_rest


# --- the client --------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["connecting", "waiting", "draining", "streaming"])
def test_a_client_that_hangs_up_stops_everything(here: Connection, when: str) -> None:
    if when == "connecting":
        here.hanging = {"a.example"}
    here.ask(stream=True)
    calls = [s._here.call for s in here.layer.streams.values()]
    if when == "draining":
        here.answer("a", b"HTTP/1.1 429 x\r\ncontent-length: 2\r\n\r\n")
    elif when == "streaming":
        here.answer("a", SSE + chunk(TEXT))
    here.hang_up()
    if when == "connecting":
        # mitmproxy's server cancels what is being opened.
        opening = here.opening.pop("a.example")
        here.feed(events.OpenConnectionCompleted(opening, "connection cancelled"))
        here.run_timers()
    assert [call.outcome for call in calls if call] == [Outcome.CLIENT_GONE]
    assert all(not server.connected for server in here.servers)
    assert "b.example" not in here.sent
    assert here.at_rest


class ReadingHere:
    """Reads large bodies in this process, when it is awaited."""

    async def parse(
        self, target: Target, content_type: str | None, raw: bytes, *_: Any, coding: str | None, **__: Any
    ) -> RequestBody:
        text = raw if coding is None else gzip.decompress(raw)
        found = replace(parse_body(target, content_type, text, short=True), raw=text)
        return found if coding is None else replace(found, coded=raw)


def await_it(hook: commands.StartHook) -> None:
    if isinstance(hook, GatewayAskHook):
        asyncio.run(hook.data.perform(None))  # type: ignore[arg-type]  # it asks no addon


@pytest.fixture
def reading_here(here: Connection) -> Connection:
    here.gateway.reader = ReadingHere()  # type: ignore[assignment]
    here.on_hook = await_it
    return here


def test_a_large_body_is_read_elsewhere_and_sent_as_it_came(reading_here: Connection) -> None:
    reading_here.ask(user="x" * LARGE_BODY, stream=True)
    sent = json.loads(reading_here.sent["a.example"].partition(b"\r\n\r\n")[2])
    assert sent["user"] == "x" * LARGE_BODY
    assert sent["stream_options"] == {"include_usage": True}
    reading_here.respond("a", 400)
    assert reading_here.result()[0] == 400
    assert reading_here.at_rest


def test_what_is_wrong_with_a_large_body_is_said(reading_here: Connection) -> None:
    reading_here.ask(user="x" * LARGE_BODY, n="two")
    status, body = reading_here.result()
    assert (status, json.loads(body)["error"]["param"]) == (400, "n")
    assert reading_here.at_rest


def test_a_client_that_hangs_up_while_its_body_is_read(reading_here: Connection) -> None:
    here = reading_here
    here.takes_time = GatewayAskHook
    here.ask(user="x" * LARGE_BODY)
    (stream,) = here.layer.streams.values()
    here.hang_up()
    here.feed(events.HookCompleted(here.hooks[-1]))
    here.run_timers()
    assert not here.servers
    assert stream._here.call is not None
    assert stream._here.call.outcome is Outcome.CLIENT_GONE
    assert here.at_rest


def test_a_stranger_gets_a_401_before_the_body_is_there(here: Connection) -> None:
    here.feed(events.DataReceived(here.client, STRANGER))
    assert here.result()[0] == 401
    assert here.client.connected
    here.feed(events.DataReceived(here.client, b"x" * 1000))
    assert not here.client.connected
    assert here.sent == {}
    assert here.at_rest


MODELS = b"GET /openai/v1/models HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "client", "error"),
    [
        (STRANGER, None, "401"),
        (b"no HTTP at all\r\n\r\n", None, "head_malformed"),
        (b"GET / HTTP/1.1\r\nhost: gw\r\nx: " + b"y" * 70_000, None, "head_too_large"),
        (MODELS.replace(b"v1/models", b"extensions/x"), "anybody", "not_built"),
        (MODELS.replace(b"models", b"live"), "anybody", "upgrade_required"),
        (MODELS.replace(b"/v1/", b"/v3/"), "anybody", "404"),
        (MODELS.replace(b"GET", b"PUT"), "anybody", "method_not_allowed"),
        (
            MODELS.replace(b"\r\n\r\n", b"\r\ncontent-length: 999999999\r\n\r\n"),
            "anybody",
            "request_too_large",
        ),
        (MODELS, "anybody", None),
    ],
)
def test_what_never_becomes_a_call_is_written_down(
    here: Connection, sent: bytes, client: str | None, error: str | None
) -> None:
    records: list[dict[str, Any]] = []
    here.gateway.early._write = records.append
    here.feed(events.DataReceived(here.client, sent))
    (record,) = records
    assert (record["client"], record["error"]) == (client, error)
    assert record["address"] == "127.0.0.1"
    assert "key-of" not in str(record)


def test_a_body_that_grows_too_large_is_written_down(made: Callable[..., Connection]) -> None:
    here = made(limits={"body_mb": 1})
    records: list[dict[str, Any]] = []
    here.gateway.early._write = records.append
    head = STRANGER.replace(b"api-key: no", b"api-key: key-of-anybody")
    here.feed(
        events.DataReceived(here.client, head.replace(b"content-length: 1000", b"transfer-encoding: chunked"))
    )
    here.feed(events.DataReceived(here.client, chunk(b"x" * (1024 * 1024 + 1))))
    assert [(r["client"], r["error"], r["status"]) for r in records] == [
        ("anybody", "request_too_large", 413)
    ]


class Looks:
    """An addon that keeps the flows that were answered."""

    def __init__(self, seen: list[http.HTTPFlow]) -> None:
        self._seen = seen

    def response(self, flow: http.HTTPFlow) -> None:
        self._seen.append(flow)


def test_a_body_that_is_too_large_when_it_is_decoded_is_not_kept_for_tools(
    made: Callable[..., Connection],
) -> None:
    """mitmweb decodes all of a body that is looked at, on the event loop, however large it becomes."""
    here = made(limits={"body_mb": 1})
    here.on_hook = await_it
    seen: list[http.HTTPFlow] = []
    del vars(here.gateway.heard)["refresh"]  # which the driver has stopped
    listen(here.gateway, Looks(seen))
    body = gzip.compress(b" " * (1024 * 1024 + 1) + b"{}")
    head = STRANGER.replace(b"api-key: no", b"api-key: key-of-anybody\r\ncontent-encoding: gzip")
    here.feed(
        events.DataReceived(
            here.client, head.replace(b"content-length: 1000", b"content-length: %d" % len(body)) + body
        )
    )
    assert here.result()[0] == 413
    (flow,) = seen
    assert flow.request.raw_content is None


MIB = 1024 * 1024
UPLOAD = STRANGER.replace(b"api-key: no", b"api-key: key-of-anybody")
CHUNKED = UPLOAD.replace(b"content-length: 1000", b"transfer-encoding: chunked")


@pytest.fixture
def crowded(made: Callable[..., Connection]) -> Connection:
    """A gateway that holds 4 MB of bodies, with a client that has them nearly all."""
    here = made(limits={"body_mb": 2, "bodies_mb": 4})
    Held(here.gateway.held, "another", 4 * MIB).grow(2 * MIB)
    return here


def test_a_body_for_which_there_is_no_room_is_refused_as_it_comes(crowded: Connection) -> None:
    here, others = crowded, crowded.gateway.held.total
    here.feed(events.DataReceived(here.client, CHUNKED + chunk(b"x" * MIB)))
    assert here.received == b""
    assert here.gateway.held.by_client["anybody"] == MIB
    here.feed(events.DataReceived(here.client, chunk(b"x")))
    assert here.received.lower().count(b"retry-after: 1\r\n") == 1
    assert here.result()[0] == 503
    assert here.gateway.held.total == others
    here.feed(events.DataReceived(here.client, END))
    assert not here.layer.streams


def test_a_body_for_which_there_is_no_room_is_refused_by_its_length(crowded: Connection) -> None:
    here = crowded
    here.feed(events.DataReceived(here.client, UPLOAD.replace(b"1000", b"%d" % (MIB + 1))))
    assert here.result()[0] == 503


def test_a_large_request_that_its_head_condemns_is_not_read(made: Callable[..., Connection]) -> None:
    here = made()
    path = b"/openai/deployments/nonsense/chat/completions?api-version=2024-10-21"
    head = UPLOAD.replace(b"/openai/v1/chat/completions", path)
    here.feed(events.DataReceived(here.client, head.replace(b"1000", b"200000")))
    assert b"connection: close" in here.received
    status, body = here.result()
    assert (status, json.loads(body)["error"]["code"]) == (404, "DeploymentNotFound")
    # What is on its way is taken, or the system would throw the answer away with it.
    here.feed(events.DataReceived(here.client, b"x" * 199_999))
    assert here.client.connected
    here.feed(events.DataReceived(here.client, b"x"))
    assert not here.client.connected
    assert here.at_rest


def test_a_large_request_of_a_client_without_requests_left(made: Callable[..., Connection]) -> None:
    client = {"name": "anybody", "key": "key-of-anybody", "max_requests_per_minute": 1}
    here = made(clients=(client,))
    here.ask()
    here.respond("a", 200)
    here.result()
    here.feed(events.DataReceived(here.client, UPLOAD.replace(b"1000", b"200000")))
    assert here.result()[0] == 429
    here.feed(events.DataReceived(here.client, b"x" * 200_000))
    assert here.at_rest


def test_a_client_that_hangs_up_in_its_body_holds_no_more(crowded: Connection) -> None:
    here, others = crowded, crowded.gateway.held.total
    here.feed(events.DataReceived(here.client, CHUNKED + chunk(b"x" * 1000)))
    assert here.gateway.held.total == others + 1000
    here.hang_up()
    assert here.gateway.held.total == others


def test_what_a_body_unpacks_to_is_held_as_well(crowded: Connection) -> None:
    here = crowded
    body = gzip.compress(b'{"model": "gpt", "messages": [], "x": "%s"}' % (b" " * MIB))
    head = UPLOAD.replace(b"1000", b"%d\r\ncontent-encoding: gzip" % len(body))
    here.on_hook, others = await_it, here.gateway.held.total
    here.feed(events.DataReceived(here.client, head + body))
    assert here.result()[0] == 503
    assert here.gateway.held.total == others
    assert not here.layer.streams


def test_a_body_that_is_swallowed_has_its_time(here: Connection) -> None:
    here.feed(events.DataReceived(here.client, STRANGER))
    here.run_timers(10.1)
    assert not here.client.connected
    assert here.at_rest


class Kept:
    """A sink that keeps records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def put(self, records: list[dict[str, Any]]) -> None:
        self.records += records


def kept_records(here: Connection) -> list[dict[str, Any]]:
    kept = Kept()
    here.gateway.sinks.for_records["kept"] = kept  # type: ignore[assignment]
    return kept.records


def test_a_backend_is_not_silent_while_its_client_does_not_read(made: Callable[..., Connection]) -> None:
    here = made(replay={"idle_seconds": 10})
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.gateway.slow_readers.unread = lambda connection: 1
    here.run_timers(95)
    here.gateway.slow_readers.unread = lambda connection: 0
    here.run_timers(4)
    here.answer("a", chunk(TEXT + DONE) + END)
    assert here.received.count(TEXT) == 2
    assert b"upstream_disconnected" not in here.received
    assert here.at_rest


def test_its_silence_counts_from_when_its_client_has_read(made: Callable[..., Connection]) -> None:
    here = made(replay={"idle_seconds": 10})
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.gateway.slow_readers.unread = lambda connection: 1
    here.run_timers(15)
    here.gateway.slow_readers.unread = lambda connection: 0
    here.run_timers(11)
    assert b"upstream_disconnected" in here.received


def test_a_client_that_is_cut_off_since_it_does_not_read(here: Connection) -> None:
    records = kept_records(here)
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.layer.output.is_cut = True
    here.hang_up()
    assert [(each["outcome"], each["attempts"][0]["reason"]) for each in records] == [
        ("client_stalled", None)
    ]
    assert here.at_rest


def test_a_client_that_does_not_read_to_the_end_of_its_time(made: Callable[..., Connection]) -> None:
    here = made(limits={"answer_seconds": 30}, replay={"idle_seconds": 10})
    records = kept_records(here)
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    here.gateway.slow_readers.unread = lambda connection: 1
    here.run_timers(31)
    assert not here.client.connected
    assert [each["outcome"] for each in records] == ["client_stalled"]
    here.hang_up()
    assert here.at_rest


def test_what_is_wrong_with_a_connection_that_is_gone_costs_no_call(
    here: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.ask()
    here.respond("a", 200)
    assert here.result()[0] == 200
    here.hang_up("a")
    taken_apart = []

    def take_apart(top: Layer) -> bool:
        taken_apart.append(top)
        raise LookupError("a layer that is not as expected")

    monkeypatch.setattr("aoai_gateway.proxy.layer.take_apart", take_apart)
    here.ask()
    here.respond("a", 200, b'{"id":"next"}')
    assert here.result() == (200, b'{"id":"next"}')
    assert len(taken_apart) == 1
    assert "LookupError" in caplog.text
    assert here.at_rest


def test_many_calls_leave_nothing_behind(here: Connection) -> None:
    for n in range(50):
        here.ask(stream=n % 2 == 0)
        if n % 2 == 0:
            here.answer("a", SSE + chunk(TEXT + DONE) + END)
        else:
            here.respond("a", 200)
        here.clock.now += 1
    assert here.received.count(b"HTTP/1.1 200") == 50
    assert here.at_rest
    assert len(here.layer.connections) == 2
    assert len(here.timers) <= 5, "one for each kind of deadline"
    assert len(here.layer.command_sources) <= len(here.timers)


def test_pipelined_calls_are_answered_in_order(here: Connection) -> None:
    here.ask(user="one")
    here.ask(user="two")
    here.respond("a", 200, b'{"n":1}')
    here.respond("a", 200, b'{"n":2}')
    assert here.received.index(b'{"n":1}') < here.received.index(b'{"n":2}')
    assert here.at_rest


# --- prompts that are written down --------------------------------------------------------------------


def test_a_prompt_is_written_down_without_the_keys_that_are_known(
    made: Callable[..., Connection], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    here = made(record_prompts={"path": str(path), "clients": ["anybody"], "redact": ["secret word"]})
    sinks = here.gateway.sinks
    assert here.gateway.setup is not None
    sinks.adopt(here.gateway.setup.config)
    here.ask(messages=[{"role": "user", "content": "a secret word, and key-of-a"}])
    here.respond("a", 200)
    sinks.close(sinks.take_all())
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["prompt"]["messages"] == [{"role": "user", "content": "a [redacted], and ********"}]


# --- bugs --------------------------------------------------------------------------------------------


def test_a_bug_before_the_answer_is_a_500_in_json(
    here: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("".join(["SEC", "RET"]))

    monkeypatch.setattr(sending, "build_request", bug)
    here.ask()
    status, body = here.result()
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
    assert "SECRET" not in caplog.text
    assert "RuntimeError" in caplog.text
    assert here.sent == {}
    assert here.at_rest


def test_what_a_bug_sets_free_is_free_for_those_in_line(
    here: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    in_flight: list[int] = []
    scheduler = here.gateway.engine.scheduler
    monkeypatch.setattr(here.gateway.waiting, "calls", {"another's": None})
    monkeypatch.setattr(here.gateway.waiting, "changed", lambda: in_flight.append(len(scheduler._in_flight)))
    monkeypatch.setattr(sending, "build_request", bug)
    here.ask()
    assert here.result()[0] == 500
    assert in_flight[-1] == 0


def test_a_bug_where_calls_in_line_are_woken_is_a_500(
    here: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> None:
        monkeypatch.setattr(here.gateway.waiting, "changed", lambda: None)
        raise RuntimeError("a bug")

    monkeypatch.setattr(here.gateway.waiting, "calls", {"another's": None})
    monkeypatch.setattr(here.gateway.waiting, "changed", bug)
    here.ask()
    assert here.result()[0] == 500
    assert here.sent == {}
    assert here.at_rest


def test_a_bug_within_a_stream_ends_it_with_an_error(
    here: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("".join(["SEC", "RET"]))

    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    monkeypatch.setattr(DownstreamResponse, "feed", bug)
    here.answer("a", chunk(TEXT))
    assert b"internal_error" in here.received
    assert END not in here.received
    here.run_timers(LAST_WORD_SECONDS)
    assert not here.client.connected
    assert not here.server("a").connected
    assert here.at_rest


def test_without_a_configuration_calls_are_a_503(made: Callable[..., Connection]) -> None:
    here = made()
    here.gateway.setup = None
    fresh = Connection(here.gateway, here.clock, here.layer.context.options)
    fresh.ask()
    assert fresh.result()[0] == 503
