"""Whether readiness is polled: a balancer must be told before the port closes, a person need not."""

from __future__ import annotations

from collections import deque

POLLS = 3
"""Questions that make a poll: a person, or a script that waits for the start, asks less often."""

APART_SECONDS = 1.0
"""Questions closer together than this are one."""

REMEMBERED_SECONDS = 60.0
"""Within which they must have come."""


class ReadinessPolls:
    """The last questions that were answered with "ready". Times are monotonic seconds."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=POLLS)

    def note(self, now: float) -> None:
        """Take in a question."""
        if not self._asked or now - self._asked[-1] >= APART_SECONDS:
            self._asked.append(now)

    def goes_on(self, now: float) -> bool:
        """Whether the questions come again and again."""
        return len(self._asked) == POLLS and now - self._asked[0] < REMEMBERED_SECONDS
