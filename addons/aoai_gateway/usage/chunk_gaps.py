"""How evenly a stream came to its client: the times between its chunks, in bounded memory."""

from __future__ import annotations

from array import array
from itertools import accumulate
from statistics import median

MOST_NOTED = 4_096
"""Gaps that are kept of one stream. Of a longer one every second, fourth, eighth … gap is kept."""

MOST_TIMES = 200
"""Times that are given of a stream; of more chunks, every second, third … is."""


class ChunkGaps:
    """The gaps between the chunks of one stream that went to the client."""

    __slots__ = ("_gaps", "_last", "_longest", "_pending", "_step")

    def __init__(self) -> None:
        self._gaps = array("d")
        self._last: float | None = None
        self._longest = 0.0
        self._step = 1
        self._pending = 0

    def note(self, now: float) -> None:
        """Another chunk goes out; `now` in seconds, on any clock that never goes back."""
        last, self._last = self._last, now
        if last is None:
            return
        gap = now - last
        if gap > self._longest:
            self._longest = gap
        self._pending += 1
        if self._pending < self._step:
            return
        self._pending = 0
        self._gaps.append(gap)
        if len(self._gaps) >= MOST_NOTED:
            del self._gaps[::2]
            self._step *= 2

    def summary(self) -> tuple[float, float] | None:
        """Return the median and the longest gap in seconds; None without a gap. The longest is exact."""
        return (median(self._gaps), self._longest) if self._gaps else None

    def times(self) -> list[int]:
        """When chunks came, in milliseconds after the first one; empty of a stream too long for that."""
        if self._step > 1:
            return []
        step = len(self._gaps) // MOST_TIMES + 1
        return [round(1000 * after) for after in list(accumulate(self._gaps))[::step]]
