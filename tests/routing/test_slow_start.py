"""The slow start of a backend of unknown size that has refused a call."""

from __future__ import annotations

import pytest

from aoai_gateway.routing.slow_start import REFUSES_WITHIN, WIDEST, SlowStart


def refused(at: float = 0.0) -> SlowStart:
    slow = SlowStart()
    slow.refused(at)
    return slow


def send_all(slow: SlowStart, now: float, most: int = 1_000) -> int:
    """Send as many calls as may be sent at a time, and return how many."""
    sent = 0
    while sent < most and not slow.wait(now):
        slow.sent(now)
        sent += 1
    return sent


def test_without_a_refusal_all_may_go() -> None:
    slow = SlowStart()
    assert send_all(slow, 0.0, most=500) == 500


def test_each_step_has_twice_as_many_a_moment_after_the_last() -> None:
    slow, now, steps = refused(), 5.0, []
    for _ in range(4):
        steps.append(send_all(slow, now))
        assert slow.wait(now) == pytest.approx(REFUSES_WITHIN)
        now += REFUSES_WITHIN
    assert steps == [1, 2, 4, 8]


def test_an_answer_begins_the_next_step_at_once() -> None:
    slow = refused()
    assert send_all(slow, 5.0) == 1
    slow.answered(5.0)
    assert send_all(slow, 5.1) == 2


def test_an_answer_to_what_was_sent_before_the_refusal_shows_nothing() -> None:
    slow = refused(at=3.0)
    assert send_all(slow, 5.0) == 1
    slow.answered(2.0)
    assert slow.wait(5.1) == pytest.approx(REFUSES_WITHIN - 0.1)


def test_answers_do_not_widen_a_step_that_is_not_used_up() -> None:
    slow = refused()
    send_all(slow, 5.0)
    for _ in range(5):
        slow.answered(5.0)
    assert send_all(slow, 5.2) == 2, "as after the first of them"


def test_a_refusal_begins_anew() -> None:
    slow, now = refused(), 5.0
    for _ in range(3):
        send_all(slow, now)
        now += REFUSES_WITHIN
    slow.refused(now)
    assert send_all(slow, now) == 1


def test_it_ends_when_so_many_went_that_it_hardly_matters() -> None:
    slow, now, sent = refused(), 5.0, 0
    while sent < 4 * WIDEST:
        sent += send_all(slow, now, most=4 * WIDEST)
        now += REFUSES_WITHIN
    assert slow.wait(now) == 0
    assert now < 5 + 10 * REFUSES_WITHIN
