import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_gateway.tokens.bodies import ONE_TOKEN_ROLES, read_prompt
from aoai_gateway.tokens.counting import Count, Counter
from aoai_gateway.tokens.models import UNKNOWN, family_of
from aoai_gateway.tokens.prompt import FILE_TOKENS_PER_PAGE, UNSEEN_FILE_PAGES
from aoai_gateway.tokens.ranks import CL100K, O200K, Encodings
from tests.examples import examples

# The two examples of the OpenAI cookbook, "How to count tokens with tiktoken", whose counts its authors
# compared with what the service reported.
JARGON = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into "
        "plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for "
        "increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
WEATHER = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can answer to questions about the weather.",
    },
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
WEATHER_FUNCTION = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
}


def chat(counter: Counter, *messages: Any, model: str | None = "gpt-4o", **more: Any) -> Count:
    return counter.count_request("chat.completions", {"messages": list(messages), **more}, model)


def responses(counter: Counter, model: str | None = "gpt-4o", **body: Any) -> Count:
    return counter.count_request("responses", body, model)


@pytest.mark.parametrize(
    ("model", "tokens", "tokens_with_tools", "encoding"),
    [
        ("gpt-3.5-turbo", 129, 105, CL100K),
        ("gpt-35-turbo", 129, 105, CL100K),
        ("gpt-4-0613", 129, 105, CL100K),
        ("gpt-4", 129, 105, CL100K),
        ("gpt-4o", 124, 101, O200K),
        ("gpt-4o-mini", 124, 101, O200K),
    ],
)
def test_the_cookbooks_published_counts(
    model: str, tokens: int, tokens_with_tools: int, encoding: str, counter: Counter
) -> None:
    assert chat(counter, *JARGON, model=model) == Count(tokens, exact=True, encoding=encoding)
    tools = [{"type": "function", "function": WEATHER_FUNCTION}]
    counted = chat(counter, *WEATHER, tools=tools, model=model)
    assert counted == Count(tokens_with_tools, exact=True, encoding=encoding)


def test_the_older_functions_count_like_tools(counter: Counter) -> None:
    tools = chat(counter, *WEATHER, tools=[{"type": "function", "function": WEATHER_FUNCTION}])
    assert chat(counter, *WEATHER, functions=[WEATHER_FUNCTION]) == tools


def test_text_parts_count_like_a_string(counter: Counter) -> None:
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in JARGON]
    assert chat(counter, *parts).tokens == 124


def test_the_first_chatgpt_had_other_framing(counter: Counter) -> None:
    messages = ({"role": "user", "name": "a", "content": "b"},)
    assert chat(counter, *messages, model="gpt-35-turbo").tokens == 3 + (1 + 1 + 1) + 1 + 3
    assert chat(counter, *messages, model="gpt-35-turbo-0301").tokens == 4 + (1 + 1 + 1) - 1 + 3


@pytest.mark.parametrize("name", [O200K, CL100K])
def test_the_roles_taken_for_one_token_are(name: str, encodings: Encodings) -> None:
    assert all(len(encodings.by_name[name].encode_ordinary(role)) == 1 for role in ONE_TOKEN_ROLES)


@pytest.mark.parametrize("model", ["gpt-5", "gpt-4.1", "o3", None, "DeepSeek-R1"])
def test_framing_that_is_not_published_is_no_exact_count(model: str | None, counter: Counter) -> None:
    assert chat(counter, *JARGON, model=model) == Count(124, exact=False, encoding=O200K)


# Tools


def test_nested_schemas_follow_the_rule_and_are_not_exact(counter: Counter) -> None:
    def with_parameters(parameters: object) -> Count:
        function = {"name": "book", "description": "Book it.", "parameters": parameters}
        return chat(counter, tools=[{"type": "function", "function": function}])

    leaf = {"type": "string", "description": "The city"}
    flat = with_parameters({"type": "object", "properties": {"place": leaf}})
    below = {"type": "object", "description": "A place", "properties": {"place": leaf}}
    nested = with_parameters({"type": "object", "properties": {"trip": below}})
    listed = with_parameters(
        {"type": "object", "properties": {"trip": {"type": "array", "description": "Places", "items": below}}}
    )
    assert flat.exact
    assert not nested.exact
    assert not listed.exact
    assert flat.tokens + 3 + 3 < nested.tokens <= listed.tokens < flat.tokens + 20


def test_a_structured_outputs_schema_counts(counter: Counter) -> None:
    schema = {"name": "answer", "schema": WEATHER_FUNCTION["parameters"]}
    plain = chat(counter, *WEATHER)
    counted = chat(counter, *WEATHER, response_format={"type": "json_schema", "json_schema": schema})
    assert plain.tokens + 20 < counted.tokens < plain.tokens + 60
    assert not counted.exact
    assert chat(counter, *WEATHER, response_format={"type": "json_object"}) == plain
    form = {"type": "json_schema", **schema}
    assert (
        responses(counter, input="hi", text={"format": form}).tokens
        == responses(counter, input="hi").tokens + counted.tokens - plain.tokens
    )


