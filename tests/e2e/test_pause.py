"""Calls that are held in mitmweb: edited, resumed, killed, or left by their clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest
from mitmproxy.io import FlowReader
from openai.types.chat import ChatCompletion

from tests.e2e import json_lines
from tests.e2e.conftest import Sdk
from tests.e2e.inspector import Inspector, inspecting
from tests.e2e.processes import WAIT_SECONDS, Simulator, eventually
from tests.e2e.raw import Connection, post
from tests.e2e.settings import CLIENT_KEY

V1 = "/openai/v1/chat/completions"
LIMITED_KEY = "limited-key-52bc"
STRICT_KEY = "strict-key-9e01"
RATIONED_KEY = "rationed-key-70d2"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}

CALLS = "~q & ~u chat"
ANSWERS = "~s & ~u chat"


class Desk:
    """mitmweb, who sits before it, and clients that call meanwhile."""

    def __init__(self, web: Inspector, simulator: Simulator, records: Path) -> None:
        self.web = web
        self.simulator = simulator
        self._records = records
        self._pool = ThreadPoolExecutor(8)

    def ask(self, call: Callable[[], Any]) -> Future[Any]:
        """Have a client call while we go on."""
        return self._pool.submit(call)

    def record(self, flow: str) -> dict[str, Any]:
        """Return the usage record of a flow's call."""
        call = eventually(lambda: self.metadata(flow).get("gateway_call"), "the call has an id")
        return json_lines.wait_for(self._records, 1, call=call)[0]

    def metadata(self, flow: str) -> dict[str, Any]:
        """Return what is filtered by; the page itself does not show it."""
        dump = self.web.api("GET", "/flows/dump").body
        return next(f.metadata for f in FlowReader(BytesIO(dump)).stream() if f.id == flow)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("pause")
    with inspecting(
        folder,
        home,
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {
                "name": "Limited",
                "key": LIMITED_KEY,
                "deployments_allowed": "gpt-4o",
                "request_limits": {"max_tokens": 100, "action": "clamp"},
            },
            {
                "name": "Strict",
                "key": STRICT_KEY,
                "request_limits": {"max_tokens": 100, "prompt_tokens": 50, "action": "reject"},
            },
            {"name": "Rationed", "key": RATIONED_KEY, "max_tokens_per_minute": 1000},
        ],
        breaks={"default_seconds": 0.2, "floor_seconds": 0.05, "ceiling_seconds": 0.3},
        usage_log=str(folder / "usage.jsonl"),
    ) as (web, simulator):
        yield Desk(web, simulator, folder / "usage.jsonl")


@pytest.fixture(autouse=True)
def at_rest(desk: Desk) -> Iterator[None]:
    """Begin with nothing held and no breaks, and leave nothing held."""

    def all_available() -> bool:
        backends = desk.web.request("GET", "/health/ready").json()["backends"]
        return all(backend["available"] for backend in backends)

    desk.web.wait_until(all_available, "out of its breaks")
    desk.simulator.reset()
    yield
    desk.web.intercept(None)
    desk.web.api("POST", "/flows/resume")
    desk.web.wait_until(lambda: not any(f["intercepted"] for f in desk.web.flows()), "at rest")


def edited(**members: Any) -> dict[str, Any]:
    return {"content": json.dumps({**QUESTION, **members})}


def test_nothing_is_sent_before_a_held_call_is_resumed_and_then_what_it_says_now(
    desk: Desk, sdk: Sdk
) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    assert desk.simulator.requests() == []
    other = [{"role": "user", "content": "And now for something completely different. " * 8}]
    desk.web.edit(flow["id"], request=edited(messages=other))
    desk.web.resume(flow["id"])
    answer: ChatCompletion = asked.result(WAIT_SECONDS)
    (seen,) = desk.simulator.requests()
    assert seen["deployment"] == "gpt-4o-ptu"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 50
    assert not desk.web.flow(flow["id"])["intercepted"]


