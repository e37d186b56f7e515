"""What becomes of answers: complete ones that lack an end, failures inside them, codings, secrets in them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import brotli
import pytest
from mitmproxy import http
from mitmproxy.proxy import events

from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.proxy.answers import mask_decoded, mask_head
from aoai_gateway.proxy.downstream_response import DownstreamResponse
from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
from aoai_gateway.proxy.upstream_response import UpstreamResponse
from aoai_gateway.runtime.counting import TokenCounting
from aoai_gateway.runtime.stream_hooks import GatewayAttemptFailedHook
from aoai_gateway.tokens import Counter
from aoai_gateway.wire.masking import KnownSecrets
from tests.encodings import encodings
from tests.engine_driver import ANYBODY
from tests.proxy.layer_driver import Connection

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BARE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
FILTERED = STOP.replace(b"stop", b"content_filter")
ERROR = b'data: {"error":{"code":"server_error","message":"oops"}}\n\n'
END = b"0\r\n\r\n"
KEY = "Kq7/w+Zr93=xPLk2"
SECRETS = (KnownSecrets([KEY]), KnownSecrets(["token-of-this-call"]))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def call_of(here: Connection) -> Call:
    """The one call under way."""
    (call,) = here.gateway.calls.values()
    return call


# --- complete streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "events"),
    [
        (BARE, [ROLE, TEXT, STOP, b"[DONE]"]),  # Microsoft's aoai-api-simulator
        (SSE, [ROLE, TEXT, FILTERED]),  # a model of another vendor, hosted by Azure
        (SSE, [ROLE, TEXT, STOP.rstrip()]),
    ],
)
def test_a_complete_stream_passes_byte_for_byte(here: Connection, head: bytes, events: list[bytes]) -> None:
    here.ask(stream=True, stream_options={"include_usage": True})
    call = call_of(here)
    here.answer("a", head + b"".join(map(chunk, events)))
    here.answer("a", END)
    body = here.received.partition(b"\r\n\r\n")[2]
    assert body.endswith(END)
    assert b"error" not in body
    assert b"".join(body.split(b"\r\n")[1::2]).rstrip() == b"".join(events).rstrip()
    assert call.outcome is Outcome.OK
    assert here.at_rest


def test_a_connection_cut_after_the_finish_is_a_break(here: Connection) -> None:
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", SSE + chunk(TEXT) + chunk(STOP))
    here.hang_up("a")
    assert b"upstream_disconnected" in here.received
    assert call.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(("events", "outcome"), [(TEXT + STOP, Outcome.OK), (TEXT, Outcome.TRUNCATED)])
def test_where_the_connection_is_the_end_the_finish_decides(
    here: Connection, events: bytes, outcome: Outcome
) -> None:
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", OLD + events)
    here.hang_up("a")
    assert (b"upstream_disconnected" in here.received) == (outcome is Outcome.TRUNCATED)
    assert call.outcome is outcome


# --- failures inside a 200 -----------------------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True])
def test_a_failure_inside_a_stream_is_replayed_unseen(here: Connection, later: bool) -> None:
    here.ask(stream=True)
    here.answer("a", SSE + (chunk(ROLE) if later else b""))
    here.answer("a", chunk(ERROR) + END)
    here.answer("b", SSE + chunk(TEXT + STOP) + END)
    assert b"error" not in here.received
    assert b"x-gateway-backend: b@b" in here.received
    failed = [command.data for command in here.hooks if isinstance(command, GatewayAttemptFailedHook)]
    assert [each.attempt.reason for each in failed] == ["failed in its stream: server_error"]
    assert not list(here.gateway.engine.breaks.all()), "one call alone may be the cause of it"
    assert here.at_rest


def test_the_same_failure_inside_a_second_stream_is_returned_and_breaks_no_backend(here: Connection) -> None:
    here.ask(stream=True)
    for name in ("a", "b"):
        here.answer(name, SSE + chunk(ROLE) + chunk(ERROR) + END)
    assert here.result() == (200, ROLE + ERROR)
    assert not list(here.gateway.engine.breaks.all())
    assert here.at_rest


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (ERROR, Outcome.TRUNCATED, "failed in its stream: server_error"),
        (ERROR.replace(b"server_error", b"429"), Outcome.TRUNCATED, "failed in its stream: 429"),
        (ERROR.replace(b"server_error", b"content_filter"), Outcome.OK, ""),
    ],
)
def test_a_failure_that_is_told_after_content_passes_and_is_no_success(
    here: Connection, error: bytes, outcome: Outcome, reason: str
) -> None:
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", SSE + chunk(TEXT) + chunk(error) + END)
    assert here.received.endswith(chunk(TEXT + error) + END), "the client has all that the backend sent"
    assert (call.outcome, call.attempts[0].reason) == (outcome, reason)
    assert b"b.example" not in here.received
    assert here.at_rest


def test_a_look_at_a_failed_response_has_not_failed(here: Connection) -> None:
    look = (
        b"GET /openai/v1/responses/resp_1?stream=true HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\n\r\n"
    )
    here.feed(events.DataReceived(here.client, look))
    call = call_of(here)
    failed = b'{"id":"resp_1","status":"failed","error":{"code":"server_error"}}'
    event = b'event: response.failed\ndata: {"type":"response.failed","response":%b}\n\n' % failed
    here.answer("a", SSE + chunk(event) + END)
    assert (call.outcome, call.attempts[0].reason) == (Outcome.OK, "")


FAILED = b'{"object":"response","status":"failed","error":{"code":"server_error","message":"m"}}'


def test_a_failed_response_is_replayed(here: Connection) -> None:
    here.ask()
    here.respond("a", 200, FAILED)
    here.respond("b", 200, b'{"id":"x"}')
    assert here.result() == (200, b'{"id":"x"}')


@pytest.mark.parametrize(
    "body", [FAILED.replace(b"server_error", b"invalid_prompt"), b'{"status":"completed"}']
)
def test_the_callers_own_failure_is_its_answer(here: Connection, body: bytes) -> None:
    here.ask()
    here.respond("a", 200, body)
    assert here.result() == (200, body)
    assert "b.example" not in here.sent


HALF = b'{"object":"chat.completion","choices":[{"index":0,"mess'
PAGE = b"<html><title>Sign in</title></html>"


@pytest.mark.parametrize("body", [HALF, PAGE, b""])
def test_an_answer_that_is_no_json_is_replayed_unseen(here: Connection, body: bytes) -> None:
    here.ask()
    here.respond("a", 200, body)
    here.respond("b", 200, b'{"id":"x"}')
    assert here.result() == (200, b'{"id":"x"}')
    assert not list(here.gateway.engine.breaks.all()), "one call alone may be the cause of it"


def test_where_no_backend_has_a_whole_answer_no_half_one_is_taken_for_success(here: Connection) -> None:
    here.ask()
    call = call_of(here)
    here.respond("a", 200, HALF)
    here.respond("b", 200, HALF)
    status, body = here.result()
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_disconnected")
    assert call.outcome is not Outcome.OK
    assert not list(here.gateway.engine.breaks.all())
    assert here.at_rest


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_half_of_a_coded_answer_is_replayed_unseen(
    here: Connection, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    here.ask()
    half = encode(b'{"object":"chat.completion","choices":[]}')[:-9]
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(half)}\r\n\r\n"
    here.answer("a", head.encode() + half)
    here.respond("b", 200, b'{"id":"x"}')
    assert here.result() == (200, b'{"id":"x"}')


# --- coded answers -------------------------------------------------------------------------------------

ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "x" * 1_000_000}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }
).encode()


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_coded_answer_is_read_and_passes_as_it_came(
    here: Connection, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    here.ask()
    call, body = call_of(here), encode(ANSWER)
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
    here.answer("a", head.encode() + body)
    assert here.result() == (200, body)
    assert call.usage is not None
    assert (call.usage.total_tokens, call.finish_reason) == (5, "stop")


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_bomb_passes_as_it_came(here: Connection, status: int) -> None:
    here.ask()
    body = gzip.compress(bytes(64 * 1024 * 1024))
    head = f"HTTP/1.1 {status} x\r\ncontent-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
    for name in ("a", "b") if status == 500 else ("a",):
        here.answer(name, head.encode() + body)
    assert here.result() == (status, body)
    assert here.at_rest


# --- what a stream costs whose usage never comes ---------------------------------------------------------

LIMITED = ANYBODY.but(max_tokens_per_minute=100_000)


@pytest.mark.parametrize("gone", [False, True])
def test_a_stream_without_usage_costs_what_its_text_says(made: Callable[..., Connection], gone: bool) -> None:
    here = made(clients=(LIMITED,))
    here.gateway.counting.counter = Counter(encodings())
    text = "你好，世界。" * 1_000
    tokens = here.gateway.counting.counter.count_text(text, None).tokens
    here.ask(stream=True)
    call = call_of(here)
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()
    here.answer("a", SSE + chunk(b"data: " + piece + b"\n\n"))
    if gone:
        here.hang_up()
    else:
        here.answer("a", chunk(STOP) + END)
    assert call.charged_tokens is not None
    assert tokens <= call.charged_tokens < tokens + 20


def bug(*_: object) -> None:
    raise RuntimeError("a bug")


def test_a_stream_that_a_bug_of_ours_ends_costs_what_was_delivered(
    made: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = made(clients=(LIMITED,))
    here.gateway.counting.counter = Counter(encodings())
    text = "你好，世界。" * 1_000
    tokens = here.gateway.counting.counter.count_text(text, None).tokens
    here.ask(stream=True)
    call = call_of(here)
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode()
    here.answer("a", SSE + chunk(b"data: " + piece + b"\n\n"))
    monkeypatch.setattr(DownstreamResponse, "feed", bug)
    here.answer("a", chunk(b"data: " + piece + b"\n\n"))
    assert (call.outcome, call.served) == (Outcome.ERROR, True)
    assert call.charged_tokens is not None
    # The reader has seen the second piece, too, and the backend has made it.
    assert 2 * tokens <= call.charged_tokens < 2 * tokens + 20
    assert call.attempt is not None
    assert call.attempt.ended is not None
    assert not here.gateway.reservations


@pytest.mark.parametrize("broken", [(TokenCounting, "count_delivered"), (UpstreamResponse, "stream_ended")])
def test_a_second_bug_leaves_no_booking_behind(
    made: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str]
) -> None:
    here = made(clients=(LIMITED,))
    here.ask(stream=True)
    here.answer("a", SSE + chunk(TEXT))
    monkeypatch.setattr(DownstreamResponse, "feed", bug)
    monkeypatch.setattr(*broken, bug)
    here.answer("a", chunk(TEXT))
    assert not here.gateway.reservations
    assert not here.gateway.calls


def test_an_answer_that_a_bug_of_ours_keeps_from_the_client_costs_nothing(
    made: Callable[..., Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = made(clients=(LIMITED,))
    here.ask()
    call = call_of(here)
    monkeypatch.setattr(UpstreamAttempt, "whole_answer", bug)
    here.respond("a", 200)
    assert (call.outcome, call.charged_tokens) == (Outcome.ERROR, 0)
    assert not here.gateway.reservations


# --- secrets in them -----------------------------------------------------------------------------------


def test_a_head_is_masked_everywhere() -> None:
    response = http.Response.make(200, b"", {"x": f"a {KEY}", "y": "token-of-this-call", "z": "fine"})
    response.reason = f"OK {KEY}"
    mask_head(response, SECRETS)
    assert response.reason == "OK " + "*" * 16
    assert response.headers["x"] == "a " + "*" * 16
    assert response.headers["y"] == "*" * 18
    assert response.headers["z"] == "fine"


def test_a_head_without_any_stays_the_same_object() -> None:
    response = http.Response.make(200, b"", {"x": "fine"})
    fields = response.data.headers.fields
    mask_head(response, SECRETS)
    assert response.data.headers.fields is fields


def test_an_encoded_body_is_given_decoded_if_it_holds_one() -> None:
    response = http.Response.make(200, b"", {"content-encoding": "gzip"})
    response.data.content = gzip.compress(f"<{KEY}>".encode())
    decoded = mask_decoded(response, f"<{KEY}>".encode(), SECRETS)
    assert decoded == response.data.content == b"<" + b"*" * 16 + b">"
    assert "content-encoding" not in response.headers


def test_an_encoded_body_without_any_stays_encoded() -> None:
    packed = gzip.compress(b"fine")
    response = http.Response.make(200, b"", {"content-encoding": "gzip"})
    response.data.content = packed
    assert mask_decoded(response, b"fine", SECRETS) == b"fine"
    assert response.data.content is packed
    assert mask_decoded(response, None, SECRETS) == b""
