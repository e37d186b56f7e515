"""The resource without a server: to any request, an answer in AOAI's shape comes out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aoai_gateway.config.models import SimulatedDeployment, SimulatedEndpoint
from aoai_simulator import limits
from aoai_simulator.deployments import limits_of
from aoai_simulator.replies import Frames, Reply, Whole
from aoai_simulator.requests import Request
from aoai_simulator.resource import Call, Resource
from aoai_simulator.settings import Settings
from aoai_simulator.stored_responses import MAX_STORED
from aoai_simulator.tokenizer import ByteTokenizer
from tests.simulator.running import SPEC

NOW, UNIX_TIME = 1000.0, 1_700_000_000.0


def resource(**settings: Any) -> Resource:
    return Resource(
        "sweden",
        SimulatedEndpoint.model_validate(SPEC["sweden"]),
        "key",
        settings=Settings(**settings),
        randomness=random.Random(7),
        tokenizer=ByteTokenizer(),
    )


def ask(where: Resource, target: str, body: Any, method: str = "POST") -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    begun = where.begin(Request(method, target, {"api-key": "key"}, data), UNIX_TIME)
    return begun if isinstance(begun, Whole) else where.reply(begun, NOW, UNIX_TIME)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
FIELDS = {
    "chat/completions": ("messages", "tools", "tool_choice", "stream", "stream_options", "n", "max_tokens"),
    "completions": ("prompt", "n", "best_of", "stream", "max_tokens"),
    "embeddings": ("input", "dimensions", "encoding_format"),
    "responses": (
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "include",
        "previous_response_id",
        "store",
        "stream",
        "max_output_tokens",
    ),
}
VALID = {
    "messages": [{"role": "user", "content": "hello"}],
    "prompt": "hello",
    "input": "hello",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}],
    "tool_choice": "required",
    "stream": True,
}
DEPLOYMENTS = {
    "chat/completions": "reason",
    "completions": "text",
    "embeddings": "embed",
    "responses": "reason",
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A body that is right but for some fields, which hold any value."""
    operation = draw(st.sampled_from(sorted(FIELDS)))
    body: dict[str, Any] = {"model": DEPLOYMENTS[operation]}
    for name in FIELDS[operation]:
        if name in VALID and draw(st.booleans()):
            body[name] = VALID[name]
        elif draw(st.booleans()):
            body[name] = draw(JSON)
    return operation, body


@given(calls())
@example(("responses", {"model": "chat", "input": ["text"]}))
@example(("responses", {"model": "chat", "input": [{"type": "item_reference", "id": 5}], "include": 3}))
@example(("responses", {"model": "chat", "input": "x", "previous_response_id": ["unhashable"]}))
@example(("chat/completions", {"model": "chat", "messages": [{"role": "user", "content": [1, {"text": 2}]}]}))
@example(("chat/completions", {"model": "chat", "messages": VALID["messages"], "n": 10**12}))
@example(
    (
        "chat/completions",
        {"model": "chat", "messages": VALID["messages"], "tools": [1], "tool_choice": "required"},
    )
)
@example(("completions", {"model": "text", "prompt": [True, False]}))
@example(("embeddings", {"model": "embed", "input": ["\ud800"]}))
@example(("embeddings", {"model": "embed", "input": [["a"], [-1]]}))
@example(("responses", {"model": "chat", "input": "\ud800", "metadata": {"x": "\ud800"}}))
def test_any_body_gets_an_answer(call: tuple[str, dict[str, Any]]) -> None:
    operation, body = call
    reply = ask(resource(), f"/openai/v1/{operation}", body)
    if isinstance(reply, Frames):
        assert reply.early <= reply.first <= reply.last <= len(reply.frames)
        assert all(frame.endswith(b"\n\n") for frame in reply.frames)
    elif reply.status != 200:
        error = json.loads(reply.body)["error"]
        assert error["message"]
        assert "code" in error
    else:
        json.loads(reply.body)


@given(st.binary(max_size=40))
@example(b"[" * 100_000)
def test_any_bytes_get_an_answer(body: bytes) -> None:
    reply = ask(resource(), "/openai/v1/chat/completions", body)
    assert isinstance(reply, Whole)
    assert reply.status == 400


@given(st.text(alphabet="/openai?=v1 %\ud800deploymentschat", max_size=60))
def test_any_target_gets_an_answer(target: str) -> None:
    reply = ask(resource(), target, {})
    assert isinstance(reply, Whole)
    assert reply.status in (400, 404)


def test_the_same_randomness_gives_the_same_answer() -> None:
    body = {"model": "chat", "messages": VALID["messages"]}
    assert ask(resource(), "/openai/v1/chat/completions", body) == ask(
        resource(), "/openai/v1/chat/completions", body
    )


def test_a_prompt_that_is_refused_by_the_filter_still_counts() -> None:
    where = resource()
    body = {"model": "paygo", "messages": [{"role": "user", "content": "trigger-prompt-filter"}]}
    reply = ask(where, "/openai/v1/chat/completions", body)
    assert isinstance(reply, Whole)
    assert reply.status == 400
    state = where.deployments["paygo"].state
    assert isinstance(state, limits.PaygState)
    assert state.requests.total == 1


