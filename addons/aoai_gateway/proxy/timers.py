"""Deadlines of the streams of one client connection, on as few timers as possible.

mitmproxy's timers cannot be cancelled, and each is a task until it fires. One per request, for a time that
hardly ever passes, would pile up thousands on a busy keep-alive connection. So a timer that is under way is
reused for all deadlines after it: when it fires, the streams whose time has come are told, and the timer is
set anew for the others.
"""

from __future__ import annotations

import math
from typing import Any

TIMER_SLACK = 0.005
"""Seconds by which a timer may come early and still count."""

DEADLINE_SLACK = 2 * TIMER_SLACK
"""The same of a deadline, which a timer that counts has told of."""


class StreamDeadlines:
    """The time at which each stream of a connection has a step due, in seconds on any monotonic clock."""

    def __init__(self) -> None:
        self._due: dict[Any, float] = {}
        self._timers: set[float] = set()
        """When the timers under way fire."""

    def set(self, owner: Any, at: float) -> float | None:
        """Set (or move) an owner's deadline. Returns the time for which a timer must be started, if any."""
        self._due[owner] = at
        return self._timer(at)

    def clear(self, owner: Any) -> None:
        """Forget an owner's deadline; its timer fires idly or is used for another."""
        self._due.pop(owner, None)

    def fired(self, now: float) -> tuple[list[Any], float | None]:
        """Return the owners whose time has come, and the time for which the next timer must be started."""
        self._timers = {at for at in self._timers if at > now}
        expired = [owner for owner, at in self._due.items() if at <= now]
        for owner in expired:
            del self._due[owner]
        return expired, self._timer(min(self._due.values(), default=math.inf))

    def _timer(self, at: float) -> float | None:
        if at == math.inf or (self._timers and min(self._timers) <= at):
            return None
        self._timers.add(at)
        return at
