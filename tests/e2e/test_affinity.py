"""Agents of fifty turns before three resources: throttled at random, and over restarts of the gateway.

Each turn continues what earlier ones left at one resource. A call that is sent to another one is refused
there, with 404 or 400, so the simulator's log shows whether the gateway knew the way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Simulator
from tests.e2e.settings import configuration
from tests.redis_server import RedisServer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TURNS = 50
TRIES = 3
SELDOM = 2
_MODEL = {"model": "gpt-4o", "first_token_seconds": 0, "tokens_per_second": 0}
SPEC = {name: {"region": name, "deployments": {"gpt": _MODEL}} for name in ("sweden", "france", "norway")}
POOLS = {name: {"gpt-4o": ["gpt"]} for name in SPEC}
BREAKS = {"default_seconds": 0.05, "floor_seconds": 0.05, "ceiling_seconds": 0.05}


class Agent:
    """What one agent has of its earlier turns: ids, and reasoning that only one resource can read."""

    def __init__(self) -> None:
        self._previous: str | None = None
        self._history: list[Any] = []
        self._conversation = self._assistant = self._thread = self._file = ""

    def turn(self, client: openai.OpenAI, number: int) -> None:
        """Continue everything; what is there no more fails."""
        asked: list[Any] = [{"role": "user", "content": f"turn {number}"}]
        model = "gpt-4o"
        answer = client.responses.create(model=model, input=asked, previous_response_id=self._previous)
        assert client.responses.retrieve(answer.id).id == answer.id
        self._previous = answer.id
        thought = client.responses.create(
            model=model,
            input=[*self._history, *asked],
            store=False,
            include=["reasoning.encrypted_content"],
        )
        self._history = [item.model_dump(exclude_none=True) for item in thought.output][-4:]
        self._conversation = self._conversation or client.conversations.create().id
        client.responses.create(model=model, input="x", conversation=self._conversation)
        beta = client.beta
        self._assistant = self._assistant or beta.assistants.create(model=model).id
        self._thread = self._thread or beta.threads.create().id
        beta.threads.messages.create(self._thread, role="user", content="x")
        beta.threads.runs.create(self._thread, assistant_id=self._assistant)
        if not self._file:
            self._file = client.files.create(
                file=("b.jsonl", b'{"body": {"model": "gpt-4o"}}'), purpose="batch"
            ).id
        batch = client.batches.create(
            input_file_id=self._file, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert client.batches.retrieve(batch.id).id == batch.id


def throttle(simulator: Simulator, draw: random.Random) -> None:
    """Now and then, have a resource refuse the next call."""
    if draw.random() < 0.4:
        simulator.fault("429", retry_after_seconds=0.05, endpoint=draw.choice(list(SPEC)))


def misled(simulator: Simulator) -> list[tuple[str, int, str]]:
    """The calls that came to a resource which does not have what they need."""
    found = [(each["endpoint"], each["status"], each["target"]) for each in simulator.requests()]
    return [each for each in found if each[1] in (400, 404)]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    made = Simulator(SPEC, tmp_path_factory.mktemp("resources"))
    yield made
    made.kill()


type Start = Callable[[str], Gateway]


@contextmanager
def gateways(simulator: Simulator, folder: Path, home: Path, **sections: Any) -> Iterator[Start]:
    """Start gateways by name, with the same configuration; all of them are gone in the end."""
    simulator.reset()
    config = configuration(simulator.urls, simulator.keys, pools=POOLS, breaks=BREAKS, **sections)
    for endpoint in config["aoai"]["endpoints"]:
        # Else the first one would get nearly all.
        endpoint["virtual_deployments"][0]["strategy"] = "weighted"
    started: list[Gateway] = []

    def start(name: str) -> Gateway:
        started.append(Gateway("serve", config, folder, home=home, name=name))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.kill()


def test_an_agent_of_fifty_turns_is_not_lost_when_the_gateway_is_started_anew(
    simulator: Simulator, tmp_path: Path, home: Path, sdk: Sdk
) -> None:
    draw = random.Random(12)
    agent = Agent()
    with gateways(simulator, tmp_path, home, affinity_file=str(tmp_path / "affinity")) as start:
        gateway = start("first")
        for number in range(TURNS):
            if number == TURNS // 2:
                assert gateway.stop() == 0, gateway.log
                gateway = start("second")
            throttle(simulator, draw)
            agent.turn(sdk(gateway, "v1").with_options(max_retries=8), number)
        assert gateway.stop() == 0, gateway.log
    assert misled(simulator) == []
    assert len({each["endpoint"] for each in simulator.requests()}) == len(SPEC)


def test_two_gateways_that_share_redis_know_the_way_for_each_other(
    simulator: Simulator, redis_server: RedisServer, tmp_path: Path, home: Path, sdk: Sdk
) -> None:
    def play(prefix: str) -> list[tuple[str, int, str]]:
        draw, agent = random.Random(5), Agent()
        with gateways(simulator, tmp_path, home, state=redis_server.url, state_prefix=prefix) as start:
            both = [start("north"), start("south")]
            for number in range(TURNS):
                if number == TURNS // 2:
                    assert both[0].stop() == 0, both[0].log
                    both[0] = start("north again")
                throttle(simulator, draw)
                agent.turn(sdk(both[number % 2], "v1").with_options(max_retries=8), number)
            for each in both:
                assert each.stop() == 0, each.log
        assert len({each["endpoint"] for each in simulator.requests()}) == len(SPEC)
        return misled(simulator)

    # Where the machine is busy, a call may come to one before it has heard of what was made at the other a
    # moment ago. Then it finds its way by a 404; but seldom, and not in each of some runs.
    found = [("", 0, "")]
    for number in range(TRIES):
        found = play(f"agent-{tmp_path.name}-{number}")
        print(found)
        assert len(found) <= SELDOM
        if not found:
            break
    assert found == []
