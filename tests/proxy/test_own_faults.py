"""Answers whose cause the gateway itself put in, and references that only one resource can resolve."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons
from pydantic import SecretStr

from aoai_gateway.config.models import Client
from aoai_gateway.routing.breaker import Break
from aoai_gateway.runtime.attempt_log import AttemptLog
from aoai_gateway.runtime.stream_hooks import GatewayAttemptFailedHook
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect

MISSING = b'{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist."}}'
NO_PATH = b'{"error":{"code":"404","message":"Resource not found"}}'
NOT_DONE = (
    b'{"error":{"code":"OperationNotSupported","message":"The embeddings operation does not work with it."}}'
)
UNKNOWN_OPTION = b'{"error":{"code":null,"message":"Unrecognized request argument supplied: stream_options"}}'
# Models of other makers, and of the model catalogue, stand behind servers that validate with pydantic.
EXTRA_OPTION = b'{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs"}]}'
EXTRA_OPTION_IN_DETAILS = (
    b'{"error":{"code":"Invalid input","status":422,"message":"invalid input error","details":'
    b'[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}}'
)
UNKNOWN_OPTIONS = [(400, UNKNOWN_OPTION), (422, EXTRA_OPTION), (422, EXTRA_OPTION_IN_DETAILS)]
FOREIGN = b'{"error":{"message":"The encrypted content for item rs_0af9 could not be verified.","code":null}}'
NOT_THERE = (
    b'{"error":{"message":"Previous response with id \'resp_000111\' not found.",'
    b'"code":"previous_response_not_found"}}'
)
NO_FILE = b'{"error":{"message":"No such File object: assistant-AbC123xyz","code":null}}'


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(*backends: str, prefix: str = "", **parts: Any) -> Connection:
            plain = config(*backends, **parts)
            endpoints = tuple(e.but(url=f"http://{e.name}.example/{prefix}") for e in plain.aoai.endpoints)
            return connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)

        yield make


def ask(here: Connection, path: str = "/openai/v1/chat/completions", *headers: str, **members: Any) -> None:
    body = json.dumps({"model": "gpt", **members}).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "host: gw",
        "api-key: key-of-anybody",
        f"content-length: {len(body)}",
        *headers,
    )
    here.feed(events.DataReceived(here.client, "\r\n".join((*lines, "", "")).encode() + body))


def in_break(here: Connection, *marks: str) -> dict[str, str]:
    """Return the reasons of breaks for all calls, and for those with these marks, by backend."""
    breaks, now = here.gateway.engine.breaks, here.clock.now
    found = {b.name: breaks.on(b, now, marks=marks) for b in here.gateway.in_force().table.backends}
    return {name: brk.reason for name, brk in found.items() if brk is not None}


def log_failed(here: Connection) -> None:
    """Log the failed attempts that were announced."""
    for hook in here.hooks:
        if isinstance(hook, GatewayAttemptFailedHook):
            AttemptLog().log(hook.data, 0.0)


def asked(here: Connection, host: str) -> int:
    return here.sent.get(f"{host}.example", b"").count(b"POST /")


def test_a_deployment_that_is_gone_breaks_its_standin_and_says_what_to_change(
    made: Callable[..., Connection], caplog: pytest.LogCaptureFixture
) -> None:
    here = made("old@a", "other@a", "b")
    ask(here)
    with caplog.at_level(logging.ERROR):
        here.respond("a", 404, MISSING)
        log_failed(here)
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert in_break(here) == {"old@a": "404 DeploymentNotFound"}
    assert "standin 'old' in aoai.endpoints, at the endpoint 'a'" in caplog.text


def with_other_keys(here: Connection, *names: str) -> None:
    """Reload the configuration, with other keys for some endpoints."""
    before = here.gateway.config
    endpoints = tuple(
        each.but(key=SecretStr(f"other-key-of-{each.name}")) if each.name in names else each
        for each in before.aoai.endpoints
    )
    here.gateway.adopt(before.but(aoai=before.aoai.but(endpoints=endpoints)))


REFUSED = b'{"error":{"code":"401","message":"Access denied due to invalid subscription key."}}'


@pytest.mark.parametrize("status", [401, 403])
def test_another_key_ends_the_break_that_the_one_before_caused(
    made: Callable[..., Connection], status: int
) -> None:
    here = made("a", "b")
    told: list[object] = []
    here.gateway.credential_breaks.tell_ends = told.append
    ask(here)
    here.respond("a", status, REFUSED)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert set(in_break(here)) == {"a@a"}
    with_other_keys(here, "b")
    assert set(in_break(here)) == {"a@a"}
    with_other_keys(here, "a")
    assert in_break(here) == {}
    assert told == [(("a", None),)]
    ask(here)
    assert b"api-key: other-key-of-a" in here.sent["a.example"]
    here.respond("a", 200)
    assert here.result()[0] == 200


def test_a_call_of_before_another_key_breaks_nothing(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here)
    here.clock.now += 1
    with_other_keys(here, "a")
    here.respond("a", 401, REFUSED)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert in_break(here) == {}
    ask(here)
    here.respond("a", 401, REFUSED)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert set(in_break(here)) == {"a@a"}, "the other one is refused, too"


def test_another_key_leaves_a_break_by_hand(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    told: list[object] = []
    here.gateway.credential_breaks.tell_ends = told.append
    ask(here)
    here.respond("a", 401, REFUSED)
    here.respond("b", 200)
    assert here.result()[0] == 200
    now = here.clock.now
    here.gateway.engine.breaks.open(("a", None), Break(now, now + 300, "by hand", ""))
    here.clock.now += 1
    with_other_keys(here, "a")
    assert in_break(here) == {"a@a": "by hand"}
    assert told == [], "others would end it"


def test_another_key_ends_no_break_for_another_cause(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here)
    here.respond("a", 429)
    here.respond("b", 200)
    here.result()
    with_other_keys(here, "a")
    assert set(in_break(here)) == {"a@a"}


def test_if_no_standin_exists_the_last_answer_is_the_clients_and_nothing_is_broken(
    made: Callable[..., Connection],
) -> None:
    here = made("a", "b", "c")
    ask(here)
    for host in "abc":
        here.respond(host, 404, MISSING)
    assert here.result() == (404, MISSING)
    assert in_break(here) == {}


def test_a_backend_that_could_not_be_asked_might_have_served_it(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here)
    here.answer("a", b"HTTP/1.1 429 x\r\nretry-after: 50\r\ncontent-length: 2\r\n\r\n{}")
    here.respond("b", 200)
    here.result()
    here.clock.now += 1
    ask(here)
    here.respond("b", 404, MISSING)
    assert here.result()[0] == 429
    assert set(in_break(here)) == {"a@a", "b@b"}


def test_a_deployment_that_the_client_names_in_a_header_is_its_own(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "/openai/v1/chat/completions", "x-ms-spillover-deployment: nowhere")
    here.respond("a", 404, MISSING)
    assert here.result() == (404, MISSING)
    assert in_break(here) == {}


@pytest.mark.parametrize("body", [NO_PATH, b"<html>404</html>", b""])
def test_a_path_prefix_that_leads_nowhere(
    made: Callable[..., Connection], caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    here = made("one@a", "two@a", "b", prefix="apim/wrong")
    ask(here)
    here.respond("a", 404, body)
    log_failed(here)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Correct 'url' in aoai.endpoints" in caplog.text
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert set(in_break(here, "operation chat.completions")) == {"one@a", "two@a"}
    assert in_break(here, "operation embeddings") == {}, "perhaps it only lacks this one"


CLASSIC = "/openai/deployments/gpt/chat/completions"


@pytest.mark.parametrize(
    ("query", "prefix", "told"),
    [
        ("", "", "the query has no api-version"),
        ("?api-version=", "", "the query has no api-version"),
        ("", "apim", "the query has no api-version"),
        ("?api-version=1999-01-01", "", "no such operation in the api-version '1999-01-01'"),
    ],
)
def test_a_client_is_told_what_azures_bare_404_is_about(
    made: Callable[..., Connection], query: str, prefix: str, told: str
) -> None:
    here = made("a", "b", prefix=prefix)
    ask(here, CLASSIC + query)
    here.respond("a", 404, NO_PATH)
    status, body = here.result()
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (404, "404")
    assert error["message"].startswith("Resource not found: ")
    assert told in error["message"]
    assert in_break(here) == {}
    assert asked(here, "b") == 0


def test_a_backend_that_needs_no_api_version_serves_a_call_without_one(
    made: Callable[..., Connection],
) -> None:
    here = made("a")
    ask(here, CLASSIC)
    here.respond("a", 200)
    assert here.result()[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CLASSIC, MISSING),
        (CLASSIC, b'{"error":{"code":"404","message":"No such thing"}}'),
        ("/openai/v1/chat/completions", NO_PATH),
    ],
)
def test_another_404_is_passed_on_as_it_came(made: Callable[..., Connection], path: str, body: bytes) -> None:
    here = made("a")
    ask(here, path)
    here.respond("a", 404, body)
    assert here.result() == (404, body)


def test_an_api_version_of_one_client_takes_no_endpoint_with_a_prefix_from_the_others(
    made: Callable[..., Connection],
) -> None:
    """Below a prefix, Azure's 404 is about the path or about the api-version."""
    clients = [Client(name=name, key=f"key-of-{name}") for name in ("anybody", "other")]
    here = made("a", "b", prefix="apim", clients=clients)
    ask(here, CLASSIC + "?api-version=1999-01-01")
    here.respond("a", 404, NO_PATH)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert in_break(here, "client other", "operation chat.completions") == {}
    assert in_break(here, "client anybody", "operation embeddings") == {}
    assert set(in_break(here, "operation chat.completions of client anybody")) == {"a@a"}


