"""Quotas end to end: reserved, settled with what the backend counted, exact in what a client is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import CLIENT_KEY

pytestmark = pytest.mark.e2e

CHAT = "/openai/v1/chat/completions"
HELLO = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "say: hello there"}]}


def client(**limits: Any) -> list[dict[str, Any]]:
    """The one client, with limits."""
    return [{"name": "team", "key": CLIENT_KEY, **limits}]


def records(path: Path, count: int) -> list[dict[str, Any]]:
    """The usage records, once so many have been written."""
    deadline = time.monotonic() + 10
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        assert time.monotonic() < deadline, f"{len(lines)} of {count} records"
        time.sleep(0.02)


def test_what_is_left_is_told_and_the_backends_own_is_not(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=1000, max_requests_per_minute=5))
    answer = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    assert answer.status == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
    assert answer.headers["x-ratelimit-limit-requests"] == "5"
    assert answer.headers["x-ratelimit-remaining-requests"] == "4"
    assert 900 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 1000 - 20


def test_a_used_up_quota_says_when_to_come_back(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    gateway = start_gateway(simulator, clients=client(max_requests_per_minute=2))
    statuses = [gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO).status for _ in range(2)]
    assert statuses == [200, 200]
    refused = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    assert refused.status == 429
    error = refused.json()["error"]
    assert error["code"] == "quota_exceeded"
    assert "2 requests per minute" in error["message"]
    assert 50_000 < int(refused.headers["retry-after-ms"]) <= 60_100
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(simulator.requests()) == 2


def test_the_backends_count_takes_the_reservations_place(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    log = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=1000), usage_log=str(log))
    first = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 900})
    used = first.json()["usage"]["total_tokens"]
    second = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    (record, _) = records(log, 2)
    assert record["reserved_tokens"] > 900
    assert record["charged_tokens"] == used
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    assert left == 1000 - used - records(log, 2)[1]["reserved_tokens"]


@pytest.mark.parametrize("asks", [True, False])
def test_a_stream_costs_what_the_backend_counts_whether_or_not_usage_was_asked_for(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path, sdk: Sdk, asks: bool
) -> None:
    log = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=5000), usage_log=str(log))
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
    whole = sdk(gateway).chat.completions.create(**HELLO)  # type: ignore[call-overload]
    chunks = list(sdk(gateway).chat.completions.create(**HELLO, stream=True, **extra))  # type: ignore[call-overload]
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert bool(told) is asks
    streamed = records(log, 2)[1]
    assert streamed["charged_tokens"] == whole.usage.total_tokens


def test_a_failed_call_costs_nothing(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=1000))
    simulator.fault("content_filter", times=1)
    failed = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 900})
    assert failed.status == 400
    answer = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 900})
    assert answer.status == 200


def test_sixty_four_callers_cannot_overshoot(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    log = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, clients=client(max_requests_per_minute=100), usage_log=str(log))

    def call(_: int) -> int:
        return gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO).status

    with ThreadPoolExecutor(64) as pool:
        statuses = list(pool.map(call, range(160)))
    assert statuses.count(200) == 100
    assert statuses.count(429) == 60


def test_a_call_can_be_served_by_another_deployment(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    limits = {
        "max_requests_per_minute": {"gpt-4o": 1, "gpt-4o-mini": 100},
        "when_exceeded": {"action": "degrade", "deployment": "gpt-4o-mini"},
    }
    gateway = start_gateway(simulator, clients=client(**limits))
    assert gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO).status == 200
    degraded = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    assert degraded.status == 200
    assert degraded.headers["x-gateway-degraded"] == "deployment gpt-4o -> gpt-4o-mini"
    assert "mini" in simulator.requests()[-1]["deployment"]


def test_a_dry_run_only_tells(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=1, dry_run=True))
    answer = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    assert answer.status == 200


def test_an_aborted_stream_costs_what_was_delivered(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path, sdk: Sdk
) -> None:
    log = tmp_path / "usage.jsonl"
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=5000), usage_log=str(log))
    asked: dict[str, Any] = {
        **HELLO,
        "max_tokens": 4000,
        "messages": [{"role": "user", "content": "tell me"}],
    }
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=CLIENT_KEY, max_retries=0) as aborting:
        stream = aborting.chat.completions.create(**asked, stream=True)
        for number, _ in enumerate(stream):
            if number == 5:
                break
        stream.close()
    (record,) = records(log, 1)
    if record["outcome"] == "client_gone":
        assert 0 < record["charged_tokens"] < 500
