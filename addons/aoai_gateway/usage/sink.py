"""Where usage records go: a line of JSON each, to a file or to standard output, off the event loop."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage.files import append

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

CAPACITY = 100_000
"""Records that may wait for a slow disk; beyond, they are dropped and counted."""


class UsageSink:
    """Writes records in a thread of its own. ``target``: ``stdout`` or a path."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.dropped = 0
        """Records that are lost: there was no room on the disk, or it was too slow."""
        self._told = 0
        """How many of these have been logged."""
        self._queue: queue.Queue[str | None] = queue.Queue(CAPACITY)
        self._thread = threading.Thread(target=self._write, name="usage log", daemon=True)
        self._thread.start()

    def put(self, record: Mapping[str, Any]) -> None:
        """Take a record; never blocks."""
        try:
            # ASCII: no terminal's encoding, and no odd name from outside, can stop the log.
            self._queue.put_nowait(json.dumps(record, separators=(",", ":")))
        except queue.Full:
            self._lose(1, "the disk is too slow")

    def close(self, seconds: float = 5.0) -> None:
        """Write what is waiting, for so long at most."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            left = self._queue.qsize()
        else:
            self._thread.join(seconds)
            # The word that it is the end is not a record.
            left = max(0, self._queue.qsize() - 1)
        if left:
            self._lose(left, "they were not written in time")
        if self.dropped:
            logger.error("The usage log %s lacks %d records.", self.target, self.dropped)

    def _lose(self, count: int, why: str) -> None:
        self.dropped += count
        if self.dropped >= 2 * self._told:  # the 1st, 2nd, 4th, 8th …
            self._told = self.dropped
            logger.error(
                "The usage log %s cannot be written: %s; %d records are lost.", self.target, why, self.dropped
            )

    def _write(self) -> None:
        failing = False
        while True:
            lines, last = self._take()
            try:
                self._append(lines)
                if failing and lines:
                    logger.warning(
                        "The usage log %s can be written again; %d records are lost.",
                        self.target,
                        self.dropped,
                    )
                    failing, self._told = False, 0
            except (OSError, ValueError) as error:  # ValueError: standard output was closed
                failing = True
                self._lose(len(lines), str((error.strerror if isinstance(error, OSError) else "") or error))
            if last:
                return

    def _take(self) -> tuple[list[str], bool]:
        """Wait for a record, and give it with all others that are there."""
        lines: list[str] = []
        item = self._queue.get()
        while item is not None:
            lines.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return lines, False
        return lines, True

    def _append(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "".join(line + "\n" for line in lines)
        if self.target == "stdout":
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            append(Path(self.target), text.encode())
