"""Calls that have ended, until they are counted and written down, some at a time.

A call is half a millisecond of work of many kinds, after which a processor's caches hold nothing of metrics
and records: these take two to three times as long for each call by itself as for the next one of a batch. So
calls gather for a moment. A reader of the counts has those that gathered counted first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aoai_gateway.engine.call import Call

GATHER_SECONDS = 0.05
"""The most for which a call waits for others."""

MOST_AT_ONCE = 50
"""Calls of one batch: they take less than a millisecond, for which nothing else goes on."""

HELD_BODY = 16 * 1024
"""Bytes of a request's body above which a call is written at once, so that its memory is free."""


class EndedCalls:
    """Gathers calls for ``write``, which gets them in the order of their ends. Used on the event loop."""

    def __init__(self, write: Callable[[Sequence[Call]], None]) -> None:
        self._write = write
        self._calls: list[Call] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Take a call, of which nothing changes from now on."""
        self._calls.append(call)
        large = call.body is not None and len(call.body.raw) > HELD_BODY
        if large or len(self._calls) >= MOST_AT_ONCE:
            self.write()
        elif self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                # A layer that is driven without a loop has no later.
                self.write()
            else:
                self._timer = loop.call_later(GATHER_SECONDS, self._due)

    def write(self) -> None:
        """Have all of them written now."""
        if self._calls:
            calls, self._calls = self._calls, []
            self._write(calls)

    def _due(self) -> None:
        self._timer = None
        self.write()