def test_all_faces_of_a_deployment_share_its_limit() -> None:
    where = resource()
    classic = "/openai/deployments/paygo/chat/completions?api-version=2024-10-21"
    first = ask(where, classic, {"messages": VALID["messages"], "max_tokens": 9000})
    assert isinstance(first, Whole)
    assert first.status == 200
    second = ask(where, "/openai/v1/responses", {"model": "paygo", "input": "x", "max_output_tokens": 9000})
    assert isinstance(second, Whole)
    assert second.status == 429
    assert b"Responses_Create" in second.body


def test_finish_books_the_real_usage_once() -> None:
    where = resource()
    body = json.dumps({"model": "ptu", "messages": VALID["messages"], "max_tokens": 500}).encode()
    call = where.begin(Request("POST", "/openai/v1/chat/completions", {"api-key": "key"}, body), UNIX_TIME)
    assert isinstance(call, Call)
    reply = where.reply(call, NOW, UNIX_TIME)
    deployment = where.deployments["ptu"]
    assert limits.describe(deployment.limits, deployment.state, NOW)["utilisation"] == 50.9
    where.finish(call, reply.tokens, NOW)
    where.finish(call, reply.tokens, NOW)
    share = limits.describe(deployment.limits, deployment.state, NOW)["utilisation"]
    assert share == pytest.approx(reply.tokens / 10)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, limits.PaygLimits(None, None)),
        ({"tokens_per_minute": 10_000}, limits.PaygLimits(10_000, 60)),
        ({"tokens_per_minute": 100}, limits.PaygLimits(100, 1)),
        ({"tokens_per_minute": 10_000, "requests_per_minute": 5}, limits.PaygLimits(10_000, 5)),
        ({"requests_per_minute": 5}, limits.PaygLimits(None, 5)),
        ({"provisioned_tokens_per_minute": 500}, limits.PtuLimits(500)),
    ],
)
def test_the_limits_of_a_deployment(fields: dict[str, int], expected: limits.Limits) -> None:
    assert limits_of(SimulatedDeployment.model_validate({"model": "gpt-4o", **fields})) == expected


def test_stored_responses_are_bounded() -> None:
    where = resource()
    ids = []
    for number in range(MAX_STORED + 1):
        reply = ask(where, "/openai/v1/responses", {"model": "chat", "input": f"say: {number}"})
        assert isinstance(reply, Whole)
        ids.append(json.loads(reply.body)["id"])
    statuses = [ask(where, f"/openai/v1/responses/{ident}", {}, "GET") for ident in (ids[0], ids[1])]
    assert [reply.status for reply in statuses if isinstance(reply, Whole)] == [404, 200]


def test_arrays_of_token_ids_cost_what_they_hold() -> None:
    for ids in ([1, 70_000, 3], [[1, 2], [3]]):
        reply = ask(resource(), "/openai/v1/embeddings", {"model": "embed", "input": ids, "dimensions": 4})
        assert isinstance(reply, Whole)
        assert json.loads(reply.body)["usage"]["prompt_tokens"] == 3


def test_an_image_costs_a_flat_amount() -> None:
    def prompt_tokens(size: int) -> int:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}
        content = [{"type": "text", "text": "four"}, image]
        body = {"model": "chat", "messages": [{"role": "user", "content": content}]}
        reply = ask(resource(), "/openai/v1/chat/completions", body)
        assert isinstance(reply, Whole)
        tokens: int = json.loads(reply.body)["usage"]["prompt_tokens"]
        return tokens

    assert 85 < prompt_tokens(100) == prompt_tokens(10_000) < 2_000


def test_the_asynchronous_filter_speaks_after_the_end_too() -> None:
    body = {"model": "chat", "messages": VALID["messages"], "stream": True}
    plain = ask(resource(), "/openai/v1/chat/completions", body)
    late = ask(resource(late_filter=True), "/openai/v1/chat/completions", body)
    assert isinstance(plain, Frames)
    assert isinstance(late, Frames)
    *_, before, finish, after, done = late.frames
    assert (*late.frames[: late.last], finish, done) == plain.frames
    for frame in (before, after):
        (choice,) = json.loads(frame[6:])["choices"]
        assert "delta" not in choice
        assert choice["content_filter_offsets"]["end_offset"] > 0


def test_responses_may_end_without_a_done_marker() -> None:
    body = {"model": "chat", "input": "x", "stream": True}
    frames = [ask(resource(responses_done=done), "/openai/v1/responses", body) for done in (True, False)]
    assert [reply.frames[-1] == b"data: [DONE]\n\n" for reply in frames if isinstance(reply, Frames)] == [
        True,
        False,
    ]


def test_the_core_needs_no_server() -> None:
    code = (
        "import sys; from aoai_simulator import faults, limits, resource;"
        "print(sorted({'tornado', 'mitmproxy'} & set(sys.modules)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "[]\n"


def test_its_repr_shows_no_key() -> None:
    assert repr(resource()).startswith("Resource('sweden', ['chat', ")
    assert "key" not in repr(resource())
