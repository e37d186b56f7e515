"""Scripts in batches: in order, each with its own answer, and bounded in time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from aoai_gateway.state.scripts import Runner, Script
from aoai_gateway.state.store_client import StoreClient
from tests.redis_server import RedisServer

COUNT = Script.of("return {redis.call('INCR', KEYS[1])}")
ECHO = Script.of("return {tonumber(ARGV[1])}")
BROKEN = Script.of("return redis.call('NO SUCH COMMAND')")


def play(server: RedisServer, story: Callable[[Runner], Awaitable[None]], timeout: float = 5) -> None:
    async def main() -> None:
        client = StoreClient(server.url, connect_seconds=timeout, answer_seconds=timeout)
        runner = Runner(client, timeout)
        await story(runner)
        await runner.aclose()
        await client.aclose()

    asyncio.run(main())


def test_each_gets_its_own_answer_in_the_order_of_asking(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        answers = await asyncio.gather(*(runner.run(COUNT, ["in-order"], ()) for _ in range(1200)))
        assert [answer[0] for answer in answers] == list(range(1, 1201))

    play(redis_server, story)


def test_a_rush_takes_one_connection(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        await runner.run(ECHO, (), (1,))
        async with Redis.from_url(redis_server.url) as admin:
            before = (await admin.info("stats"))["total_connections_received"]
            await asyncio.gather(*(runner.run(ECHO, (), (n,)) for n in range(200)))
            assert (await admin.info("stats"))["total_connections_received"] == before

    play(redis_server, story)


def test_the_mistake_of_one_is_nobody_elses(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        one, two, three = await asyncio.gather(
            runner.run(ECHO, (), (1,)),
            runner.run(BROKEN, (), ()),
            runner.run(ECHO, (), (3,)),
            return_exceptions=True,
        )
        assert (one, three) == ([1], [3])
        assert isinstance(two, ResponseError)

    play(redis_server, story)


def test_a_server_that_forgot_the_scripts_is_taught_them_in_order(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        async with Redis.from_url(redis_server.url) as admin:
            for _ in range(2):
                await admin.script_flush()
                await admin.delete("forgot")
                answers = await asyncio.gather(*(runner.run(COUNT, ["forgot"], ()) for _ in range(20)))
                assert [answer[0] for answer in answers] == list(range(1, 21))

    play(redis_server, story)


def test_who_gives_up_spoils_nothing(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        waiting = [asyncio.ensure_future(runner.run(ECHO, (), (n,))) for n in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert answers[1::2] == [[n] for n in range(1, 10, 2)]
        assert await runner.run(ECHO, (), (99,)) == [99]

    play(redis_server, story)


def test_a_restarted_server_is_found_again(own_redis: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        assert await runner.run(ECHO, (), (1,)) == [1]
        own_redis.stop()
        with pytest.raises((RedisError, OSError)):
            await runner.run(ECHO, (), (2,))
        own_redis.start()
        assert await runner.run(ECHO, (), (3,)) == [3]

    play(own_redis, story)


def test_a_server_that_does_not_answer_costs_all_of_a_batch_one_time_out(own_redis: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        assert await runner.run(ECHO, (), (1,)) == [1]
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(runner.run(ECHO, (), (n,)) for n in range(50)), return_exceptions=True
        )
        assert 0.15 < time.monotonic() - begun < 5  # and not 50 times 0.2 s
        assert {type(answer) for answer in answers} == {TimeoutError}
        own_redis.process.send_signal(signal.SIGCONT)
        # Late answers to what was given up must not be taken for those to new questions.
        assert await runner.run(ECHO, (), (77,)) == [77]

    play(own_redis, story, timeout=0.2)
