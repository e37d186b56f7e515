"""The simulated Claude: answers, streams, errors and limits in Anthropic's forms."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator.limits import describe
from aoai_simulator.messages import limit_headers, shaped
from aoai_simulator.replies import Frames, Reply, Whole, server_error
from aoai_simulator.requests import Request
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings
from aoai_simulator.tokenizer import ByteTokenizer

PATH = "/anthropic/v1/messages"
SPEC = {
    "deployments": {
        "sonnet": {"model": "claude-sonnet-5"},
        "limited": {"model": "claude-sonnet-5", "tokens_per_minute": 1000, "requests_per_minute": 600},
        "gpt-4o": {"model": "gpt-4o"},
    }
}
HELLO = [{"role": "user", "content": "Hello"}]
ASK: dict[str, Any] = {"model": "sonnet", "max_tokens": 50, "messages": HELLO}
TOOL = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
HEADERS = {"x-api-key": "key", "anthropic-version": "2023-06-01"}


@pytest.fixture
def resource() -> Resource:
    return Resource(
        "sweden",
        SimulatedEndpoint.model_validate(SPEC),
        "key",
        settings=Settings(),
        randomness=random.Random(7),
        tokenizer=ByteTokenizer(),
    )


def ask(where: Resource, body: Any, path: str = PATH, headers: dict[str, str] = HEADERS) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    begun = where.begin(Request("POST", path, headers, data), 1.7e9)
    if isinstance(begun, Whole):
        return shaped(path, begun)
    reply = where.reply(begun, 1000.0, 1.7e9)
    return shaped(path, reply) if isinstance(reply, Whole) else reply


def message(where: Resource, **more: Any) -> dict[str, Any]:
    reply = ask(where, {**ASK, **more})
    assert isinstance(reply, Whole)
    assert reply.status == 200
    document = json.loads(reply.body)
    assert isinstance(document, dict)
    return document


def events(where: Resource, **more: Any) -> list[dict[str, Any]]:
    reply = ask(where, {**ASK, **more, "stream": True})
    assert isinstance(reply, Frames)
    found = []
    for frame in reply.frames:
        name, data = frame.decode().removesuffix("\n\n").split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_message_and_its_stream(resource: Resource) -> None:
    whole, stream = message(resource), events(resource)
    assert [each["type"] for each in stream[:3]] == ["message_start", "content_block_start", "ping"]
    assert [each["type"] for each in stream[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(each["delta"]["text"] for each in stream if each["type"] == "content_block_delta")
    assert whole["content"] == [{"type": "text", "text": text}]
    assert stream[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert stream[0]["message"]["usage"]["output_tokens"] == 1
    assert whole["stop_reason"] == stream[-2]["delta"]["stop_reason"] == "end_turn"
    assert stream[0]["message"]["model"] == "claude-sonnet-5"


def test_thinking_comes_first(resource: Resource) -> None:
    thinking = {"type": "enabled", "budget_tokens": 40}
    whole = message(resource, thinking=thinking)
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    assert whole["usage"]["output_tokens_details"] == {"thinking_tokens": 32}
    stream = events(resource, thinking=thinking)
    kinds = [each["delta"]["type"] for each in stream if each["type"] == "content_block_delta"]
    assert kinds[:3] == ["thinking_delta", "signature_delta", "text_delta"]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [(None, "tool_use"), ({"type": "any"}, "tool_use"), ({"type": "none"}, "end_turn")],
)
def test_tools(resource: Resource, choice: Any, reason: str) -> None:
    question = [{"role": "user", "content": [{"type": "text", "text": "The weather?"}]}]
    more = {"tools": [TOOL], "messages": question, **({"tool_choice": choice} if choice else {})}
    assert message(resource, **more)["stop_reason"] == reason
    stream = events(resource, **more)
    pieces = [
        each["delta"].get("partial_json", "") for each in stream if each["type"] == "content_block_delta"
    ]
    assert bool("".join(pieces)) == (reason == "tool_use")
    if reason == "tool_use":
        assert json.loads("".join(pieces)) == message(resource, **more)["content"][0]["input"]


CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "inhabitants": {"type": "integer"}},
    "required": ["name", "inhabitants"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("beta", [False, True])
def test_structured_outputs(resource: Resource, beta: bool) -> None:
    form = {"type": "json_schema", "schema": CITY}
    more = {"output_format": form} if beta else {"output_config": {"effort": "low", "format": form}}
    whole = message(resource, **more)
    city = json.loads(whole["content"][0]["text"])
    assert city.keys() == {"name", "inhabitants"}
    assert type(city["inhabitants"]) is int
    stream = events(resource, **more)
    pieces = [each["delta"]["text"] for each in stream if each["type"] == "content_block_delta"]
    assert "".join(pieces) == whole["content"][0]["text"]
    assert whole["stop_reason"] == "end_turn"


def test_a_configured_output_without_a_format_is_text(resource: Resource) -> None:
    assert message(resource, output_config={"effort": "low"})["content"] == message(resource)["content"]


OPEN = "For 'object' type, 'additionalProperties' must be explicitly set to false"
NO_WORD: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {}}, OPEN),
    (
        {"type": "object", "additionalProperties": True},
        "For 'object' type, 'additionalProperties: true' is not supported."
        " Please set 'additionalProperties' to false",
    ),
    ({**CITY, "properties": {"inner": {"type": ["object", "null"]}}, "required": []}, OPEN),
    ({"type": "array", "items": {"type": "object"}}, OPEN),
    ({"type": "array", "maxItems": 3}, "For 'array' type, property 'maxItems' is not supported"),
    ({"type": "array", "minItems": 2}, "For 'array' type, property 'minItems' is not supported"),
    (
        {"type": "integer", "minimum": 0, "maximum": 9},
        "For 'integer' type, properties maximum, minimum are not supported",
    ),
    ({"type": "string", "minLength": 1}, "For 'string' type, property 'minLength' is not supported"),
]


@pytest.mark.parametrize(("schema", "problem"), NO_WORD)
def test_schemas_have_fewer_words(resource: Resource, schema: dict[str, Any], problem: str) -> None:
    form = {"type": "json_schema", "schema": schema}
    tool = {**TOOL, "input_schema": schema}
    for more, where in (
        ({"output_config": {"format": form}}, "output_config.format.schema"),
        ({"output_format": form}, "output_format.schema"),
        ({"tools": [TOOL, {**tool, "strict": True}]}, "tools.1.custom"),
    ):
        reply = ask(resource, {**ASK, **more})
        assert isinstance(reply, Whole)
        assert reply.status == 400
        assert json.loads(reply.body)["error"] == {
            "type": "invalid_request_error",
            "message": f"{where}: {problem}",
        }
    # A tool that is not strict may say what it likes.
    message(resource, tools=[tool], tool_choice={"type": "none"})


@pytest.mark.parametrize(
    "schema",
    [{"type": "array", "minItems": 1, "items": {"type": "string"}}, {**CITY, "required": []}],
)
def test_schemas_that_are_taken(resource: Resource, schema: dict[str, Any]) -> None:
    message(resource, output_config={"format": {"type": "json_schema", "schema": schema}})


def test_the_cache(resource: Resource) -> None:
    system = [{"type": "text", "text": "word " * 80, "cache_control": {"type": "ephemeral"}}]
    first, second = (message(resource, system=system)["usage"] for _ in range(2))
    assert (first["cache_creation_input_tokens"], first["cache_read_input_tokens"]) == (100, 0)
    assert (second["cache_creation_input_tokens"], second["cache_read_input_tokens"]) == (0, 100)
    assert first["input_tokens"] == second["input_tokens"] > 0
    resource.reset()
    assert message(resource, system=system)["usage"] == first


def test_tokens_are_counted_without_an_answer(resource: Resource) -> None:
    body = {name: value for name, value in ASK.items() if name != "max_tokens"}
    reply = ask(resource, body, f"{PATH}/count_tokens")
    assert isinstance(reply, Whole)
    assert json.loads(reply.body) == {"input_tokens": message(resource)["usage"]["input_tokens"]}


def test_a_system_message_in_the_middle_is_context(resource: Resource) -> None:
    """Claude Code puts one after the user's words, and asks for them to be answered all the same."""
    between = {"role": "system", "content": [{"type": "text", "text": "say: two"}]}
    messages = [{"role": "user", "content": "say: one"}, between]
    assert message(resource, messages=messages)["content"][0]["text"] == "one"
    alone = message(resource, messages=messages[:1])["usage"]["input_tokens"]
    assert message(resource, messages=messages)["usage"]["input_tokens"] > alone
    refused = ask(resource, {**ASK, "messages": [between, *messages]})
    assert isinstance(refused, Whole)
    assert refused.status == 400
    assert "`system`" in json.loads(refused.body)["error"]["message"]