def test_a_stream_of_an_edited_call_streams(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web)

    def stream() -> str:
        chunks = client.chat.completions.create(**QUESTION, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    asked = desk.ask(stream)
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(model="gpt-4o-mini", stream=True))
    desk.web.resume(flow["id"])
    assert len(asked.result(WAIT_SECONDS).split()) > 3
    (seen,) = desk.simulator.requests()
    assert seen["deployment"] == "gpt-4o-mini"


@pytest.mark.parametrize("stream", [False, True])
def test_an_edited_call_is_replayed_as_any_other(desk: Desk, sdk: Sdk, stream: bool) -> None:
    desk.web.intercept(CALLS)
    desk.simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=1)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.with_raw_response.create(**QUESTION, stream=stream))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(stream=stream, user="edited"))
    desk.web.resume(flow["id"])
    answer = asked.result(WAIT_SECONDS)
    assert answer.headers["x-gateway-attempts"] == "2"
    assert [seen["deployment"] for seen in desk.simulator.requests()] == ["gpt-4o-ptu", "gpt-4o-paygo"]
    if stream:
        assert list(answer.parse())
    attempt = desk.web.await_flow(
        lambda f: (
            f["comment"].startswith("attempt 1 failed") and f["timestamp_created"] > flow["timestamp_created"]
        ),
        "the failed attempt",
    )
    # It is over, so it is not held, though it fits the filter.
    assert not attempt["intercepted"]
    assert b"edited" in desk.web.content(attempt["id"], "request")


def test_an_edit_to_a_deployment_that_the_client_may_not_use_is_refused(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web, key=LIMITED_KEY)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(model="gpt-4o-mini"))
    desk.web.resume(flow["id"])
    with pytest.raises(openai.PermissionDeniedError, match="gpt-4o-mini"):
        asked.result(WAIT_SECONDS)
    assert desk.simulator.requests() == []


def test_an_edit_of_the_host_chooses_no_upstream(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request={"host": "elsewhere.example", "port": 81})
    desk.web.resume(flow["id"])
    asked.result(WAIT_SECONDS)
    assert len(desk.simulator.requests()) == 1


def test_an_edit_beyond_the_clients_limits_is_clamped(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web, key=LIMITED_KEY)
    asked = desk.ask(lambda: client.chat.completions.with_raw_response.create(**QUESTION, max_tokens=10))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(max_tokens=5000))
    desk.web.resume(flow["id"])
    assert asked.result(WAIT_SECONDS).headers["x-gateway-clamped"] == "max_tokens 5000->100"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "long " * 100}]}, None),
    ],
)
def test_an_edit_beyond_the_clients_limits_is_refused(
    desk: Desk, sdk: Sdk, members: dict[str, Any], param: str | None
) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web, key=STRICT_KEY)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION, max_tokens=10))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(**{"max_tokens": 10, **members}))
    desk.web.resume(flow["id"])
    with pytest.raises(openai.BadRequestError) as refused:
        asked.result(WAIT_SECONDS)
    assert refused.value.code == "parameter_over_limit"
    assert param is None or refused.value.param == param
    assert desk.simulator.requests() == []


def test_an_edited_prompt_is_counted_as_edited(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web, key=RATIONED_KEY)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION, max_tokens=20))
    flow = desk.web.held()
    longer = [{"role": "user", "content": "word " * 300}]
    desk.web.edit(flow["id"], request=edited(messages=longer, max_tokens=20))
    desk.web.resume(flow["id"])
    asked.result(WAIT_SECONDS)
    reserved = desk.record(flow["id"])["reserved_tokens"]
    assert 320 <= reserved <= 340


