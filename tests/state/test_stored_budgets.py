"""Budgets of a store that forgets, kept in the file of a single process."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state.budget_file import BudgetFile, BudgetFileError
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState
from aoai_gateway.state.stored_budgets import BudgetKeeper, put
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
    put(redis_server.url, "anew", file)
    assert spend(redis_server.url, "anew", 100, "b") == 600


def test_a_single_process_reads_the_file(redis_server: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    spend(redis_server.url, "single", 250, "a")
    flush(redis_server.url, "single", file)
    assert len(json.loads(file.read_bytes())["budgets"]) == 3
    alone = MemoryState()
    BudgetFile(file, alone.counters).load()
    decision = alone.peek(Reservation("b", "team {a} *", QUOTAS, tokens=1), time.time())
    assert [standing.remaining for standing in decision.standings] == [750, 4750, 650]


@pytest.mark.parametrize("month", range(1, 13))
def test_months_have_the_same_names_here_and_in_the_script(month: int) -> None:
    from aoai_gateway.quota.calendar import Period
    from aoai_gateway.state import stored_budgets

    of = Period("month", f"2028-{month:02}")
    assert stored_budgets._period(stored_budgets._field(None, of).split()[1]) == of


def test_a_file_that_is_none(redis_server: RedisServer, tmp_path: Path) -> None:
    put(redis_server.url, "none", tmp_path / "missing.json")
    broken = tmp_path / "broken.json"
    budget = {"client": "a", "deployment": None, "day": "soon", "tokens": 5}
    for content in ("{", "[" * 100_000, json.dumps({"version": 1, "budgets": [budget]})):
        broken.write_text(content)
        with pytest.raises(BudgetFileError, match="repair the file"):
            put(redis_server.url, "none", broken)
