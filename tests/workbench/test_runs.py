"""What the page sends back, and the request that becomes of it; streams as they pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoai_gateway.engine.call import Setup
from aoai_gateway.workbench.hold import _filter, held
from aoai_gateway.workbench.page_requests import BadRequestError, EditError
from aoai_gateway.workbench.prompts import Body, asked_for, body_of, ready
from aoai_gateway.workbench.runs import Edited, TextReader, flow_for
from aoai_gateway.workbench.shape import request_shape
from tests.workbench.serving import made_setup
from tests.workbench.test_calls import call


@pytest.fixture(scope="module")
def setup() -> Setup:
    return made_setup()


def edited(body: dict[str, Any], **more: Any) -> Edited:
    return Edited(
        **(
            {"operation": "chat.completions", "body": body_of(body, {}), "client": "Bot", "run_by": "Ada"}
            | more
        )
    )


def filled_in(body: Any, origin: bytes = b"", **variables: str) -> Any:
    found = ready(origin, json.dumps(body).encode(), variables)
    return json.loads(found.asking_for(found.model))


BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello {{ name }}\n{{unknown}}"}]}


def test_variables_are_put_in() -> None:
    body = filled_in(BODY, name="Ada {{name}}")
    assert body["messages"][0]["content"] == "Hello Ada {{name}}\n{{unknown}}"


def test_a_new_prompt_becomes_a_call_of_the_client(setup: Setup) -> None:
    flow = flow_for(edited(BODY, run_by="Ada\n Lovelace"), "mini", setup)
    assert flow.request.path == "/openai/v1/chat/completions"
    assert json.loads(flow.request.content or b"")["model"] == "mini"
    assert flow.metadata == {"gateway_client": "Bot", "gateway_run_by": "Ada Lovelace"}


def test_a_backend_can_be_chosen(setup: Setup) -> None:
    flow = flow_for(edited(BODY), "gpt-4o-b@b", setup)
    assert flow.metadata["gateway_only_backend"] == "gpt-4o-b@b"


def test_an_edit_goes_where_its_call_came_in(setup: Setup) -> None:
    origin = call(gateway_client="Other")
    origin.request.path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    flow = flow_for(edited(BODY, origin=origin), "mini", setup)
    assert flow.request.path == "/openai/deployments/mini/chat/completions?api-version=2024-10-21"
    assert flow.id != origin.id
    assert flow.metadata["gateway_client"] == "Bot"


@pytest.mark.parametrize(
    ("changes", "place", "says"),
    [
        ({"client": "Nobody"}, "gpt-4o", "no client"),
        ({}, "gpt-99", "You can use gpt-4o, mini, "),
        ({"operation": "images"}, "gpt-4o", "no operation"),
    ],
)
def test_what_cannot_be_run(setup: Setup, changes: dict[str, Any], place: str, says: str) -> None:
    with pytest.raises(EditError, match=says):
        flow_for(edited(BODY, **changes), place, setup)


def test_what_was_left_behind_is_filled_in() -> None:
    origin = call("data:image/png;base64," + "A" * 5000)
    raw = origin.request.content or b""
    cut = request_shape(raw)["body"]
    assert filled_in(cut, raw) == json.loads(raw)
    with pytest.raises(EditError, match="no longer here"):
        filled_in(cut)
    cut["messages"][0]["content"]["$kept"] = "/messages/7"
    with pytest.raises(EditError, match="not there"):
        filled_in(cut, raw)


@pytest.mark.parametrize("rest", [{}, {"messages": []}])
def test_a_model_is_put_into_a_body_that_is_not_read_again(rest: dict[str, Any]) -> None:
    body = body_of({"model": "one", **rest}, {})
    assert json.loads(body.asking_for('an "other"')) == {"model": 'an "other"', **rest}
    assert json.loads(body.asking_for("")) == rest
    assert body_of({"model": 5}, {}) == Body("", b"{}")


def test_the_body_of_a_large_prompt_is_not_read_to_send_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, prompt = call("x" * 1_000_000), edited(BODY)
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("a body is read on the event loop"))
    flow_for(Edited("", prompt.body, "Bot", "Ada", origin), "mini", setup)


def test_an_edit_of_a_compressed_call_is_sent_as_it_is(setup: Setup) -> None:
    origin = call()
    origin.request.headers["content-encoding"] = "gzip"
    flow = flow_for(edited(BODY, origin=origin), "mini", setup)
    assert "content-encoding" not in flow.request.headers
    assert json.loads(flow.request.raw_content or b"")["model"] == "mini"


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_a_number_that_json_has_not_is_refused(number: str) -> None:
    raw = b'{"places": ["gpt-4o"], "body": {"messages": [], "temperature": ' + number.encode() + b"}}"
    with pytest.raises(EditError, match="infinite"):
        asked_for(raw)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"places": "gpt-4o"}, '"places" must be a list of texts'),
        ({"places": [["gpt-4o"]]}, '"places" must be a list of texts'),
        ({"count": "2"}, '"count" must be a whole number'),
        ({"count": 1.5}, '"count" must be a whole number'),
        ({"count": True}, '"count" must be a whole number'),
        ({"client": 7}, '"client" must be a text'),
        ({"operation": []}, '"operation" must be a text'),
        ({"call": {}}, '"call" must be a text'),
        ({"variables": {"name": {"a": 1}}}, '"variables" must be an object of texts'),
        ({"variables": ["a"]}, '"variables" must be an object of texts'),
        ({"body": [1]}, '"body" must be an object'),
    ],
)
def test_what_is_asked_has_types(changes: dict[str, Any], says: str) -> None:
    asked = {"operation": "chat.completions", "client": "Bot", "places": ["gpt-4o"], "body": BODY} | changes
    with pytest.raises(BadRequestError, match=says):
        asked_for(json.dumps(asked).encode())


def chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


def test_the_text_of_a_stream_however_it_is_cut() -> None:
    data = chunk(role="assistant") + chunk(content="Hé") + chunk(content="llo") + b"data: [DONE]\n\n"
    for step in (1, 7, len(data)):
        reader = TextReader()
        pieces = (reader.feed(data[at : at + step]) for at in range(0, len(data), step))
        assert "".join(pieces) == "Héllo"


def test_the_text_of_other_streams() -> None:
    reader = TextReader()
    assert reader.feed(b'event: x\ndata: {"type": "response.output_text.delta", "delta": "a"}\n\n') == "a"
    assert reader.feed(b'data: {"choices": [{"text": "b"}]}\n\n') == "b"
    claudes = b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"%s": "c"}}\n\n'
    assert reader.feed(claudes % b"text") == "c"
    assert reader.feed(claudes % b"partial_json") == ""
    assert reader.feed(b'data: {"choices": [{"index": 1, "delta": {"content": "other choice"}}]}\n\n') == ""
    assert reader.feed(b"data: {broken\n\ndata: 1\n\ndata: null\n\n: comment\n") == ""


@pytest.mark.parametrize("name", ["Bot", 'A "quoted" one', "a.b*c", "back\\slash", "Ünï & (co)"])
def test_whose_calls_are_held_is_read_from_the_filter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mitmproxy import flowfilter
    from mitmproxy.addons.intercept import Intercept
    from mitmproxy.test import taddons

    with taddons.context(Intercept()) as context:
        context.options.update(intercept=_filter(name))
        assert held() == name
        fits = flowfilter.parse(_filter(name))
        flow, other = call(gateway_client=name), call(gateway_client=name + "2")
        flow.response = other.response = None
        assert fits(flow)
        assert not fits(other)
        context.options.update(intercept="~q")
        assert held() == "*"
