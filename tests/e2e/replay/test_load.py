"""Many calls at once, and new configurations meanwhile: nothing is mixed up, no call fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Gateway, Host, Simulator, eventually
from tests.e2e.replay.load import (
    BROKEN,
    CLIENTS,
    FAST,
    POOLS,
    SLOW,
    SPEC,
    client,
    key_of,
    load,
    more,
    records,
    sections,
)
from tests.e2e.replay.stage import Caller, Lane, chat, text_of
from tests.e2e.settings import CLIENT_KEY, configuration
from tests.e2e.shared import Pair, running

STREAMS = 120


@pytest.fixture(scope="module")
def pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(f"load-{host}")
    with running(host, folder, home, spec=SPEC, **sections(folder / "usage.jsonl")) as pair:
        yield pair


@pytest.fixture
def simulator(pair: Pair) -> Simulator:
    """Resources that answer at once, and one that takes its time."""
    pair.simulator.reset()
    return pair.simulator


@pytest.fixture
def usage_path(pair: Pair) -> Path:
    return pair.gateway.config_path.with_name("usage.jsonl")


@pytest.fixture
def gateway(pair: Pair, simulator: Simulator, usage_path: Path) -> Iterator[Gateway]:
    """The module's gateway; what a test changes in its configuration is taken back."""
    gateway = pair.gateway
    before = gateway.log
    saved = gateway.config_path.read_text()
    yield gateway
    print(gateway.log.removeprefix(before))
    assert "Traceback" not in gateway.log
    if gateway.config_path.read_text() != saved:
        save(gateway, simulator, usage_path)


def prompts() -> list[str]:
    return [f"What is so special about the number {number}?" for number in range(STREAMS)]


async def stream_all(client: openai.AsyncOpenAI, model: str) -> list[str]:
    """Ask for all prompts at once, each as a stream."""

    async def one(prompt: str) -> str:
        stream: Any = await client.chat.completions.create(**chat(stream=True, prompt=prompt), model=model)
        parts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        return "".join(parts)

    async with client:
        return await asyncio.gather(*map(one, prompts()))


def direct_answers(simulator: Simulator) -> list[str]:
    """What the backends, which all think alike, say to each prompt without a gateway."""
    caller = Caller(int(simulator.urls["west"].rpartition(":")[2]))
    path, key = Lane("ptu").path, simulator.keys["west"]
    try:
        return [text_of(caller.post(path, chat(prompt=prompt), key=key)) for prompt in prompts()]
    finally:
        caller.close()


@pytest.mark.parametrize("model", ["fast", "slow"])
def test_many_streams_at_once(
    gateway: Gateway, simulator: Simulator, sdk: Sdk, usage_path: Path, model: str
) -> None:
    """Some of them after replays: each client gets the answer to its own prompt."""
    expected = direct_answers(simulator)
    assert len(set(expected)) == STREAMS
    simulator.reset()
    if model == "fast":
        simulator.fault("429", endpoint="west", times=20, retry_after_seconds=0.2)
        simulator.fault("reset", endpoint="east", times=1)
    name = "Streamer" if model == "fast" else "Patient"
    answers = asyncio.run(stream_all(sdk.asynchronous(gateway, "v1", key=key_of(name)), model))
    assert answers == expected
    eventually(lambda: len(records(usage_path, name)) >= STREAMS, "all are written down")
    written = records(usage_path, name)
    assert len(written) == len({record["call"] for record in written}) == STREAMS
    assert {record["outcome"] for record in written} == {"ok"}
    assert simulator.active()["in_flight"] == 0


