"""Reading usage records from files of JSON lines.

A log that has both records and other lines (standard output) will do. Lines that do not begin with ``{`` are
passed over; those that do and are no records, or have a field of another type, are counted, too. A file whose
name ends in ``.gz`` is decompressed. Of a capture (mitmproxy's dump file), each call's flow is made a record
(:mod:`~aoai_gateway.analysis.captures`).
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aoai_gateway.analysis.record_check import checked, is_time, wrong_field
from aoai_gateway.analysis.text import outside
from aoai_gateway.usage.record import SCHEMA, empty_record

type Record = dict[str, Any]

_LONGEST_LENGTH = 12
_DUMP = re.compile(rb"[0-9]{1,11}:")

BYTE_ORDER_MARK = "\ufeff"
"""What some editors begin a file with."""

AGO = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class RecordsError(Exception):
    """A file cannot be read, or holds what this version does not understand; the text says what."""


class _NoRecordError(Exception):
    """A line is no record; the text names what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are wanted. Times are seconds since the epoch; ``until`` itself is not wanted."""

    since: float | None = None
    until: float | None = None
    clients: frozenset[str] = frozenset()
    deployments: frozenset[str] = frozenset()

    def wants(self, record: Record, at: float) -> bool:
        """Whether it is wanted."""
        if self.since is not None and at < self.since:
            return False
        if self.until is not None and at >= self.until:
            return False
        if self.clients and record["client"] not in self.clients:
            return False
        return not self.deployments or record["deployment"] in self.deployments


@dataclass(slots=True)
class Reading:
    """What came of reading."""

    read: int = 0
    left_out: int = 0
    """Records outside of the selection."""
    unreadable: int = 0
    """Lines that begin like a record but cannot be read: cut off, another program's, of other types."""
    first_unreadable: str | None = None
    """The first of them, ``usage.jsonl, line 3 (input_tokens)``."""
    foreign: list[str] = field(default_factory=list)
    """Files that hold text, of which no line begins as a record does: a CSV, another program's log."""
    files: list[str] = field(default_factory=list)

    def pass_over(self, place: str, wrong: str) -> None:
        """Count a line that is no record, or the rest of a capture."""
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or f"{place} ({wrong})"

    def told(self) -> str:
        """Return how many lines were passed over, and where to look; empty without any."""
        lines = "line is" if self.unreadable == 1 else "lines are"
        said = [f"no line of {path} is a usage record" for path in self.foreign]
        if self.unreadable:
            said.append(f"{self.unreadable:,} {lines} no usage record; the first: {self.first_unreadable}")
        return "; ".join(said)

    def why_nothing(self) -> str:
        """Say why nothing was read, after a reading to the end."""
        if self.left_out:
            return f"no records; {outside(self.left_out)}"
        files = self.files[0] if len(self.files) == 1 else f"{len(self.files):,} files"
        said = self.told()
        return f"{files}: no usage records" + (f"; {said}" if said else "")


def open_error(path: Path, error: OSError) -> RecordsError:
    """Say why a file cannot be read, and of a folder what to name instead."""
    if path.is_dir():
        return RecordsError(f"{path} is a folder; name the files in it, such as {path / '*.jsonl'}")
    return RecordsError(f"{path}: {error.strerror or error}")


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector of circular garbage off.

    Records that are read, counted or led leave none behind, and the collector would look through all that is
    kept of them again and again: a quarter of the time, for millions of them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read(paths: Sequence[Path], selection: Selection, reading: Reading) -> Iterator[tuple[float, Record]]:
    """Yield the wanted records with their times, in the order of the files. Raises RecordsError."""
    for path in paths:
        reading.files.append(str(path))
        try:
            for at, record in _flows(path, reading) if is_capture(path) else _lines(path, reading):
                if selection.wants(record, at):
                    reading.read += 1
                    yield at, record
                else:
                    reading.left_out += 1
        except OSError as error:
            raise open_error(path, error) from None
        except (EOFError, zlib.error) as error:
            raise RecordsError(f"{path}: {error}") from None


def _lines(path: Path, reading: Reading) -> Iterator[tuple[float, Record]]:
    plain = empty_record()
    has_objects = has_text = False
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                # Here, since the codec that does it reads at half the speed.
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.startswith("{"):
                # Usage records may go to stdout, among the lines of a log.
                has_text = has_text or not line.isspace()
                continue
            has_objects = True
            try:
                found = _record(line, plain)
            except _NoRecordError as error:
                reading.pass_over(f"{path}, line {number}", str(error))
                continue
            except RecordsError as error:
                raise RecordsError(f"{path}, line {number}: {error}") from None
            yield found
    if has_text and not has_objects:
        reading.foreign.append(str(path))


def _flows(path: Path, reading: Reading) -> Iterator[tuple[float, Record]]:
    # mitmproxy takes a second to load, and most reports are on records.
    from aoai_gateway.analysis.captures import CaptureReadError, flows_of, record_of

    try:
        for number, flow in enumerate(flows_of(path), 1):
            place = f"{path}, flow {number}"
            try:
                found = record_of(flow)
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
                # Any program can write metadata under any name.
                reading.pass_over(place, "its metadata")
                continue
            if found is None:
                continue
            if (wrong := wrong_field(found[1])) is not None:
                reading.pass_over(place, wrong)
                continue
            yield found
    except CaptureReadError as error:
        reading.pass_over(str(path), str(error))


def is_capture(path: Path) -> bool:
    """Whether a file begins as a dump file does: with the length of the first flow."""
    with path.open("rb") as file:
        return _DUMP.match(file.read(_LONGEST_LENGTH)) is not None


def seconds(time: str) -> float:
    """Return a record's time in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def moment(text: str, now: datetime) -> float:
    """Understand ``yesterday``, ``today``, ``90m``, ``24h``, ``7d``, or a date or time.

    One that names no zone is UTC. Raises ValueError.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "today":
        return midnight.timestamp()
    if text == "yesterday":
        return (midnight - timedelta(days=1)).timestamp()
    if text[-1:] in AGO and text[:-1].isdigit():
        return (now - timedelta(**{AGO[text[-1]]: int(text[:-1])})).timestamp()
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _open(path: Path) -> io.TextIOBase | Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _record(line: str, plain: Record) -> tuple[float, Record]:
    # Nearly all lines are right, and are read twice as fast by what checks them.
    known = checked(line)
    record = _read_whole(line) if known is None else known
    try:
        at = seconds(record["time"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _NoRecordError("time") from None
    if not is_time(at):
        raise _NoRecordError("time")
    schema = record.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise RecordsError(f"a record has schema {schema!r}, and this version reads up to {SCHEMA}")
    if known is not None:
        return at, known
    # Older ones lack what was added since.
    whole = plain | record
    if (wrong := wrong_field(whole)) is not None:
        raise _NoRecordError(wrong)
    return at, whole


def _read_whole(line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _NoRecordError("not JSON") from None
    if not isinstance(record, dict) or "outcome" not in record:
        raise _NoRecordError("no outcome")
    return record
