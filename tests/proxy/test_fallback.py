"""Fallback on the wire: which answers lead to another deployment, and what of them the client sees."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.config.models import Config
from tests.proxy.layer_driver import Connection, connect

CHAT, RESPONSES = "/openai/v1/chat/completions", "/openai/v1/responses"
ALL = {"content_filter": "other", "context_length": "other", "missing_model": "other"}

BLOCKED = b'{"error":{"code":"content_filter","message":"The response was filtered"}}'
TOO_LONG = b'{"error":{"code":null,"message":"This model\'s maximum context length is 8191 tokens."}}'
MISSING = b'{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist."}}'
BLOCKED_ANSWER = b'{"choices":[{"finish_reason":"content_filter","index":0}],"usage":{"total_tokens":7}}'

FILTER = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
STOPPED = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}\n\n'
DONE = b"data: [DONE]\n\n"
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
INCOMPLETE = (
    b'event: response.incomplete\ndata: {"type":"response.incomplete","response":{"id":"resp_1","object":'
    b'"response","status":"incomplete","incomplete_details":{"reason":"content_filter"}}}\n\n'
)
ERROR = b'event: error\ndata: {"type":"error","error":{"code":"content_filter","message":"filtered"}}\n\n'


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    """Make a connection to a gateway whose `gpt` (at a) falls back to `other` (at b)."""
    with taddons.context(Proxyserver()) as tctx:

        def make(fallback: dict[str, str] | None = None, **client: Any) -> Connection:
            endpoints = [
                {
                    "name": name,
                    "url": f"http://{name}.example/",
                    "key": "the-endpoints-key",
                    "virtual_deployments": [
                        {"name": deployment, "standins": [{"name": f"s-{name}"}], "fallback": way}
                    ],
                }
                for name, deployment, way in (
                    ("a", "gpt", ALL if fallback is None else fallback),
                    ("b", "other", None),
                )
            ]
            clients = [{"name": "anybody", "key": "key-of-anybody", **client}]
            configuration = Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": clients})
            return connect(configuration, tctx.options)

        yield make


def ask(here: Connection, path: str = CHAT, **members: Any) -> None:
    body = json.dumps({"model": "gpt", "messages": [], "input": "hi", **members}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    here.feed(events.DataReceived(here.client, head.encode() + body))


def stream(here: Connection, host: str, *parts: bytes) -> None:
    here.answer(
        host, b"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for part in (*parts, b""):
        here.answer(host, b"%x\r\n%s\r\n" % (len(part), part))


def asked(here: Connection, host: str) -> int:
    return here.sent.get(f"{host}.example", b"").count(b"POST /")


def fields(here: Connection) -> dict[str, str]:
    lines = here.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (400, BLOCKED, "content_filter"),
        (400, TOO_LONG, "context_length"),
        (404, MISSING, "missing_model"),
        (200, BLOCKED_ANSWER, "content_filter"),
        (200, b'{"status":"failed","error":{"code":"content_filter"}}', "content_filter"),
    ],
)
def test_an_answer_that_another_deployment_may_better(
    made: Callable[..., Connection], status: int, body: bytes, cause: str
):
    here = made()
    ask(here)
    here.respond("a", status, body)
    assert here.received == b"", "nothing is told yet"
    here.respond("b", 200, b'{"choices":[]}')
    told = fields(here)
    assert told["x-gateway-fallback"] == f"{cause} gpt -> other"
    assert told["x-gateway-backend"] == "s-b@b"
    assert told["x-gateway-attempts"] == "2"
    assert here.result() == (200, b'{"choices":[]}')
    assert b'"model": "s-b"' in here.sent["b.example"]
    assert here.at_rest


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (CHAT, (FILTER, ROLE, STOPPED, DONE)),
        (CHAT, (FILTER + ROLE + STOPPED + DONE,)),
        (CHAT, (STOPPED,)),
        (CHAT, (b'data: {"error":{"code":"content_filter"}}\n\n',)),
        (CHAT, (b'data: {"error":{"code":"context_length_exceeded"}}\n\n',)),
        (RESPONSES, (CREATED, INCOMPLETE)),
        (RESPONSES, (CREATED, ERROR)),
    ],
)
def test_a_stream_that_is_blocked_before_any_content(
    made: Callable[..., Connection], path: str, parts: tuple[bytes, ...]
):
    here = made()
    ask(here, path, stream=True)
    stream(here, "a", *parts)
    assert here.received == b""
    stream(here, "b", FILTER, TEXT, DONE)
    status, body = here.result()
    assert status == 200
    assert TEXT in body
    assert STOPPED not in body
    assert here.at_rest


def test_a_stream_whose_content_has_begun_goes_on(made: Callable[..., Connection]):
    here = made()
    ask(here, stream=True)
    stream(here, "a", FILTER, ROLE, TEXT, STOPPED, DONE)
    assert asked(here, "b") == 0
    assert STOPPED in here.result()[1]


def test_another_choice_with_content_lets_it_go_on(made: Callable[..., Connection]):
    here = made()
    ask(here, stream=True, n=2)
    other = b'data: {"choices":[{"index":1,"delta":{"content":"Hi"}}]}\n\n'
    stopped = b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}\n\n'
    stream(here, "a", ROLE, STOPPED, other, stopped, DONE)
    assert asked(here, "b") == 0
    body = here.result()[1]
    assert STOPPED in body
    assert other in body


def test_one_answer_of_two_that_is_blocked_is_the_clients(made: Callable[..., Connection]):
    here = made()
    ask(here, n=2)
    body = b'{"choices":[{"finish_reason":"content_filter"},{"finish_reason":"stop"}]}'
    here.respond("a", 200, body)
    assert here.result() == (200, body)


def test_a_blocked_stream_that_does_not_end_is_not_waited_for(made: Callable[..., Connection]):
    here = made()
    ask(here, stream=True)
    here.answer(
        "a", b"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    here.answer("a", b"%x\r\n%s\r\n" % (len(STOPPED), STOPPED))
    assert asked(here, "b") == 0
    here.run_timers(3)
    assert asked(here, "b") == 1


@pytest.mark.parametrize("coded", [False, True])
def test_without_a_fallback_everything_passes_as_it_came(made: Callable[..., Connection], coded: bool):
    here = made(fallback={})
    ask(here)
    body = gzip.compress(BLOCKED) if coded else BLOCKED
    coding = "content-encoding: gzip\r\n" if coded else ""
    head = f"HTTP/1.1 400 x\r\ncontent-type: application/json\r\n{coding}content-length: {len(body)}\r\n\r\n"
    here.answer("a", head.encode() + body)
    assert here.result() == (400, body)
    ask(here, stream=True)
    stream(here, "a", FILTER, STOPPED, DONE)
    assert asked(here, "b") == 0
    assert STOPPED in here.result()[1]


def test_a_compressed_refusal_is_understood(made: Callable[..., Connection]):
    here = made()
    ask(here)
    body = gzip.compress(BLOCKED)
    head = "HTTP/1.1 400 x\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    here.answer("a", head.encode() + body)
    here.respond("b", 200)
    assert here.result()[0] == 200


def test_what_is_not_admitted_there_gets_the_first_answer_byte_for_byte(made: Callable[..., Connection]):
    limits = {"max_requests_per_minute": {"gpt": 9, "other": 0}}
    here = made(**limits)
    ask(here)
    here.respond("a", 400, BLOCKED)
    assert here.result() == (400, BLOCKED)
    ask(here, stream=True)
    parts = FILTER, STOPPED, DONE
    stream(here, "a", *parts)
    status, body = here.result()
    assert (status, body) == (200, b"".join(parts))
    assert asked(here, "b") == 0
    assert here.at_rest


# --- Claude --------------------------------------------------------------------------------------------

CLAUDE = "/anthropic/v1/messages"
BEGUN = b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"s-b"}}\n\n'
SAID = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"Hi"}}\n\n'
)
REFUSED = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"refusal"},"usage":'
    b'{"output_tokens":1}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
REFUSED_MESSAGE = b'{"type":"message","content":[],"stop_reason":"refusal","usage":{"output_tokens":1}}'
CLAUDES_TOO_LONG = (
    b'{"type":"error","error":{"type":"invalid_request_error","message":'
    b'"prompt is too long: 250000 tokens > 200000 maximum"}}'
)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [(200, REFUSED_MESSAGE, "content_filter"), (400, CLAUDES_TOO_LONG, "context_length")],
)
def test_claudes_refusals_fall_back(
    made: Callable[..., Connection], status: int, body: bytes, cause: str
) -> None:
    here = made()
    ask(here, CLAUDE, max_tokens=5)
    here.respond("a", status, body)
    here.respond("b", 200, b'{"type":"message","content":[],"model":"s-b","stop_reason":"end_turn"}')
    head = here.received.partition(b"\r\n\r\n")[0]
    assert f"x-gateway-fallback: {cause} gpt -> other".encode() in head
    assert json.loads(here.result()[1])["model"] == "gpt"


def test_a_stream_that_claude_refuses_at_once_falls_back(made: Callable[..., Connection]) -> None:
    here = made()
    ask(here, CLAUDE, max_tokens=5, stream=True)
    stream(here, "a", BEGUN, REFUSED, STOP)
    stream(here, "b", BEGUN, SAID, STOP)
    body = here.result()[1]
    assert SAID in body
    assert REFUSED not in body
    assert b'"model":"gpt"' in body


def test_a_stream_that_claude_refuses_later_goes_on(made: Callable[..., Connection]) -> None:
    here = made()
    ask(here, CLAUDE, max_tokens=5, stream=True)
    stream(here, "a", BEGUN, SAID, REFUSED, STOP)
    assert "b.example" not in here.sent
    assert REFUSED in here.result()[1]


def test_a_secret_in_a_coded_refusal_stays_masked(made: Callable[..., Connection]):
    here = made(max_requests_per_minute={"gpt": 9, "other": 0})
    ask(here)
    told = b'{"error":{"code":"content_filter","message":"sent with the-endpoints-key"}}'
    body = gzip.compress(told)
    head = "HTTP/1.1 400 x\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    here.answer("a", f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    status, answer = here.result()
    assert status == 400
    text = gzip.decompress(answer) if answer.startswith(b"\x1f\x8b") else answer
    assert b"content_filter" in text
    assert b"the-endpoints-key" not in text
