"""How long an answer may plausibly take, and when a backend counts as silent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.responsiveness import (
    AGAIN_SECONDS,
    SAMPLES_NEEDED,
    SHORTEST,
    USUAL_PROMPT,
    Largest,
    Liveness,
    Speed,
)

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


def sent(*calls: tuple[str, float, float | None]) -> Liveness:
    """A liveness to which calls were sent: name, when, and within how many seconds an answer is to begin."""
    liveness = Liveness()
    for name, at, within in calls:
        liveness.sent(name, at, within)
    return liveness


def test_one_call_alone_is_never_lost() -> None:
    liveness = sent(("a", 0, 1.0))
    assert not liveness.is_lost("a", 1_000)
    assert not liveness.silent


def test_two_that_wait_in_vain_are() -> None:
    liveness = sent(("a", 0, 2.0), ("b", 1, 2.0))
    assert not liveness.is_lost("a", 4.9), "the second one has waited for less than twice its time"
    assert liveness.is_lost("a", 5)
    assert liveness.is_lost("b", 5)
    assert liveness.silent


def test_each_has_waited_in_vain_by_what_is_plausible_for_it() -> None:
    liveness = sent(("short", 0, 1.0), ("long", 0, 20.0))
    assert not liveness.is_lost("short", 30)
    assert liveness.is_lost("short", 40)


def test_nothing_is_said_by_calls_of_which_nothing_is_known() -> None:
    liveness = sent(("a", 0, None), ("b", 0, None), ("c", 0, 1.0))
    assert not any(liveness.is_lost(name, 100) for name in "abc")
    assert liveness.ask_again("a", 50) == math.inf


def test_a_short_silence_means_nothing_however_fast_the_backend_was() -> None:
    liveness = sent(("a", 0, 0.01), ("b", 0, 0.01))
    assert not liveness.is_lost("a", SHORTEST - 0.01)
    assert liveness.is_lost("a", SHORTEST)


def test_each_event_is_a_sign_of_life_for_all_calls() -> None:
    liveness = sent(("a", 0, 2.0), ("b", 0, 2.0))
    liveness.hear(3)
    assert not liveness.is_lost("a", 6.9)
    assert liveness.is_lost("a", 7)
    liveness.hear(7.5)
    assert not liveness.silent
    assert not liveness.is_lost("a", 8)


def test_in_silence_one_call_is_enough_and_waits_for_less() -> None:
    liveness = sent(("a", 0, 2.0), ("b", 0, 2.0))
    assert liveness.is_lost("a", 4)
    for name in "ab":
        liveness.ended(name)
    liveness.sent("probe", 10, 2.0)
    assert not liveness.is_lost("probe", 12.3)
    assert liveness.is_lost("probe", 12.4)


def test_a_probe_that_is_heard_ends_the_silence() -> None:
    liveness = sent(("a", 0, 2.0), ("b", 0, 2.0))
    assert liveness.is_lost("a", 4)
    for name in "ab":
        liveness.ended(name)
    liveness.hear(5)
    liveness.sent("probe", 10, 2.0)
    assert not liveness.is_lost("probe", 20)


def test_who_has_ended_bears_no_witness() -> None:
    liveness = sent(("a", 0, 2.0), ("b", 0, 2.0))
    liveness.ended("b")
    assert not liveness.is_lost("a", 100)
    assert not liveness.is_lost("b", 100)


def test_there_is_something_to_remember_while_calls_are_under_way_and_in_silence() -> None:
    liveness = sent(("a", 0, 1.0), ("b", 0, 1.0))
    assert liveness
    for name in "ab":
        liveness.is_lost(name, 2)
    for name in "ab":
        liveness.ended(name)
    assert liveness, "it is silent"
    liveness.hear(5)
    assert not liveness


def test_it_is_asked_again_when_it_may_say_something_else() -> None:
    liveness = sent(("a", 0, 2.0))
    assert liveness.ask_again("a", 1) == 4
    liveness.hear(3)
    assert liveness.ask_again("a", 3) == 7
    assert liveness.ask_again("a", 9) == 9 + AGAIN_SECONDS
    assert liveness.ask_again("nobody", 9) == math.inf


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 20)), min_size=2, max_size=6),
    st.floats(0, 100),
)
def test_who_is_asked_about_at_the_time_that_it_names_is_lost_by_then(
    calls: list[tuple[float, float]], heard: float
) -> None:
    """Unless something comes, everybody is lost when all have been asked about at their times."""
    liveness = sent(*((str(n), at, within) for n, (at, within) in enumerate(calls)))
    liveness.hear(heard)
    last = max(liveness.ask_again(str(n), 50.0) for n in range(len(calls)))
    assert all(liveness.is_lost(str(n), last) for n in range(len(calls)))


@pytest.mark.parametrize("now", [-5.0, 0.0, 1e9])
def test_clocks_may_jump(now: float) -> None:
    liveness = sent(("a", 0, 1.0), ("b", 0, 1.0))
    liveness.hear(0)
    assert liveness.is_lost("a", now) is (now > 100)


# --- the endpoint that a backend is at -----------------------------------------------------------------


def test_calls_at_two_backends_of_a_silent_endpoint_bear_witness_to_each_other() -> None:
    whole = Liveness()
    here, there = Liveness(whole), Liveness(whole)
    here.sent("a", 0, 2.0)
    there.sent("b", 0, 2.0)
    assert not here.is_lost("a", 3.9)
    assert here.is_lost("a", 4)
    assert there.is_lost("b", 4)


def test_a_sign_of_life_of_one_is_one_of_the_endpoint_but_not_of_the_other() -> None:
    whole = Liveness()
    here, there = Liveness(whole), Liveness(whole)
    for name in "ab":
        here.sent(name, 0, 2.0)
    there.sent("c", 0, 2.0)
    there.hear(3.5)
    assert here.is_lost("a", 4), "its own two bear witness"
    assert not there.is_lost("c", 5)
    assert not whole.silent


def test_who_has_ended_elsewhere_bears_no_witness_either() -> None:
    whole = Liveness()
    here, there = Liveness(whole), Liveness(whole)
    here.sent("a", 0, 2.0)
    there.sent("b", 0, 2.0)
    there.ended("b")
    assert not here.is_lost("a", 100)


def test_a_silent_backend_is_doubtful_before_it_is_given_up() -> None:
    liveness = sent(("a", 0, 10.0), ("b", 5, 10.0))
    assert not liveness.is_doubtful(11.9)
    assert liveness.is_doubtful(12), "one of them has waited for longer than the slowest one lately"
    assert not liveness.is_lost("a", 12)
    liveness.hear(12.5)
    assert not liveness.is_doubtful(13)


def test_neither_one_call_alone_nor_a_short_silence_makes_it_doubtful() -> None:
    assert not sent(("a", 0, 1.0)).is_doubtful(1_000)
    assert not sent(("a", 0, 0.1), ("b", 0, 0.1)).is_doubtful(SHORTEST - 0.01)
    assert not sent(("a", 0, None), ("b", 0, None)).is_doubtful(1_000), "nothing is known of these"


def test_a_stream_that_pauses_makes_no_backend_doubtful() -> None:
    liveness = sent(("stream", 0, 1.0))
    liveness.hear(0.5)
    liveness.sent("other", 10, 5.0)
    assert not liveness.is_doubtful(15)
    assert not liveness.is_doubtful(1_000), "one call alone may think for long"
    liveness.sent("another", 11, 5.0)
    assert liveness.is_doubtful(16)


def test_all_of_an_endpoint_is_silent_where_none_of_its_backends_says_anything() -> None:
    whole = Liveness()
    ptu, paygo = Liveness(whole), Liveness(whole)
    for name in "ab":
        ptu.sent(name, 0, 1.0)
    assert not ptu.whole_silent
    assert ptu.is_lost("a", 2)
    assert ptu.whole_silent
    assert paygo.whole_silent
    paygo.hear(3)
    assert not ptu.whole_silent
    assert not Liveness().whole_silent
