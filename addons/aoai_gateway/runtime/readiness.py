"""Whether readiness is polled: a balancer must be told before the port closes, a person need not."""

from __future__ import annotations

import math
import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableSequence

POLLS = 3
"""Questions that make a poll: a person, or a script that waits for the start, asks less often."""

APART_SECONDS = 0.8
"""Questions closer together than this are one. A balancer's that come each second may be late, one more than
the next."""

REMEMBERED_SECONDS = 60.0
"""Within which they must have come."""


class ReadinessPolls:
    """The last questions that were answered with "ready". Times are monotonic seconds.

    ``asked``: where the times stand, oldest first.
    """

    def __init__(self, asked: MutableSequence[float] | None = None) -> None:
        self._asked = [0.0] * POLLS if asked is None else asked
        for number in range(POLLS):
            self._asked[number] = -math.inf

    @classmethod
    def of_children(cls) -> ReadinessPolls:
        """Return those that come to any of this process's children: a balancer asks another one each time.

        They stand in memory that forks share, with one clock. Two that write at once leave one of the times.
        """
        shared: Any = memoryview(mmap.mmap(-1, 8 * POLLS)).cast("d")
        return cls(shared)

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
