"""How evenly a stream came: noted only where flows are looked at, since mitmproxy keeps no such times."""

from __future__ import annotations

from array import array
from itertools import accumulate
from statistics import median

MAX_NOTED = 100_000
"""Chunks of one stream beyond these are not noted."""

MOST_TIMES = 200
"""Times that are given of a stream; of more chunks, every second, third … is."""


class ChunkGaps:
    """The times at which chunks of one stream went to the client."""

    def __init__(self) -> None:
        self._gaps = array("d")
        self._last: float | None = None

    def note(self, now: float) -> None:
        """Another chunk goes out; `now` in seconds, on any clock that never goes back."""
        if self._last is not None and len(self._gaps) < MAX_NOTED:
            self._gaps.append(now - self._last)
        self._last = now

    def times(self) -> list[int]:
        """When chunks came, in milliseconds after the first one."""
        step = len(self._gaps) // MOST_TIMES + 1
        return [round(1000 * after) for after in list(accumulate(self._gaps))[::step]]

    def figures(self) -> dict[str, float | list[int]]:
        """For a flow's metadata: the median and the longest gap, and `times`; empty without a gap."""
        if not self._gaps:
            return {}
        return {
            "gateway_chunk_gap_p50_ms": round(1000 * median(self._gaps), 1),
            "gateway_chunk_gap_max_ms": round(1000 * max(self._gaps), 1),
            "gateway_chunk_times_ms": self.times(),
        }
