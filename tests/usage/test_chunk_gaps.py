"""How evenly a stream came."""

from __future__ import annotations

import pytest

from aoai_gateway.usage import chunk_gaps as pace
from aoai_gateway.usage.chunk_gaps import ChunkGaps


def noted(*times: float) -> ChunkGaps:
    made = ChunkGaps()
    for time in times:
        made.note(time)
    return made


@pytest.mark.parametrize("times", [(), (5.0,)])
def test_without_a_gap_there_is_nothing_to_tell(times: tuple[float, ...]) -> None:
    assert noted(*times).figures() == {}


def test_the_median_and_the_longest_gap() -> None:
    assert noted(100.0, 100.01, 100.03, 102.13).figures() == {
        "gateway_chunk_gap_p50_ms": 20.0,
        "gateway_chunk_gap_max_ms": 2100.0,
        "gateway_chunk_times_ms": [10, 30, 2130],
    }


def test_of_many_chunks_some_times_are_told() -> None:
    found = noted(*range(1000)).times()
    assert len(found) <= pace.MOST_TIMES
    assert found[:2] == [1000, 6000]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_NOTED", 3)
    assert noted(0, 1, 2, 3, 103).figures()["gateway_chunk_gap_max_ms"] == 1000.0