WRONG: list[tuple[int, str, Any]] = [
    (400, "invalid_request_error", b"{"),
    (400, "invalid_request_error", {**ASK, "messages": []}),
    (400, "invalid_request_error", {**ASK, "messages": "Hello"}),
    (400, "invalid_request_error", {**ASK, "messages": [{"role": "system", "content": "x"}]}),
    (400, "invalid_request_error", {**ASK, "messages": [{"role": "user"}]}),
    (400, "invalid_request_error", {**ASK, "max_tokens": 0}),
    (400, "invalid_request_error", {"model": "sonnet", "messages": HELLO}),
    (400, "invalid_request_error", {**ASK, "thinking": {"type": "enabled", "budget_tokens": 50}}),
    (400, "invalid_request_error", {**ASK, "tools": [{"name": "x"}]}),
    (400, "invalid_request_error", {**ASK, "tool_choice": {"type": "some"}}),
    (400, "invalid_request_error", {**ASK, "output_config": "json"}),
    (400, "invalid_request_error", {**ASK, "output_config": {"format": "json"}}),
    (400, "invalid_request_error", {**ASK, "output_format": {"type": "json_object"}}),
    (400, "invalid_request_error", {**ASK, "output_format": {"type": "json_schema"}}),
    (400, "invalid_request_error", {**ASK, "output_format": {"type": "json_schema", "schema": {"type": 1}}}),
    (400, "invalid_request_error", {**ASK, "model": "gpt-4o"}),
    (404, "not_found_error", {**ASK, "model": "claude-9"}),
]