def test_a_path_that_a_client_makes_up_takes_no_endpoint_from_the_others(
    made: Callable[..., Connection], caplog: pytest.LogCaptureFixture
) -> None:
    here = made("a", "b", prefix="apim")
    ask(here, "/openai/v1/new_things")
    with caplog.at_level(logging.INFO):
        here.respond("a", 404, NO_PATH)
        log_failed(here)
    here.respond("b", 200)
    assert here.result()[0] == 200
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "'anybody'" in line.getMessage()
    assert in_break(here, "client other", "operation unknown") == {}
    assert in_break(here, "client anybody", "operation chat.completions") == {}
    assert set(in_break(here, "operation unknown of client anybody")) == {"a@a"}


def test_what_a_model_does_not_do_keeps_only_such_calls_from_it(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    for _ in range(2):
        ask(here, "/openai/v1/embeddings", input="x")
        if asked(here, "a") == 1 and not here.gateway.engine.breaks.any_for_some:
            here.respond("a", 400, NOT_DONE)
        here.respond("b", 200)
        assert here.result()[0] == 200
    assert asked(here, "a") == 1
    assert in_break(here) == {}
    ask(here)
    here.respond("a", 200)
    assert here.result()[0] == 200, "other calls still go there"


# --- stream_options ----------------------------------------------------------------------------------


def stream(here: Connection, host: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    text = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'
    here.answer(host, head % len(text) + text)


@pytest.mark.parametrize(("status", "refusal"), UNKNOWN_OPTIONS)
def test_a_backend_that_does_not_know_our_stream_options_is_asked_without_them(
    made: Callable[..., Connection], status: int, refusal: bytes
) -> None:
    here = made("a", "b")
    for call in range(2):
        ask(here, stream=True)
        if not call:
            assert b"stream_options" in here.sent["a.example"]
            here.respond("a", status, refusal)
        stream(here, "a")
        assert here.result()[0] == 200
    assert here.sent["a.example"].count(b"stream_options") == 1, "it is remembered"
    assert asked(here, "a") == 3
    assert asked(here, "b") == 0


@pytest.mark.parametrize(("status", "refusal"), UNKNOWN_OPTIONS)
def test_the_clients_own_stream_options_are_its_own(
    made: Callable[..., Connection], status: int, refusal: bytes
) -> None:
    here = made("a", "b")
    ask(here, stream=True, stream_options={"include_usage": True})
    here.respond("a", status, refusal)
    assert here.result() == (status, refusal)
    assert asked(here, "a") == 1


def test_a_firewall_that_quotes_the_prompt_does_not_refuse_our_stream_options(
    made: Callable[..., Connection],
) -> None:
    here = made("a", "b")
    quoted = b'{"detail":[{"type":"missing","loc":["body","x"],"input":{"stream_options":{}}}]}'
    ask(here, stream=True)
    here.respond("a", 422, quoted)
    assert here.result() == (422, quoted)
    assert asked(here, "a") == 1


def test_a_refusal_that_stays_is_the_answer_and_is_not_remembered(made: Callable[..., Connection]) -> None:
    here = made("a")
    for _ in range(2):
        ask(here, stream=True)
        here.respond("a", 400, UNKNOWN_OPTION)
        here.respond("a", 400, UNKNOWN_OPTION)
        assert here.result()[0] == 400
    assert here.sent["a.example"].count(b'"stream_options"') == 2


# --- references --------------------------------------------------------------------------------------

RESPONSES = "/openai/v1/responses"


def reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": text}


def next_turn(here: Connection, *items: str) -> None:
    ask(
        here,
        RESPONSES,
        store=False,
        input=[*(reasoning(item) for item in items), {"role": "user", "content": "x"}],
    )


def test_encrypted_reasoning_goes_home(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, RESPONSES, store=False, input="hello")
    here.answer("a", b"HTTP/1.1 429 x\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}")
    here.respond("b", 200, json.dumps({"id": "resp_1", "output": [reasoning("gAAA" * 3_000)]}).encode())
    assert here.result()[0] == 200
    here.clock.now += 5
    next_turn(here, "gAAA" * 3_000)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert asked(here, "a") == 1


def test_encrypted_reasoning_of_a_stream_goes_home(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, RESPONSES, store=False, input="hello", stream=True)
    here.answer("a", b"HTTP/1.1 429 x\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}")
    done = {"type": "response.output_item.done", "item": reasoning("gBBB")}
    end = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}}
    text = b"".join(
        b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in (done, end)
    )
    here.answer(
        "b",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(text)
        + text,
    )
    assert here.result()[0] == 200
    here.clock.now += 5
    next_turn(here, "gBBB")
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert asked(here, "a") == 1


