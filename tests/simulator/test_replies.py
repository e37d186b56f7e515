from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_simulator.replies import Frames, Pace


def frames(early: int, start: int, content: int, end: int) -> Frames:
    total = early + start + content + end
    return Frames((), (b"x",) * total, early, early + start, early + start + content)


SHAPES = st.builds(frames, st.integers(0, 2), st.integers(0, 3), st.integers(0, 50), st.integers(0, 3))
PACES = st.builds(
    Pace,
    st.sampled_from([0.0, 0.05, 2.0]),
    st.sampled_from([0.0, 1.0, 200.0]),
    st.sampled_from([0.0, 0.02, 2.0]),
)


@given(SHAPES, PACES)
def test_every_frame_is_sent_once_in_order_and_in_time(shape: Frames, pace: Pace) -> None:
    sent, last = 0, 0.0
    for at, upto in pace.schedule(shape):
        assert upto > sent
        assert at >= last
        for position in range(sent, upto):
            due = 0.0 if position < shape.early else pace.first_token
            if shape.first <= position < shape.last and pace.tokens_per_second:
                due += (position - shape.first) / pace.tokens_per_second
            assert at >= due - 1e-9
            assert at <= due + pace.burst + 1e-9 or position >= shape.last
        sent, last = upto, at
    assert sent == len(shape.frames)


@given(SHAPES, PACES)
def test_a_stream_takes_as_long_as_the_whole_answer(shape: Frames, pace: Pace) -> None:
    schedule = list(pace.schedule(shape))
    if len(shape.frames) > shape.early:
        assert schedule[-1][0] == pytest.approx(pace.whole(shape.last - shape.first))


def test_instant_frames_go_in_one_write_after_the_early_ones() -> None:
    assert list(Pace(0, 0).schedule(frames(2, 1, 10, 3))) == [(0, 2), (0, 16)]


def test_tokens_come_in_bursts() -> None:
    # Ten tokens per second in bursts of half a second: one, then five, then the rest with its end.
    assert list(Pace(0.1, 10, 0.5).schedule(frames(0, 2, 9, 1))) == [
        (0.1, 3),
        (pytest.approx(0.6), 8),
        (pytest.approx(0.9), 12),
    ]


def test_each_frame_of_its_own() -> None:
    assert list(Pace(1, 2, 0).schedule(frames(1, 1, 2, 1))) == [(0, 1), (1, 2), (1, 3), (1.5, 4), (1.5, 5)]
