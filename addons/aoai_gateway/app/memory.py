"""Memory that is free goes back to the system.

A connection's layers refer to each other, so what is left of one is garbage that waits for its collection;
bodies of many megabytes may be among it, and a few objects never make a collection due. Then glibc keeps what
was theirs: pages that are free between others that are not. Some minutes of large calls double the
size of a process for good, and a container is killed for memory that nothing uses.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 5.0
"""Seconds between two releases; one takes about a millisecond for a hundred megabytes."""

SHARE = 500.0
"""Times as long as it took, at least, until it is done again."""

WORTH = 8 * 1024 * 1024
"""Bytes above the least, from which on it is tried."""

GARBAGE = 32 * 1024 * 1024
"""Bytes of bodies that may wait for a collection."""

LEAST_SHARE = 50.0
"""The same as `SHARE` where so much garbage waits."""

ARENAS = 2
"""Pools of memory of a process. Python's own lock leaves little to gain from more."""

_ARENA_MAX = -8
"""``M_ARENA_MAX`` in glibc's malloc.h."""

_STATUS = Path("/proc/self/statm")


class FreeMemory:
    """Gives memory back now and then, where the system can do that.

    ``resident`` tells the bytes that the process has, None if that is not known; ``trim`` gives back.
    """

    def __init__(
        self, resident: Callable[[], int | None] | None = None, trim: Callable[[], object] | None = None
    ) -> None:
        self._resident = resident or _resident
        self._trim = trim or _trim()
        _bound_arenas()
        self._least = math.inf
        self._next = -math.inf
        self._soonest = -math.inf
        """Before this it is not done, however much waits."""

    def look(self, now: float, garbage: int = 0) -> bool:
        """Give back what is free, if the process has grown.

        ``now``: monotonic seconds; ``garbage``: bytes of bodies that are no longer needed. Whether these were
        collected.
        """
        collect = garbage > GARBAGE and now >= self._soonest
        if collect:
            self._next = now
        self._look(now, collect=collect)
        return collect

    def _look(self, now: float, *, collect: bool) -> None:
        if now < self._next:
            return
        self._next = now + SECONDS
        before = self._resident()
        if before is not None and (collect or before > self._least + WORTH):
            # What stays is set aside (see `app.garbage`), so that this is a matter of milliseconds.
            began = time.thread_time()  # other processes may take turns
            gc.collect()
            self._trim()
            took = time.thread_time() - began
            self._next = now + max(SECONDS, SHARE * took)
            self._soonest = now + LEAST_SHARE * took
            before = self._resident()
        if before is not None:
            self._least = min(self._least, before)


def _resident() -> int | None:
    try:
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _bound_arenas() -> None:
    """Have threads share their pools of memory, in glibc: each keeps what was free in it."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, ARENAS)


def _trim() -> Callable[[], object]:
    """Find glibc's `malloc_trim`; no other library needs it."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    return lambda: function(0)
