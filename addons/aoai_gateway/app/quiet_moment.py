"""A moment without calls, for work that holds up all of the process.

An encoding is built in one call of 0.2 s, in which no other thread runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_SECONDS = 5.0
"""The longest wait for such moments in all: a busy gateway has none, and the work has to be done."""

PAUSE_SECONDS = 0.005
"""The time between two looks: much less than the moments that are of use."""


class QuietMoments:
    """Waits, in a thread, for moments at which nothing is under way. ``is_quiet`` is asked in that thread."""

    def __init__(
        self,
        is_quiet: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._is_quiet = is_quiet
        self._now = now
        self._sleep = sleep
        self._until: float | None = None

    def wait(self) -> None:
        """Return at a quiet moment, or when all waits together have taken `MOST_SECONDS`."""
        if self._until is None:
            self._until = self._now() + MOST_SECONDS
        while not self._is_quiet() and self._now() < self._until:
            self._sleep(PAUSE_SECONDS)
