"""Losing Redis: nothing fails, nothing waits, nothing is counted twice, and it comes back."""

import asyncio
import itertools
import logging
import time
from random import Random

import pytest

from aoai_gateway.quota.quotas import Budget, Decision, Quota, Reservation
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.failover import FailoverState
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState

ids = (f"call{n}" for n in itertools.count())


def call(tokens: int, *quotas: Quota) -> Reservation:
    return Reservation(next(ids), "team", quotas, tokens)


async def got(answer):
    return answer if answer is None or isinstance(answer, Decision | dict) else await answer


class Flaky:
    """A shared store that is a memory store, and can be cut off before or after it acts."""

    address = "redis://flaky"

    def __init__(self, clock) -> None:
        self.memory = MemoryState()
        self.clock = clock
        self.calls: list[str] = []
        self.cut = ""
        self.ended: set[str] = set()
        self.tasks: set[asyncio.Future[None]] = set()
        self.bookings = asyncio.Semaphore(1_000_000)  # how many more `book`s may go on

    def __getattr__(self, name: str):
        async def operation(*arguments, **named):
            self.calls.append(name)
            await asyncio.sleep(0)
            if name == "book":
                await self.bookings.acquire()
            if self.cut == "before":
                raise StateUnavailableError("cut off")
            now = self.clock()
            if name in ("book", "charge") and arguments[0].id in self.ended:
                answer = None
            elif name == "book":
                answer = self.memory.book(arguments[0], now)
            elif name == "charge":
                reservation, tokens, _age = arguments
                self.ended.add(reservation.id)
                self.memory.book(reservation, now)
                answer = self.memory.settle(reservation, tokens, now, **named)
            else:
                own_time = arguments if len(arguments) > 1 and name != "open_break" else (*arguments, 0)
                if name == "open_break":
                    own_time = (*arguments[:3], 0)
                elif name == "breaks":
                    own_time = (0,)
                answer = getattr(self.memory, name)(*own_time[:-1], now, **named)
            if self.cut == "after":
                raise StateUnavailableError("the answer was lost")
            return answer

        return operation

    def tell_end(self, reservation, used, took) -> None:
        async def end() -> None:
            error = None
            try:
                if used is None:
                    await self.cancel(reservation, 0)
                else:
                    await self.settle(reservation, used[0], 0, cost=used[1])
            except StateUnavailableError as cut:
                error = cut
            took(error)

        task = asyncio.ensure_future(end())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def aclose(self) -> None:
        pass


def scenario(story):
    """Run `story(state, shared, local, clock)` with a clock that it sets: clock.now."""

    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    async def run():
        clock = Clock()
        shared, local = Flaky(clock), MemoryState()
        state = FailoverState(shared, local, random=Random(1), clock=clock, first_pause=0.001)
        try:
            await story(state, shared, local, clock)
        finally:
            await state.aclose()

    asyncio.run(run())


