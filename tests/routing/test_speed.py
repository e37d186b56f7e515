"""How long an answer may plausibly take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.speed import FLOOR, MARGIN, SAMPLES_NEEDED, Slowest, Speed

SECONDS, TOKENS = st.floats(0, 600), st.integers(0, 100_000)


def taught(*answers: tuple[float, int]) -> Speed:
    speed = Speed()
    for seconds, tokens in answers:
        speed.learn(seconds, tokens)
    return speed


def test_nothing_is_known_at_first() -> None:
    assert Speed().plausible(10) is None
    assert taught(*[(1, 10)] * (SAMPLES_NEEDED - 1)).plausible(10) is None
    assert taught(*[(1, 10)] * SAMPLES_NEEDED).plausible(10) is not None


def test_nor_of_a_completion_without_a_bound() -> None:
    assert taught(*[(1, 10)] * 10).plausible(None) is None


def test_steady_answers_are_learned_exactly() -> None:
    speed = taught(*[(10, 100)] * 20)
    assert speed.seconds == pytest.approx(10)
    assert speed.seconds_per_token == pytest.approx(0.1)
    assert speed.plausible(1_000) == pytest.approx(MARGIN * (10 + 100))


def test_a_slow_answer_counts_at_once_and_fast_ones_make_up_for_it_slowly() -> None:
    speed = taught(*[(1, 10)] * 20)
    speed.learn(100, 10)
    assert speed.seconds >= 50
    speed.learn(1, 10)
    assert speed.seconds >= 40


@given(st.lists(st.tuples(SECONDS, TOKENS), min_size=SAMPLES_NEEDED, max_size=30), st.tuples(SECONDS, TOKENS))
def test_what_was_just_seen_is_always_plausible(
    answers: list[tuple[float, int]], last: tuple[float, int]
) -> None:
    seconds, tokens = last
    plausible = taught(*answers, last).plausible(tokens)
    assert plausible is not None
    assert plausible >= max(FLOOR, seconds)


@given(st.lists(st.tuples(SECONDS, TOKENS), min_size=SAMPLES_NEEDED, max_size=30), TOKENS)
def test_more_tokens_may_take_longer(answers: list[tuple[float, int]], tokens: int) -> None:
    speed = taught(*answers)
    less, more = speed.plausible(tokens), speed.plausible(tokens + 100)
    assert less is not None
    assert more is not None
    assert FLOOR <= less <= more


# --- the slowest of late -----------------------------------------------------------------------------


def test_of_streams_it_is_the_slowest_first_byte_whatever_is_asked_for() -> None:
    speed = Speed()
    for n in range(SAMPLES_NEEDED):
        assert speed.head_within(10, stream=True) is None
        speed.first_byte.learn(0.1 * n)
    assert speed.head_within(None, stream=True) == pytest.approx(0.4)
    assert speed.head_within(10, stream=False) is None


def test_of_other_answers_it_grows_with_what_is_asked_for() -> None:
    speed = taught(*[(2, 100)] * SAMPLES_NEEDED)
    assert speed.head_within(10, stream=False) == pytest.approx(2)
    assert speed.head_within(1_000, stream=False) == pytest.approx(20)
    assert speed.head_within(None, stream=False) is None


def test_what_was_slow_fades() -> None:
    slowest = Slowest()
    slowest.learn(100)
    for _ in range(200):
        slowest.learn(1)
    found = slowest.known()
    assert found is not None
    assert 1 <= found < 2


@given(st.lists(SECONDS, min_size=SAMPLES_NEEDED, max_size=40))
def test_no_sample_is_slower_than_the_slowest_right_after_it(samples: list[float]) -> None:
    slowest = Slowest()
    for seconds in samples:
        slowest.learn(seconds)
        assert slowest.amount >= seconds
    assert slowest.amount <= max(samples)
