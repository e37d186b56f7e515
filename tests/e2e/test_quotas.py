"""Quotas end to end: reserved, settled with what the backend counted, exact in what a client is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.e2e import json_lines
from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import CLIENT_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("host", ["serve"])]

CHAT = "/openai/v1/chat/completions"
HELLO = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "say: hello there"}]}


def client(**limits: Any) -> list[dict[str, Any]]:
    """The one client, with limits."""
    return [{"name": "team", "key": CLIENT_KEY, **limits}]


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
    (record, _) = json_lines.wait_for(log, 2)
    assert record["reserved_tokens"] > 900
    assert record["charged_tokens"] == used
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    assert left == 1000 - used - json_lines.wait_for(log, 2)[1]["reserved_tokens"]


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
    streamed = json_lines.wait_for(log, 2)[1]
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


def test_a_call_can_wait_for_its_quota(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    limits = {"max_tokens_per_minute": 1000, "when_exceeded": {"action": "wait", "seconds": 70}}
    gateway = start_gateway(simulator, clients=client(**limits))
    simulator.fault("slow-first-token", seconds=0.8, times=1)
    with ThreadPoolExecutor(2) as pool:
        # The first holds nearly all of the quota until its answer is there, and then uses little of it.
        first = pool.submit(
            gateway.request, "POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 950}
        )
        time.sleep(0.3)
        begun = time.monotonic()
        second = pool.submit(gateway.request, "POST", CHAT, key=CLIENT_KEY, json_body=HELLO, seconds=90)
        assert first.result().status == 200
        assert second.result().status == 200
        # As soon as the first is settled, and not when it is 60 s old.
        assert time.monotonic() - begun < 30


def test_a_call_waits_no_longer_than_it_may(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    limits = {"max_requests_per_minute": 1, "when_exceeded": {"action": "wait", "seconds": 1.5}}
    gateway = start_gateway(simulator, clients=client(**limits))
    assert gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO).status == 200
    begun = time.monotonic()
    refused = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    assert time.monotonic() - begun >= 1.5
    assert refused.status == 429
    assert "waited for 1.5 s" in refused.json()["error"]["message"]
    assert len(simulator.requests()) == 1


def test_a_call_does_not_wait_for_a_new_day(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    limits = {"max_tokens_per_day": 1000, "when_exceeded": {"action": "wait", "seconds": 60}}
    gateway = start_gateway(simulator, clients=client(**limits))
    assert gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO).status == 200
    begun = time.monotonic()
    refused = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 5000})
    assert time.monotonic() - begun < 30
    assert refused.status == 429
    assert refused.headers["x-should-retry"] == "false"


def test_a_call_that_is_larger_than_what_is_left_is_told_so(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    gateway = start_gateway(simulator, clients=client(max_tokens_per_minute=1000))
    first = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO)
    left = 1000 - first.json()["usage"]["total_tokens"]
    refused = gateway.request("POST", CHAT, key=CLIENT_KEY, json_body={**HELLO, "max_tokens": 2000})
    assert refused.status == 429
    message = refused.json()["error"]["message"]
    assert f"1,000 tokens per minute has {left} left" in message
    assert "Lower its max_tokens" in message


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
    gateway = start_gateway(simulator, clients=client(max_requests_per_minute=1, dry_run=True))
    first, second = (gateway.request("POST", CHAT, key=CLIENT_KEY, json_body=HELLO) for _ in range(2))
    assert (first.status, second.status) == (200, 200)
    assert "x-gateway-dry-run" not in first.headers
    assert second.headers["x-gateway-dry-run"] == "over 1 requests per minute"


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
    simulator.fault("stall", events=12)
    with openai.OpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=CLIENT_KEY, max_retries=0) as aborting:
        stream = aborting.chat.completions.create(**asked, stream=True)
        for number, _ in enumerate(stream):
            if number == 5:
                break
        stream.close()
    (record,) = json_lines.wait_for(log, 1)
    assert record["outcome"] == "client_gone"
    # Its prompt, and the dozen words that came; not the 4,000 that were booked.
    assert 5 < record["charged_tokens"] < 100


def test_a_new_store_waits_for_a_restart(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    gateway = start_gateway(simulator, clients=client(max_tokens_per_day=1000))
    gateway.write(
        {**yaml.safe_load(gateway.config_path.read_text()), "budget_file": str(tmp_path / "budgets.json")}
    )
    said = "state, state_prefix and budget_file take effect when the gateway is restarted."
    gateway.wait_until(lambda: said in gateway.log, "told of the restart")