def test_calls_and_their_results_count(counter: Counter) -> None:
    arguments = json.dumps({"location": "San Francisco, CA", "unit": "celsius"})
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    plain = chat(counter, *WEATHER)
    counted = chat(
        counter,
        *WEATHER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "17 degrees and sunny"},
    )
    expected = sum(counter.count_text(text, "gpt-4o").tokens for text in ("get_weather", arguments))
    expected += counter.count_text("17 degrees and sunny", "gpt-4o").tokens
    assert plain.tokens + expected < counted.tokens <= plain.tokens + expected + 20
    assert not counted.exact


# Media

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 2048, 4096) + bytes(1_000_000)
PNG_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def image(url: str, detail: str | None = None) -> dict[str, Any]:
    inner = {"url": url} | ({"detail": detail} if detail else {})
    return {"role": "user", "content": [{"type": "image_url", "image_url": inner}]}


@pytest.mark.parametrize(
    ("url", "detail", "model", "tokens", "exact"),
    [
        (PNG_URL, "high", "gpt-4o", 1105, True),
        (PNG_URL, None, "gpt-4o", 1105, True),
        (PNG_URL, "low", "gpt-4o", 85, True),
        (PNG_URL, "high", "gpt-4o-mini", 36_835, True),
        (PNG_URL, "high", "gpt-4.1-mini", 2489, False),
        ("https://example.org/large.png", "high", "gpt-4o", 1105, False),
        ("https://example.org/large.png", "low", "gpt-4o", 85, True),
    ],
)
def test_an_image_counts_by_its_size(
    url: str, detail: str | None, model: str, tokens: int, exact: bool, counter: Counter
) -> None:
    text = {"role": "user", "content": ""}
    counted = chat(counter, image(url, detail), model=model)
    assert counted.tokens - chat(counter, text, model=model).tokens == tokens
    assert counted.exact is exact


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 1_000_000}},
        {"type": "input_file", "file_data": "data:application/pdf;base64," + "A" * 1_000_000},
        {"type": "input_image", "image_url": PNG_URL},
        {"type": "a_new_kind", "image_url": PNG_URL},
        {"type": "a_new_kind", "nested": [{"payload": PNG_URL}]},
        {"type": "a_new_kind", "data": "A" * 1_000_000},
    ],
)
def test_base64_is_never_counted_as_text(part: dict[str, Any], counter: Counter) -> None:
    tokens = chat(counter, {"role": "user", "content": [part]}).tokens
    assert 100 < tokens < 25_000  # as text it would be 500,000 and more


def test_a_sound_counts_by_its_length(counter: Counter) -> None:
    def seconds(number: int, form: str, bytes_per_second: int) -> int:
        data = base64.b64encode(bytes(number * bytes_per_second)).decode()
        part = {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        return chat(counter, {"role": "user", "content": [part]}).tokens

    assert seconds(60, "wav", 32_000) - seconds(0, "wav", 32_000) == 600
    assert seconds(60, "mp3", 8_000) - seconds(0, "mp3", 8_000) == 600


def test_a_file_that_is_not_in_the_body_is_assumed(counter: Counter) -> None:
    nothing = chat(counter, {"role": "user", "content": []}).tokens
    for part in (
        {"type": "file", "file": {"file_id": "assistant-1"}},
        {"type": "input_file", "file_url": "https://example.org/report.pdf"},
    ):
        counted = chat(counter, {"role": "user", "content": [part]})
        assert counted.tokens - nothing == UNSEEN_FILE_PAGES * FILE_TOKENS_PER_PAGE
        assert not counted.exact


# Completions and embeddings


@pytest.mark.parametrize(("operation_name", "member"), [("completions", "prompt"), ("embeddings", "input")])
@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("tiktoken is great!", 6),
        (["tiktoken is great!", "tiktoken is great!"], 12),
        ([83, 8251, 2488, 382, 2212, 0], 6),
        ([[83, 8251], [2488, 382, 2212, 0]], 6),
        ([], 0),
        ("", 0),
    ],
)
def test_the_four_shapes_of_a_plain_prompt(
    operation_name: str, member: str, value: object, tokens: int, counter: Counter
) -> None:
    counted = counter.count_request(operation_name, {member: value}, "text-embedding-3-small")
    assert (counted.tokens, counted.exact) == (tokens, True)


def test_token_arrays_need_no_encoding() -> None:
    assert Counter().count_request("embeddings", {"input": [1, 2, 3]}, None).exact


def test_a_suffix_is_prompt_too(counter: Counter) -> None:
    body = {"prompt": "tiktoken is", "suffix": " great!"}
    assert counter.count_request("completions", body, "gpt-35-turbo-instruct").tokens == 6


# Responses


