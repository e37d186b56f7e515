"""Streams through a gateway that counts: the same bytes as without one, and the backend's own usage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Gateway, Simulator, request
from tests.e2e.settings import API_VERSION, CLIENT_KEY, SPEC
from tests.e2e.shared import running

ENDPOINTS = {
    "sweden": {
        **SPEC["sweden"],
        "seed": 11,
        "deployments": {
            "gpt-4o": {"model": "gpt-4o", "first_token_seconds": 0, "tokens_per_second": 0},
            "instruct": {"model": "gpt-35-turbo-instruct", "first_token_seconds": 0, "tokens_per_second": 0},
        },
    }
}
POOLS = {"sweden": {"gpt-4o": ["gpt-4o"], "instruct": ["instruct"]}}

CHAT = "/openai/v1/chat/completions"
CLASSIC = f"/openai/deployments/gpt-4o/chat/completions?api-version={API_VERSION}"
OLD = "/openai/deployments/gpt-4o/chat/completions?api-version=2023-05-15"
COMPLETIONS = "/openai/v1/completions"
RESPONSES = "/openai/v1/responses"

TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}},
}
ASKED = {"stream_options": {"include_usage": True}}


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], "max_tokens": 60, **more}


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "prose": (CHAT, chat("Tell me something long.")),
    "echo": (CHAT, chat('say: "usage":null, and {"usage":{"total_tokens":5}} too')),
    "other letters": (CHAT, chat("say: Größe, 東京, 🎈 — and back\\slash")),
    "several": (CHAT, chat("Tell me three.", n=3)),
    "tool": (
        CHAT,
        chat("say: 42", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look_up"}}),
    ),
    "classic": (CLASSIC, chat("Tell me of the classics.")),
    "no obfuscation": (CHAT, chat("Tell me plainly.", stream_options={"include_obfuscation": False})),
    "said no": (CHAT, chat("Tell me less.", stream_options={"include_usage": False})),
    "nothing": (CHAT, chat("Tell me.", stream_options=None)),
    "completion": (COMPLETIONS, {"model": "instruct", "prompt": ["say: one", "say: two"], "max_tokens": 9}),
    "asked": (CHAT, chat("Tell me all.", **ASKED)),
    "asked, several": (CHAT, chat("Tell me all of it.", n=2, **ASKED)),
    "asked, completion": (COMPLETIONS, {"model": "instruct", "prompt": "Go on.", "max_tokens": 30, **ASKED}),
    "response": (
        RESPONSES,
        {"model": "gpt-4o", "input": "Tell me.", "max_output_tokens": 40, "store": False},
    ),
}

_CHANGING = re.compile(
    rb'"(created|created_at|completed_at)":\d+|(chatcmpl-|cmpl-|call_|resp_|msg_|rs_|fc_)[0-9a-f]+'
)


class Stage(NamedTuple):
    """A gateway that counts all tokens, its simulator, and its usage log."""

    gateway: Gateway
    simulator: Simulator
    usage_path: Path

    def through_the_gateway(self, path: str, body: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Stream a call; returns its bytes and its usage record."""
        answer = self.gateway.request("POST", path, key=CLIENT_KEY, json_body={**body, "stream": True})
        assert answer.status == 200, answer
        return answer.body, json_lines.record_of(self.usage_path, answer)

    def direct(self, path: str, body: dict[str, Any]) -> bytes:
        """Send the same call to the backend itself."""
        key = {"api-key": self.simulator.keys["sweden"]}
        answer = request(self.simulator.urls["sweden"] + path, "POST", headers=key, json_body=body)
        assert answer.status == 200, answer
        return answer.body


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("streams")
    usage = folder / "usage.jsonl"
    clients = [{"name": "t", "key": CLIENT_KEY, "max_tokens_per_minute": 10_000_000}]
    with running(
        "serve", folder, home, spec=ENDPOINTS, pools=POOLS, clients=clients, usage_log=str(usage)
    ) as (gateway, simulator):
        yield Stage(gateway, simulator, usage)


def comparable(stream: bytes) -> bytes:
    """Mask what is new in every answer: ids and times."""
    return _CHANGING.sub(lambda found: found[1] or found[2], stream)


@pytest.mark.parametrize("name", CALLS)
def test_the_client_gets_the_bytes_of_a_backend_without_a_gateway(stage: Stage, name: str) -> None:
    path, body = CALLS[name]
    through, _ = stage.through_the_gateway(path, body)
    direct = stage.direct(path, {**body, "stream": True})
    assert comparable(through) == comparable(direct)
    assert len(direct) > 500


@pytest.mark.parametrize("name", [name for name in CALLS if name != "response"])
def test_the_backend_was_asked_for_usage(stage: Stage, name: str) -> None:
    """Else the test above would say nothing: with its usage, the backend's bytes are others."""
    path, body = CALLS[name]
    options = {**(body.get("stream_options") or {}), "include_usage": True}
    asked = stage.direct(path, {**body, "stream": True, "stream_options": options})
    same = comparable(asked) == comparable(stage.through_the_gateway(path, body)[0])
    assert same is name.startswith("asked")


@pytest.mark.parametrize("name", CALLS)
def test_a_stream_costs_what_the_backend_itself_counts(stage: Stage, name: str) -> None:
    path, body = CALLS[name]
    _, record = stage.through_the_gateway(path, body)
    whole = {key: value for key, value in body.items() if key != "stream_options"}
    usage = json.loads(stage.direct(path, whole))["usage"]
    assert record["charged_tokens"] == usage["total_tokens"]
    assert record["input_tokens"] + record["output_tokens"] == usage["total_tokens"]
    assert usage["total_tokens"] > 5


def test_where_the_api_version_gives_no_usage_it_is_counted_from_what_was_delivered(stage: Stage) -> None:
    body = chat("Tell me of old times.")
    through, record = stage.through_the_gateway(OLD, body)
    assert comparable(through) == comparable(stage.direct(OLD, {**body, "stream": True}))
    used = json.loads(stage.direct(OLD, body))["usage"]["total_tokens"]
    assert record["output_tokens"] is None
    assert 0.5 * used < record["charged_tokens"] < 2.5 * used
