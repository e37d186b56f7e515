"""Whether readiness is polled: a balancer must be told before the port closes, a person need not."""

from __future__ import annotations

import math
import mmap

POLLS = 3
"""Questions that make a poll: a person, or a script that waits for the start, asks less often."""

APART_SECONDS = 1.0
"""Questions closer together than this are one."""

REMEMBERED_SECONDS = 60.0
"""Within which they must have come."""


class ReadinessPolls:
    """The last questions that were answered with "ready". Times are monotonic seconds.

    They stand in memory that child processes share, since those have the same clock, and a balancer's
    questions come to one of several workers each time. Two that write at once leave the time of one of them.
    """

    def __init__(self) -> None:
        self._asked = memoryview(mmap.mmap(-1, 8 * POLLS)).cast("d")
        """The times, oldest first."""
        for number in range(POLLS):
            self._asked[number] = -math.inf

    def note(self, now: float) -> None:
        """Take in a question."""
        asked = self._asked
        if now - asked[-1] >= APART_SECONDS:
            for number in range(1, POLLS):
                asked[number - 1] = asked[number]
            asked[-1] = now

    def goes_on(self, now: float) -> bool:
        """Whether the questions come again and again."""
        return now - self._asked[0] < REMEMBERED_SECONDS