def test_input_as_a_string_equals_one_user_message(counter: Counter) -> None:
    as_string = responses(counter, input="Hello there", instructions="Be kind.")
    message = {"role": "user", "content": [{"type": "input_text", "text": "Hello there"}]}
    developer = {"type": "message", "role": "developer", "content": "Be kind."}
    as_items = responses(counter, input=[developer, message])
    as_chat = chat(
        counter, {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello there"}
    )
    assert as_string == as_items
    assert as_string.tokens == as_chat.tokens
    assert not as_string.exact


def test_tools_count_as_in_chat(counter: Counter) -> None:
    in_chat = chat(counter, *WEATHER, tools=[{"type": "function", "function": WEATHER_FUNCTION}])
    counted = responses(counter, input=WEATHER, tools=[{"type": "function", **WEATHER_FUNCTION}])
    assert counted.tokens == in_chat.tokens


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "THE TEXT"},
        {"type": "function_call_output", "call_id": "c", "output": "THE TEXT"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "THE TEXT"}],
        },
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "THE TEXT"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "THE TEXT"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "THE TEXT"}]},
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["THE TEXT"]}},
        {"type": "mcp_call", "name": "f", "arguments": "{}", "output": "THE TEXT"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "THE TEXT"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "THE TEXT"}]},
        {"type": "not_known_yet", "deep": {"er": ["THE TEXT"]}},
    ],
)
def test_what_an_item_says_counts_once(item: dict[str, Any], counter: Counter) -> None:
    marker = "The quick brown fox jumps over the lazy dog. " * 20
    long = json.loads(json.dumps(item).replace("THE TEXT", marker))
    short = json.loads(json.dumps(item).replace("THE TEXT", "x"))
    gain = responses(counter, input=[long]).tokens - responses(counter, input=[short]).tokens
    assert abs(gain - counter.count_text(marker, "gpt-4o").tokens) <= 2


def test_encrypted_reasoning_and_screenshots_are_not_text(counter: Counter) -> None:
    items = [
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA" * 1500},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PNG_URL}},
        {"type": "image_generation_call", "result": base64.b64encode(PNG).decode()},
    ]
    assert 1_000 + 1105 < responses(counter, input=items).tokens < 4_000


@pytest.mark.parametrize(
    ("body", "partial"),
    [
        ({"input": "and then?", "previous_response_id": "resp_1"}, True),
        ({"input": "and then?", "conversation": {"id": "conv_1"}}, True),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ({"input": [{"id": "msg_1"}]}, True),
        ({"prompt": {"id": "pmpt_1", "variables": {"name": "Ada"}}}, True),
        ({"input": "and then?", "previous_response_id": None}, False),
    ],
)
def test_context_that_the_service_keeps_is_told(
    body: dict[str, Any], partial: bool, counter: Counter
) -> None:
    assert responses(counter, **body).partial is partial


# Anything at all

KNOWN_KEYS = """
    messages role content name tool_calls function_call function tools functions type text image_url url
    detail input_audio data format file file_data input output instructions prompt suffix parameters
    properties enum items description summary encrypted_content response_format json_schema schema result
"""
KNOWN_KINDS = "function message text input_text image_url input_audio file input_file function_call reasoning"
KEYS = st.sampled_from(KNOWN_KEYS.split()) | st.text(st.characters(), max_size=5)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(KNOWN_KINDS.split())
    | st.text(st.characters(), max_size=20)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
OPERATIONS = st.sampled_from(["chat.completions", "responses", "completions", "embeddings", "something new"])


@settings(max_examples=examples(200))
@given(operation_name=OPERATIONS, body=st.dictionaries(KEYS, JSON, max_size=6) | JSON)
def test_no_body_raises(operation_name: str, body: Any, counter: Counter) -> None:
    for model in ("gpt-4o", "gpt-4.1-mini", None):
        counted = counter.count_request(operation_name, body, model)
        assert counted.tokens >= 0


def nested(depth: int, wrap: str) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = (
            [value] if wrap == "list" else {"properties": {"p": value}} if wrap == "schema" else {"a": value}
        )
    return value


@pytest.mark.parametrize("wrap", ["list", "object", "schema"])
def test_no_depth_is_too_deep(wrap: str, counter: Counter) -> None:
    deep = nested(100_000, wrap)
    function = {"name": "f", "description": "", "parameters": deep}
    for operation_name, body in (
        (
            "chat.completions",
            {"messages": [{"role": "user", "content": [deep]}, {"role": "user", "content": deep}]},
        ),
        ("chat.completions", {"messages": deep, "tools": [{"type": "function", "function": function}, deep]}),
        ("chat.completions", {"response_format": {"json_schema": {"schema": deep}}}),
        (
            "responses",
            {"input": [{"type": "x", "deep": deep}, deep], "tools": [{"type": "mcp", "deep": deep}]},
        ),
        ("embeddings", {"input": deep}),
        ("embeddings", deep),
        ("something new", {"deep": deep}),
    ):
        assert counter.count_request(operation_name, body, "gpt-4o").tokens >= 0


def test_a_body_of_another_shape_is_an_empty_prompt() -> None:
    for body in (None, [], "text", 7):
        assert read_prompt("chat.completions", body, UNKNOWN).texts == []
    assert read_prompt("chat.completions", {"messages": "hello"}, family_of("gpt-4o")).texts == []
