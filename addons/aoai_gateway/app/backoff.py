"""When a process that has ended is started again: at once the first time, later with every further one."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds until it comes back: doubling from the first to the longest."""

MOST_DOUBLINGS = 16

STEADY_SECONDS = 60.0
"""How long it must live for the next pause to be the first again."""


@dataclass(slots=True)
class Backoff:
    """The pauses of one process. Times are monotonic seconds."""

    due: float = 0.0
    """When it is started again."""
    failures: int = 0
    """The failures in a row."""

    def ended(self, now: float, lived: float) -> float:
        """Note that it has ended after so many seconds. Returns the pause."""
        self.failures = 0 if lived >= STEADY_SECONDS else self.failures + 1
        doublings = min(max(0, self.failures - 1), MOST_DOUBLINGS)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
        self.due = now + pause
        return pause

    def went_well(self) -> None:
        """Begin with the first pause again."""
        self.failures = 0
