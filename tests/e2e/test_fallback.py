"""Another deployment serves what one refuses, and clients see the name they asked for: with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from tests.e2e import json_lines
from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Host, Simulator
from tests.e2e.settings import SPEC
from tests.e2e.shared import running

SAID: list[Any] = [{"role": "user", "content": "say: hello there"}]
INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
SMALL = {"model": "gpt-35-turbo", **INSTANT}
PTU = {"model": "gpt-4o", "provisioned_tokens_per_minute": 50_000, **INSTANT}
ENDPOINTS = {
    "sweden": {
        **SPEC["sweden"],
        "deployments": {**SPEC["sweden"]["deployments"], "small": SMALL, "real-ptu": PTU},
    },
    "france": SPEC["france"],
}
POOLS = {
    "sweden": {
        "gpt-4o": ["gpt-4o-paygo"],
        "short": ["small"],
        "gone": ["no-such-deployment"],
        "ptu": ["real-ptu"],
    },
    "france": {"other": ["gpt-4o-france"]},
}
FALLBACKS = {
    "gpt-4o": {"content_filter": "other"},
    "short": {"context_length": "gpt-4o"},
    "gone": {"missing_model": "other"},
}


class Stage(NamedTuple):
    gateway: Gateway
    simulator: Simulator
    usage: Path


@pytest.fixture(scope="module")
def stage(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("fallback")
    usage = folder / "usage.jsonl"
    with running(
        host, folder, home, spec=ENDPOINTS, pools=POOLS, fallbacks=FALLBACKS, usage_log=str(usage)
    ) as (gateway, simulator):
        yield Stage(gateway, simulator, usage)


@pytest.fixture
def client(stage: Stage, sdk: Sdk) -> openai.OpenAI:
    stage.simulator.reset()
    return sdk(stage.gateway, "v1")


def test_a_blocked_prompt(stage: Stage, client: openai.OpenAI) -> None:
    stage.simulator.fault("content_filter", endpoint="sweden")
    answer = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=SAID)
    assert answer.headers["x-gateway-fallback"] == "content_filter gpt-4o -> other"
    assert answer.headers["x-gateway-backend"] == "gpt-4o-france@france"
    assert answer.parse().choices[0].message.content == "hello there"
    (record,) = json_lines.wait_for(stage.usage, 1, call=answer.headers["x-gateway-call"])
    assert (record["asked_deployment"], record["deployment"]) == ("gpt-4o", "other")
    assert record["fallback"] == "content_filter gpt-4o -> other"


def test_a_blocked_prompt_of_a_stream(stage: Stage, client: openai.OpenAI) -> None:
    stage.simulator.fault("content_filter", endpoint="sweden")
    stream = client.chat.completions.create(model="gpt-4o", messages=SAID, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "hello there"


def test_a_prompt_that_is_too_long(client: openai.OpenAI) -> None:
    long: list[Any] = [{"role": "user", "content": "say: hello there " + "word " * 30_000}]
    answer = client.chat.completions.with_raw_response.create(model="short", messages=long, max_tokens=5)
    assert answer.headers["x-gateway-fallback"] == "context_length short -> gpt-4o"
    assert answer.http_response.status_code == 200


def test_a_deployment_that_does_not_exist(client: openai.OpenAI) -> None:
    for _ in range(2):
        answer = client.chat.completions.with_raw_response.create(model="gone", messages=SAID)
        assert answer.headers["x-gateway-fallback"] == "missing_model gone -> other"


def test_a_response_names_what_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.responses.with_raw_response.create(model="gpt-4o", input="say: hello there")
    assert answer.headers["x-gateway-backend"] == "gpt-4o-paygo@sweden"
    assert answer.parse().model == "gpt-4o"
    assert client.responses.retrieve(answer.parse().id).model == "gpt-4o"
    events = list(client.responses.create(model="gpt-4o", input="say: hello there", stream=True))
    named = {event.response.model for event in events if hasattr(event, "response")}
    assert named == {"gpt-4o"}


def test_a_chat_completion_names_its_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=SAID)
    assert answer.model.startswith("gpt-4o-20")


def test_what_azure_spills_over_is_told(stage: Stage, client: openai.OpenAI) -> None:
    full = {"endpoint": "sweden", "deployment": "real-ptu", "set": "full", "seconds": 20}
    stage.simulator.control("POST", "limits", full)
    spill = {"x-ms-spillover-deployment": "gpt-4o-paygo"}
    answer = client.chat.completions.with_raw_response.create(
        model="ptu", messages=SAID, service_tier="priority", extra_headers=spill
    )
    assert answer.headers["x-gateway-backend"] == "real-ptu@sweden"
    assert answer.headers["x-ms-spillover-from-deployment"] == "real-ptu"
    (record,) = json_lines.wait_for(stage.usage, 1, call=answer.headers["x-gateway-call"])
    assert record["spillover"] == {"from": "real-ptu", "to": "gpt-4o-paygo", "error": "429"}
    assert (record["service_tier_requested"], record["service_tier"]) == ("priority", "priority")
