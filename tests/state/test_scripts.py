"""Scripts in batches: in order, each with its own answer, and bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from aoai_gateway.state.scripts import Runner, Script
from aoai_gateway.state.store_client import StoreClient, packed_words
from tests.redis_server import RedisServer

COUNT = Script.of("return {redis.call('INCR', KEYS[1])}")
ECHO = Script.of("return {tonumber(ARGV[1])}")
BROKEN = Script.of("return redis.call('NO SUCH COMMAND')")


def play(server: RedisServer, story: Callable[[Runner], Awaitable[None]], timeout: float = 5) -> None:
    async def main() -> None:
        client = StoreClient(server.url, key="any", connect_seconds=timeout, answer_seconds=timeout)
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


async def written(server: RedisServer, ask: Callable[[], Awaitable[object]]) -> int:
    """How many times something was read from the clients while this was asked, two readings aside."""
    async with Redis.from_url(server.url) as admin:
        reads = int((await admin.info("stats"))["total_reads_processed"])
        await ask()
        return int((await admin.info("stats"))["total_reads_processed"]) - reads - 1


async def told(runner: Runner, script: Script, words: bytes) -> object:
    """Tell the store something of two words, and wait for what is heard of it."""
    heard: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    runner.tell(script, 2, words, heard.set_result)
    return await heard


def test_all_questions_of_one_turn_are_one_writing(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        await runner.run(ECHO, (), (1,))
        words = packed_words((0, 7))

        async def several() -> None:
            told: list[object] = []
            first = runner.ask(ECHO, 2, words)
            runner.tell(ECHO, 2, words, told.append)
            assert await asyncio.gather(first, runner.ask(ECHO, 2, words)) == [[7]] * 2
            assert told == [[7]]

        assert await written(redis_server, several) == 1

    play(redis_server, story)


def test_an_end_waits_for_company_and_goes_before_it(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        await runner.run(COUNT, ["company"], ())
        words = packed_words((1, "company"))

        async def both() -> None:
            told: list[object] = []
            runner.tell(COUNT, 2, words, told.append)
            await asyncio.sleep(0)
            assert await runner.ask(COUNT, 2, words) == [3]
            assert told == [[2]]

        assert await written(redis_server, both) == 1
        assert await told(runner, COUNT, words) == [4], "and is sent without any"

    play(redis_server, story)


def test_what_waits_at_the_end_is_sent(redis_server: RedisServer) -> None:
    async def main() -> None:
        client = StoreClient(redis_server.url, key="any", connect_seconds=5, answer_seconds=5)
        runner = Runner(client, 5)
        told: list[object] = []
        runner.tell(COUNT, 2, packed_words((1, "at the end")), told.append)
        await runner.aclose()
        assert told == [[1]]
        await client.aclose()

    asyncio.run(main())


def test_at_the_end_what_has_no_answer_is_told_so(own_redis: RedisServer) -> None:
    async def main() -> None:
        client = StoreClient(own_redis.url, key="any", connect_seconds=5, answer_seconds=5)
        runner = Runner(client, 0.2)
        assert await runner.run(ECHO, (), (1,)) == [1]
        own_redis.stun()
        told: list[object] = []
        asked = runner.ask(ECHO, 2, packed_words((0, 2)))
        await asyncio.sleep(0)  # it is sent, and the rest waits for its answer
        runner.tell(ECHO, 2, packed_words((0, 3)), told.append)
        await runner.aclose()
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await asked
        ((last),) = told
        assert isinstance(last, TimeoutError | asyncio.CancelledError)
        runner.tell(ECHO, 2, packed_words((0, 4)), told.append)
        with pytest.raises(asyncio.CancelledError):
            await runner.ask(ECHO, 2, packed_words((0, 5)))
        await asyncio.sleep(0)
        assert isinstance(told[1], asyncio.CancelledError)
        own_redis.wake()
        await client.aclose()

    asyncio.run(main())


def test_who_cannot_take_an_answer_costs_the_others_none(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: raised.append(said["exception"]))
        told: list[object] = []
        words = packed_words((0, 4))

        def cannot(_: object) -> None:
            raise LookupError("a bug")

        runner.tell(ECHO, 2, words, told.append)
        runner.tell(ECHO, 2, words, cannot)
        runner.tell(ECHO, 2, words, told.append)
        assert await runner.ask(ECHO, 2, words) == [4]
        assert told == [[4]] * 2
        assert [type(error) for error in raised] == [LookupError]

    play(redis_server, story)


def test_a_connection_that_the_server_has_closed_meanwhile_costs_nothing(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        async with Redis.from_url(redis_server.url) as admin:
            for n in range(5):
                told: list[object] = []
                runner.tell(ECHO, 2, packed_words((0, n)), told.append)
                assert await runner.run(ECHO, (), (n,)) == [n]
                assert told == [[n]]
                await admin.execute_command("CLIENT", "KILL", "TYPE", "normal")

    play(redis_server, story)


def test_a_server_that_became_a_replica_is_looked_for_anew(own_redis: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        assert await runner.run(COUNT, ["replica"], ()) == [1]
        async with Redis.from_url(own_redis.url) as admin:
            await admin.replicaof("127.0.0.1", "1")
            connections = (await admin.info("stats"))["total_connections_received"]
            with pytest.raises(ReadOnlyError):
                await runner.run(COUNT, ["replica"], ())
            await admin.replicaof("NO", "ONE")
            assert await runner.run(COUNT, ["replica"], ()) == [2]
            assert (await admin.info("stats"))["total_connections_received"] == connections + 1

    play(own_redis, story)


def test_questions_are_answered_though_the_connection_cannot_be_let_go() -> None:
    class Broken:
        channel = None

        async def ask(self, commands: Sequence[bytes]) -> list[Any]:
            await asyncio.sleep(0.01)
            raise OSError("gone")

        async def drop(self) -> None:
            raise AttributeError("a fault in the client")

    async def main() -> None:
        runner = Runner(Broken(), 0.2)  # type: ignore[arg-type]  # all that is called of it
        async with asyncio.timeout(60):
            first = asyncio.ensure_future(runner.run(COUNT, ["any"], ()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(runner.run(COUNT, ["any"], ()))
            for asked in (first, waiting):
                with pytest.raises(OSError, match="gone"):
                    await asked

    asyncio.run(main())


def test_a_rush_takes_one_connection(redis_server: RedisServer) -> None:
    async def story(runner: Runner) -> None:
        await runner.run(ECHO, (), (1,))
        async with Redis.from_url(redis_server.url) as admin:
            before = (await admin.info("stats"))["total_connections_received"]
            await asyncio.gather(*(runner.run(ECHO, (), (n,)) for n in range(200)))
            assert (await admin.info("stats"))["total_connections_received"] == before

    play(redis_server, story)


def test_the_mistake_of_one_question_fails_no_other(redis_server: RedisServer) -> None:
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
        own_redis.stun()
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(runner.run(ECHO, (), (n,)) for n in range(50)), return_exceptions=True
        )
        assert 0.9 < time.monotonic() - begun < 25  # and not 50 times 1 s
        assert {type(answer) for answer in answers} == {TimeoutError}
        own_redis.wake()
        # Late answers to what was given up must not be taken for those to new questions.
        assert await runner.run(ECHO, (), (77,)) == [77]

    play(own_redis, story, timeout=1)