def test_a_credential_that_is_written_into_a_held_call_is_neither_kept_nor_sent(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    typed = [["host", "gateway"], ["content-type", "application/json"], ["api-key", "typed-by-hand-33"]]
    desk.web.edit(flow["id"], request={"headers": typed})
    desk.web.resume(flow["id"])
    asked.result(WAIT_SECONDS)
    (seen,) = desk.simulator.requests()
    assert "typed-by-hand-33" not in json.dumps(seen)
    assert all(name.lower() != "api-key" for name, _ in desk.web.flow(flow["id"])["request"]["headers"])


EXTENSIONS = "/openai/deployments/gpt-4o/extensions/chat/completions?api-version=2024-10-21"

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"content": '{"model": "gpt-4o",\n "messages": [}'}, "line 2, column 15"),
    "no object": ({"content": "[]"}, "not an object"),
    "a model that there is not": (edited(model="gpt-9"), "'gpt-9' does not exist"),
    "a path that is not served": ({"path": EXTENSIONS}, "does not serve chat completions extensions"),
    "a path that there is not": ({"path": "/v1/chat/completions"}, "/openai/v1/chat/completions"),
    "a method that there is not": ({"method": "PUT"}, "Use GET, POST"),
    "a header of two lines": ({"headers": [["host", "gw"], ["x", "1\r\ny: 2"]]}, "control character"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_call_that_was_edited_into_none_stays_held_and_says_why(desk: Desk, sdk: Sdk, mistake: str) -> None:
    edit, said = MISTAKES[mistake]
    desk.web.intercept(CALLS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    before = {name: flow["request"][name] for name in ("method", "path", "headers")}
    desk.web.edit(flow["id"], request=edit)
    desk.web.resume(flow["id"])
    held = desk.web.await_flow(lambda f: f["intercepted"] and f["comment"], "held with a comment")
    assert held["id"] == flow["id"]
    assert held["comment"].startswith("not sent")
    assert said in held["comment"]
    assert not asked.done()
    assert desk.simulator.requests() == []
    desk.web.edit(flow["id"], request={**before, **edited(user="mended")})
    desk.web.resume(flow["id"])
    assert asked.result(WAIT_SECONDS).choices
    desk.web.await_flow(lambda f: f["id"] == flow["id"] and "gpt-4o-ptu" in f["comment"], "told as a call")
    assert "edited: body" in desk.metadata(flow["id"])["gateway_story"][0]


def test_a_call_that_cannot_be_sent_as_edited_can_be_killed(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(CALLS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request={"content": "{"})
    desk.web.resume(flow["id"])
    desk.web.await_flow(lambda f: f["intercepted"] and f["comment"], "held with a comment")
    desk.web.kill_flow(flow["id"])
    with pytest.raises(openai.APIConnectionError):
        asked.result(WAIT_SECONDS)


def test_a_wrong_call_that_was_not_edited_gets_its_error(desk: Desk) -> None:
    desk.web.intercept(CALLS)
    asked = desk.ask(lambda: desk.web.request("POST", V1, key=CLIENT_KEY, body=b"{"))
    flow = desk.web.held()
    desk.web.resume(flow["id"])
    assert asked.result(WAIT_SECONDS).status == 400


def test_a_story_tells_that_the_call_and_its_answer_were_held(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(f"({CALLS}) | ({ANSWERS})")
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    desk.web.edit(flow["id"], request=edited(user="edited"))
    desk.web.resume(flow["id"])
    desk.web.await_flow(lambda f: f["intercepted"] and f.get("response"), "an answer that is held")
    desk.web.resume(flow["id"])
    asked.result(WAIT_SECONDS)
    story = desk.metadata(flow["id"])["gateway_story"]
    assert "held by hand for " in story[0]
    assert "edited: body" in story[0]
    assert "answer held by hand" in story[-1]
    assert "not edited" in story[-1]


# --- answers -------------------------------------------------------------------------------------------


def test_a_held_answer_reaches_the_client_as_edited(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(ANSWERS)
    client = sdk(desk.web)
    asked = desk.ask(lambda: client.chat.completions.create(**QUESTION))
    flow = desk.web.held()
    answer = json.loads(desk.web.content(flow["id"], "response"))
    answer["choices"][0]["message"]["content"] = "Edited by hand."
    desk.web.edit(flow["id"], response={"content": json.dumps(answer)})
    desk.web.resume(flow["id"])
    assert asked.result(WAIT_SECONDS).choices[0].message.content == "Edited by hand."


def test_a_held_stream_reaches_the_client_as_edited(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(ANSWERS)
    client = sdk(desk.web)

    def stream() -> str:
        chunks = client.chat.completions.create(**QUESTION, stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    asked = desk.ask(stream)
    flow = desk.web.held()
    body = desk.web.content(flow["id"], "response")
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"usage" not in body
    assert not asked.done()
    events = body.split(b"\n\n")
    last_text = max(i for i, event in enumerate(events) if b'"content":"' in event)
    changed = json.loads(events[last_text].removeprefix(b"data: "))
    changed["choices"][0]["delta"]["content"] = " Edited by hand."
    events[last_text] = b"data: " + json.dumps(changed).encode()
    desk.web.edit(flow["id"], response={"content": b"\n\n".join(events).decode()})
    desk.web.resume(flow["id"])
    assert asked.result(WAIT_SECONDS).endswith(" Edited by hand.")
    record = desk.record(flow["id"])
    assert record["outcome"] == "ok"
    assert record["output_tokens"] > 0


def test_a_stream_that_breaks_off_while_it_is_held_says_so(desk: Desk, sdk: Sdk) -> None:
    desk.web.intercept(ANSWERS)
    desk.simulator.fault("cut", deployment="gpt-4o-ptu")
    client = sdk(desk.web)
    asked = desk.ask(lambda: list(client.chat.completions.create(**QUESTION, stream=True)))
    flow = desk.web.held()
    desk.web.resume(flow["id"])
    with pytest.raises(openai.APIError, match="broke off"):
        asked.result(WAIT_SECONDS)


# --- ends that are none --------------------------------------------------------------------------------


def raw_call(desk: Desk, *, key: str = CLIENT_KEY, **members: Any) -> Connection:
    connection = Connection(desk.web)
    connection.send(post(V1, json.dumps({**QUESTION, **members}).encode(), key=key))
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_while_its_call_is_held_costs_nothing(desk: Desk, stream: bool) -> None:
    desk.web.intercept(CALLS)
    with raw_call(desk, key=RATIONED_KEY, stream=stream):
        flow = desk.web.held()
    ended = desk.web.await_flow(lambda f: f["id"] == flow["id"] and f.get("error"), "the hang-up")
    assert not ended["intercepted"]
    assert "disconnect" in ended["error"]["msg"].lower() or "closed" in ended["error"]["msg"].lower()
    # Whoever has it open may still press the button.
    desk.web.resume(flow["id"])
    assert desk.simulator.requests() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_while_its_answer_is_held_is_charged_for_it(desk: Desk, stream: bool) -> None:
    desk.web.intercept(ANSWERS)
    with raw_call(desk, key=RATIONED_KEY, stream=stream, max_tokens=20):
        flow = desk.web.held()
        record = desk.record(flow["id"])
    ended = desk.web.await_flow(lambda f: f["id"] == flow["id"] and not f["intercepted"], "its end")
    assert ended["error"]
    # The backend has done its work.
    assert record["charged_tokens"] == record["input_tokens"] + record["output_tokens"] > 0


@pytest.mark.parametrize("held", [CALLS, ANSWERS])
@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_call_ends_for_its_client_too(desk: Desk, held: str, stream: bool) -> None:
    desk.web.intercept(held)
    with raw_call(desk, stream=stream) as connection:
        flow = desk.web.held()
        desk.web.kill_flow(flow["id"])
        assert connection.rest() == b""
    ended = desk.web.flow(flow["id"])
    assert ended["error"]["msg"] == "Connection killed."
    assert len(desk.simulator.requests()) == (0 if held == CALLS else 1)


def test_after_all_that_nothing_is_left(desk: Desk) -> None:
    desk.web.wait_until(lambda: desk.simulator.active()["in_flight"] == 0, "at rest")
    answer = desk.web.request("POST", V1, key=RATIONED_KEY, json_body={**QUESTION, "max_tokens": 20})
    assert answer.status == 200
    assert "Traceback" not in desk.web.log
