"""How long an answer may plausibly take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.speed import SAMPLES_NEEDED, USUAL_PROMPT, Largest, Speed

SECONDS, TOKENS = st.floats(0, 600), st.integers(0, 100_000)


def taught(*answers: tuple[float, int]) -> Speed:
    speed = Speed()
    for seconds, tokens in answers:
        speed.learn(seconds, tokens)
    return speed


def whole(speed: Speed, tokens: int | None, prompt: int = 0) -> float | None:
    return speed.head_within(tokens, stream=False, prompt=prompt)


def test_nothing_is_known_at_first() -> None:
    assert whole(Speed(), 10) is None
    assert whole(taught(*[(1, 10)] * (SAMPLES_NEEDED - 1)), 10) is None
    assert whole(taught(*[(1, 10)] * SAMPLES_NEEDED), 10) is not None


def test_nor_of_a_completion_without_a_bound() -> None:
    assert whole(taught(*[(1, 10)] * 10), None) is None


@given(st.lists(st.tuples(SECONDS, TOKENS), min_size=SAMPLES_NEEDED, max_size=30), st.tuples(SECONDS, TOKENS))
def test_what_was_just_seen_is_always_plausible(
    answers: list[tuple[float, int]], last: tuple[float, int]
) -> None:
    seconds, tokens = last
    found = whole(taught(*answers, last), tokens)
    assert found is not None
    assert found >= seconds * 0.999


def test_of_streams_it_is_the_slowest_first_byte_at_any_length() -> None:
    speed = Speed()
    for n in range(SAMPLES_NEEDED):
        assert speed.head_within(10, stream=True) is None
        speed.learn_begin(0.1 * n)
    assert speed.head_within(None, stream=True) == pytest.approx(0.4)
    assert speed.head_within(10, stream=False) is None


def test_of_other_answers_it_grows_with_what_is_asked_for() -> None:
    speed = taught(*[(2, 100)] * SAMPLES_NEEDED)
    assert whole(speed, 10) == pytest.approx(2)
    assert whole(speed, 1_000) == pytest.approx(20)


def test_it_grows_with_a_prompt_larger_than_any_that_was_seen() -> None:
    speed = Speed()
    for _ in range(SAMPLES_NEEDED):
        speed.learn(2, 100, prompt=2 * USUAL_PROMPT)
        speed.learn_begin(1, prompt=10)
    assert whole(speed, 10, prompt=2 * USUAL_PROMPT) == pytest.approx(2)
    assert whole(speed, 10, prompt=20 * USUAL_PROMPT) == pytest.approx(20)
    assert speed.head_within(None, stream=True, prompt=USUAL_PROMPT) == pytest.approx(1)
    assert speed.head_within(None, stream=True, prompt=3 * USUAL_PROMPT) == pytest.approx(3)


def test_an_answer_that_was_given_up_only_ever_raises_it() -> None:
    speed = taught(*[(2, 100)] * SAMPLES_NEEDED)
    speed.cut_off(0.01, stream=False)
    assert whole(speed, 10) == pytest.approx(2)
    speed.cut_off(30, stream=False)
    assert whole(speed, 10) == pytest.approx(30)


def test_what_was_slow_fades() -> None:
    slowest = Largest()
    slowest.learn(100)
    for _ in range(200):
        slowest.learn(1)
    found = slowest.known()
    assert found is not None
    assert 1 <= found < 2


@given(st.lists(SECONDS, min_size=SAMPLES_NEEDED, max_size=40))
def test_no_sample_is_slower_than_the_slowest_right_after_it(samples: list[float]) -> None:
    slowest = Largest()
    for seconds in samples:
        slowest.learn(seconds)
        assert slowest.amount >= seconds
    assert slowest.amount <= max(samples)
