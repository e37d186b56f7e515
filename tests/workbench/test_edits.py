"""What the page sends back, and the request that becomes of it; streams as they pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoai_gateway.config.models import Config
from aoai_gateway.engine.call import Setup
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.workbench.edits import Edited, EditError, body_of, flow_for
from aoai_gateway.workbench.hold import _filter, held
from aoai_gateway.workbench.shape import request_shape
from aoai_gateway.workbench.streams import TextReader
from tests.workbench.test_calls import call


@pytest.fixture(scope="module")
def setup() -> Setup:
    def endpoint(name: str, *virtual: str) -> dict[str, Any]:
        pools = [{"name": each, "standins": [{"name": f"{each}-{name}"}]} for each in virtual]
        url = f"https://{name}.example"
        return {"name": name, "url": url, "key": "key-of-endpoint", "virtual_deployments": pools}

    document = {
        "aoai": {"endpoints": [endpoint("a", "gpt-4o", "mini"), endpoint("b", "gpt-4o")]},
        "clients": [{"name": "Bot", "key": "key-of-bot-123"}],
    }
    config = Config.model_validate(document)
    return Setup(config, RoutingTable(config))


def edited(body: dict[str, Any], **more: Any) -> Edited:
    return Edited(
        **({"operation": "chat.completions", "body": body, "client": "Bot", "run_by": "Ada"} | more)
    )


BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello {{ name }}\n{{unknown}}"}]}


def test_variables_are_put_in() -> None:
    body = body_of(edited(BODY, variables={"name": "Ada {{name}}"}))
    assert body["messages"][0]["content"] == "Hello Ada {{name}}\n{{unknown}}"


def test_a_new_prompt_becomes_a_call_of_the_client(setup: Setup) -> None:
    flow = flow_for(edited(BODY, run_by="Ada\n Lovelace"), BODY, "mini", setup)
    assert flow.request.path == "/openai/v1/chat/completions"
    assert json.loads(flow.request.content or b"")["model"] == "mini"
    assert flow.metadata == {"gateway_client": "Bot", "gateway_run_by": "Ada Lovelace"}


def test_a_backend_can_be_chosen(setup: Setup) -> None:
    flow = flow_for(edited(BODY), BODY, "gpt-4o-b@b", setup)
    assert flow.metadata["gateway_only_backend"] == "gpt-4o-b@b"


def test_an_edit_goes_where_its_call_came_in(setup: Setup) -> None:
    origin = call(gateway_client="Other")
    origin.request.path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    flow = flow_for(edited(BODY, origin=origin), BODY, "mini", setup)
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
        flow_for(edited(BODY, **changes), BODY, place, setup)


def test_what_was_left_behind_is_filled_in() -> None:
    origin = call("data:image/png;base64," + "A" * 5000)
    cut = request_shape(origin.request.content or b"")["body"]
    assert body_of(edited(cut, origin=origin)) == json.loads(origin.request.content or b"")
    with pytest.raises(EditError, match="no longer here"):
        body_of(edited(cut))
    cut["messages"][0]["content"]["$kept"] = "/messages/7"
    with pytest.raises(EditError, match="not there"):
        body_of(edited(cut, origin=origin))


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
