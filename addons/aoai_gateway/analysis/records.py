"""Reading usage records from files of JSON lines.

A log that has both records and other lines (standard output) will do. Lines that do not begin with ``{`` are
passed over; those that do and are no records, or have a field of another type, are counted, too. A file whose
name ends in ``.gz`` is decompressed. Of a capture (mitmproxy's dump file), each call's flow is made a record
(:mod:`~aoai_gateway.analysis.captures`), and so is each row of other programs' records
(:mod:`~aoai_gateway.analysis.foreign`).
"""

from __future__ import annotations

import gc
import gzip
import io
import itertools
import json
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from aoai_gateway.analysis.foreign import forms, rows
from aoai_gateway.analysis.foreign.form import Row, Unusable
from aoai_gateway.analysis.foreign.powerproxy import record_in
from aoai_gateway.analysis.reading import Reading, Record, RecordsError, Selection, open_error
from aoai_gateway.analysis.record_check import NoRecordError, checked, is_time, wrong_field
from aoai_gateway.usage.record import SCHEMA, empty_record

_LONGEST_LENGTH = 12
_DUMP = re.compile(rb"[0-9]{1,11}:")
"""A dump file begins with the length of its first flow."""

_GZIP = b"\x1f\x8b"

STDIN, STDIN_NUMBER = Path("-"), 0
"""Standard input: how it is named on the command line, and its descriptor."""

BYTE_ORDER_MARK = "\ufeff"
"""What some editors begin a file with."""


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
    """Yield the wanted records with their times, in the order of the files. Raises RecordsError.

    A path ``-`` is standard input. Each file is read once from its begin to its end, so a pipe will do, and
    one that is named twice is read once.
    """
    for path in dict.fromkeys(paths):
        reading.files.append(str(path))
        has_begun = False
        with _opened(path) as file:
            is_capture = _DUMP.match(file.peek(_LONGEST_LENGTH)) is not None
            for at, record in (_flows if is_capture else _lines)(path, file, reading):
                if not has_begun:
                    has_begun = True
                    reading.begin(str(path), record["call"])
                if selection.wants(record, at):
                    reading.read += 1
                    yield at, record
                else:
                    reading.left_out += 1


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading, and decompress it if it is compressed.

    Raises RecordsError if it cannot be read, also later.
    """
    try:
        with open(STDIN_NUMBER, "rb", closefd=False) if path == STDIN else path.open("rb") as file:
            if file.peek(len(_GZIP)).startswith(_GZIP):
                with gzip.open(file) as unpacked:
                    yield io.BufferedReader(unpacked)
            else:
                yield file
    except OSError as error:
        raise open_error(path, error) from None
    except (EOFError, zlib.error) as error:
        raise RecordsError(f"{path}: {error}") from None


def _is_utf16(file: io.BufferedReader) -> bool:
    # PowerShell makes UTF-16 of what it redirects.
    return file.peek(2)[:2] in (BOM_UTF16_LE, BOM_UTF16_BE)


def is_plain(path: Path) -> bool:
    """Whether DuckDB can read a file, as far as its begin tells: the gateway's own lines of JSON.

    Raises RecordsError if it cannot be read.
    """
    if path == STDIN or not path.is_file():
        return False
    with _opened(path) as file:
        # DuckDB goes by the name.
        if isinstance(file.raw, gzip.GzipFile) != (path.suffix == ".gz"):
            return False
        if _DUMP.match(file.peek(_LONGEST_LENGTH)) or _is_utf16(file):
            return False
        begin = _begin(_text(file))
    first = "".join(begin)
    if rows.is_array(first):
        return False
    if not first.startswith("{"):
        table = rows.columns_of(begin[-1]) if begin else None
        return table is None or forms.form_of(table[1]) is None
    try:
        return "outcome" in _read_whole(first)
    except NoRecordError:
        return True


def _text(file: io.BufferedReader) -> io.TextIOWrapper:
    # `_begin` takes the byte order mark away: the codec that does so reads at half the speed.
    return io.TextIOWrapper(file, "utf-16" if _is_utf16(file) else "utf-8", errors="replace")


def _lines(path: Path, file: io.BufferedReader, reading: Reading) -> Iterator[tuple[float, Record]]:
    text = _text(file)
    begin = _begin(text)
    whole = itertools.chain(begin, text)
    first = "".join(begin)
    if rows.is_array(first):
        yield from _rows(path, "item", rows.of_array(whole), reading)
        return
    table = rows.columns_of(begin[-1]) if begin else None
    if table is not None and forms.form_of(table[1]) is not None:
        yield from _rows(path, "line", rows.of_table(text, *table, first_line=len(begin) + 1), reading)
        return
    if table is not None:
        reading.unknown = reading.unknown or f"columns {forms.named(table[1])}"
    yield from _json_lines(path, whole, reading)


def _begin(text: io.TextIOBase) -> list[str]:
    """Read lines up to the first one that has more than what is around an array of objects."""
    begin: list[str] = []
    for line in text:
        begin.append(line if begin else line.removeprefix(BYTE_ORDER_MARK))
        if not rows.is_around(begin[-1]):
            break
    return begin


def _rows(
    path: Path, noun: str, found: Iterator[tuple[int, Mapping[str, Any]]], reading: Reading
) -> Iterator[tuple[float, Record]]:
    """Make records of the rows of a table or an array; those of the gateway's own may be among them."""
    plain = empty_record()
    try:
        for number, values in found:
            place = f"{path}, {noun} {number}"
            try:
                record = _made(values, plain, reading)
            except NoRecordError as error:
                reading.pass_over(place, str(error))
                continue
            except RecordsError as error:
                raise RecordsError(f"{place}: {error}") from None
            if record is not None:
                yield record
    except NoRecordError as error:
        reading.pass_over(str(path), str(error))