@pytest.mark.parametrize(("status", "kind", "body"), WRONG)
def test_what_is_wrong_is_said_in_its_form(resource: Resource, status: int, kind: str, body: Any) -> None:
    reply = ask(resource, body)
    assert isinstance(reply, Whole)
    assert reply.status == status
    said = json.loads(reply.body)
    assert (said["type"], said["error"]["type"]) == ("error", kind)
    assert said["error"]["message"]


def test_keys_and_the_version(resource: Resource) -> None:
    for headers, status in (
        ({**HEADERS, "x-api-key": "wrong"}, 401),
        ({"anthropic-version": "2023-06-01"}, 401),
        ({"x-api-key": "key"}, 400),
        ({"api-key": "key", "anthropic-version": "2023-06-01"}, 200),
        ({"authorization": "Bearer key", "anthropic-version": "2023-06-01"}, 200),
    ):
        reply = ask(resource, ASK, headers=headers)
        assert isinstance(reply, Whole)
        assert reply.status == status


LONG = [{"role": "user", "content": "word " * 700}]


def test_its_limits(resource: Resource) -> None:
    reply = ask(resource, {**ASK, "model": "limited", "messages": LONG})
    assert isinstance(reply, Whole)
    assert reply.status == 200
    refused = ask(resource, {**ASK, "model": "limited", "messages": LONG})
    assert isinstance(refused, Whole)
    assert refused.status == 429
    headers = dict(refused.headers)
    assert int(headers["retry-after"]) >= 1
    assert headers["anthropic-ratelimit-tokens-limit"] == "1000"
    assert headers["anthropic-ratelimit-tokens-remaining"] == "0"
    assert not any(name.startswith("x-ratelimit") for name in headers)
    assert json.loads(refused.body)["error"]["type"] == "rate_limit_error"


def test_its_limits_count_what_is_written_and_not_its_bound(resource: Resource) -> None:
    body = json.dumps({**ASK, "model": "limited", "max_tokens": 128_000}).encode()
    deployment = resource.deployment("limited")
    assert deployment is not None
    for written in (700, 0):
        begun = resource.begin(Request("POST", PATH, HEADERS, body), 1.7e9)
        assert not isinstance(begun, Whole)
        reply = resource.reply(begun, 1000.0, 1.7e9)
        assert isinstance(reply, Whole)
        assert reply.status == 200
        resource.finish(begun, written, 1000.0)
    assert describe(deployment.limits, deployment.state, 1000.0)["tokens"] == 700


def test_resets_are_times() -> None:
    headers = limit_headers((("x-ratelimit-reset-tokens", "5"), ("retry-after-ms", "1")), 1.7e9)
    assert headers == (("anthropic-ratelimit-tokens-reset", "2023-11-14T22:13:25Z"),)


def test_overload_has_a_status_of_its_own() -> None:
    reply = shaped(PATH, server_error(529))
    assert json.loads(reply.body)["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert shaped("/openai/v1/chat/completions", server_error(500)) == server_error(500)


def test_chat_is_not_for_claude(resource: Resource) -> None:
    body = json.dumps(ASK).encode()
    begun = resource.begin(Request("POST", "/openai/v1/chat/completions", {"api-key": "key"}, body), 1.7e9)
    assert isinstance(begun, Whole)
    assert json.loads(begun.body)["error"]["code"] == "OperationNotSupported"
