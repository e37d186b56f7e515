"""A client sees the deployment that it asked for, and not the standin."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.engine.call import Call
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect

RESPONSES = "/openai/v1/responses"
ANSWER = b'{"id":"resp_1","object":"response","status":"completed","model":"%s","metadata":{"model":"ptu"}}'
CREATED = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","model":"%s"}}\n\n'
)
DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n'
COMPLETED = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1","status":'
    b'"completed","model":"%s","usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)


@pytest.fixture
def here() -> Iterator[Connection]:
    with taddons.context(Proxyserver()) as tctx:
        plain = config("ptu@a")
        endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
        yield connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)


def ask(
    here: Connection, path: str = RESPONSES, model: str = "gpt", method: str = "POST", **members: Any
) -> None:
    body = json.dumps({"model": model, "input": "hi", **members}).encode() if method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\n"
    head += f"content-length: {len(body)}\r\n\r\n" if body else "\r\n"
    here.feed(events.DataReceived(here.client, head.encode() + body))


def respond(here: Connection, body: bytes, *fields: str, status: int = 200) -> None:
    lines = (f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *fields, "", "")
    here.answer("a", "\r\n".join(lines).encode() + body)


def head(here: Connection) -> str:
    return here.received.partition(b"\r\n\r\n")[0].decode().lower()


def test_an_answer_names_what_was_asked_for_and_the_header_tells_the_truth(here: Connection):
    ask(here)
    respond(here, ANSWER % b"ptu", "content-type: application/json")
    assert "x-gateway-backend: ptu@a" in head(here)
    assert f"content-length: {len(ANSWER % b'gpt')}" in head(here)
    assert here.result() == (200, ANSWER % b"gpt")


def test_it_is_spelled_as_the_client_did(here: Connection):
    ask(here, model="GPT")
    respond(here, ANSWER % b"ptu", "content-type: application/json")
    assert here.result() == (200, ANSWER % b"GPT")


def test_a_models_own_name_stays(here: Connection):
    ask(here)
    respond(here, ANSWER % b"gpt-4o-2024-08-06", "content-type: application/json")
    assert here.result() == (200, ANSWER % b"gpt-4o-2024-08-06")


def test_a_coded_answer_goes_on_as_text_only_if_its_name_is_replaced(here: Connection):
    for name, coded in ((b"ptu", False), (b"gpt-4o-2024-08-06", True)):
        ask(here)
        body = gzip.compress(ANSWER % name)
        respond(here, body, "content-type: application/json", "content-encoding: gzip")
        assert ("content-encoding: gzip" in head(here)) is coded
        assert here.result() == (200, body if coded else ANSWER % b"gpt")


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_streams_events_name_it_too(here: Connection, framing: str):
    ask(here, stream=True)
    whole = (CREATED % b"ptu") + DELTA + (COMPLETED % b"ptu")
    if framing == "length":
        respond(here, whole, "content-type: text/event-stream")
    else:
        fields = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        here.answer("a", b"HTTP/1.1 200 x\r\n" + fields)
        for at in range(0, len(whole), 7):
            part = whole[at : at + 7]
            here.answer("a", b"%x\r\n%s\r\n" % (len(part), part))
        here.answer("a", b"0\r\n\r\n")
    status, body = here.result()
    assert status == 200
    shown = b"".join(line for line in body.split(b"\r\n")[1::2])
    assert shown == (CREATED % b"gpt") + DELTA + (COMPLETED % b"gpt")
    assert here.at_rest


def test_a_stored_response_names_the_virtual_deployment_of_its_standin(here: Connection):
    ask(here, f"{RESPONSES}/resp_1", method="GET")
    respond(here, ANSWER % b"ptu", "content-type: application/json")
    assert here.result() == (200, ANSWER % b"gpt")


def test_an_error_passes_as_it_came(here: Connection):
    ask(here)
    body = b'{"error":{"code":"invalid_prompt"},"model":"ptu"}'
    respond(here, body, "content-type: application/json", status=400)
    assert here.result() == (400, body)


def test_an_answer_that_failed_names_it_too(here: Connection):
    ask(here)
    body = b'{"object":"response","status":"failed","error":{"code":"server_error"},"model":"%s"}'
    respond(here, body % b"ptu", "content-type: application/json")
    assert here.result() == (200, body % b"gpt")


def test_a_secret_in_a_failed_coded_answer_stays_masked(here: Connection):
    ask(here)
    body = b'{"status":"failed","error":{"code":"server_error","message":"key-of-a"},"model":"ptu"}'
    respond(here, gzip.compress(body), "content-type: application/json", "content-encoding: gzip")
    told = here.result()[1]
    assert b"key-of-a" not in told
    assert b'"model":"gpt"' in told


def test_the_record_keeps_the_truth(here: Connection, monkeypatch: pytest.MonkeyPatch):
    models: list[str | None] = []
    write_down: Callable[..., Any] = here.gateway.write_down

    def noted(call: Call, *more: Any) -> Any:
        models.append(call.model)
        return write_down(call, *more)

    monkeypatch.setattr(here.gateway, "write_down", noted)
    ask(here)
    respond(here, ANSWER % b"ptu", "content-type: application/json")
    assert models == ["ptu"]
