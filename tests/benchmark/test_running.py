"""A run that is stopped, and what it still waits for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import Any

from aoai_gateway.benchmark.plan import Consumer, Shape, Step, planned
from aoai_gateway.benchmark.running import Run
from tests.usage.records import record


class Caller:
    """Answers when it is told to; a call that is given up is one whose client has gone."""

    def __init__(self) -> None:
        self.under_way = 0
        self.were_all_busy = False
        self.answers = asyncio.Event()

    def prepare(self, planned: Any) -> Any:
        return type("Ready", (), {"planned": planned})()

    async def call(self, ready: Any) -> dict[str, Any]:
        self.under_way += 1
        outcome = "ok"
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            outcome = "client_gone"
        self.under_way -= 1
        return record(outcome=outcome, waited_ms=0.0)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to be")


async def stopped(*, answers: bool) -> tuple[Run, list[Any]]:
    loop, caller, written = asyncio.get_running_loop(), Caller(), list[Any]()
    step = Step(60_000, math.inf)
    calls = planned([step], [Shape(1, 1)], [Consumer("Ann", "k")], Random(1), arrivals="steady")
    run = Run(calls, [step], caller, begun=loop.time(), clock=loop.time, write=written.append)  # type: ignore[arg-type]
    task = asyncio.create_task(run.run())
    await until(lambda: run.sent >= 5)
    run.stop()
    await until(lambda: run.waits_for_the_rest)
    sent = run.sent
    await asyncio.sleep(0.02)
    assert run.sent == sent, "no further call is sent"
    assert run.now()["processing"] == sent
    assert not written
    if answers:
        caller.answers.set()
    else:
        run.stop()
    await asyncio.wait_for(task, 60)
    return run, written


def test_a_run_that_is_stopped_waits_for_its_answers() -> None:
    run, written = asyncio.run(stopped(answers=True))
    made = run.document()
    assert len(written) == run.sent == made["calls"] == made["completed"]
    assert made["steps"][0]["seconds"] < 60, "not the seconds that were planned, which have no end"


def test_told_twice_it_gives_them_up_and_writes_them_down() -> None:
    run, written = asyncio.run(stopped(answers=False))
    assert len(written) == run.sent
    assert run.document()["causes"] == {"timeout": run.sent}
