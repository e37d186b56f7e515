"""The waker of queued calls, on the event loop.

The scheduler decides which calls are released; here it is asked at the right times. That is whenever a call
has done something that may have made room (`changed`), at the time that the scheduler itself names, and when
a call's own time is over. Nothing polls. After any number of events in one turn of the event loop, it is
asked once; and where many calls wait, and asking takes long, all else has its time in between.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from aoai_gateway.runtime.log_records import log_exception

if TYPE_CHECKING:
    from aoai_gateway.engine.scheduler import Scheduler

SHORTEST_PAUSE = 0.001
"""Seconds between two looks that only time brings about."""

LONG_LOOK = 0.001
"""Seconds from which on a look takes long."""

REST = 4.0
"""The pause after a long look, in times of its length."""


class QueueWaker:
    """The queued calls of this process. Times are monotonic seconds."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.calls: dict[str, tuple[asyncio.Future[None], float]] = {}
        """The future that wakes each call, and the time until which it waits at most."""
        self._asked: asyncio.Handle | None = None
        """The look that is to come since something has changed."""
        self._rests_until = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def stand(self, call_id: str, until: float) -> asyncio.Future[None] | None:
        """Wait until the call, which has joined its queue, is released, or until its time is over.

        None if that is so already.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls[call_id] = (future, until)
        if time.monotonic() < self._rests_until:
            self.changed()
        else:
            self._look()
        return None if future.done() else future

    def left(self, call_id: str) -> None:
        """Wake a call whose client has gone."""
        self._wake(call_id)

    def changed(self) -> None:
        """Look whether a call can be released, since something has changed."""
        if self.calls and self._asked is None:
            loop, rest = asyncio.get_running_loop(), self._rests_until - time.monotonic()
            self._asked = loop.call_later(rest, self._look) if rest > 0 else loop.call_soon(self._look)

    def _look(self) -> None:
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
        now, began = time.monotonic(), time.thread_time()
        try:
            self._release(now)
            self._set_timer(now)
        except Exception as error:
            # No call is to wait for ever: each call finds by itself that there is nothing for it.
            log_exception("in the queue; the waiting calls were sent on.", error)
            for call_id in list(self.calls):
                self._wake(call_id)
        took = time.thread_time() - began
        if took >= LONG_LOOK:
            self._rests_until = now + (1 + REST) * took

    def _release(self, now: float) -> None:
        for request in self._scheduler.serve_waiting(now):
            self._wake(request.call_id)
        for call_id in [each for each, (_, until) in self.calls.items() if until <= now]:
            self._wake(call_id)

    def _wake(self, call_id: str) -> None:
        waiting = self.calls.pop(call_id, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(None)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = min((until for _, until in self.calls.values()), default=math.inf)
        if self.calls:
            at = min(at, self._scheduler.look_again)
        if at < math.inf:
            pause = max(SHORTEST_PAUSE, at - now)
            self._timer = asyncio.get_running_loop().call_later(pause, self._look)
