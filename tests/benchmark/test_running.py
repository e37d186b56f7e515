"""A run that is stopped, and what it still waits for."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from aoai_gateway.benchmark.plan import Consumer, Planned, Shape, Step, planned
from aoai_gateway.benchmark.running import FIRST_CALLS, Run
from tests.usage.records import attempt, record


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
    run = Run(
        calls,
        [step],
        caller,  # type: ignore[arg-type]
        consumers=["Ann"],
        of_one_shape=True,
        begun=loop.time(),
        clock=loop.time,
        write=written.append,
    )
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
    await asyncio.wait_for(task, 20)
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


class AtOnce(Caller):
    """Answers at once with these records, and with the last one ever after."""

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self._records = itertools.chain(records, itertools.repeat(records[-1]))

    async def call(self, ready: Any) -> dict[str, Any]:
        return next(self._records)


REFUSED = record(status=401, error="401", waited_ms=0.0)
UNTRUSTED = record(outcome="backends_out", status=None, attempts=[attempt(status=None, failure="tls")])
THROTTLED = record(status=429, error="429", waited_ms=0.0)
UNREACHED = record(outcome="backends_out", status=None, attempts=[attempt(status=None, failure="connect")])


BAD_REQUEST = record(status=400, error="context_length_exceeded", waited_ms=0.0)


async def ended(*records: dict[str, Any], of_one_shape: bool = True) -> Run:
    """A run of 50 calls at equal distances, each of which ends before the next one is due."""
    run = run_of(AtOnce(records), ["Ann"] * 50, of_one_shape=of_one_shape)
    await asyncio.wait_for(run.run(), 20)
    return run


def run_of(caller: Caller, consumers: Sequence[str], *, of_one_shape: bool = True) -> Run:
    """A run of one call a millisecond, for these consumers in turn."""
    loop, step = asyncio.get_running_loop(), Step(60_000, math.inf)
    calls = (
        Planned(number / 1000, 0, Consumer(name, "k"), Shape(1, 1))
        for number, name in enumerate(itertools.cycle(consumers))
    )
    return Run(
        calls,
        [step],
        caller,  # type: ignore[arg-type]
        consumers=set(consumers),
        of_one_shape=of_one_shape,
        begun=loop.time(),
        clock=loop.time,
        write=lambda _: None,
        most=len(consumers),
    )


@pytest.mark.parametrize("refused", [REFUSED, UNTRUSTED, BAD_REQUEST])
def test_it_ends_early_where_the_first_calls_are_refused_for_what_lasts(refused: dict[str, Any]) -> None:
    run = asyncio.run(ended(refused))
    assert run.ended_early
    assert run.document()["ended_early"]
    assert FIRST_CALLS <= run.sent < 50


@pytest.mark.parametrize("other", [record(), THROTTLED, UNREACHED])
def test_it_goes_on_where_an_early_call_was_not(other: dict[str, Any]) -> None:
    run = asyncio.run(ended(REFUSED, other, REFUSED))
    assert not run.ended_early
    assert run.sent == 50


def test_it_goes_on_where_bad_requests_say_nothing_of_calls_of_other_shapes() -> None:
    run = asyncio.run(ended(BAD_REQUEST, of_one_shape=False))
    assert not run.ended_early
    assert run.sent == 50


class AnnAtOnce(Caller):
    """Refuses Ann's calls at once, and gives all others the same answer when it is told to."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self._answer = answer
        self.refused = 0

    async def call(self, ready: Any) -> dict[str, Any]:
        if ready.planned.consumer.name == "Ann":
            self.refused += 1
            return REFUSED
        await self.answers.wait()
        return self._answer


async def with_slow_answers(answer: dict[str, Any], consumers: Sequence[str], *, after: int) -> Run:
    """A run in which slow calls are answered when so many of Ann's were refused."""
    caller = AnnAtOnce(answer)
    run = run_of(caller, consumers)
    task = asyncio.create_task(run.run())
    await until(lambda: caller.refused >= after)
    assert not run.ended_early, "the calls under way may be served"
    caller.answers.set()
    await asyncio.wait_for(task, 20)
    return run


def test_it_goes_on_where_other_calls_that_were_sent_before_are_served_later() -> None:
    consumers = ["Ben", *["Ann"] * 99]
    run = asyncio.run(with_slow_answers(record(), consumers, after=90))
    assert not run.ended_early
    assert run.sent == run.document()["calls"] == 100


def test_it_goes_on_where_another_consumer_has_had_no_answer_yet() -> None:
    consumers = [*["Ann"] * 50, "Ben", *["Ann"] * 49]
    run = asyncio.run(with_slow_answers(record(), consumers, after=90))
    assert not run.ended_early
    assert run.sent == 100


def test_it_ends_early_when_the_slow_calls_were_refused_too() -> None:
    consumers = ["Ann", "Ben"] * 5_000
    run = asyncio.run(with_slow_answers(REFUSED, consumers, after=20))
    assert run.ended_early
    assert run.sent < 10_000
