"""The memory of a process: what is free goes back to the system, and the collector is kept off what stays.

A connection's layers refer to each other, so what is left of one is garbage that waits for its collection;
bodies of many megabytes may be among it, and a few objects never make a collection due. Then glibc keeps what
was theirs: pages that are free between others that are not. Some minutes of large calls double the
size of a process for good, and a container is killed for memory that nothing uses.

A full collection goes through all objects that it knows, and no call goes on meanwhile: a tenth of a second
for the 10,000 calls that a workbench keeps. It finds next to nothing, since neither a call nor a connection
leaves a circle of references behind. So the collector takes small steps: a full collection is due after some
thousand new objects. What has survived one that took long is set aside (`gc.freeze`), and the next one goes
through what has come since.

What was set aside ends as ever when nothing refers to it any more; only a circle in it stays. So all of it is
gone through when no call has come for a while, and, also under load, when there are three times as many
objects as after the last time.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECONDS = 5.0
"""Seconds between two releases; one takes about a millisecond for a hundred megabytes."""

SHARE = 500.0
"""Times as long as a release or a collection took, at least, until it is done again."""

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
            # What stays is set aside by `Garbage`, so that this is a matter of milliseconds.
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


# --- the collector ---------------------------------------------------------------------------------------

STEPS = (700, 2, 1)
"""A collection of the youngest objects is due after so many new ones, one of the next generation after so
many of these, and a full one after so many of those: when some 4,000 objects have come that stay."""

LONG = 0.001
"""Seconds of a full collection from which on what has survived it is set aside."""

IDLE_SECONDS = 5.0
"""Seconds without a call, after which one may wait for a collection."""

BETWEEN_SECONDS = 300.0
"""Seconds between two collections of all generations while no call comes, at least: see `SHARE`, too."""

GROWTH = 3
"""Times as many objects as after the last time, at which all is gone through, calls or not.

A list of 10,000 calls has about as many as a process at its start, so it hardly makes this due by itself.
"""

FULL = 2
"""The generation of a full collection."""


class Garbage:
    """Sets aside what stays, and goes through it now and then.

    ``clock`` tells a thread's seconds of CPU, so that a busy machine makes no collection long; ``count``
    the objects that there are, or what grows with them.
    """

    def __init__(
        self, clock: Callable[[], float] = time.thread_time, count: Callable[[], int] = sys.getallocatedblocks
    ) -> None:
        self._clock = clock
        self._count = count
        self._began = 0.0
        self._is_aside = False
        """Whether something was set aside since all was gone through."""
        self._left = math.inf
        """The objects that were left then."""
        self._next = 0.0
        self._steps = gc.get_threshold()
        """The collector's thresholds as they were before."""

    def begin(self) -> None:
        """Set aside what there is, and from now on what stays."""
        self._steps = gc.get_threshold()
        gc.set_threshold(*STEPS)
        gc.callbacks.append(self._collected)
        # Not what was set aside before: a worker shares it with its parent, as long as nothing touches it.
        gc.collect()
        self.set_aside()

    def end(self) -> None:
        """Leave the collector alone."""
        with suppress(ValueError):
            gc.callbacks.remove(self._collected)
            gc.set_threshold(*self._steps)

    def set_aside(self) -> None:
        """Set aside what there is now, and count from there."""
        gc.freeze()
        # Python has the next full collection wait for a quarter of what the last one has left.
        gc.collect()
        self._is_aside, self._left = False, self._count()

    def look(self, now: float, idle: float) -> None:
        """Go through all if it is time. ``now``: monotonic seconds; ``idle``: seconds without a call."""
        waits_for_none = self._is_aside and idle >= IDLE_SECONDS and now >= self._next
        if waits_for_none or self._count() > GROWTH * self._left:
            took = self._go_through_all()
            self._next = now + max(BETWEEN_SECONDS, SHARE * took)

    def _go_through_all(self) -> float:
        """Collect, and set the rest aside. Returns the seconds that it took."""
        began = self._clock()
        gc.unfreeze()
        gc.collect()
        self.set_aside()
        return self._clock() - began

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        """Hear from the collector that a collection begins or has ended."""
        if info["generation"] != FULL:
            return
        if phase == "start":
            self._began = self._clock()
        elif self._clock() - self._began >= LONG:
            gc.freeze()
            self._is_aside = True