async def until(condition, seconds: float = 40, *, pause: float = 0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(pause)


async def until_back(state: FailoverState) -> None:
    await until(lambda: state.degraded_since is None)


def remaining(store: MemoryState, quota: Quota, now: float) -> list[int]:
    return [s.remaining for s in store.peek(call(0, quota), now).standings]


DAILY = Quota(None, 1000, 100, 10_000)


@pytest.mark.parametrize("cut", ["", "before", "after"])
@pytest.mark.parametrize("ends", ["before it is told", "after it was told"])
def test_what_is_booked_by_force_counts_once_wherever_it_ends(cut: str, ends: str):
    async def story(state, shared, local, clock):
        await got(state.reserve(call(1000, DAILY), clock.now))
        served = call(300, DAILY)
        shared.cut = cut
        told = state.book(served, clock.now)
        if ends == "before it is told":
            ended = state.settle(served, 200, clock.now)
            await asyncio.gather(got(told), got(ended))
        else:
            await got(told)
            await got(state.settle(served, 200, clock.now))
        shared.cut = ""
        await until_back(state)
        await until(state._outbox.is_told)
        assert remaining(local, DAILY, clock.now) == [0, 98, 8800]
        assert remaining(shared.memory, DAILY, clock.now) == [0, 98, 8800]

    scenario(story)


def test_local_counters_know_what_this_process_was_granted():
    async def story(state, shared, local, clock):
        assert (await got(state.reserve(call(700, DAILY), clock.now))).admitted
        shared.cut = "before"
        refused = await got(state.reserve(call(400, DAILY), clock.now + 20))
        assert not refused.admitted
        assert refused.retry_after == 40
        assert state.degraded_since == clock.now + 20
        # From now on the answers come on the spot, and the shared store is left alone.
        shared.calls.clear()
        assert isinstance(state.reserve(call(300, DAILY), clock.now + 21), Decision)
        assert shared.calls == []

    scenario(story)


@pytest.mark.parametrize("cut", ["before", "after"])
def test_reservations_settle_across_the_loss_and_the_return(cut):
    """Whichever side made it, and whether or not the answer got through, each counts once."""

    async def story(state, shared, local, clock):
        shared_one, lost_one, local_one, ended, dropped = (call(100, DAILY) for _ in range(5))
        await got(state.reserve(shared_one, clock.now))
        shared.cut = cut
        for reservation in (lost_one, local_one, ended, dropped):
            assert (await got(state.reserve(reservation, clock.now))).admitted
        assert await got(state.settle(ended, 70, clock.now)) is None
        assert await got(state.cancel(dropped, clock.now)) is None
        assert await got(state.settle(shared_one, 60, clock.now)) is None
        shared.cut = ""
        await until_back(state)
        assert remaining(shared.memory, DAILY, clock.now)[0] == 1000 - 70 - 60 - 200
        await got(state.settle(lost_one, 10, clock.now))
        await got(state.cancel(local_one, clock.now))
        for store in (shared.memory, local):
            assert remaining(store, DAILY, clock.now) == [1000 - 140, 97, 10_000 - 140]
            assert store.open_reservations == 0
        # A second end of the same call changes nothing.
        await got(state.settle(lost_one, 500, clock.now))
        assert remaining(shared.memory, DAILY, clock.now)[0] == 860

    scenario(story)


def test_money_that_was_spent_while_the_store_was_lost_is_told():
    budget = Budget("cost/", tokens_per_day=1_000_000)

    async def story(state, shared, local, clock):
        shared.cut = "before"
        for _ in range(3):
            made = Reservation(next(ids), "team", (DAILY, budget), 100, cost=50_000)
            assert (await got(state.reserve(made, clock.now))).admitted
            assert await got(state.settle(made, 70, clock.now, 20_000)) is None
        shared.cut = ""
        await until_back(state)
        for store in (shared.memory, local):
            assert remaining(store, budget, clock.now) == [1_000_000 - 60_000]
            assert remaining(store, DAILY, clock.now) == [1000 - 210, 97, 10_000 - 210]

    scenario(story)


def test_a_store_that_comes_back_empty_is_told_of_running_calls():
    async def story(state, shared, local, clock):
        running = call(100, DAILY)
        await got(state.reserve(running, clock.now))
        shared.cut = "before"
        await got(state.peek(call(0, DAILY), clock.now))
        shared.memory = MemoryState()
        shared.cut = ""
        await until_back(state)
        assert remaining(shared.memory, DAILY, clock.now) == [900, 99, 9900]
        await got(state.settle(running, 30, clock.now))
        assert remaining(shared.memory, DAILY, clock.now) == [970, 99, 9970]

    scenario(story)


def test_an_end_that_overtakes_its_own_booking_leaves_nothing_behind():
    async def story(state, shared, local, clock):
        first, second = call(100, DAILY), call(100, DAILY)
        shared.cut = "before"
        await got(state.reserve(first, clock.now))
        shared.cut = ""
        shared.bookings = asyncio.Semaphore(0)
        await until(lambda: "book" in shared.calls)  # the first is being told,
        await got(state.reserve(second, clock.now))  # and the second has missed the list
        shared.bookings.release()
        await until(lambda: shared.calls.count("book") == 2)
        assert state.degraded_since is None
        await got(state.settle(second, 40, clock.now))
        shared.bookings.release()
        await until(lambda: "cancel" in shared.calls)
        await asyncio.sleep(0.01)
        await got(state.settle(first, 10, clock.now))
        assert shared.memory.open_reservations == 0
        assert remaining(shared.memory, DAILY, clock.now) == [950, 98, 9950]

    scenario(story)


def test_a_long_outage_is_remembered_in_sum():
    async def story(state, shared, local, clock):
        shared.cut = "before"
        for minute in range(30):
            now = clock.now + 60 * minute
            for _ in range(5):
                reservation = call(100, DAILY)
                assert (await got(state.reserve(reservation, now))).admitted
                await got(state.settle(reservation, 50, now))
        clock.now += 60 * 30
        waiting = state._outbox
        assert len(waiting._recent_ends) + len(waiting._old_ends) + len(waiting._sent_ends) <= 3
        shared.cut = ""
        await until_back(state)
        assert remaining(shared.memory, DAILY, clock.now)[2] == 10_000 - 30 * 5 * 50

    scenario(story)


def test_the_log_says_it_once_each_way(caplog):
    async def story(state, shared, local, clock):
        shared.cut = "before"
        await asyncio.gather(*(got(state.reserve(call(1, DAILY), clock.now)) for _ in range(20)))
        await got(state.breaks(clock.now))
        await asyncio.sleep(0.05)
        shared.cut = ""
        await until_back(state)

    with caplog.at_level(logging.INFO, "aoai_gateway.state"):
        scenario(story)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_cancelled_caller_leaves_no_reservation():
    async def story(state, shared, local, clock):
        task = asyncio.ensure_future(state.reserve(call(100, DAILY), clock.now))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ending = call(100, DAILY)
        await got(state.reserve(ending, clock.now))
        task = asyncio.ensure_future(state.settle(ending, 40, clock.now))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0.01)
        assert remaining(shared.memory, DAILY, clock.now)[0] == 960

    scenario(story)


