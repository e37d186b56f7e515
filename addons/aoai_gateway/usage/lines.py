"""Records as lines of JSON: to standard output, or to a file that is rotated by size and by day."""

from __future__ import annotations

import itertools
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aoai_gateway.usage.files import Appender, prune
from aoai_gateway.whole_lines import write_lines

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from aoai_gateway.usage.sink import Line, Record


class StdoutWriter:
    """Writes to standard output."""

    def write(self, records: Sequence[Line]) -> int:
        """Write lines."""
        write_lines(sys.stdout, b"".join(records).decode("ascii"))
        return 0

    def close(self) -> None:
        """Nothing is open."""


class JsonLinesWriter:
    """Appends to a file, which is opened for each batch, so that others may move it away, too.

    Several processes may write to it.

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
        self._path, self._file, self._clock = path, Appender(path), clock
        self._rotate_bytes, self._daily, self._keep = rotate_bytes, daily, keep

    def write(self, records: Sequence[Line]) -> int:
        """Append lines; all or nothing."""
        data = b"".join(records)
        rotates = bool(self._rotate_bytes) or self._daily
        if self._file.append(data, (lambda found: self._aside(found, len(data))) if rotates else None):
            prune(self._path.parent, f"{self._path.stem}.[0-9]*{self._path.suffix}", self._keep)
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _aside(self, found: os.stat_result, more: int) -> Path | None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        day = datetime.fromtimestamp(found.st_mtime, UTC).date()
        too_large = bool(self._rotate_bytes) and found.st_size + more > self._rotate_bytes
        if not found.st_size or not (too_large or (self._daily and day != now.date())):
            return None
        return next(name for name in stamped(self._path, now) if not name.exists())


def line_of(record: Record) -> Line:
    """Write a record as a line. ASCII: no terminal's encoding, and no odd name, can stop the log.

    Raises TypeError if it holds what JSON cannot.
    """
    # The quick encoder takes a seventh of the time, but does not escape what is not ASCII.
    try:
        written = _ENCODER.encode(record)
    except UnicodeEncodeError:  # half of a surrogate pair
        written = b"\x80"
    if not written.isascii():
        written = json.dumps(record, separators=(",", ":")).encode("ascii")
    return written + b"\n"


_ENCODER = msgspec.json.Encoder()


def stamped(path: Path, now: datetime) -> Iterator[Path]:
    """Yield names with this time in them, beside a path: ``usage.20261129-093000.jsonl``, ``…-2.jsonl``, …"""
    stamp = now.strftime("%Y%m%d-%H%M%S")
    yield path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}.{stamp}-{number}{path.suffix}")
