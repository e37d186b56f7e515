"""How evenly a stream came."""

from __future__ import annotations

import pytest

from aoai_gateway.usage import chunk_gaps
from aoai_gateway.usage.chunk_gaps import ChunkGaps


def noted(*times: float) -> ChunkGaps:
    made = ChunkGaps()
    for time in times:
        made.note(time)
    return made


@pytest.mark.parametrize("times", [(), (5.0,)])
def test_without_a_gap_there_is_nothing_to_tell(times: tuple[float, ...]) -> None:
    assert noted(*times).summary() is None


def test_the_median_and_the_longest_gap() -> None:
    assert noted(100.0, 100.01, 100.03, 102.13).times() == [10, 30, 2130]
    assert noted(100.0, 100.01, 100.03, 102.13).summary() == pytest.approx((0.02, 2.1))


def test_memory_is_bounded_and_the_longest_gap_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_gaps, "MOST_NOTED", 8)
    made = ChunkGaps()
    for second in range(1000):
        made.note(float(second))
        assert len(made._gaps) < 8
    made.note(1099.0)
    for second in range(1100, 1200):
        made.note(float(second))
    assert made.summary() == (1.0, 100.0)
    assert made.times() == []


def test_of_many_chunks_some_times_are_told() -> None:
    found = noted(*range(1000)).times()
    assert len(found) <= chunk_gaps.MOST_TIMES
    assert found[:2] == [1000, 6000]
