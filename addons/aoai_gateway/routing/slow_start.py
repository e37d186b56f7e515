"""The slow start of a backend of unknown size: after a refusal, a few calls show how many it takes.

How full such a backend is may be known, but not how much one more call adds. When it is not full any more,
all that waits would be sent at once, and most of it refused. So after a refusal one call may go; when it was
answered, or not refused within a moment, two more, then four. (Jacobson, "Congestion Avoidance and Control",
1988.) It ends when the size is known, or so many calls went without a refusal that it hardly matters.

It is the same idea as in :mod:`~aoai_gateway.routing.half_open`, where each class probes whether a backend is
well again; here all classes count together, and an answer does not end it.
"""

from __future__ import annotations

import math

REFUSES_WITHIN = 0.5
"""Seconds within which a backend that has no room for a call refuses it."""

WIDEST = 64
"""Calls in one step, after which there are no more steps."""


class SlowStart:
    """The steps of one backend. Times are seconds on any monotonic clock."""

    __slots__ = ("_left", "_refused_at", "_sent_at", "_width")

    def __init__(self) -> None:
        self._refused_at = -math.inf
        self._width = 0
        """Calls in the present step; 0: there are no steps."""
        self._left = 0
        """How many of them have not been sent."""
        self._sent_at = -math.inf
        """When the last one of them was sent."""

    def refused(self, now: float) -> None:
        """Begin anew, since a call was refused."""
        self._refused_at, self._width, self._left = now, 1, 1

    def sent(self, now: float) -> None:
        """Note that a call is sent."""
        if not self._width:
            return
        if not self._left and now >= self._sent_at + REFUSES_WITHIN:
            self._widen()
        self._left = max(0, self._left - 1)
        self._sent_at = now

    def answered(self, sent: float) -> None:
        """Note that a call which was sent at a time was not refused."""
        if self._width and not self._left and sent >= self._refused_at:
            self._widen()

    def wait(self, now: float) -> float:
        """Seconds until one more call may be sent, if none is answered before; 0: now."""
        if not self._width or self._left:
            return 0.0
        return max(0.0, self._sent_at + REFUSES_WITHIN - now)

    def _widen(self) -> None:
        self._width = self._left = 2 * self._width if self._width < WIDEST else 0
