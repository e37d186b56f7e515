"""Breaks: the longer one stays, each ends by itself, all processes see them."""

import asyncio
import itertools

import pytest

from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState

NOW = 1_772_000_000.0
prefixes = (f"breaks{n}" for n in itertools.count())


@pytest.fixture(params=["memory", "redis"])
def at(request):
    """`at(now, operation, *arguments)` on a fresh store under a virtual clock."""
    if request.param == "memory":
        memory = MemoryState()
        return lambda now, operation, *arguments: getattr(memory, operation)(*arguments, now)
    bench = request.getfixturevalue("redis_bench")
    bench.fresh()
    return lambda now, operation, *arguments: bench.run(getattr(bench.state, operation)(*arguments), now)


def test_a_longer_break_stays_and_a_shorter_does_not_cut_it(at):
    at(NOW, "open_break", "sweden/gpt-4o", "batch", 10)
    at(NOW + 1, "open_break", "sweden/gpt-4o", "batch", 2)
    assert at(NOW + 1, "breaks") == {("sweden/gpt-4o", "batch"): 9}
    at(NOW + 1, "open_break", "sweden/gpt-4o", "batch", 30.5)
    assert at(NOW + 1, "breaks") == {("sweden/gpt-4o", "batch"): 30.5}


def test_breaks_are_per_backend_and_priority_and_end_by_themselves(at):
    at(NOW, "open_break", "sweden/gpt-4o", "critical", 1)
    at(NOW, "open_break", "sweden/gpt-4o", "batch", 5)
    at(NOW, "open_break", 'odd "{name}"', "batch", 3)
    assert at(NOW + 2, "breaks") == {("sweden/gpt-4o", "batch"): 3, ('odd "{name}"', "batch"): 1}
    at(NOW + 2, "close_break", "sweden/gpt-4o", "batch")
    assert at(NOW + 2, "breaks") == {('odd "{name}"', "batch"): 1}
    assert at(NOW + 3, "breaks") == {}


def test_a_break_keeps_the_note_of_the_longer_one(at):
    at(NOW, "open_break", "sweden/gpt-4o", "batch", 10)
    assert [left.note for left in at(NOW, "breaks").values()] == [""]


def test_two_gateways_see_the_same_breaks(redis_server):
    async def story():
        prefix = next(prefixes)
        one, two = (RedisState(redis_server.url, prefix=prefix, timeout=5) for _ in range(2))
        await one.open_break("sweden/gpt-4o", "batch", 10, note="host:1\n429")
        await one.open_break("sweden/gpt-4o", "batch", 5, note="host:2\n500")
        seen = await two.breaks()
        await one.aclose()
        await two.aclose()
        return seen

    ((of, left),) = asyncio.run(story()).items()
    assert of == ("sweden/gpt-4o", "batch")
    assert left == pytest.approx(10, abs=0.5)
    assert left.note == "host:1\n429"
