"""Which client comes next, and that none is forgotten."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from aoai_gateway.runtime.fair_turns import FairThreads, FairTurns

MIB = 1024 * 1024
type Job = tuple[str, int]


def served(jobs: Iterable[Job], places: int = 1) -> list[str]:
    """Return the order in which jobs, which all come while the first one is at work, have their turns."""
    order: list[str] = []

    async def run() -> None:
        turns, go_on = FairTurns(places), asyncio.Event()

        async def job(client: str, size: int) -> None:
            async with turns.turn(client, size):
                order.append(client)
                await go_on.wait()
                await asyncio.sleep(0)

        tasks = []
        for client, size in jobs:
            tasks.append(asyncio.create_task(job(client, size)))
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks)
        assert turns.is_idle
        assert (turns._ends, turns._served) == ({}, 0)

    asyncio.run(run())
    return order


@pytest.mark.parametrize(
    ("jobs", "order"),
    [
        ([("a", 1)] * 3, "aaa"),
        # Four large ones do not delay another client's but by the one at work.
        ([("a", 24 * MIB)] * 4 + [("b", MIB)], "abaaa"),
        ([("a", 10)] * 4 + [("b", 10)] * 3, "abababa"),
        # Shares are of bytes, not of jobs.
        ([("a", 30)] * 3 + [("b", 10)] * 6, "abbbabbba"),
        ([("a", 10)] * 2 + [("b", 10)] * 2 + [("c", 10)], "abcab"),
    ],
)
def test_order(jobs: list[Job], order: str) -> None:
    assert "".join(served(jobs)) == order


def test_one_client_has_half_of_the_places() -> None:
    assert "".join(served([("a", 10)] * 6 + [("b", 10)] * 2, places=4))[:4] == "aabb"


def test_to_be_quiet_saves_nothing_up() -> None:
    """A client that comes late shares from then on; it does not catch up."""
    order: list[str] = []

    async def run() -> None:
        turns = FairTurns()

        async def job(client: str) -> None:
            async with turns.turn(client, 10):
                order.append(client)
                await asyncio.sleep(0)
                if len(order) == 4:
                    for _ in range(4):
                        group.create_task(job("b"))
                    await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(job("a"))

    asyncio.run(run())
    assert "".join(order) == "aaaabababab" + "a"


@pytest.mark.parametrize("granted", [False, True], ids=["while it waits", "as it is its turn"])
def test_a_waiter_that_gives_up_stops_no_other(*, granted: bool) -> None:
    async def run() -> None:
        turns, first, second = FairTurns(), asyncio.Event(), asyncio.Event()
        done: list[str] = []

        def job(name: str, until: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
            async def work() -> None:
                async with turns.turn(name, 1):
                    await until()
                    done.append(name)
                    # Who waits for it goes on when the next one is told of its turn, and before that does.
                    second.set()

            return asyncio.create_task(work())

        tasks = [job("a", first.wait), job("b", first.wait), job("c", first.wait)]
        await asyncio.sleep(0)
        first.set()
        if granted:
            await second.wait()
        tasks[1].cancel()
        await asyncio.wait(tasks, timeout=60)
        assert done == ["a", "c"]
        assert turns.is_idle

    asyncio.run(run())


def test_threads() -> None:
    async def run() -> None:
        threads = FairThreads()
        assert await asyncio.gather(*(threads.run("a", 1, pow, n, 2) for n in range(9))) == [
            n * n for n in range(9)
        ]

    asyncio.run(run())


def test_long_jobs_take_no_threads_from_the_event_loop() -> None:
    """It looks up names of hosts in its own."""

    async def run() -> None:
        threads, go_on = FairThreads(), Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        jobs = [asyncio.create_task(threads.run(client, 1, go_on.wait, 30)) for client in "aabb"]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(asyncio.to_thread(pow, 2, 2), 60) == 4
        finally:
            go_on.set()
        assert await asyncio.gather(*jobs) == [True] * 4
        threads.close()

    asyncio.run(run())


def test_a_job_that_nothing_waits_for_keeps_its_turn_until_it_is_done() -> None:
    async def run() -> None:
        threads, begun, go_on = FairThreads(2), Event(), Event()

        def work() -> None:
            begun.set()
            assert go_on.wait(30)

        job = asyncio.create_task(threads.run("a", 1, work))
        await asyncio.to_thread(begun.wait, 30)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        following = asyncio.create_task(threads.run("a", 1, go_on.is_set))
        await asyncio.sleep(0)
        assert not threads._turns.is_idle
        assert await threads.run("b", 1, pow, 2, 2) == 4
        go_on.set()
        assert await following
        threads.close()

    asyncio.run(run())


def test_a_job_that_fails_ends_its_turn() -> None:
    async def run() -> None:
        threads = FairThreads()
        with pytest.raises(ZeroDivisionError):
            await threads.run("a", 1, divmod, 1, 0)
        assert threads._turns.is_idle
        threads.close()
        with pytest.raises(RuntimeError):
            await threads.run("a", 1, pow, 2, 2)
        assert threads._turns.is_idle

    asyncio.run(run())
