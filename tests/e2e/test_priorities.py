"""Classes, queues and half-open backends on the wire: one backend that is short of capacity."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Answer, Gateway, Simulator, eventually
from tests.e2e.raw import Connection, post
from tests.e2e.shared import running
from tests.redis_server import RedisServer

CHAT = "/openai/v1/chat/completions"
FAST = {"first_token_seconds": 0, "tokens_per_second": 0}
SPEC = {"sweden": {"deployments": {"only": {"model": "gpt-4o", "tokens_per_minute": 100_000, **FAST}}}}
POOLS = {"sweden": {"gpt-4o": ["only"]}}
PRIORITIES = [
    {"name": "critical", "wait": {"seconds": 8, "length": 20}, "breaks": {"multiplier": 1}},
    {"name": "standard", "wait": {"seconds": 8, "length": 2}, "breaks": {"multiplier": 1.2}},
    {"name": "brief", "wait": {"seconds": 0.4}, "breaks": {"multiplier": 1}},
    {"name": "batch"},
]
FULL = 1.5
"""Seconds for which the backend refuses everything."""


def key_of(name: str) -> str:
    return f"key-of-{name}-c41e"


class Stage(NamedTuple):
    """The gateway, the simulator, and the usage log."""

    gateway: Gateway
    simulator: Simulator
    usage_path: Path

    def body(self, text: str = "Hello.", **more: Any) -> dict[str, Any]:
        return {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 20,
            **more,
        }

    def ask(self, cls: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
        """Send a call as the client of a class."""
        return self.gateway.request(
            "POST", CHAT, key=key_of(cls), headers=headers, json_body=self.body(**more)
        )

    def fill(self, seconds: float = FULL) -> None:
        """Let the backend refuse everything for so long."""
        full = {"endpoint": "*", "deployment": "*", "set": "full", "seconds": seconds}
        self.simulator.control("POST", "limits", full)

    def record(self, answer: Answer) -> dict[str, Any]:
        """Return the usage record of a call, once it is written."""
        return json_lines.record_of(self.usage_path, answer)

    def waiting(self, count: int) -> None:
        """Wait until so many calls are under way in the gateway."""
        eventually(
            lambda: self.gateway.request("GET", "/health/ready").json()["calls"] >= count,
            f"{count} calls under way",
        )


@pytest.fixture(scope="module")
def the_stage(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("priorities")
    usage = folder / "usage.jsonl"
    clients = [
        {"name": each["name"], "key": key_of(str(each["name"])), "priority": each["name"]}
        for each in PRIORITIES
    ]
    with running(
        "serve",
        folder,
        home,
        spec=SPEC,
        pools=POOLS,
        clients=clients,
        priorities=PRIORITIES,
        breaks={"default_seconds": 1, "floor_seconds": 0.1, "ceiling_seconds": 5},
        usage_log=str(usage),
    ) as (gateway, simulator):
        yield Stage(gateway, simulator, usage)


@pytest.fixture
def stage(the_stage: Stage) -> Iterator[Stage]:
    """The stage with an empty backend that is in no break."""
    yield the_stage
    the_stage.simulator.control("POST", "limits", {"endpoint": "*", "deployment": "*", "set": "empty"})

    def answers() -> bool:
        return all(the_stage.ask(cls).status == 200 for cls in ("batch", "critical", "standard", "brief"))

    eventually(answers, "an open backend")


def test_a_call_waits_for_the_backend_instead_of_being_refused(stage: Stage) -> None:
    begun = time.monotonic()
    stage.fill()
    answer = stage.ask("critical")
    assert answer.status == 200, answer
    assert time.monotonic() - begun >= FULL
    record = stage.record(answer)
    assert record["priority"] == "critical"
    assert record["in_line_ms"] > 0
    assert [attempt["status"] for attempt in record["attempts"]] == [429, 200]
    assert record["attempts"][0]["break_ms"] > 0


def test_a_stream_waits_and_streams(stage: Stage) -> None:
    stage.fill()
    answer = stage.ask("critical", stream=True)
    assert answer.status == 200
    assert answer.body.rstrip().endswith(b"data: [DONE]")
    assert stage.record(answer)["in_line_ms"] > 0


def test_a_class_that_does_not_wait_is_refused_at_once(stage: Stage) -> None:
    stage.fill(60)
    answer = stage.ask("batch")
    assert answer.status == 429
    assert answer.json()["error"]["code"] == "all_backends_out"
    assert 0 < int(answer.headers["retry-after-ms"]) <= 5000


def test_when_its_time_is_over_it_says_for_how_long_it_has_waited(stage: Stage) -> None:
    stage.fill(60)
    # The first call finds out, the second need not ask.
    assert stage.ask("batch").status == 429
    asked = len(stage.simulator.requests())
    answer = stage.ask("brief")
    assert answer.status == 429
    error = answer.json()["error"]
    assert error["code"] in ("waiting_line_timeout", "all_backends_out")
    assert len(stage.simulator.requests()) == asked
    record = stage.record(answer)
    assert record["outcome"] == "backends_out"
    assert record["skipped"][0]["backend"] == "only@sweden"
    assert record["skipped"][0]["wait_ms"] > 0


def test_the_higher_class_is_served_first_in_any_order_of_arrival(stage: Stage) -> None:
    stage.fill(4)
    assert stage.ask("batch").status == 429
    with ThreadPoolExecutor(4) as pool:
        lower = [pool.submit(stage.ask, "standard") for _ in range(2)]
        stage.waiting(2)
        higher: Future[Answer] = pool.submit(stage.ask, "critical")
        answers = [each.result() for each in (higher, *lower)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    records = [stage.record(answer) for answer in answers]
    released = [
        datetime.fromisoformat(record["time"]) + timedelta(milliseconds=record["in_line_ms"])
        for record in records
    ]
    assert released[0] == min(released)
    assert all(record["in_line_ms"] > 0 for record in records)


def test_a_full_line_refuses_at_once(stage: Stage) -> None:
    stage.fill(4)
    assert stage.ask("batch").status == 429
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(stage.ask, "standard") for _ in range(2)]
        stage.waiting(2)
        answer = stage.ask("standard")
        assert answer.status == 429
        assert answer.json()["error"]["code"] == "waiting_line_full"
        assert [each.result().status for each in waiting] == [200, 200]


def test_who_hangs_up_leaves_the_line_at_once(stage: Stage) -> None:
    stage.fill(60)
    assert stage.ask("batch").status == 429
    asked = len(stage.simulator.requests())
    before = json_lines.caught_up(stage.usage_path, stage.gateway, key_of("batch"))
    with Connection(stage.gateway) as connection:
        connection.send(post(CHAT, json.dumps(stage.body()).encode(), key=key_of("critical")))
        stage.waiting(1)
    records = eventually(lambda: json_lines.of_calls(stage.usage_path)[before:], "its record")
    assert [record["outcome"] for record in records] == ["client_gone"]
    assert records[0]["attempts"] == []
    assert records[0]["in_line_ms"] > 0
    assert len(stage.simulator.requests()) == asked


def test_a_request_may_ask_for_a_lower_class_only(stage: Stage) -> None:
    lower = stage.ask("critical", headers={"x-gateway-priority": "batch"})
    assert lower.status == 200
    assert stage.record(lower)["priority"] == "batch"
    higher = stage.ask("batch", headers={"x-gateway-priority": "critical"})
    assert higher.status == 400
    assert "batch" in higher.json()["error"]["message"]


def test_after_a_break_one_call_tries_before_all_come(stage: Stage) -> None:
    stage.fill(1.0)
    with ThreadPoolExecutor(12) as pool:
        answers = [each.result() for each in [pool.submit(stage.ask, "critical") for _ in range(12)]]
    assert {answer.status for answer in answers} == {200}
    statuses = [entry["status"] for entry in stage.simulator.requests()[-24:]]
    # Those that were under way when the first was refused, and no herd after each break.
    assert statuses.count(429) <= 12


def test_a_break_holds_for_each_class_in_another_process(
    start_gateway: Callable[..., Gateway],
    start_simulator: Callable[..., Simulator],
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    simulator = start_simulator(spec=SPEC)
    classes = [
        {"name": "critical", "breaks": {"multiplier": 0.1, "floor_seconds": 0.1}},
        {"name": "batch", "breaks": {"multiplier": 1, "ceiling_seconds": 60}},
    ]
    clients = [{"name": c["name"], "key": key_of(str(c["name"])), "priority": c["name"]} for c in classes]
    north, south = (
        start_gateway(
            simulator,
            name=name,
            pools=POOLS,
            clients=clients,
            priorities=classes,
            state=redis_server.url,
            state_prefix=f"prio-{tmp_path.name}",
        )
        for name in ("north", "south")
    )
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 20}
    simulator.fault("429", times=1, retry_after_seconds=20)
    assert north.request("POST", CHAT, key=key_of("batch"), json_body=body).status == 429

    def refused() -> bool:
        answer = south.request("POST", CHAT, key=key_of("batch"), json_body=body)
        return answer.status == 429 and "429 RateLimitReached" in answer.json()["error"]["message"]

    eventually(refused, "the break in the other process")
    arrived = len(simulator.requests())
    assert refused()
    assert len(simulator.requests()) == arrived
    # For the critical class, a tenth of the hint is over soon, in both.
    eventually(
        lambda: south.request("POST", CHAT, key=key_of("critical"), json_body=body).status == 200,
        "a critical call",
    )
    assert south.request("POST", CHAT, key=key_of("batch"), json_body=body).status == 429
