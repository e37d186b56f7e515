"""The size of a provisioned deployment, from the levels that it tells."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.provisioned import PtuSize


class Deployment:
    """A bucket that drains its size in a minute. ``others``: tokens a second of other callers."""

    def __init__(self, size: int, level: float = 0.5, others: float = 0.0) -> None:
        self.size, self.others = size, others
        self.tokens = level * size
        self.poured = 0

    def wait(self, seconds: float) -> None:
        self.tokens = max(0.0, self.tokens + seconds * (self.others - self.size / 60))

    def pour(self, tokens: int) -> None:
        self.tokens += tokens
        self.poured += tokens

    @property
    def level(self) -> float:
        return round(self.tokens / self.size, 3)


def taught(there: Deployment, steps: int = 30, seconds: float = 1.0, share: float = 1.0) -> PtuSize:
    """What is learned while calls of ``share`` times what drains are poured in."""
    size, dice, now = PtuSize(), random.Random(1), 0.0
    for _ in range(steps):
        there.pour(round(share * there.size / 60 * seconds * dice.uniform(0.5, 1.5)))
        size.observe(there.level, there.poured, now)
        there.wait(seconds)
        now += seconds
    return size


def test_nothing_is_known_of_one_level() -> None:
    size = PtuSize()
    size.observe(0.5, 1_000, 0.0)
    assert size.tokens_per_minute is None


@given(size=st.integers(5_000, 2_000_000), level=st.floats(0.3, 1.2))
def test_the_size_is_learned_from_levels(size: int, level: float) -> None:
    learned = taught(Deployment(size, level)).tokens_per_minute
    assert learned is not None
    assert learned == pytest.approx(size, rel=0.05)


def test_what_others_use_makes_it_smaller() -> None:
    learned = taught(Deployment(60_000, 0.8, others=500), share=0.5).tokens_per_minute
    assert learned is not None
    assert 25_000 < learned < 45_000


def test_an_empty_bucket_teaches_nothing() -> None:
    there, size = Deployment(60_000, 0.0), PtuSize()
    for second in range(60):
        there.pour(10)
        size.observe(there.level, there.poured, float(second))
        there.wait(1)
    assert size.tokens_per_minute is None, "it would have drained more if there had been more in it"


def test_levels_of_the_same_moment_and_impossible_ones_teach_nothing() -> None:
    size = PtuSize()
    for level, poured, at in [(0.5, 1_000, 0.0), (0.6, 2_000, 0.1), (0.4, 500, 1.0), (0.1, 600, 1.5)]:
        size.observe(level, poured, at)
    assert size.tokens_per_minute is None


def test_a_changed_size_is_learned_anew() -> None:
    there = Deployment(60_000, 0.6)
    size = taught(there)
    there.size, there.tokens = 120_000, 0.6 * 120_000
    now, dice = 100.0, random.Random(2)
    for _ in range(120):
        there.pour(round(there.size / 60 * dice.uniform(0.5, 1.5)))
        size.observe(there.level, there.poured, now)
        there.wait(1)
        now += 1
    assert size.tokens_per_minute == pytest.approx(120_000, rel=0.1)
