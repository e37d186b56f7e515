"""Claude through the layer: its credentials, its errors in whichever state they come, malformed requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.config.models import Limits
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect

PATH = "/anthropic/v1/messages"
BODY: dict[str, Any] = {"model": "gpt", "max_tokens": 30, "messages": [{"role": "user", "content": "Hello"}]}
KEY = "x-api-key: key-of-anybody"
VERSION = "anthropic-version: 2023-06-01"
MESSAGE = json.dumps(
    {
        "id": "msg_1",
        "type": "message",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
).encode()
START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":{}}}\n\n'
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Hi"}}\n\n'
)


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(*backends: str, **parts: Any) -> Connection:
            plain = config(*backends, **parts)
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            return connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)

        yield make


def send(here: Connection, *headers: str, path: str = PATH, method: str = "POST", body: bytes = b"") -> None:
    lines = (f"{method} {path} HTTP/1.1", "host: gw", *headers)
    here.feed(events.DataReceived(here.client, "\r\n".join((*lines, "", "")).encode() + body))


def ask(here: Connection, *headers: str, **members: Any) -> None:
    body = json.dumps({**BODY, **members}).encode()
    send(here, KEY, VERSION, f"content-length: {len(body)}", *headers, body=body)


def error(here: Connection) -> tuple[int, dict[str, Any]]:
    status, body = here.result()
    said = json.loads(body)
    assert said["type"] == "error"
    return status, said["error"]


@pytest.mark.parametrize("shown", [KEY, "api-key: key-of-anybody", "authorization: Bearer key-of-anybody"])
def test_the_backend_gets_its_own_key_as_the_sdk_sends_it(
    made: Callable[..., Connection], shown: str
) -> None:
    here = made("a")
    body = json.dumps(BODY).encode()
    send(here, shown, VERSION, "anthropic-beta: b-1", f"content-length: {len(body)}", body=body)
    sent = here.sent["a.example"]
    assert sent.startswith(b"POST /anthropic/v1/messages HTTP/1.1\r\n")
    for header in (b"x-api-key: key-of-a", b"api-key: key-of-a", VERSION.encode(), b"anthropic-beta: b-1"):
        assert b"\r\n" + header + b"\r\n" in sent
    assert b"key-of-anybody" not in sent
    assert json.loads(sent.partition(b"\r\n\r\n")[2]) == {**BODY, "model": "a"}
    here.respond("a", 200, MESSAGE)
    assert here.result() == (200, MESSAGE)


def test_a_key_in_x_api_key_is_none_for_other_paths(made: Callable[..., Connection]) -> None:
    here = made("a")
    send(here, KEY, "content-length: 2", path="/openai/v1/chat/completions", body=b"{}")
    status, body = here.result()
    assert (status, json.loads(body)["error"]["code"]) == (401, "401")


def test_the_short_path_is_the_long_one_at_the_backend(made: Callable[..., Connection]) -> None:
    here = made("a")
    body = json.dumps(BODY).encode()
    send(here, KEY, VERSION, f"content-length: {len(body)}", path="/v1/messages?beta=true", body=body)
    assert here.sent["a.example"].startswith(b"POST /anthropic/v1/messages?beta=true HTTP/1.1\r\n")
    here.respond("a", 200, MESSAGE)
    assert here.result() == (200, MESSAGE)


def test_refused_before_the_body(made: Callable[..., Connection]) -> None:
    here = made("a")
    send(here, "x-api-key: wrong", "content-length: 2", body=b"{}")
    status, said = error(here)
    assert (status, said["type"]) == (401, "authentication_error")


def test_what_the_gateway_says_names_the_call(made: Callable[..., Connection]) -> None:
    here = made("a")
    ask(here, model="unknown")
    head = here.received.partition(b"\r\n\r\n")[0].decode()
    status, said = error(here)
    assert (status, said["type"]) == (404, "not_found_error")
    assert said["details"] == {"error_code": "DeploymentNotFound", "param": "model"}
    (named,) = re.findall(r"\r\nrequest-id: (\S+)", head)
    assert f"x-gateway-call: {named}" in head


MALFORMED: list[tuple[bytes, int, str]] = [
    (b"", 400, "invalid_request_error"),
    (b"{", 400, "invalid_request_error"),
    (b"[]", 400, "invalid_request_error"),
    (b"null", 400, "invalid_request_error"),
    (b'"text"', 400, "invalid_request_error"),
    (b"\xff\xfe{}", 400, "invalid_request_error"),
    (b"{}", 400, "invalid_request_error"),
    (b'{"model": null}', 400, "invalid_request_error"),
    (b'{"model": 5}', 400, "invalid_request_error"),
    (b'{"model": ""}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "model": "gpt"}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "mod\\u0065l": "other"}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "max_tokens": "many"}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "max_tokens": -1}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "max_tokens": 1e400}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "max_tokens": 99999999999}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "stream": "yes"}', 400, "invalid_request_error"),
    (b'{"model": "gpt", "messages": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", 400, "invalid_request_error"),
    (b'{"model": "no/such"}', 404, "not_found_error"),
]


@pytest.mark.parametrize(("body", "status", "kind"), MALFORMED)
def test_malformed_bodies(made: Callable[..., Connection], body: bytes, status: int, kind: str) -> None:
    here = made("a")
    send(here, KEY, f"content-length: {len(body)}", body=body)
    got, said = error(here)
    assert (got, said["type"]) == (status, kind)
    assert "a.example" not in here.sent


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        (
            ("content-type: multipart/form-data; boundary=x", "content-length: 2"),
            400,
            "invalid_request_error",
        ),
        (("content-encoding: compress", "content-length: 2"), 400, "invalid_request_error"),
        (("content-length: 2147483648",), 413, "request_too_large"),
        (("x-gateway-priority: first", "content-length: 2"), 400, "invalid_request_error"),
    ],
)
def test_malformed_heads(
    made: Callable[..., Connection], headers: tuple[str, ...], status: int, kind: str
) -> None:
    here = made("a", limits=Limits(body_mb=1))
    send(here, KEY, *headers, body=b"{}")
    got, said = error(here)
    assert (got, said["type"]) == (status, kind)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("DELETE", PATH, 405, "invalid_request_error"),
        ("POST", "/v1/messages/", 404, "not_found_error"),
        ("POST", "/anthropic/v1/messages/../../openai", 404, "not_found_error"),
        ("GET", "/anthropic/v1/models/no%2Fsuch", 404, "not_found_error"),
        ("GET", "/anthropic/v1/models/none", 404, "not_found_error"),
    ],
)
def test_wrong_targets(
    made: Callable[..., Connection], method: str, path: str, status: int, kind: str
) -> None:
    here = made("a")
    send(here, KEY, path=path, method=method)
    got, said = error(here)
    assert (got, said["type"]) == (status, kind)


def test_a_chunked_body_that_is_broken(made: Callable[..., Connection]) -> None:
    here = made("a")
    send(here, KEY, "transfer-encoding: chunked", body=b"zz\r\n")
    got, said = error(here)
    assert (got, said["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("status", [429, 529, 503, 500])
def test_a_failure_is_replayed(made: Callable[..., Connection], status: int) -> None:
    here = made("a", "b")
    ask(here)
    here.respond("a", status, b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}')
    here.respond("b", 200, MESSAGE)
    assert here.result() == (200, MESSAGE)


def stream(here: Connection, host: str, data: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    here.answer(host, head + b"%x\r\n%s\r\n" % (len(data), data))


def test_an_error_before_any_content_is_replayed(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, stream=True)
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
    stream(here, "a", START + error)
    assert "b.example" in here.sent
    stream(here, "b", START + DELTA)
    assert here.result()[1].count(b"message_start") == 2  # the event's name and its type, of one event


def test_a_stream_that_breaks_off_ends_in_an_error_of_its_form(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, stream=True)
    stream(here, "a", START + DELTA)
    here.hang_up("a")
    body = here.result()[1]
    assert b"event: error\n" in body
    data = body.partition(b"event: error\ndata: ")[2].partition(b"\n\n")[0]
    said = json.loads(data)
    assert (said["type"], said["error"]["type"]) == ("error", "api_error")


def test_all_backends_out(made: Callable[..., Connection]) -> None:
    here = made("a")
    ask(here)
    here.answer("a", b"HTTP/1.1 529 x\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}")
    status, said = error(here)
    assert (status, said["type"]) == (429, "rate_limit_error")
    assert "7 seconds" in said["message"]


def test_a_backends_limits_are_not_the_clients(made: Callable[..., Connection]) -> None:
    here = made("a")
    ask(here)
    kinds = ("ratelimit-tokens-limit", "ratelimit-unified-status", "priority-input-tokens-remaining")
    told = "".join(f"anthropic-{kind}: 1\r\n" for kind in kinds)
    head = f"HTTP/1.1 200 x\r\n{told}request-id: req_1\r\ncontent-length: {len(MESSAGE)}\r\n\r\n"
    here.answer("a", head.encode() + MESSAGE)
    assert b"anthropic-" not in here.received
    assert b"request-id: req_1\r\n" in here.received
    assert here.result() == (200, MESSAGE)


def test_models_are_listed_in_its_form(made: Callable[..., Connection]) -> None:
    here = made("a")
    send(here, KEY, path="/anthropic/v1/models?limit=20", method="GET")
    listed = json.loads(here.result()[1])
    assert [model["id"] for model in listed["data"]] == ["gpt"]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "gpt", "gpt")