def _foreign(values: Mapping[str, Any], reading: Reading) -> tuple[float, Record] | None:
    """Make the record of another program's row; None of a row that is no call."""
    form = forms.form_of(values)
    if form is None:
        reading.unknown = reading.unknown or f"members {forms.named(values)}"
        raise NoRecordError("no outcome")
    if isinstance(form, Unusable):
        raise RecordsError(f"these are {form.name}: {form.why}")
    made = form.record(Row(values))
    if made is None:
        return None
    at, record = made
    if (wrong := wrong_field(record)) is not None or not is_time(at):
        raise NoRecordError(wrong or "time")
    reading.meet(form)
    return at, record


def _json_lines(path: Path, lines: Iterable[str], reading: Reading) -> Iterator[tuple[float, Record]]:
    plain = empty_record()
    has_objects = has_text = False
    for number, line in enumerate(lines, 1):
        if not line.startswith("{"):
            # Usage records may go to stdout, among the lines of a log.
            has_text = has_text or not line.isspace()
            continue
        has_objects = True
        try:
            found = _record(line, plain, reading)
        except NoRecordError as error:
            reading.pass_over(f"{path}, line {number}", str(error))
            continue
        except RecordsError as error:
            raise RecordsError(f"{path}, line {number}: {error}") from None
        if found is not None:
            yield found
    if has_text and not has_objects:
        reading.texts.append(str(path))


def _flows(path: Path, file: io.BufferedReader, reading: Reading) -> Iterator[tuple[float, Record]]:
    # mitmproxy takes a second to load, and most reports are on records.
    from aoai_gateway.analysis.captures import flows_of, record_of

    try:
        for number, flow in enumerate(flows_of(file), 1):
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
    except NoRecordError as error:
        reading.pass_over(str(path), str(error))


def seconds(time: str) -> float:
    """Return a record's time in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def _record(line: str, plain: Record, reading: Reading) -> tuple[float, Record] | None:
    # Nearly all lines are right, and are read twice as fast by what checks them.
    known = checked(line)
    if known is not None:
        return _time_of(known), known
    values = _read_whole(line)
    return _made(values, plain, reading)


def _made(values: Mapping[str, Any], plain: Record, reading: Reading) -> tuple[float, Record] | None:
    """Make the record of a row, which may be one, hold one, or be another program's; None: it is no call."""
    own = values if "outcome" in values else record_in(Row(values))
    return _foreign(values, reading) if own is None else _whole(own, plain)


def _whole(values: Mapping[str, Any], plain: Record) -> tuple[float, Record]:
    """Make a whole record of one that lacks fields, or has wrong ones. Raises NoRecordError."""
    at = _time_of(values)
    # Older ones lack what was added since.
    whole = plain | dict(values)
    if (wrong := wrong_field(whole)) is not None:
        raise NoRecordError(wrong)
    return at, whole


def _time_of(record: Mapping[str, Any]) -> float:
    """Return a record's time, if it is one that this version understands."""
    try:
        at = seconds(record["time"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise NoRecordError("time") from None
    if not is_time(at):
        raise NoRecordError("time")
    schema = record.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise RecordsError(f"a record has schema {schema!r}, and this version reads up to {SCHEMA}")
    return at


def _read_whole(line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise NoRecordError("not JSON") from None
    if not isinstance(record, dict):
        raise NoRecordError("no outcome")
    return record
