"""A sink of usage records: a bounded queue, and a thread of its own that hands batches to a writer.

Traffic does not wait for the writer: one that hangs fills the queue, one that fails loses its batch, and both
are counted and logged. A record that comes alone is written at once; those that
come soon after wait a moment for others, since a thread that wakes up for each of them costs more than what
it writes. So a killed process loses the records of calls in flight and of that moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

type Record = Mapping[str, Any]

type Line = bytes
"""A record as a line of JSON, with its end (`lines.line_of`)."""

CAPACITY = 20_000
"""Records that may wait for a slow writer; beyond, they are dropped and counted."""

MOST_AT_ONCE = 1_000
"""Records of one batch."""

GATHER_SECONDS = 0.5
"""The least time between two batches, for which records gather, unless a sink says something else.

Each batch takes a thread some system calls, and after each of them it waits for its turn among the threads.
Ten batches a second cost a call 5 to 10 µs so, two a second 2 to 3.
"""

HANGS_SECONDS = 30.0
"""A writer that takes longer than this for a batch is said to hang."""


class Writer[T](Protocol):
    """Writes records, or lines of them, somewhere; used by one thread."""

    def write(self, records: Sequence[T]) -> int | None:
        """Write all of a batch. Returns how many of it are lost for reasons of their own.

        None: nothing of the batch is for this place, so nothing is known of it. Any exception means that all
        of them are lost.
        """

    def close(self) -> None:
        """Let go of what is open."""


class Sink[T]:
    """Takes what its writer does, and has it written. ``name`` is for the log, the status page and metrics.

    ``gather_seconds``: the least time from one batch to the next. ``trouble``: says what is wrong with the
    writer though no record is lost. ``hurry``: tells the writer, which may be amid a batch, that the end is
    near. ``weigh`` gives the bytes of a record that waits, of which there may be no more than ``most``
    together.
    """

    def __init__(
        self,
        name: str,
        writer: Writer[T],
        *,
        gather_seconds: float = GATHER_SECONDS,
        trouble: Callable[[], str] = str,
        hurry: Callable[[], object] = lambda: None,
        weigh: Callable[[T], int] = lambda _: 0,
        most: int = 0,
    ) -> None:
        self.name = name
        self.dropped = 0
        """Records that are lost: there was no room on the disk, or the writer was too slow."""
        self.written = 0
        self.failing = ""
        """Why the last batch was lost; empty if it was written."""
        self._told = 0
        """How many of the lost ones the log has been told of."""
        self._writer = writer
        self._writers_trouble = trouble
        self._hurry = hurry
        self._since: float | None = None
        """When the batch that is being written was begun (monotonic)."""
        self._lock = threading.Lock()
        """Guards the counts, and what is put before the end."""
        self._unsettled = 0
        """Records that are neither written nor lost: in the queue, or in the writer's hands."""
        self._weigh = weigh
        self._most = most
        self._weight = 0
        self._closed = False
        self._given_up = False
        """Whether all that was unsettled has been counted as lost."""
        self._gather_seconds = gather_seconds
        self._queue: deque[T] = deque()
        self._taken = float("-inf")
        """When the last batch was taken (monotonic)."""
        self._come = threading.Event()
        """Set while there is something to do for the thread."""
        self._ends = threading.Event()
        """Set once no more records come."""
        self._thread = threading.Thread(target=self._work, name=f"usage sink {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many records are not yet written."""
        return self._unsettled

    def trouble(self, now: float) -> str:
        """Return what is wrong with it at this monotonic time; empty if nothing is."""
        since = self._since
        if since is not None and now - since > HANGS_SECONDS:
            return f"has hung for {now - since:.0f} s"
        return self.failing or self._writers_trouble()

    def put(self, records: Sequence[T]) -> None:
        """Take records, which are not changed from now on; never blocks."""
        taken = 0
        with self._lock:
            if not self._closed:
                taken = self._room_for(records)
                self._queue.extend(records[:taken])
                self._unsettled += taken
                if taken:
                    self._come.set()
        if taken < len(records):
            self._lose(len(records) - taken, "it is closed" if self._closed else "it is too slow")

    def _room_for(self, records: Sequence[T]) -> int:
        """Say how many of them fit, the first ones, and count what they weigh."""
        room = min(len(records), CAPACITY - len(self._queue))
        if not self._most:
            return room
        for number, record in enumerate(records[:room]):
            weight = self._weigh(record)
            if self._weight + weight > self._most:
                return number
            self._weight += weight
        return room

    def close(self, seconds: float = 5.0) -> None:
        """Write what is waiting, for so long at most; what is not written by then counts as lost."""
        with self._lock:
            self._closed = True
        self._ends.set()
        self._come.set()
        self._hurry()
        self._thread.join(seconds)
        with self._lock:
            left, self._unsettled = self._unsettled, 0
            self._given_up = self._given_up or left > 0
        if left:
            self._lose(left, "they were not written in time")
        if self.dropped:
            logger.error("The usage log %s lacks %d records.", self.name, self.dropped)

    def _lose(self, count: int, why: str) -> None:
        with self._lock:
            self.dropped += count
            tell = self.dropped >= 2 * self._told  # the 1st, 2nd, 4th, 8th …
            if tell:
                self._told = self.dropped
        if tell:
            logger.error(
                "The usage log %s cannot be written: %s; %d records are lost.", self.name, why, self.dropped
            )

    def _work(self) -> None:
        last = False
        while not (last or self._given_up):
            records, last = self._take()
            if records and not self._given_up:
                self._write(records)
        try:
            self._writer.close()
        except Exception as error:
            logger.warning("The usage log %s could not be closed: %s.", self.name, reason(error))

    def _write(self, records: list[T]) -> None:
        self._since = time.monotonic()
        try:
            lost = self._writer.write(records)
        except Exception as error:
            self.failing = reason(error)
            self._settle(records, len(records), self.failing)
        else:
            self._settle(records, lost or 0, "they were refused")
            if self.failing and lost == 0:
                logger.warning(
                    "The usage log %s can be written again; %d records are lost.", self.name, self.dropped
                )
                self.failing, self._told = "", 0
        finally:
            self._since = None

    def _settle(self, records: list[T], lost: int, why: str) -> None:
        """Count a batch, unless that was done when it did not end in time."""
        count, weight = len(records), sum(map(self._weigh, records))
        with self._lock:
            self._weight -= weight
            if self._given_up:
                return
            self._unsettled -= count
            self.written += count - lost
        if lost:
            self._lose(lost, why)

    def _take(self) -> tuple[list[T], bool]:
        """Wait for a record and those that come soon after. Returns them, and whether they are the last."""
        self._come.wait()
        if len(self._queue) < MOST_AT_ONCE:
            self._ends.wait(max(0.0, self._taken + self._gather_seconds - time.monotonic()))
        self._taken = time.monotonic()
        with self._lock:
            records = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_AT_ONCE))]
            if not self._queue and not self._closed:
                self._come.clear()
            return records, self._closed and not self._queue


class LineSink(Sink[Line]):
    """Takes records as lines."""


def reason(error: Exception) -> str:
    """Say in a few words what went wrong; messages of other errors than the system's may quote data."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__qualname__ if not isinstance(error, SinkError) else str(error)


class SinkError(Exception):
    """A writer's own words for what went wrong, without anything secret."""
