"""Records as CSV with the columns, and in files of the names, of PowerProxy's plugin LogUsageToCsvFile.

There is a line for each call that a backend answered, and a new file for each start, day and size. What
PowerProxy writes is the start of the minute, in local time and in UTC.
"""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aoai_gateway.usage.files import append
from aoai_gateway.usage.lines import prune

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
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._daily = daily
        self._keep = keep
        self._clock = clock
        self._path: Path | None = None
        self._day: object = None

    def write(self, records: Sequence[Record]) -> int:
        """Append a line for each that a backend answered; all or nothing."""
        rows = [row(record) for record in records if was_answered(record)]
        if not rows:
            return 0
        data = _text(rows)
        path = self._file(len(data))
        if not path.exists():
            data = _text([COLUMNS]) + data
        append(path, data)
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _file(self, more: int) -> Path:
        now = datetime.fromtimestamp(self._clock()).astimezone()
        path = self._path
        full = (
            path is not None
            and self._rotate_bytes
            and path.exists()
            and path.stat().st_size + more > self._rotate_bytes
        )
        if path is None or full or (self._daily and now.date() != self._day):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            stamp, number = now.strftime("%Y%m%d-%H%M%S"), 1
            path = self._folder / f"{stamp}.logs.csv"
            while path.exists():
                number += 1
                path = self._folder / f"{stamp}-{number}.logs.csv"
            self._path, self._day = path, now.date()
            prune(self._folder, "*.logs.csv", max(0, self._keep - 1))
        return path


def was_answered(record: Record) -> bool:
    """Whether a backend answered a call, and well: PowerProxy writes down no others."""
    status, ended_so = record["status"], record["outcome"] in ("ok", "truncated")
    return ended_so and status is not None and status < 400 and record["endpoint"] is not None


def row(record: Record) -> tuple[Any, ...]:
    """Give the values of PowerProxy's columns; empty where the answer did not say."""
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
