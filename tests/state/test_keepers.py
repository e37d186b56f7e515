"""Budgets, and where state lives, of a store that forgets, kept in the files of a single process."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from aoai_gateway.bounded import digest_of
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.state import keepers
from aoai_gateway.state.affinity_file import AffinityFile, AffinityFileError
from aoai_gateway.state.budget_file import BudgetFile, BudgetFileError, read
from aoai_gateway.state.exchange import Exchange
from aoai_gateway.state.keepers import AffinityKeeper, BudgetKeeper, put_affinity, put_budgets
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState
from tests.redis_server import RedisServer

QUOTAS = (
    Quota(None, tokens_per_day=1000, tokens_per_month=5000),
    Quota("gpt 4o/x", tokens_per_day=900),
)


def spend(url: str, prefix: str, tokens: int, call: str) -> int:
    """Spend tokens of a budget in the store; gives what is left of the day's."""

    async def run() -> int:
        state = RedisState(url, prefix=prefix, timeout=5)
        try:
            reservation = Reservation(call, "team {a} *", QUOTAS, tokens=tokens)
            decision = await state.reserve(reservation)
            assert decision.admitted
            await state.settle(reservation, tokens)
            return (await state.peek(reservation)).standings[0].remaining
        finally:
            await state.aclose()

    return asyncio.run(run())


def flush(url: str, prefix: str, path: Path) -> None:
    asyncio.run(BudgetKeeper(url, prefix, path).flush())


def test_what_was_spent_is_known_after_the_store_was_lost(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    spend(redis_server.url, "kept [1]*", 300, "a")
    flush(redis_server.url, "kept [1]*", file)
    put_budgets(redis_server.url, "anew", read(file))
    assert spend(redis_server.url, "anew", 100, "b") == 600


def test_a_single_process_reads_the_file(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    spend(redis_server.url, "single", 250, "a")
    flush(redis_server.url, "single", file)
    assert len(json.loads(file.read_bytes())["budgets"]) == 3
    alone = MemoryState()
    BudgetFile(file, alone).load()
    decision = alone.peek(Reservation("b", "team {a} *", QUOTAS, tokens=1), time.time())
    assert [standing.remaining for standing in decision.standings] == [750, 4750, 650]


@pytest.mark.parametrize("month", range(1, 13))
def test_months_have_the_same_names_here_and_in_the_script(month: int) -> None:
    from aoai_gateway.quota.calendar import Period
    from aoai_gateway.state import keepers

    of = Period("month", f"2028-{month:02}")
    assert keepers._period(keepers._field(None, of).split()[1]) == of


def test_a_budget_file_that_is_none(redis_server: RedisServer, tmp_path: Path) -> None:
    put_budgets(redis_server.url, "none", read(tmp_path / "missing.json"))
    broken = tmp_path / "broken.json"
    budget = {"client": "a", "deployment": None, "day": "soon", "tokens": 5}
    for content in ("{", "[" * 100_000, json.dumps({"version": 1, "budgets": [budget]})):
        broken.write_text(content)
        with pytest.raises(BudgetFileError, match="repair the file"):
            put_budgets(redis_server.url, "none", read(broken))


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
    put_affinity(redis_server.url, "anew", file)
    assert known(redis_server.url, "anew") == known(redis_server.url, "learned")


def test_the_file_is_not_written_again_with_what_it_says(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.affinity"
    learn(redis_server.url, "same", resp_1="sweden")
    asyncio.run(AffinityKeeper(redis_server.url, "same", file).flush())
    before = file.stat()
    put_affinity(redis_server.url, "same", file)

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
                impatient.setattr(keepers, "STORE_SECONDS", 0.1)
                async with asyncio.timeout(60):
                    await keeper.flush()
                    await keeper.flush()
        finally:
            own_redis.wake()
        await keeper.flush()

    asyncio.run(run())
    assert caplog.text.count("cannot be read in the store") == 1
    assert alone(file).home("resp_1", NOW) == "sweden"


def test_an_affinity_file_that_is_none(redis_server: RedisServer, tmp_path: Path) -> None:
    put_affinity(redis_server.url, "none", tmp_path / "missing")
    assert known(redis_server.url, "none") == set()
    file = tmp_path / "budgets.affinity"
    file.write_text("something else\n")
    with pytest.raises(AffinityFileError):
        put_affinity(redis_server.url, "none", file)
