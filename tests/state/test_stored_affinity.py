"""Where state lives, of a store that forgets, kept in the file of a single process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from aoai_gateway.bounded import digest_of
from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.state import stored_affinity
from aoai_gateway.state.affinity_file import AffinityFile, AffinityFileError
from aoai_gateway.state.exchange import Exchange
from aoai_gateway.state.stored_affinity import AffinityKeeper, put
from tests.redis_server import RedisServer

NOW = time.time()


def learn(url: str, prefix: str, **homes: str) -> None:
    """Tell the store where states live, as a worker does."""

    async def run() -> None:
        exchange = Exchange(url, prefix, "worker")
        told = [((digest_of(name) or b"").hex(), endpoint, NOW) for name, endpoint in homes.items()]
        await exchange.tell_homes(told)
        await exchange.aclose()

    asyncio.run(run())


def known(url: str, prefix: str) -> set[str]:
    """Return the digests that the store knows."""

    async def run() -> set[str]:
        exchange = Exchange(url, prefix, "other")
        found = {key async for some in exchange.homes() for key, _, _ in some}
        await exchange.aclose()
        return found

    return asyncio.run(run())


def alone(path: Path) -> Affinity:
    affinity = Affinity()
    AffinityFile(path, affinity).load()
    return affinity


def test_what_was_learned_outlives_the_store(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.affinity"
    learn(redis_server.url, "learned", resp_1="sweden", resp_2="france")
    asyncio.run(AffinityKeeper(redis_server.url, "learned", file).flush())
    assert alone(file).home("resp_2", NOW) == "france"
    put(redis_server.url, "anew", file)
    assert known(redis_server.url, "anew") == known(redis_server.url, "learned")


def test_the_file_is_not_written_again_with_what_it_says(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.affinity"
    learn(redis_server.url, "same", resp_1="sweden")
    asyncio.run(AffinityKeeper(redis_server.url, "same", file).flush())
    before = file.stat()
    put(redis_server.url, "same", file)

    async def run() -> None:
        keeper = AffinityKeeper(redis_server.url, "same", file)
        task = asyncio.create_task(keeper.run())
        async with asyncio.timeout(60):
            while not len(keeper._affinity):  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        await keeper.flush()

    asyncio.run(run())
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_a_store_that_began_anew_takes_nothing_away(own_redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.affinity"
    learn(own_redis.url, "began", resp_1="sweden")

    async def run() -> None:
        keeper = AffinityKeeper(own_redis.url, "began", file)
        await keeper.flush()
        own_redis.stop()
        await keeper.flush()
        own_redis.start()
        await keeper.flush()
        await asyncio.to_thread(learn, own_redis.url, "began", resp_2="france")
        await keeper.flush()

    asyncio.run(run())
    affinity = alone(file)
    assert affinity.home("resp_1", NOW) == "sweden"
    assert affinity.home("resp_2", NOW) == "france"


def test_a_store_that_hangs_holds_nothing_up_and_is_said_once(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learn(own_redis.url, "hangs", resp_1="sweden")
    file = tmp_path / "budgets.affinity"

    async def run() -> None:
        keeper = AffinityKeeper(own_redis.url, "hangs", file)
        own_redis.stun()
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr(stored_affinity, "STORE_SECONDS", 0.1)
                async with asyncio.timeout(60):
                    await keeper.flush()
                    await keeper.flush()
        finally:
            own_redis.wake()
        await keeper.flush()

    asyncio.run(run())
    assert caplog.text.count("cannot be read in the store") == 1
    assert alone(file).home("resp_1", NOW) == "sweden"


def test_a_file_that_is_none(redis_server: RedisServer, tmp_path: Path) -> None:
    put(redis_server.url, "none", tmp_path / "missing")
    assert known(redis_server.url, "none") == set()
    file = tmp_path / "budgets.affinity"
    file.write_text("something else\n")
    with pytest.raises(AffinityFileError):
        put(redis_server.url, "none", file)
