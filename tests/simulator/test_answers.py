"""What a request asks of an answer, and the answer that comes."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from aoai_simulator.replies import Frames, Whole
from aoai_simulator.resource import Resource
from tests.simulator.test_resource import ask, resource

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "hello"}]


def chat(body: dict[str, Any], deployment: str = "chat", where: Resource | None = None) -> Any:
    target = f"/openai/deployments/{deployment}/chat/completions?api-version=2025-04-01-preview"
    return read(ask(where or resource(), target, {"messages": HELLO, **body}))


def respond(body: dict[str, Any], deployment: str = "chat", where: Resource | None = None) -> Any:
    body = {"model": deployment, "input": "hello", **body}
    return read(ask(where or resource(), "/openai/v1/responses", body))


def read(reply: Any) -> Any:
    if isinstance(reply, Frames):
        data = (frame.partition(b"data: ")[2] for frame in reply.frames)
        return [json.loads(each) for each in data if not each.startswith(b"[DONE]")]
    assert isinstance(reply, Whole)
    return json.loads(reply.body)


def text_of(response: Any) -> str:
    (message,) = (item for item in response["output"] if item["type"] == "message")
    text: str = message["content"][0]["text"]
    return text


def function(name: str, description: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, **more}}


def called(answer: Any) -> list[str]:
    calls = answer["choices"][0]["message"].get("tool_calls", ())
    return [call[call["type"]]["name"] for call in calls]


# Structured outputs


@pytest.mark.parametrize("strict", [True, False])
def test_a_structured_output_satisfies_its_schema(strict: bool) -> None:
    spec = {"name": "weather", "schema": WEATHER, "strict": strict}
    form = {"type": "json_schema", "json_schema": spec}
    for answer in (chat({"response_format": form}), chat({"response_format": form}, "reason")):
        value = json.loads(answer["choices"][0]["message"]["content"])
        jsonschema.validate(value, WEATHER)
    response = respond({"text": {"format": {"type": "json_schema", **spec}, "verbosity": "low"}})
    assert json.loads(text_of(response)) == value
    assert response["text"]["verbosity"] == "low"
    assert response["text"]["format"]["name"] == "weather"
    streamed = chat({"response_format": form, "stream": True})
    deltas = [c["choices"][0]["delta"].get("content") or "" for c in streamed if c["choices"]]
    assert json.loads("".join(deltas)) == value


def test_json_mode_answers_with_json() -> None:
    asked = {
        "messages": [{"role": "user", "content": "Give me JSON"}],
        "response_format": {"type": "json_object"},
    }
    assert "answer" in json.loads(chat(asked)["choices"][0]["message"]["content"])
    asked["messages"][0]["content"] = f"Answer in JSON of this schema: {json.dumps(WEATHER)}"  # type: ignore[index]  # its values are of several types
    value = json.loads(chat(asked)["choices"][0]["message"]["content"])
    jsonschema.validate(value, WEATHER)
    form = {"format": {"type": "json_object"}}
    jsonschema.validate(json.loads(text_of(respond({"input": asked["messages"], "text": form}))), WEATHER)


def test_json_mode_wants_the_word() -> None:
    error = chat({"response_format": {"type": "json_object"}})["error"]
    assert (error["param"], "must contain the word 'json'" in error["message"]) == ("messages", True)
    assert respond({"text": {"format": {"type": "json_object"}}})["error"]["param"] == "input"


def test_what_is_to_be_said_is_said_if_it_has_the_form() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    for text, taken in (('{"city": "Oslo", "days": null}', True), ('{"city": 5}', False)):
        messages = [{"role": "user", "content": f"say: {text}"}]
        said = chat({"messages": messages, "response_format": form})["choices"][0]["message"]["content"]
        assert (said == text) is taken


def test_several_choices_have_other_values() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER}}
    choices = chat({"response_format": form, "n": 3})["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 3


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"name": "w", "schema": {"type": "strin"}}, "'strin' is not valid"),
        ({"name": "w", "schema": {"type": "object"}, "strict": True}, "'additionalProperties' is required"),
        ({"name": "w", "schema": {"not": {}}}, "no value satisfies it"),
        ({"schema": {}}, "Missing required parameter"),
        ({"name": "w"}, "Missing required parameter"),
    ],
)
def test_an_invalid_schema_is_refused(spec: dict[str, Any], part: str) -> None:
    error = chat({"response_format": {"type": "json_schema", "json_schema": spec}})["error"]
    assert part in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("response_format")
    error = respond({"text": {"format": {"type": "json_schema", **spec}}})["error"]
    assert part in error["message"]
    assert error["param"].startswith("text.format")


# Tools


def agent(tools: list[dict[str, Any]], prompt: str, **more: Any) -> list[str]:
    """Which tools a client calls one after the other until there is an answer, at most eight."""
    messages: list[Any] = [{"role": "user", "content": prompt}]
    done: list[str] = []
    for _ in range(8):
        answer = chat({"messages": messages, "tools": tools, **more})
        message = answer["choices"][0]["message"]
        calls = message.get("tool_calls")
        if not calls:
            return done
        messages.append(message)
        for call in calls:
            name = call["function"]["name"]
            done.append(name)
            if name.startswith("final"):
                return done
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"})
    return [*done, "…"]


TOOLS = [function("get_weather", "The weather of a city", parameters=WEATHER), function("book_flight")]


@pytest.mark.parametrize(
    ("tools", "prompt", "choice", "called"),
    [
        (TOOLS, "How is the weather?", "auto", ["get_weather"]),
        (TOOLS, "Book me a flight", "auto", ["book_flight"]),
        (TOOLS, "The weather, and a flight", "auto", ["get_weather", "book_flight"]),
        (TOOLS, "hello", "auto", []),
        (TOOLS, "The weather?", "none", []),
        ([*TOOLS, function("final_result")], "hello", "required", ["get_weather", "final_result"]),
        ([function("final_result"), *TOOLS], "flight", "required", ["book_flight", "final_result"]),
        ([function("final_result")], "hello", "required", ["final_result"]),
        ([TOOLS[0], function("final_Contact")], "hello", "required", ["get_weather", "final_Contact"]),
    ],
)
def test_an_agent_comes_to_an_end(tools: Any, prompt: str, choice: str, called: list[str]) -> None:
    assert agent(tools, prompt, tool_choice=choice) == called


def test_an_agent_that_must_call_goes_on_with_the_next_tool() -> None:
    assert agent(TOOLS, "hello", tool_choice="required")[:2] == ["get_weather", "book_flight"]


def test_arguments_satisfy_the_parameters() -> None:
    call = chat({"tools": TOOLS, "tool_choice": "required"})["choices"][0]["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"city": "city", "days": 1}


def test_parallel_calls_have_ids_of_their_own_and_can_be_forbidden() -> None:
    asked = {"messages": [{"role": "user", "content": "The weather, and a flight"}], "tools": TOOLS}
    answer = chat(asked)
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 2
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert len(called(chat({**asked, "parallel_tool_calls": False}))) == 1
    chunks = chat({**asked, "stream": True})
    streamed = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                streamed[call["index"]] += call["function"]["arguments"]
    assert streamed == [call["function"]["arguments"] for call in calls]


def test_allowed_tools() -> None:
    only = {"type": "function", "function": {"name": "book_flight"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [only]}}
    assert called(chat({"tools": TOOLS, "tool_choice": choice})) == ["book_flight"]
    choice["allowed_tools"]["mode"] = "auto"  # type: ignore[index]
    assert called(chat({"tools": TOOLS, "tool_choice": choice})) == []
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "book_flight"}],
    }
    assert respond({"tools": flat, "tool_choice": choice})["output"][0]["name"] == "book_flight"


def test_custom_tools() -> None:
    grammar = {"syntax": "regex", "definition": "^[A-Z]{3}$"}
    custom = {"type": "custom", "custom": {"name": "code", "format": {"type": "grammar", "grammar": grammar}}}
    call = chat({"tools": [custom], "tool_choice": "required"})["choices"][0]["message"]["tool_calls"][0]
    assert call["type"] == "custom"
    assert call["custom"] == {"name": "code", "input": "AAA"}
    flat = {"type": "custom", "name": "code"}
    asked = {"tools": [flat], "tool_choice": {"type": "custom", "name": "code"}}
    item = respond(asked)["output"][0]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "code", "hello")
    kinds = [event["type"] for event in respond({**asked, "stream": True})]
    assert "response.custom_tool_call_input.delta" in kinds
    assert "response.custom_tool_call_input.done" in kinds


@pytest.mark.parametrize(
    ("tool", "kinds"),
    [
        ({"type": "web_search"}, ["web_search_call", "message"]),
        ({"type": "web_search_preview"}, ["web_search_call", "message"]),
        ({"type": "file_search", "vector_store_ids": ["vs_1"]}, ["file_search_call", "message"]),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, ["code_interpreter_call", "message"]),
        ({"type": "image_generation"}, ["image_generation_call", "message"]),
        (
            {"type": "mcp", "server_label": "docs", "server_url": "https://x", "require_approval": "never"},
            ["mcp_list_tools", "mcp_call", "message"],
        ),
        (
            {"type": "mcp", "server_label": "docs", "server_url": "https://x"},
            ["mcp_list_tools", "mcp_approval_request"],
        ),
        ({"type": "computer_use_preview", "environment": "browser"}, ["computer_call"]),
        ({"type": "local_shell"}, ["local_shell_call"]),
        ({"type": "shell"}, ["shell_call"]),
        ({"type": "apply_patch"}, ["apply_patch_call"]),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_built_in_tools(tool: dict[str, Any], kinds: list[str], named: bool) -> None:
    choice = {"type": tool["type"]} if named else "required"
    response = respond({"tools": [tool], "tool_choice": choice})
    assert [item["type"] for item in response["output"]] == kinds
    events = respond({"tools": [tool], "tool_choice": choice, "stream": True})
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["item"]["type"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added == kinds
    assert done == events[-1]["response"]["output"]


def test_a_built_in_tool_is_used_when_the_words_call_for_it() -> None:
    tools = [{"type": "web_search"}]
    assert [i["type"] for i in respond({"tools": tools})["output"]] == ["message"]
    asked = {"tools": tools, "input": "What is the latest news?"}
    assert [i["type"] for i in respond(asked)["output"]] == ["web_search_call", "message"]


def test_a_namespace_groups_functions_and_custom_tools() -> None:
    inner = [
        {"type": "function", "name": "spawn_agent", "parameters": WEATHER, "strict": True},
        {"type": "custom", "name": "note"},
    ]
    tools = [{"type": "namespace", "name": "agents", "description": "Sub-agents.", "tools": inner}]
    item = respond({"tools": tools, "input": "Spawn an agent"})["output"][0]
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "spawn_agent", "agents")
    asked = {"tools": tools, "tool_choice": {"type": "custom", "name": "note"}}
    item = respond(asked)["output"][0]
    assert (item["type"], item["name"], item["namespace"]) == ("custom_tool_call", "note", "agents")
    added = [each["item"] for each in respond({**asked, "stream": True}) if "item" in each]
    assert {each["namespace"] for each in added} == {"agents"}
    plain = respond({"tools": inner, "tool_choice": "required"})["output"][0]
    assert "namespace" not in plain


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"description": "Nameless.", "tools": [{"type": "custom", "name": "a"}]}, "tools[0].name"),
        ({"name": "a"}, "tools[0].tools"),
        ({"name": "a", "tools": []}, "tools[0].tools"),
        ({"name": "a", "tools": [{"type": "shell"}]}, "tools[0].tools[0].type"),
        ({"name": "a", "tools": [{"type": "function"}]}, "tools[0].tools[0].name"),
    ],
)
def test_a_namespace_that_is_not_one(wrong: dict[str, Any], param: str) -> None:
    error = respond({"tools": [{"type": "namespace", **wrong}]})["error"]
    assert error["param"] == param


@pytest.mark.parametrize("kind", ["tool_search", "programmatic_tool_calling"])
def test_ways_to_other_tools_are_taken_and_not_called(kind: str) -> None:
    tools = [{"type": kind}, {"type": "function", "name": "weather", "defer_loading": True}]
    assert respond({"tools": tools, "tool_choice": "required"})["output"][0]["name"] == "weather"
    assert [item["type"] for item in respond({"tools": tools[:1]})["output"]] == ["message"]


def test_chat_knows_no_built_in_tools() -> None:
    error = chat({"tools": [{"type": "web_search"}]})["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "tools[0].type")


def test_an_agent_of_stored_responses_comes_to_an_end() -> None:
    where = resource()
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    body: dict[str, Any] = {"tools": tools, "tool_choice": "required"}
    names = []
    for _ in range(2):
        response = respond(body, where=where)
        call = response["output"][0]
        names.append(call["name"])
        body["previous_response_id"] = response["id"]
        body["input"] = [{"type": "function_call_output", "call_id": call["call_id"], "output": "21"}]
    assert names == ["get_weather", "book_flight"]
    assert respond({**body, "tool_choice": "auto"}, where=where)["output"][0]["type"] == "message"


def test_legacy_functions() -> None:
    functions = [TOOLS[0]["function"]]
    asked: dict[str, Any] = {
        "functions": functions,
        "messages": [{"role": "user", "content": "The weather?"}],
    }
    choice = chat(asked)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "get_weather"
    assert json.loads(choice["message"]["function_call"]["arguments"]) == {"city": "city", "days": 1}
    deltas = [
        c["choices"][0]["delta"].get("function_call", {})
        for c in chat({**asked, "stream": True})
        if c["choices"]
    ]
    assert "".join(d.get("arguments", "") for d in deltas) == choice["message"]["function_call"]["arguments"]
    named = chat({**asked, "function_call": {"name": "get_weather"}})["choices"][0]
    assert named["finish_reason"] == "stop"
    assert "function_call" not in chat({**asked, "function_call": "none"})["choices"][0]["message"]
    result = {"role": "function", "name": "get_weather", "content": "21"}
    after = chat({**asked, "messages": [*asked["messages"], choice["message"], result]})["choices"][0]
    assert after["finish_reason"] == "stop"
    assert after["message"]["content"]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"type": "function"}], "tools[0].function.name"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
            "tools[0].function.parameters",
        ),
        ([3], "tools[0]"),
        ({}, "tools"),
    ],
)
def test_tools_that_are_none(tools: Any, param: str) -> None:
    assert chat({"tools": tools})["error"]["param"] == param


# Sampling


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("temperature", 9, "decimal_above_max_value"),
        ("temperature", -0.1, "decimal_below_min_value"),
        ("temperature", "hot", "invalid_type"),
        ("top_p", 1.5, "decimal_above_max_value"),
        ("presence_penalty", 3, "decimal_above_max_value"),
        ("n", 0, "integer_below_min_value"),
        ("n", 1000, "integer_above_max_value"),
        ("max_tokens", 1.5, "invalid_type"),
        ("stop", ["a"] * 5, "array_above_max_length"),
        ("logprobs", 3, "invalid_type"),
        ("top_logprobs", 21, "integer_above_max_value"),
        ("top_logprobs", 2, None),
        ("service_tier", "fastest", "invalid_value"),
        ("seed", "x", "invalid_type"),
        ("verbosity", "loud", "invalid_value"),
    ],
)
def test_parameters_have_ranges(name: str, value: Any, code: str | None) -> None:
    error = chat({name: value})["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (name, code)


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "logprobs"])
def test_reasoning_models_take_less(name: str) -> None:
    assert (
        chat({name: 1 if name != "temperature" else 0.5}, "reason")["error"]["param"] == name
        or name == "logprobs"
    )
    assert "error" not in chat({"temperature": 1, "max_completion_tokens": 50}, "reason")


def test_two_limits_at_once_are_refused() -> None:
    assert "same time" in chat({"max_tokens": 5, "max_completion_tokens": 5})["error"]["message"]


def test_unknown_parameters_are_refused() -> None:
    assert chat({"colour": 1})["error"]["message"] == "Unrecognized request argument supplied: colour"
    assert respond({"colour": 1})["error"]["code"] == "unknown_parameter"
    assert respond({"client_metadata": {"session_id": "1"}})["status"] == "completed", (
        "Codex sends it to Azure, too"
    )


@pytest.mark.parametrize("stop", ["three", ["never", "three"]])
def test_an_answer_ends_before_a_stop_sequence(stop: Any) -> None:
    messages = [{"role": "user", "content": "say: one two three four"}]
    choice = chat({"messages": messages, "stop": stop})["choices"][0]
    assert choice["message"]["content"] == "one two "
    assert choice["finish_reason"] == "stop"
    chunks = chat({"messages": messages, "stop": stop, "stream": True})
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "one two "


def test_logprobs_are_there_for_each_token() -> None:
    asked = {"logprobs": True, "top_logprobs": 3}
    choice = chat(asked)["choices"][0]
    listed = choice["logprobs"]["content"]
    assert "".join(each["token"] for each in listed) == choice["message"]["content"]
    for each in listed:
        assert len(each["top_logprobs"]) == 3
        assert each["logprob"] <= 0
        assert bytes(each["bytes"]).decode() == each["token"]
    chunks = chat({**asked, "stream": True})
    streamed = [
        e for c in chunks for x in c["choices"] for e in (x["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == listed
    response = respond({"include": ["message.output_text.logprobs"], "top_logprobs": 2})
    assert len(response["output"][0]["content"][0]["logprobs"][0]["top_logprobs"]) == 2


def test_a_tier_is_echoed() -> None:
    assert chat({})["service_tier"] == "default"
    assert chat({"service_tier": "priority"})["service_tier"] == "priority"
    assert respond({"service_tier": "flex"})["service_tier"] == "flex"


def test_a_background_response_is_queued_and_then_there() -> None:
    where = resource()
    response = respond({"background": True}, where=where)
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    got = read(ask(where, f"/openai/v1/responses/{response['id']}", b"", "GET"))
    assert got["status"] == "completed"
    assert text_of(got)
    assert respond({"background": True, "store": False})["error"]["param"] == "background"
    kinds = [event["type"] for event in respond({"background": True, "stream": True})]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]


def test_the_stream_of_a_background_response_can_be_taken_up_again() -> None:
    where = resource()
    whole = respond({"background": True, "stream": True}, where=where)
    path = f"/openai/v1/responses/{whole[0]['response']['id']}"
    assert read(ask(where, f"{path}?stream=true", b"", "GET")) == whole
    assert read(ask(where, f"{path}?stream=true&starting_after=3", b"", "GET")) == whole[4:]
    assert read(ask(where, f"{path}?stream=true&starting_after=999", b"", "GET")) == []
    for more in ({"background": True}, {"stream": True}):
        made = respond(more, where=where)
        ident = made["id"] if isinstance(made, dict) else made[0]["response"]["id"]
        refused = read(ask(where, f"/openai/v1/responses/{ident}?stream=true", b"", "GET"))
        assert refused["error"]["param"] == "stream"


def test_the_v1_api_knows_no_dates() -> None:
    answer = ask(resource(), "/openai/v1/responses?api-version=2024-10-21", b"{}")
    assert answer.status == 400
    assert read(answer)["error"] == {"code": "BadRequest", "message": "API version not supported"}


@pytest.mark.parametrize("tools", [[], TOOLS])
def test_a_limit_bounds_the_tokens(tools: Any) -> None:
    more = {"tools": tools, "tool_choice": "required"} if tools else {}
    answer = chat({"max_completion_tokens": 3, **more})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
