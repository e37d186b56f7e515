"""Bodies as Azure OpenAI sends them, from the simulator, and any JSON at all."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import strategies as st

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator.replies import Frames, Whole
from aoai_simulator.requests import Request
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings
from aoai_simulator.tokenizer import ByteTokenizer

SPEC = {
    "deployments": {
        "gpt-4o": {"model": "gpt-4o"},
        "embed": {"model": "text-embedding-3-small"},
        "text": {"model": "gpt-35-turbo-instruct"},
        "reason": {"model": "o4-mini"},
        "sonnet": {"model": "claude-sonnet-5"},
    }
}

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}


def answer(operation: str, body: dict[str, Any], **settings: Any) -> bytes:
    """The simulator's answer to a call, as the bytes of its body."""
    return _answer(f"/openai/v1/{operation}", body, **settings)


def claude(body: dict[str, Any], **settings: Any) -> bytes:
    """The same of a call to Claude."""
    return _answer("/anthropic/v1/messages", body, **settings)


def _answer(path: str, body: dict[str, Any], **settings: Any) -> bytes:
    resource = Resource(
        "sweden",
        SimulatedEndpoint.model_validate(SPEC),
        "key",
        settings=Settings(**settings),
        randomness=random.Random(7),
        tokenizer=ByteTokenizer(),
    )
    headers = {"api-key": "key", "anthropic-version": "2023-06-01"}
    begun = resource.begin(Request("POST", path, headers, json.dumps(body).encode()), 1.7e9)
    reply = begun if isinstance(begun, Whole) else resource.reply(begun, 1000.0, 1.7e9)
    assert isinstance(reply, Whole | Frames)
    return b"".join(reply.frames) if isinstance(reply, Frames) else reply.body


def echo(text: str) -> list[dict[str, str]]:
    """Messages that the simulator answers with `text`."""
    return [{"role": "user", "content": f"say:{text}"}]


def same(one: Any, other: Any) -> bool:
    """Whether two decoded documents are the same JSON, as their types tell."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


NASTY = st.text(alphabet=" \n\t\r#-:!&*|>ab\"'{}[],%@`?~\u2028\x85\x1b\x7f\ufeff\ud800😀é", max_size=24)
TEXTS = st.text(max_size=40) | NASTY
KEYS = st.sampled_from(
    [
        *("model", "messages", "input", "prompt", "instructions", "role", "content", "type", "text", "name"),
        *("tool_calls", "function", "arguments", "tools", "parameters", "properties", "required", "n", "id"),
        *("choices", "delta", "message", "index", "finish_reason", "error", "code", "usage", "prompt_tokens"),
        *("content_filter_results", "prompt_filter_results", "violence", "filtered", "severity", "object"),
        *("output", "response", "item", "output_index", "status", "summary", "data", "embedding", "refusal"),
        *("latency_checkpoint", "completion_tokens", "innererror", "content_filters", "audio", "stream"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | TEXTS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(KEYS | TEXTS, JSON, max_size=6)
OPERATIONS = st.sampled_from(("chat.completions", "responses", "completions", "embeddings", "realtime", ""))