def test_breaks_outlive_the_loss():
    async def story(state, shared, local, clock):
        await got(state.open_break("sweden/gpt-4o-ptu", "batch", 30, clock.now))
        shared.cut = "before"
        await got(state.open_break("france/gpt-4o", "batch", 20, clock.now))
        assert dict(await got(state.breaks(clock.now))) == {
            ("sweden/gpt-4o-ptu", "batch"): 30,
            ("france/gpt-4o", "batch"): 20,
        }
        shared.cut = ""
        await until_back(state)
        assert dict(shared.memory.breaks(clock.now)) == dict(await got(state.breaks(clock.now)))
        assert len(shared.memory.breaks(clock.now)) == 2

    scenario(story)


type Span = tuple[float, float]
"""When something began, and when it ended."""


def unstalled(span: Span, stalls: list[Span]) -> float:
    """Return the seconds of a span in which the process was not stalled."""
    began, ended = span
    return ended - began - sum(max(0.0, min(ended, end) - max(began, start)) for start, end in stalls)


@pytest.mark.serial
def test_redis_killed_and_back_during_load(own_redis, caplog):
    """Sixteen callers for a few seconds; the server dies and returns empty in between."""
    quota = Quota("gpt-4o", 10_000_000, None, 50_000_000)
    patience = 5  # seconds: a busy machine must not lose the server before it is killed

    async def story():
        shared = RedisState(own_redis.url, timeout=patience)
        state = FailoverState(shared, MemoryState(), random=Random(1))
        state.start()
        served, stop = 0, False
        slow, stalls = list[Span](), list[Span]()  # calls that took long; when nothing ran here

        async def caller():
            nonlocal served
            while not stop:
                reservation, began = call(100, quota), time.perf_counter()
                decision = await got(state.reserve(reservation, time.time()))
                if (ended := time.perf_counter()) - began > patience / 2:
                    slow.append((began, ended))
                assert decision.admitted
                await asyncio.sleep(0.002)
                await got(state.settle(reservation, 50, time.time()))
                served += 1

        async def watch():
            while not stop:
                due = time.perf_counter() + 0.01
                await asyncio.sleep(0.01)
                stalls.append((due, max(due, time.perf_counter())))

        callers = [asyncio.create_task(caller()) for _ in range(16)]
        callers.append(asyncio.create_task(watch()))
        await until(lambda: served > 100, pause=0.01)
        await asyncio.to_thread(own_redis.stop)
        lost = served
        await until(lambda: state.degraded_since is not None, pause=0.01)
        alone = served
        await until(lambda: served > alone + 100, pause=0.01)
        assert await got(state.peek(call(0, quota), time.time()))
        await asyncio.to_thread(own_redis.start)
        await until(lambda: state.degraded_since is None, pause=0.01)
        back = served
        await until(lambda: served > back + 100, pause=0.01)
        stop = True
        await asyncio.gather(*callers)
        # One budget again: what this process does, another sees.
        other = RedisState(own_redis.url, timeout=patience)
        here = await got(state.peek(call(0, quota), time.time()))
        there = await other.peek(call(0, quota))
        assert [s.remaining for s in here.standings] == [s.remaining for s in there.standings]
        known = sum(s.limit - s.remaining for s in there.standings[1:])
        assert known >= 50 * (served - lost - 16)
        await other.aclose()
        await state.aclose()
        # A server that was killed resets its connections: not even the calls in flight wait for the time-out.
        # What stalls this process counts for no call, and is known in the end: a call may see it before the
        # watcher does.
        assert [span for span in slow if unstalled(span, stalls) > patience / 2] == []

    with caplog.at_level(logging.INFO, "aoai_gateway.state"):
        asyncio.run(story())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
