"""Operations beyond the prompts: without bodies, with forms and files, on what lives at one resource."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.config.models import Client
from tests.engine_driver import ANYBODY, config
from tests.proxy.layer_driver import Connection, connect

FILE = "file-0123456789abcdef01234567"
OTHER = "file-fedcba9876543210fedcba98"
NO_FILE = json.dumps({"error": {"code": "404", "message": f"No such File object: {FILE}"}}).encode()


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(*backends: str, **parts: Any) -> Connection:
            routing = parts.pop("routing", {})
            plain = config(*backends, **parts)
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            aoai = plain.aoai.but(endpoints=endpoints, **routing)
            return connect(plain.but(aoai=aoai), tctx.options)

        yield make


def ask(here: Connection, method: str, path: str, *headers: str, body: bytes = b"") -> None:
    length = [f"content-length: {len(body)}"] if body else []
    lines = (f"{method} {path} HTTP/1.1", "host: gw", "api-key: key-of-anybody", *length, *headers)
    here.feed(events.DataReceived(here.client, "\r\n".join((*lines, "", "")).encode() + body))


def post(here: Connection, path: str, **members: Any) -> None:
    ask(here, "POST", path, "content-type: application/json", body=json.dumps(members).encode())


def given(here: Connection, host: str, **members: Any) -> None:
    here.respond(host, 200, json.dumps(members).encode())


def heads_at(here: Connection, host: str) -> list[str]:
    """The request lines that a backend got."""
    return re.findall(r"[A-Z]+ /[!-~]* HTTP/1\.1", here.sent.get(f"{host}.example", b"").decode("latin-1"))


def throttle(here: Connection, host: str, seconds: int = 7) -> None:
    here.answer(host, b"HTTP/1.1 429 x\r\nretry-after: %d\r\ncontent-length: 2\r\n\r\n{}" % seconds)


# --- without a deployment, without a body --------------------------------------------------------------


def test_a_request_without_a_body_goes_on_without_one(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", "/openai/v1/files?limit=5", "x-other: 1")
    sent = here.sent["a.example"]
    assert sent.startswith(b"GET /openai/v1/files?limit=5 HTTP/1.1\r\n")
    assert b"content-length" not in sent.lower()
    assert b"api-key: key-of-a\r\n" in sent
    given(here, "a", object="list", data=[])
    assert here.result()[0] == 200


def test_it_is_sent_elsewhere_when_an_endpoint_fails(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", "/openai/v1/files")
    here.respond("a", 503)
    given(here, "b", object="list", data=[])
    assert here.result()[0] == 200


def test_what_creates_something_is_sent_again_only_if_it_was_not_taken(
    made: Callable[..., Connection],
) -> None:
    here = made("a", "b")
    post(here, "/openai/v1/vector_stores", name="x")
    throttle(here, "a")
    here.respond("b", 500)
    assert here.result()[0] == 500
    post(here, "/openai/v1/conversations")
    assert heads_at(here, "b")[1:] == ["POST /openai/v1/conversations HTTP/1.1"]
    here.respond("b", 500)
    assert here.result()[0] == 500


def test_a_client_may_choose_the_endpoint_of_what_is_for_no_deployment(
    made: Callable[..., Connection],
) -> None:
    here = made("a", "b")
    ask(here, "GET", "/openai/v1/files", "x-gateway-endpoint: b")
    assert b"x-gateway-endpoint" not in here.sent["b.example"]
    given(here, "b", object="list", data=[])
    assert here.result()[0] == 200
    ask(here, "GET", "/openai/v1/files", "x-gateway-endpoint: c")
    assert here.result()[0] == 403


def test_only_endpoints_that_the_client_may_use(made: Callable[..., Connection]) -> None:
    here = made("a", "b", clients=(ANYBODY.but(endpoints_allowed="b"),))
    ask(here, "GET", "/openai/v1/files")
    given(here, "b", object="list", data=[{"id": FILE}])
    assert here.result()[0] == 200
    assert "a.example" not in here.sent


def test_a_client_with_limits_per_deployment_may_do_what_costs_no_tokens(
    made: Callable[..., Connection],
) -> None:
    limited = Client(name="anybody", key="key-of-anybody", max_tokens_per_minute={"gpt": 1000})
    here = made("a", clients=(limited,))
    ask(here, "GET", "/openai/v1/files")
    given(here, "a", object="list", data=[])
    assert here.result()[0] == 200
    post(here, "/openai/v1/threads/thread_1/runs", assistant_id="asst_1")
    assert here.result()[0] == 403


# --- ids -----------------------------------------------------------------------------------------------


def test_an_id_goes_where_it_was_made(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", "/openai/v1/files", "x-gateway-endpoint: b")
    given(here, "b", object="list", data=[{"id": FILE}, {"id": OTHER}])
    here.result()
    for path in (f"files/{FILE}", f"files?after={OTHER}"):
        ask(here, "GET", f"/openai/v1/{path}")
        given(here, "b", id=FILE)
        assert here.result()[0] == 200
    post(here, "/openai/v1/responses", model="gpt", input=[{"content": [{"file_id": FILE}]}])
    given(here, "b", id="resp_1", status="completed")
    assert here.result()[0] == 200
    ask(here, "GET", "/openai/v1/responses/resp_1")
    given(here, "b", id="resp_1", status="completed")
    assert here.result()[0] == 200
    post(here, "/openai/v1/batches", input_file_id=OTHER, endpoint="/v1/chat/completions")
    given(here, "b", id="batch_1")
    assert here.result()[0] == 200
    assert "a.example" not in here.sent


def test_threads_are_made_where_the_assistants_of_their_client_are(made: Callable[..., Connection]) -> None:
    """A run needs both at one resource, and a thread that is made names no assistant."""
    here = made("a", "b")
    post(here, "/openai/v1/assistants", model="gpt")
    throttle(here, "a", seconds=1)
    given(here, "b", id="asst_0123456789abcdef01234567")
    assert here.result()[0] == 200
    here.clock.now += 60.0
    post(here, "/openai/v1/threads")
    given(here, "b", id="thread_0123456789abcdef01234567")
    assert here.result()[0] == 200
    post(here, "/openai/v1/threads")
    throttle(here, "b", seconds=9)
    status, body = here.result()
    assert status == 429, "a thread elsewhere would be of no use"
    assert b"held at b" in body
    ask(here, "GET", "/openai/v1/files")
    given(here, "a", object="list", data=[])
    assert here.result()[0] == 200


def test_an_id_that_is_not_known_is_looked_for_and_then_known(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", f"/openai/v1/files/{FILE}/content")
    here.respond("a", 404, NO_FILE)
    here.answer("b", b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 3\r\n\r\nabc")
    assert here.result() == (200, b"abc")
    ask(here, "DELETE", f"/openai/v1/files/{FILE}")
    given(here, "b", id=FILE, deleted=True)
    assert here.result()[0] == 200
    assert len(heads_at(here, "a")) == 1


def test_an_id_that_no_endpoint_has_is_azures_own_404(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", f"/openai/v1/files/{FILE}")
    here.respond("a", 404, NO_FILE)
    here.respond("b", 404, NO_FILE)
    assert here.result() == (404, NO_FILE)
    breaks, now = here.gateway.engine.breaks, here.clock.now
    assert [b for b in here.gateway.in_force().table.endpoints if breaks.on(b, now)] == []


def test_when_the_endpoint_of_an_id_is_out_the_client_hears_for_how_long(
    made: Callable[..., Connection],
) -> None:
    here = made("a", "b")
    post(here, "/openai/v1/threads")
    given(here, "a", id="thread_0123456789abcdef0123")
    here.result()
    path = "/openai/v1/threads/thread_0123456789abcdef0123/messages"
    post(here, path, role="user", content="x")
    throttle(here, "a", 9)
    head = here.received
    status, body = here.result()
    assert status == 429
    assert b"retry-after: 9" in head
    post(here, path, role="user", content="x")
    status, body = here.result()
    assert status == 429
    assert b"9 seconds" in body
    assert "b.example" not in here.sent


def test_a_stored_chat_completion_is_found_again(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    for number, store in (("1", True), ("2", False)):
        ident = f"chatcmpl-00000000000000{number}"
        post(here, "/openai/v1/chat/completions", model="gpt", messages=[], store=store)
        if number == "1":
            throttle(here, "a", 1)
        given(here, "b", id=ident, choices=[])
        assert here.result()[0] == 200
    here.clock.now += 30
    ask(here, "GET", "/openai/v1/chat/completions/chatcmpl-000000000000001")
    given(here, "b", id="x")
    assert here.result()[0] == 200
    ask(here, "GET", "/openai/v1/chat/completions/chatcmpl-000000000000002")
    assert len(heads_at(here, "a")) == 2, "of the other one it is not known where it is"


# --- unknown paths -------------------------------------------------------------------------------------


def test_an_operation_that_came_after_us_passes(made: Callable[..., Connection]) -> None:
    here = made("real@a", "b")
    post(here, "/openai/v1/newfangled", model="gpt", input="x")
    assert b'{"model": "real", "input": "x"}' in here.sent["a.example"]
    throttle(here, "a", 1)
    here.respond("b", 500)
    assert here.result()[0] == 500, "it may have been taken"
    ask(here, "PUT", "/openai/v1/newfangled/x", "content-type: image/png", body=b"\x89PNG\x00")
    here.clock.now += 30
    assert here.sent["b.example"].endswith(b"\x89PNG\x00") or here.sent["a.example"].endswith(b"\x89PNG\x00")


def test_unknown_operations_know_no_deployment_that_there_is_not(made: Callable[..., Connection]) -> None:
    here = made("a")
    post(here, "/openai/v1/newfangled", model="other")
    status, body = here.result()
    assert (status, json.loads(body)["error"]["code"]) == (404, "DeploymentNotFound")


def test_they_can_be_switched_off(made: Callable[..., Connection]) -> None:
    here = made("a", routing={"forward_unknown_paths": False})
    post(here, "/openai/v1/newfangled", model="gpt")
    status, body = here.result()
    assert status == 404
    assert b"Below /openai/v1/ there are" in body


# --- forms ---------------------------------------------------------------------------------------------

BOUNDARY = "the-boundary"


def form(*parts: tuple[str, bytes]) -> bytes:
    written = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value
        for name, value in parts
    ]
    return b"\r\n".join([*written, f"--{BOUNDARY}--\r\n".encode()])


def upload(here: Connection, path: str, body: bytes) -> None:
    ask(here, "POST", path, f"content-type: multipart/form-data; boundary={BOUNDARY}", body=body)


def test_the_deployment_in_a_form_is_replaced_and_nothing_else(made: Callable[..., Connection]) -> None:
    here = made("real-one@a")
    audio = b"\x00\xff--the-bound\r\n\r\n" * 20
    for path in ("audio/transcriptions", "audio/translations", "images/edits", "videos"):
        upload(here, f"/openai/v1/{path}", form(("file", audio), ("model", b"gpt"), ("prompt", b"gpt")))
        expected = form(("file", audio), ("model", b"real-one"), ("prompt", b"gpt"))
        assert here.sent["a.example"].endswith(expected)
        given(here, "a", text="x")
        assert here.result()[0] == 200


def test_in_the_classic_form_the_path_names_it(made: Callable[..., Connection]) -> None:
    here = made("real@a")
    body = form(("file", b"x"), ("model", b"whatever"))
    upload(here, "/openai/deployments/gpt/audio/transcriptions?api-version=2024-10-21", body)
    sent = here.sent["a.example"]
    assert sent.startswith(b"POST /openai/deployments/real/audio/transcriptions?api-version=2024-10-21 ")
    assert sent.endswith(body)


def test_a_form_that_is_cut_short_is_refused(made: Callable[..., Connection]) -> None:
    here = made("a")
    upload(here, "/openai/v1/audio/transcriptions", form(("model", b"gpt"), ("file", b"x" * 99))[:-30])
    status, body = here.result()
    assert status == 400
    assert b"ends before its last boundary" in body


def test_json_where_a_form_is_expected(made: Callable[..., Connection]) -> None:
    here = made("real@a")
    ask(here, "POST", "/openai/v1/files", "content-type: text/plain", body=b"x")
    assert here.result()[0] == 400
    post(here, "/openai/v1/videos", model="gpt", prompt="x")
    assert here.sent["a.example"].endswith(b'{"model": "real", "prompt": "x"}')


def test_a_deployment_in_the_path_of_responses_is_put_into_the_body(
    made: Callable[..., Connection],
) -> None:
    here = made("real@a")
    for members in ({}, {"model": "ignored"}):
        post(here, "/openai/deployments/gpt/responses?api-version=preview", **members, input="x")
        sent = here.sent["a.example"]
        head, _, body = sent[sent.rindex(b"POST ") :].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /openai/responses?api-version=preview ")
        assert json.loads(body) == {"model": "real", "input": "x"}
        given(here, "a", id="resp_1", status="completed")
        assert here.result()[0] == 200


# --- downloads -----------------------------------------------------------------------------------------


def test_a_file_goes_out_as_it_comes(made: Callable[..., Connection]) -> None:
    here = made("a")
    ask(here, "GET", f"/openai/v1/files/{FILE}/content")
    here.answer("a", b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\n12345")
    assert here.received.endswith(b"\r\n\r\n12345")
    assert b"content-length: 10" in here.received
    here.answer("a", b"67890")
    assert here.result() == (200, b"1234567890")


def test_a_file_that_breaks_off_is_cut(made: Callable[..., Connection]) -> None:
    here = made("a", "b")
    ask(here, "GET", f"/openai/v1/files/{FILE}/content")
    here.answer("a", b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10\r\n\r\nfirst")
    here.hang_up("a")
    assert here.result()[1] == b"first"
    assert not here.client.connected
    assert "b.example" not in here.sent


# --- what an answer says -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["responses/resp_1", "batches/batch_1"])
def test_what_has_failed_can_be_looked_at(made: Callable[..., Connection], path: str) -> None:
    here = made("a", "b")
    ask(here, "GET", f"/openai/v1/{path}")
    failed = {"id": "x", "status": "failed", "error": {"code": "server_error"}}
    given(here, "a", **failed)
    status, body = here.result()
    assert (status, json.loads(body)) == (200, failed)


def test_to_look_at_a_response_costs_no_tokens(made: Callable[..., Connection]) -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    here = made("a", clients=(Client(name="anybody", key="key-of-anybody", max_tokens_per_minute=10),))
    for _ in range(3):
        ask(here, "GET", "/openai/v1/responses/resp_1")
        given(here, "a", id="resp_1", object="response", status="completed", usage=usage)
        assert here.result()[0] == 200


STREAMS = {
    "audio/transcriptions": [
        {"type": "transcript.text.delta", "delta": "Hi"},
        {"type": "transcript.text.done", "text": "Hi", "usage": {"input_tokens": 3, "output_tokens": 1}},
    ],
    "images/generations": [
        {"type": "image_generation.partial_image", "b64_json": "AA=="},
        {"type": "image_generation.completed", "b64_json": "AA==", "usage": {"total_tokens": 4}},
    ],
    "threads/runs": [
        {"id": "thread_0123456789abcdef0123", "object": "thread"},
        {"id": "run_0123456789abcdef012345", "object": "thread.run", "usage": {"total_tokens": 4}},
    ],
}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_of_another_family_is_whole_if_its_message_is(
    made: Callable[..., Connection], path: str, cut: bool
) -> None:
    here = made("real@a")
    if path.startswith("audio"):
        upload(here, f"/openai/v1/{path}", form(("model", b"gpt"), ("stream", b"true"), ("file", b"x")))
    else:
        post(here, f"/openai/v1/{path}", model="gpt", stream=True)
    text = "".join(f"event: {e.get('type', 'x')}\ndata: {json.dumps(e)}\n\n" for e in STREAMS[path]).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    here.answer("a", head + b"%x\r\n%s\r\n" % (len(text), text))
    if cut:
        here.hang_up("a")
    else:
        here.answer("a", b"0\r\n\r\n")
    body = here.result()[1]
    assert text in body
    assert body.endswith(b"0\r\n\r\n") is not cut, "only what is whole has an end"
    if path == "threads/runs" and not cut:
        assert here.gateway.engine.affinity.home("thread_0123456789abcdef0123", here.clock.now) == "a"


def test_a_new_connection_takes_the_place_of_an_idle_one(made: Callable[..., Connection]) -> None:
    here = made("a")
    for number in range(7):
        post(here, "/openai/v1/threads")
        given(here, "a", id="thread_1")
        assert here.result()[0] == 200
        assert len(here.servers) == number + 1, "what creates something goes out on a new connection"
        assert len([server for server in here.servers if server.connected]) == 1


def test_what_costs_no_tokens_costs_no_money(made: Callable[..., Connection]) -> None:
    here = made("a", clients=(Client(name="anybody", key="key-of-anybody", max_cost_per_day=1),))
    ask(here, "GET", "/openai/v1/files")
    given(here, "a", object="list", data=[])
    assert here.result()[0] == 200
    post(here, "/openai/v1/chat/completions", model="gpt", messages=[])
    assert here.result()[0] == 403
