"""Records as lines of JSON: to standard output, or to a file that is rotated by size and by day."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.usage.files import append

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aoai_gateway.usage.sink import Record


class StdoutWriter:
    """Writes to standard output."""

    def write(self, records: Sequence[Record]) -> int:
        """Write a line for each."""
        sys.stdout.write(lines_of(records))
        sys.stdout.flush()
        return 0

    def close(self) -> None:
        """Nothing is open."""


class JsonLinesWriter:
    """Appends to a file, which is opened for each batch, so that others may move it away, too.

    Before a batch that would make it larger than ``rotate_bytes``, or that is the first one of another day
    (UTC), it is renamed: ``usage.jsonl`` to ``usage.20261129-093000.jsonl``, by the time in UTC. The newest
    ``keep`` of those stay. 0 is no bound. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        rotate_bytes: int = 0,
        daily: bool = False,
        keep: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._daily = daily
        self._keep = keep
        self._clock = clock

    def write(self, records: Sequence[Record]) -> int:
        """Append a line for each; all or nothing."""
        data = lines_of(records).encode()
        if self._rotate_bytes or self._daily:
            self._rotate(len(data))
        append(self._path, data)
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _rotate(self, more: int) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        day = datetime.fromtimestamp(found.st_mtime, UTC).date()
        too_large = bool(self._rotate_bytes) and found.st_size + more > self._rotate_bytes
        if found.st_size and (too_large or (self._daily and day != now.date())):
            # Another process that writes to the same file may have been quicker.
            with contextlib.suppress(FileNotFoundError):
                self._path.rename(unused(self._path, now))
            prune(self._path.parent, f"{self._path.stem}.[0-9]*{self._path.suffix}", self._keep)


def lines_of(records: Sequence[Record]) -> str:
    """Write records as lines. ASCII: no terminal's encoding, and no odd name, can stop the log."""
    return "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)


def unused(path: Path, now: datetime) -> Path:
    """Give a name with this time in it, beside a path, that no file has."""
    stamp = now.strftime("%Y%m%d-%H%M%S")
    found = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    number = 1
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}.{stamp}-{number}{path.suffix}")
    return found


def prune(folder: Path, pattern: str, keep: int) -> None:
    """Delete all but the newest files of a pattern; ``keep`` 0 keeps all. Raises OSError."""
    if keep:
        files = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime, path.name))
        for path in files[:-keep]:
            os.unlink(path)