@pytest.mark.each_host
def test_many_calls_on_few_connections(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    def is_well() -> bool:
        """Whether no call is trying the first backend any more, after what an earlier test did to it."""
        answer = gateway.request("POST", FAST.path, key=CLIENT_KEY, json_body=chat())
        return answer.headers["x-gateway-backend"].endswith("@west")

    eventually(is_well, "a first backend that is well")
    simulator.reset()
    with load(gateway, FAST, workers=8, key=key_of("Caller")) as answers:
        eventually(lambda: len(answers) > 400, "enough calls", 120)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert len({entry["connection"] for entry in simulator.requests()}) == 8
    eventually(lambda: len(records(usage_path, "Caller")) == len(answers), "all are written down")


def save(gateway: Gateway, simulator: Simulator, usage_path: Path, **changes: Any) -> None:
    """Save a changed configuration, and wait until the gateway says that it was reloaded."""
    made = configuration(simulator.urls, simulator.keys, **{**sections(usage_path), **changes})
    times = gateway.log.count("was reloaded")
    gateway.write(made)
    gateway.wait_until(lambda: gateway.log.count("was reloaded") > times, "reloaded")


def disabled(simulator: Simulator, endpoint: str) -> list[Mapping[str, Any]]:
    endpoints = configuration(simulator.urls, simulator.keys, pools=POOLS)["aoai"]["endpoints"]
    return [{**item, "enabled": False} if item["name"] == endpoint else item for item in endpoints]


@pytest.mark.each_host
def test_reloads_under_load(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    """No call fails, and a break outlives the configuration in which it began."""
    simulator.fault("429", endpoint="north", retry_after_seconds=60)
    assert gateway.request("POST", BROKEN.path, key=CLIENT_KEY, json_body=chat()).status == 200
    simulator.reset()
    with load(gateway, BROKEN) as answers:
        more(answers)
        others = [*CLIENTS, client("New")]
        save(gateway, simulator, usage_path, clients=others)
        more(answers)
        save(gateway, simulator, usage_path, limits={"body_mb": 50}, clients=others)
        more(answers)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert {answer.headers["x-gateway-backend"] for answer in answers} == {"spare@east"}
    assert {entry["endpoint"] for entry in simulator.requests()} == {"east"}
    answer = gateway.request("POST", FAST.path, key=key_of("New"), json_body=chat())
    assert answer.status == 200


def test_a_bad_file_changes_nothing(gateway: Gateway, simulator: Simulator) -> None:
    with load(gateway, FAST) as answers:
        more(answers)
        gateway.write({"aoai": {"endpoints": []}, "clients": "none"})
        gateway.wait_until(lambda: "has errors" in gateway.log, "aware of the errors")
        more(answers)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}


def test_an_endpoint_is_taken_out_by_a_save(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    with load(gateway, FAST) as answers:
        more(answers)
        save(gateway, simulator, usage_path, aoai={"endpoints": disabled(simulator, "west")})
        simulator.control("DELETE", "requests")
        done = len(answers)
        more(answers)
        # Calls under way keep the configuration they began with: at most one for each worker.
        after = [answer.headers["x-gateway-backend"] for answer in answers[done + 4 :]]
        assert {name.partition("@")[2] for name in after} == {"east"}
        save(gateway, simulator, usage_path)
        eventually(lambda: answers[-1].headers["x-gateway-backend"] == "ptu@west", "it is back")
    assert Counter(answer.status for answer in answers) == {200: len(answers)}


def test_a_client_is_taken_out_by_a_save(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    """Also one that is connected."""
    caller = Caller(gateway.port)
    assert caller.chat(FAST).status == 200
    others = [client("Tester", enabled=False), client("Other")]
    save(gateway, simulator, usage_path, clients=others)
    assert caller.chat(FAST).status == 401
    caller.close()


def test_streams_outlive_the_configuration_they_began_with(
    gateway: Gateway, simulator: Simulator, usage_path: Path, sdk: Sdk
) -> None:
    stream: Any = sdk(gateway).chat.completions.create(
        **chat(stream=True, prompt="say: " + "long " * 60), model="slow"
    )
    first = next(iter(stream))
    save(gateway, simulator, usage_path, aoai={"endpoints": disabled(simulator, "slow")})
    gone = gateway.request("POST", SLOW.path, key=CLIENT_KEY, json_body=chat())
    rest = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert first is not None
    assert "".join(rest).split() == ["long"] * 60
    assert gone.status in (404, 429), gone
