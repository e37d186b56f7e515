"""Records as CSV with the columns, and in files of the names, of PowerProxy's plugin LogUsageToCsvFile.

There is a line for each call that a backend answered, and a new file for each start, day and size. What
PowerProxy writes is the start of the minute, in local time and in UTC.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import time
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage.files import Folder, create, is_at, prune, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aoai_gateway.usage.sink import Record

COLUMNS = (
    "request_start_minute",
    "request_start_minute_utc",
    "client",
    "is_streaming",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "openai_processing_ms",
    "openai_region",
)


class CsvWriter:
    """Writes to ``20261129-093000.logs.csv`` (local time) in a folder, which is made if it is not there."""

    def __init__(
        self,
        folder: Path,
        *,
        rotate_bytes: int = 0,
        daily: bool = False,
        keep: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._clock = Folder(folder), clock
        self._rotate_bytes, self._daily, self._keep = rotate_bytes, daily, keep
        self._path: Path | None = None
        self._file: int | None = None
        """It stays open and locked, so that no other process takes it for an old one."""
        self._let_go: Callable[[], object] = bool
        self._day: object = None

    def write(self, records: Sequence[Record]) -> int | None:
        """Append a line for each that a backend answered; all or nothing. None: there was none."""
        rows = [row(record) for record in records if was_answered(record)]
        if not rows:
            return None
        data = _text(rows)
        file = self._current(len(data))
        write(file, data if os.fstat(file).st_size else _text([COLUMNS]) + data)
        return 0

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()
        self._file = None

    def _current(self, more: int) -> int:
        now, file, path = datetime.fromtimestamp(self._clock()).astimezone(), self._file, self._path
        if file is not None and path is not None and is_at(path, file):
            full = self._rotate_bytes and os.fstat(file).st_size + more > self._rotate_bytes
            if not full and (not self._daily or now.date() == self._day):
                return file
        self.close()
        self._folder.make()
        prune(self._folder.path, "*.logs.csv", self._keep)
        self._file, self._path = self._new(now.strftime("%Y%m%d-%H%M%S"))
        self._folder.note_device()
        self._let_go = weakref.finalize(self, os.close, self._file)
        self._day = now.date()
        return self._file

    def _new(self, stamp: str) -> tuple[int, Path]:
        for number in itertools.count(2):
            path = self._folder.path / f"{stamp}.logs.csv"
            with contextlib.suppress(FileExistsError):
                return create(path), path
            stamp = f"{stamp[:15]}-{number}"
        raise AssertionError


def was_answered(record: Record) -> bool:
    """Whether a backend answered a call, and well: PowerProxy writes down no others."""
    status, ended_so = record["status"], record["outcome"] in ("ok", "truncated")
    return ended_so and status is not None and status < 400 and record["endpoint"] is not None


def row(record: Record) -> tuple[Any, ...]:
    """Return the values of PowerProxy's columns; empty where the answer did not say."""
    begun = datetime.fromisoformat(record["time"])
    taken, given = record["input_tokens"], record["output_tokens"]
    return (
        f"{begun.astimezone():%Y-%m-%d %H:%M}",
        f"{begun.astimezone(UTC):%Y-%m-%d %H:%M}",
        record["client"],
        int(record["streaming"]),
        taken,
        given,
        None if taken is None else taken + (given or 0),
        record["backend_processing_ms"],
        record["region"],
    )


def _text(rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()
