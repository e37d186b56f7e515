"""The real SDK against the simulator: both clients, sync and async, streaming and not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.simulator.running import KEY, Running

MESSAGES: Any = [{"role": "user", "content": "say: Good morning, everybody"}]
TEXT = "Good morning, everybody"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
}


def options(running: Running, client: str, **more: Any) -> dict[str, Any]:
    more = {"api_key": KEY, "max_retries": 0, **more}
    if client == "azure":
        return {"azure_endpoint": running.url, "api_version": "2025-04-01-preview", **more}
    return {"base_url": f"{running.url}/openai/v1/", **more}


@pytest.fixture(scope="module")
def trust() -> ssl.SSLContext:
    """Whom a client trusts. To read all authorities for every client would take longer than its calls."""
    return ssl.create_default_context()


@pytest.fixture(params=["azure", "v1"])
def client(
    running: Running, request: pytest.FixtureRequest, trust: ssl.SSLContext
) -> Iterator[openai.OpenAI]:
    kind = openai.AzureOpenAI if request.param == "azure" else openai.OpenAI
    http = openai.DefaultHttpxClient(trust_env=False, verify=trust)
    with kind(**options(running, request.param), http_client=http) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="chat", messages=MESSAGES)
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-4o-2024-11-20"
    assert completion.usage
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="chat", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_stream_usage_is_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "hello"}])
    *_, last = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.usage == whole.usage


def test_max_tokens_cuts_the_answer(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "hello"}], max_completion_tokens=5
    )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage
    assert completion.usage.completion_tokens == 5


def test_several_choices(client: openai.OpenAI) -> None:
    asked: Any = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "n": 3}
    completion = client.chat.completions.create(**asked)
    texts = {choice.index: choice.message.content for choice in completion.choices}
    assert len(set(texts.values())) == 3
    streamed = dict.fromkeys(texts, "")
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_a_forced_function_call(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "chat",
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.content is None
    assert message.tool_calls
    call: Any = message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert call.function.arguments == '{"city": "city", "days": 1, "unit": "C"}'
    with client.chat.completions.stream(**asked) as stream:
        final: Any = stream.get_final_completion().choices[0].message.tool_calls
    assert final[0].function.arguments == call.function.arguments


def test_a_required_function_call_finishes_with_tool_calls(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="chat",
        messages=MESSAGES,
        tools=[{"type": "function", "function": WEATHER}],  # type: ignore[list-item]
        tool_choice="required",
    )
    assert completion.choices[0].finish_reason == "tool_calls"


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="text", prompt="Once upon")
    chunks = list(client.completions.create(model="text", prompt="Once upon", stream=True))
    assert whole.choices[0].text == "".join(c.choices[0].text for c in chunks if c.choices)
    assert whole.usage
    assert whole.usage.completion_tokens == 16
    assert whole.choices[0].finish_reason == "length"


def test_embeddings_are_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    # The SDK asks for base64 unless told otherwise.
    packed = client.embeddings.create(model="embed", input=["one", "two"], dimensions=8)
    floats = client.embeddings.create(
        model="embed", input=["one", "two"], dimensions=8, encoding_format="float"
    )
    for ours, theirs in zip(packed.data, floats.data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)
        assert sum(value * value for value in theirs.embedding) == pytest.approx(1, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == 2


def test_responses(client: openai.OpenAI) -> None:
    response = client.responses.create(model="chat", input="say: Good morning, everybody")
    assert response.output_text == TEXT
    assert response.model == "chat"
    assert response.status == "completed"


def test_responses_stream(client: openai.OpenAI) -> None:
    seen = list(client.responses.create(model="chat", input="say: Good morning, everybody", stream=True))
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert [seen[0].type, seen[1].type, seen[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == TEXT


def test_responses_stream_of_a_reasoning_model_with_a_function(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="reason",
        input="hello",
        tools=[{"type": "function", **WEATHER, "strict": False}],  # type: ignore[list-item]
        tool_choice={"type": "function", "name": "get_weather"},
    ) as stream:
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "function_call"]
    assert final.output[1].arguments == '{"city": "city", "days": 1, "unit": "C"}'  # type: ignore[union-attr]
    assert final.usage
    assert final.usage.output_tokens_details.reasoning_tokens == 32


def test_an_incomplete_response(client: openai.OpenAI) -> None:
    *_, last = client.responses.create(model="chat", input="hello", max_output_tokens=3, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_stored_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="chat", input="say: one")
    second = client.responses.create(model="chat", input="say: two", previous_response_id=first.id)
    assert client.responses.retrieve(second.id).output_text == "two"
    assert client.responses.input_items.list(first.id).data[0].type == "message"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="chat", input="say: three", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_that_is_not_stored(client: openai.OpenAI) -> None:
    response = client.responses.create(model="chat", input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_models(client: openai.OpenAI) -> None:
    assert "gpt-4o" in {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


@pytest.mark.parametrize(
    ("deployment", "prompt", "kind", "code"),
    [
        ("none", "hello", openai.NotFoundError, "DeploymentNotFound"),
        ("embed", "hello", openai.BadRequestError, "OperationNotSupported"),
        ("chat", "trigger-prompt-filter", openai.BadRequestError, "content_filter"),
        ("chat", "word " * 110_000, openai.BadRequestError, "context_length_exceeded"),
    ],
)
def test_errors_are_the_sdks_own(
    client: openai.OpenAI, deployment: str, prompt: str, kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=deployment, messages=[{"role": "user", "content": prompt}])
    assert caught.value.code == code


def test_a_wrong_key(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_the_sdk_retries_a_429_with_a_hint(running: Running) -> None:
    running.fault("429", retry_after_seconds=0.01)
    client = openai.AzureOpenAI(**options(running, "azure", max_retries=1))
    client.chat.completions.create(model="chat", messages=MESSAGES)
    assert [entry["status"] for entry in running.requests()] == [429, 200]
    assert running.requests()[1]["headers"]["x-stainless-retry-count"] == "1"


def test_the_sdk_sees_a_refusal_inside_a_200_as_an_error(running: Running) -> None:
    client = openai.OpenAI(**options(running, "v1"))
    running.fault("in-200-refusal", times=2)
    with pytest.raises(openai.APIError, match="exceeded rate limit"):
        list(client.responses.create(model="chat", input="hello", stream=True))
    with pytest.raises(openai.APIError, match="exceeded rate limit"):
        list(client.chat.completions.create(model="chat", messages=MESSAGES, stream=True))


@pytest.mark.parametrize("kind", ["azure", "v1"])
def test_async_clients_and_100_streams_at_once(running: Running, kind: str) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        stream = await client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": f"say: I am number {number}"}], stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def all_of_them() -> list[str]:
        maker = openai.AsyncAzureOpenAI if kind == "azure" else openai.AsyncOpenAI
        async with maker(**options(running, kind)) as client:
            return await asyncio.gather(*(one(client, number) for number in range(100)))

    assert asyncio.run(all_of_them()) == [f"I am number {number}" for number in range(100)]


def test_encrypted_reasoning_is_bound_to_its_resource(running: Running) -> None:
    sweden = openai.OpenAI(**options(running, "v1"))
    france = openai.OpenAI(base_url=f"{running.simulator.urls['france']}/openai/v1/", api_key=KEY)
    first = sweden.responses.create(
        model="reason", input="hello", store=False, include=["reasoning.encrypted_content"]
    )
    items: Any = [item.model_dump(exclude_none=True) for item in first.output]
    assert items[0]["encrypted_content"].startswith("gAAAA")
    follow: Any = [*items, {"role": "user", "content": "say: again"}]
    assert sweden.responses.create(model="reason", input=follow, store=False).output_text == "again"
    with pytest.raises(openai.BadRequestError) as caught:
        france.responses.create(model="reason", input=follow, store=False)
    assert caught.value.code == "invalid_encrypted_content"