@pytest.mark.parametrize(
    ("refusal", "members"),
    [
        (FOREIGN, {"input": [reasoning("gCCC")]}),
        (FOREIGN.replace(b"null", b'"invalid_encrypted_content"'), {"input": [reasoning("gCCC")]}),
        (FOREIGN.replace(b"verified", b"decrypted"), {"input": [reasoning("gCCC")]}),
        (NOT_THERE, {"input": "x", "previous_response_id": "resp_000111"}),
        (
            NO_FILE,
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_id": "assistant-AbC123xyz"}]}
                ]
            },
        ),
    ],
)
def test_when_its_home_is_not_known_each_endpoint_is_asked_once(
    made: Callable[..., Connection], refusal: bytes, members: dict[str, Any]
) -> None:
    here = made("one@a", "two@a", "b", "c")
    ask(here, RESPONSES, **members)
    here.respond("a", 400, refusal)
    here.respond("b", 400, refusal)
    here.respond("c", 200)
    assert here.result()[0] == 200
    assert in_break(here) == {}
    assert [asked(here, host) for host in "abc"] == [1, 1, 1]
    here.clock.now += 1
    ask(here, RESPONSES, **members)
    if refusal is NO_FILE:
        return
    here.respond("c", 200)
    assert here.result()[0] == 200, "and now it is"
    assert asked(here, "a") == 1


def test_if_none_can_resolve_it_the_last_answer_is_the_clients(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, RESPONSES, input="x", previous_response_id="resp_000111")
    here.respond("a", 400, NOT_THERE)
    here.respond("b", 400, NOT_THERE)
    assert here.result() == (400, NOT_THERE)


def test_an_id_that_the_call_does_not_refer_to_is_no_reference(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, RESPONSES, input="hello")
    here.respond("a", 404, NO_FILE)
    assert here.result() == (404, NO_FILE)
