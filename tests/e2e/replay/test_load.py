"""Many at once: nothing is mixed up, and neither a reload nor the end of the process hurts anybody."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Answer, Gateway, Simulator
from tests.e2e.replay.stage import Caller, Lane, chat, eventually, text_of
from tests.e2e.settings import CLIENT_KEY, configuration

STREAMS = 200

_INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
_PACED = {"first_token_seconds": 0.1, "tokens_per_second": 40}

SPEC: dict[str, Any] = {
    "west": {"region": "West Europe", "deployments": {"ptu": {"model": "gpt-4o", **_INSTANT}}},
    "east": {
        "region": "East US 2",
        "deployments": {"spare": {"model": "gpt-4o", **_INSTANT}, "extra": {"model": "gpt-4o", **_INSTANT}},
    },
    "slow": {"region": "UK South", "deployments": {"slow": {"model": "gpt-4o", **_PACED}}},
}
POOLS = {
    "west": {"fast": ["ptu"]},
    "east": {"fast": ["spare", "extra"]},
    "slow": {"slow": ["slow"]},
}
FAST, SLOW = Lane("fast"), Lane("slow")


@pytest.fixture
def simulator(start_simulator: Callable[..., Simulator]) -> Simulator:
    """Two resources that answer at once, and one that takes its time."""
    return start_simulator(SPEC)


@pytest.fixture
def usage_path(tmp_path: Path) -> Path:
    return tmp_path / "usage.jsonl"


def sections(usage_path: Path) -> dict[str, Any]:
    return {"pools": POOLS, "usage_log": str(usage_path), "drain_seconds": 8}


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], simulator: Simulator, usage_path: Path) -> Gateway:
    return start_gateway(simulator, **sections(usage_path))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- none mixed up ---------------------------------------------------------------------------------------


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
    """Some of them after replays: whatever happens, everybody gets the answer to his own prompt."""
    expected = direct_answers(simulator)
    assert len(set(expected)) == STREAMS
    simulator.reset()
    if model == "fast":
        simulator.fault("429", endpoint="west", times=20, retry_after_seconds=0.2)
        simulator.fault("reset", endpoint="east", times=1)
    answers = asyncio.run(stream_all(sdk.asynchronous(gateway, "v1"), model))
    assert answers == expected
    eventually(lambda: len(records(usage_path)) >= STREAMS, "all are written down")
    written = records(usage_path)
    assert len(written) == len({record["call"] for record in written}) == STREAMS
    assert {record["outcome"] for record in written} == {"ok"}
    assert simulator.active()["in_flight"] == 0


def test_many_calls_on_few_connections(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    with load(gateway, FAST, workers=8) as answers:
        eventually(lambda: len(answers) > 400, "enough calls", 60)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert len({entry["connection"] for entry in simulator.requests()}) == 8
    eventually(lambda: len(records(usage_path)) == len(answers), "all are written down")


# --- hot reload ------------------------------------------------------------------------------------------


@contextmanager
def load(gateway: Gateway, lane: Lane, *, workers: int = 4) -> Iterator[list[Answer]]:
    """Have clients call without a pause, every other call streaming; gives their answers as they come."""
    over = threading.Event()
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def work(name: int) -> None:
        caller, number = Caller(gateway.port), 0
        try:
            while not over.is_set():
                number += 1
                text = f"worker {name}, call {number}"
                answer = caller.chat(lane, stream=number % 2 == 0, prompt=f"say: {text}")
                if answer.status == 200:
                    assert text_of(answer) == text
                answers.append(answer)
        except BaseException as error:
            failures.append(error)
        finally:
            caller.close()

    threads = [threading.Thread(target=work, args=[name]) for name in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def more(answers: list[Answer], count: int = 40) -> None:
    """Wait until so many more calls have been answered."""
    wanted = len(answers) + count
    eventually(lambda: len(answers) >= wanted, f"{count} more answers", 30)


def save(gateway: Gateway, simulator: Simulator, usage_path: Path, **changes: Any) -> None:
    """Save a changed configuration, and wait until the gateway says that it was reloaded."""
    times = gateway.log.count("was reloaded")
    made = configuration(simulator.urls, simulator.keys, **{**sections(usage_path), **changes})
    gateway.write(made)
    gateway.wait_until(lambda: gateway.log.count("was reloaded") > times, "reloaded")


def disabled(simulator: Simulator, endpoint: str) -> list[Mapping[str, Any]]:
    endpoints = configuration(simulator.urls, simulator.keys, pools=POOLS)["aoai"]["endpoints"]
    return [{**item, "enabled": False} if item["name"] == endpoint else item for item in endpoints]


def test_reloads_under_load(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    """No call fails, and a break outlives the configuration in which it began."""
    simulator.fault("429", endpoint="west", retry_after_seconds=60)
    assert gateway.request("POST", FAST.path, key=CLIENT_KEY, json_body=chat()).status == 200
    simulator.reset()
    with load(gateway, FAST) as answers:
        more(answers)
        others = [{"name": "Tester", "key": CLIENT_KEY}, {"name": "New", "key": "new-client-key-1"}]
        save(gateway, simulator, usage_path, clients=others)
        more(answers)
        save(gateway, simulator, usage_path, limits={"body_mb": 50}, clients=others)
        more(answers)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert {answer.headers["x-gateway-backend"] for answer in answers} == {"spare@east"}
    assert {entry["endpoint"] for entry in simulator.requests()} == {"east"}
    answer = gateway.request("POST", FAST.path, key="new-client-key-1", json_body=chat())
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
        assert set(after) == {"spare@east"}
        save(gateway, simulator, usage_path)
        eventually(lambda: answers[-1].headers["x-gateway-backend"] == "ptu@west", "it is back")
    assert Counter(answer.status for answer in answers) == {200: len(answers)}


def test_a_client_is_taken_out_by_a_save(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    """Also one that is connected."""
    caller = Caller(gateway.port)
    assert caller.chat(FAST).status == 200
    clients = [
        {"name": "Tester", "key": CLIENT_KEY, "enabled": False},
        {"name": "Other", "key": "other-client-key-1"},
    ]
    save(gateway, simulator, usage_path, clients=clients)
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


# --- the end ---------------------------------------------------------------------------------------------


def refuses(gateway: Gateway) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=2)
        connection.connect()
    except ConnectionRefusedError:
        return True
    connection.close()
    return False


def test_sigterm_lets_streams_finish(
    gateway: Gateway, simulator: Simulator, sdk: Sdk, usage_path: Path
) -> None:
    words = "still here " * 30
    count = 20

    async def run() -> list[str]:
        begun = asyncio.Semaphore(0)

        async def one() -> str:
            stream: Any = await client.chat.completions.create(
                **chat(stream=True, prompt=f"say: {words}"), model="slow"
            )
            parts: list[str] = []
            async for chunk in stream:
                if not parts:
                    begun.release()
                parts += [choice.delta.content or "" for choice in chunk.choices]
            return "".join(parts)

        async with sdk.asynchronous(gateway, "v1") as client:
            tasks = [asyncio.create_task(one()) for _ in range(count)]
            for _ in tasks:
                await begun.acquire()
            gateway.send()
            await asyncio.to_thread(eventually, lambda: refuses(gateway), "new connections are refused", 5)
            assert not any(task.done() for task in tasks)
            return await asyncio.gather(*tasks)

    answers = asyncio.run(run())
    assert [answer.split() for answer in answers] == [words.split()] * count
    assert gateway.wait(8) == 0
    written = records(usage_path)
    assert Counter(record["outcome"] for record in written) == {"ok": count}


def test_sigterm_under_load(gateway: Gateway, simulator: Simulator, usage_path: Path) -> None:
    """Every call that is answered is answered well, or told to come back; no answer is half an answer."""
    answers: list[Answer] = []
    broken: list[str] = []

    def work() -> None:
        caller = Caller(gateway.port)
        try:
            while True:
                answers.append(caller.chat(FAST))
        except http.client.IncompleteRead:
            broken.append("half an answer")
        except (OSError, http.client.HTTPException):
            pass  # the process is gone, or the idle connection is
        finally:
            caller.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    more(answers)
    gateway.send()
    assert gateway.wait(8) == 0
    for thread in threads:
        thread.join()
    assert not broken
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) <= {200, 503}
    for answer in answers:
        if answer.status == 503:
            assert answer.json()["error"]["code"] == "unavailable"
        else:
            assert text_of(answer)
    assert len(records(usage_path)) >= statuses[200]


def test_what_does_not_end_is_cut_off(
    start_gateway: Callable[..., Gateway], simulator: Simulator, sdk: Sdk, usage_path: Path
) -> None:
    """At the limit, and not before; the client is not made to believe that this was all."""
    gateway = start_gateway(simulator, **{**sections(usage_path), "drain_seconds": 1})
    simulator.fault("stall", deployment="ptu", events=5)
    stream = sdk(gateway).chat.completions.create(**chat(stream=True), model="fast")
    next(iter(stream))
    begun = time.monotonic()
    gateway.send()
    with pytest.raises(openai.APIError):
        list(stream)
    assert gateway.wait(10) == 0
    assert 0.9 < time.monotonic() - begun < 5
    eventually(lambda: simulator.active()["in_flight"] == 0, "the backend is free")


def test_sigterm_without_calls(gateway: Gateway) -> None:
    idle = Caller(gateway.port)
    assert idle.chat(FAST).status == 200
    begun = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - begun < 5
    idle.close()
