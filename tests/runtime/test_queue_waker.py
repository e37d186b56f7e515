"""Calls in a queue on the event loop: who is woken, when, and how often the scheduler is asked."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from aoai_gateway.runtime import queue_waker as module
from aoai_gateway.runtime.queue_waker import QueueWaker

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """Monotonic time as `waiting` reads it, which runs ahead of the loop's timers as a test wants it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.worked = 0.0
        """Seconds of the processor's time."""

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def thread_time(self) -> float:
        return self.worked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


class Scheduler:
    """Releases whom it is told to."""

    def __init__(self) -> None:
        self.look_again = math.inf
        self.room: list[str] = []
        self.asked = 0

    def serve_waiting(self, now: float) -> list[Any]:
        self.asked += 1
        released, self.room = self.room, []
        return [SimpleNamespace(call_id=ident) for ident in released]


def queue() -> tuple[QueueWaker, Scheduler]:
    scheduler: Any = Scheduler()
    return QueueWaker(scheduler), scheduler


LATER = 1_000.0


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_finds_room_does_not_wait(clock: Clock) -> None:
    waiting, scheduler = queue()
    scheduler.room = ["1"]
    assert waiting.stand("1", clock.monotonic() + LATER) is None


async def test_whose_time_is_over_does_not_wait(clock: Clock) -> None:
    waiting, _ = queue()
    assert waiting.stand("1", clock.monotonic()) is None


async def test_only_who_is_released_is_woken(clock: Clock) -> None:
    waiting, scheduler = queue()
    first = waiting.stand("1", clock.monotonic() + LATER)
    second = waiting.stand("2", clock.monotonic() + LATER)
    assert first is not None
    assert second is not None
    scheduler.room = ["2"]
    waiting.changed()
    await turns()
    assert (first.done(), second.done()) == (False, True)


async def test_however_much_happens_in_a_turn_it_is_asked_once(clock: Clock) -> None:
    waiting, scheduler = queue()
    waiting.stand("1", clock.monotonic() + LATER)
    before = scheduler.asked
    for _ in range(100):
        waiting.changed()
    await turns()
    assert scheduler.asked == before + 1
    waiting.changed()
    await turns()
    assert scheduler.asked == before + 2


async def test_without_a_waiting_call_no_scheduler_is_asked(clock: Clock) -> None:
    waiting, scheduler = queue()
    waiting.changed()
    await turns()
    assert scheduler.asked == 0


async def test_waiting_calls_are_not_polled(clock: Clock) -> None:
    waiting, scheduler = queue()
    waiting.stand("1", clock.monotonic() + LATER)
    before = scheduler.asked
    await asyncio.sleep(0.05)
    assert scheduler.asked == before


async def test_it_looks_again_when_the_scheduler_says(clock: Clock) -> None:
    waiting, scheduler = queue()
    scheduler.look_again = clock.monotonic() + 0.01
    future = waiting.stand("1", clock.monotonic() + LATER)
    assert future is not None
    scheduler.room, scheduler.look_again = ["1"], math.inf
    await asyncio.wait_for(future, 60)


async def test_a_call_is_woken_when_its_own_time_is_over(clock: Clock) -> None:
    waiting, _ = queue()
    future = waiting.stand("1", clock.monotonic() + 0.01)
    other = waiting.stand("2", clock.monotonic() + LATER)
    assert future is not None
    assert other is not None
    await asyncio.wait_for(future, 60)
    assert not other.done()


async def test_a_client_that_has_gone_is_woken_at_once_and_only_once(clock: Clock) -> None:
    waiting, scheduler = queue()
    future = waiting.stand("1", clock.monotonic() + LATER)
    assert future is not None
    waiting.left("1")
    waiting.left("1")
    assert future.done()
    scheduler.room = ["1"]
    waiting.changed()
    await turns()


async def test_who_is_released_after_it_was_woken_does_no_harm(clock: Clock) -> None:
    waiting, scheduler = queue()
    future = waiting.stand("1", clock.monotonic() + 5)
    waiting.stand("2", clock.monotonic() + LATER)
    assert future is not None
    clock.ahead = 10
    waiting.changed()
    await turns()
    assert future.done()
    scheduler.room = ["1"]
    waiting.changed()
    await turns()
    assert future.done()


async def test_a_waiter_that_was_cancelled_does_not_stop_the_others(clock: Clock) -> None:
    waiting, scheduler = queue()
    first = waiting.stand("1", clock.monotonic() + LATER)
    second = waiting.stand("2", clock.monotonic() + LATER)
    assert first is not None
    assert second is not None
    first.cancel()
    scheduler.room = ["1", "2"]
    waiting.changed()
    await turns()
    assert second.done()


async def test_a_clock_that_jumps_wakes_all_whose_time_is_over(clock: Clock) -> None:
    waiting, _ = queue()
    futures = [waiting.stand(str(n), clock.monotonic() + 100 + n) for n in range(5)]
    clock.ahead = 86_400
    waiting.changed()
    await turns()
    assert all(future is not None and future.done() for future in futures)


async def test_times_that_are_near_do_not_make_it_spin(clock: Clock) -> None:
    waiting, scheduler = queue()
    scheduler.look_again = -math.inf
    waiting.stand("1", clock.monotonic() + LATER)
    before = scheduler.asked
    await asyncio.sleep(0.05)
    assert scheduler.asked - before <= 60
    waiting.left("1")


async def test_looks_that_take_long_leave_time_for_all_else(clock: Clock) -> None:
    waiting, scheduler = queue()
    first = waiting.stand("1", clock.monotonic() + LATER)
    serve, cost = scheduler.serve_waiting, 0.02

    def slow(now: float) -> list[Any]:
        clock.worked += cost
        return serve(now)

    scheduler.serve_waiting = slow  # type: ignore[method-assign]
    waiting.changed()
    await turns()
    before = scheduler.asked
    scheduler.room = ["1", "2"]
    second = waiting.stand("2", clock.monotonic() + LATER)
    for _ in range(10):
        waiting.changed()
        await turns()
    assert scheduler.asked == before, "it has just looked"
    assert first is not None
    assert second is not None
    await asyncio.wait_for(asyncio.gather(first, second), 60)
    assert scheduler.asked == before + 1


async def test_who_may_not_wait_is_woken_though_looks_take_long(clock: Clock) -> None:
    waiting, scheduler = queue()
    serve = scheduler.serve_waiting

    def slow(now: float) -> list[Any]:
        clock.worked += 0.01
        return serve(now)

    scheduler.serve_waiting = slow  # type: ignore[method-assign]
    waiting.stand("1", clock.monotonic() + LATER)
    future = waiting.stand("2", clock.monotonic())
    assert future is not None
    await asyncio.wait_for(future, 60)
    waiting.left("1")
