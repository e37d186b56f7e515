"""SIGTERM: running streams finish, no new client is let in, and the process ends in time."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Answer, Gateway, Simulator, eventually
from tests.e2e.replay.load import DRAIN_SECONDS, FAST, SPEC, more, records, sections
from tests.e2e.replay.stage import Caller, chat, text_of


@pytest.fixture(scope="module")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(SPEC, tmp_path_factory.mktemp("simulator"))
    yield simulator
    simulator.kill()


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """Resources that answer at once, and one that takes its time."""
    shared_simulator.reset()
    return shared_simulator


@pytest.fixture
def usage_path(tmp_path: Path) -> Path:
    return tmp_path / "usage.jsonl"


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], simulator: Simulator, usage_path: Path) -> Gateway:
    """A gateway for one test: it does not outlive it."""
    return start_gateway(simulator, **sections(usage_path))


def refuses(gateway: Gateway) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=2)
        connection.connect()
    except ConnectionRefusedError:
        return True
    connection.close()
    return False


@pytest.mark.each_host
def test_sigterm_lets_streams_finish(
    gateway: Gateway, simulator: Simulator, sdk: Sdk, usage_path: Path
) -> None:
    words = "still here " * 100
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
            await asyncio.to_thread(eventually, lambda: refuses(gateway), "new connections are refused")
            assert not all(task.done() for task in tasks)
            return await asyncio.gather(*tasks)

    answers = asyncio.run(run())
    assert [answer.split() for answer in answers] == [words.split()] * count
    assert gateway.wait(DRAIN_SECONDS) == 0
    written = records(usage_path)
    assert Counter(record["outcome"] for record in written) == {"ok": count}


@pytest.mark.each_host
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
    assert gateway.wait(DRAIN_SECONDS) == 0
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
    assert gateway.wait() == 0
    assert time.monotonic() - begun > 0.9
    eventually(lambda: simulator.active()["in_flight"] == 0, "the backend is free")
    assert len(records(usage_path)) == 1
    assert "Traceback" not in gateway.log


def test_sigterm_without_calls(gateway: Gateway) -> None:
    idle = Caller(gateway.port)
    assert idle.chat(FAST).status == 200
    begun = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - begun < DRAIN_SECONDS, "there was nothing to wait for"
    assert "Traceback" not in gateway.log
    idle.close()
