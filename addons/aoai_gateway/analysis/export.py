"""``aoai-gateway export FILE… -o usage.parquet``: usage records, for queries of one's own.

The file has a column for each field, with attempts nested.

DuckDB (extra ``parquet``) reads the lines and writes the file, in bounded memory. It is no sink: a Parquet
file is whole only once it has its end, so a gateway that is killed would lose all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.analysis.reading import Reading, RecordsError, Selection, parser_of_records
from aoai_gateway.analysis.records import is_plain, read
from aoai_gateway.analysis.text import remarks
from aoai_gateway.command_line import installs
from aoai_gateway.usage.record import FIELDS, SCHEMA

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SKIPS = "STRUCT(backend VARCHAR, cause VARCHAR, reason VARCHAR, wait_ms DOUBLE)[]"
_SPILLOVER = 'STRUCT("from" VARCHAR, "to" VARCHAR, error VARCHAR)'
_ATTEMPTS = (
    "STRUCT(backend VARCHAR, status INTEGER, failure VARCHAR, reason VARCHAR, break_ms DOUBLE, "
    "answered_ms DOUBLE, duration_ms DOUBLE, resent BOOLEAN, "
    f"skipped {_SKIPS}, region VARCHAR, request_id VARCHAR, started_ms DOUBLE, first_token_ms DOUBLE, "
    f"spillover {_SPILLOVER})[]"
)
_POLICY = (
    "STRUCT(action VARCHAR, what VARCHAR, asked VARCHAR, given VARCHAR, dry_run BOOLEAN, "
    '"limit" DOUBLE, deployment VARCHAR, retry_after_ms DOUBLE)[]'
)
_REFUSED_BY = 'STRUCT(quota VARCHAR, deployment VARCHAR, "limit" DOUBLE, asked DOUBLE, "left" DOUBLE)'

_PLAIN = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_OTHER = {
    "time": "TIMESTAMPTZ",
    "attempts": _ATTEMPTS,
    "skipped": _SKIPS,
    "policy": _POLICY,
    "refused_by": _REFUSED_BY,
    "spillover": _SPILLOVER,
}

TYPES: Mapping[str, str] = {name: _OTHER.get(name) or _PLAIN[kind] for name, kind in FIELDS.items()}
"""DuckDB's type of each field of a record."""

WIDTH = 100
"""Characters in a line of remarks."""

OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
"""All that is needed is built in; nothing is fetched."""


def main(words: Sequence[str]) -> int:
    """Run one command line."""
    parser = parser_of_records("export", "Write usage records as a Parquet file, for queries of one's own.")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="usage.parquet")
    args = parser.parse_args(words)
    reading = Reading()
    try:
        count = write(args.files, Selection(args.since, args.until), args.output, reading)
    except (RecordsError, OSError) as error:
        said = f"{args.output}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"aoai-gateway: {said}", file=sys.stderr)
        return 1
    print(f"{args.output}: {count:,} records")
    # Standard output has the count alone.
    for line in remarks({"passed_over": reading.told(), "remarks": reading.remarks()}, WIDTH):
        print(line, file=sys.stderr)
    return 0


def write(files: Sequence[Path], selection: Selection, output: Path, reading: Reading) -> int:
    """Write the wanted records to a file that only its owner may read. Returns how many there are.

    ``reading`` takes what a reader of the records has to know.

    Raises RecordsError and OSError.
    """
    try:
        import duckdb
    except ImportError:
        raise RecordsError(f"`export` needs more packages: {installs('parquet')}") from None

    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=output.parent))
    try:
        # As `read` does, which reads a file that is named twice once.
        lines = [
            _as_lines(file, folder / f"{n}.jsonl", reading) for n, file in enumerate(dict.fromkeys(files))
        ]
        draft = folder / "draft.parquet"
        with duckdb.connect(config=OFFLINE) as connection:
            count = _written(connection, lines, selection, draft, duckdb.Error)
        if not count:
            _look_for_records(lines, files)
        draft.chmod(0o600)
        draft.replace(output)
        return count
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _look_for_records(lines: Sequence[Path], files: Sequence[Path]) -> None:
    """Raise RecordsError if files, of which the lines are, hold no record at all, selected or not."""
    # A pipe is at its end by now, but its lines are there.
    if next(read(lines, Selection(), Reading()), None) is None:
        reading = Reading()
        next(read(files, Selection(), reading), None)
        raise RecordsError(reading.why_nothing())


def _as_lines(file: Path, draft: Path, reading: Reading) -> Path:
    """Return a file of lines for a file of records: flows and other programs' rows are made records first.

    ``reading`` is that of all files. Raises RecordsError.
    """
    # What cannot be opened is said in the system's words, not in DuckDB's.
    if is_plain(file):
        first = next(read([file], Selection(), Reading()), None)
        if first is not None:
            reading.has_own = True
            reading.begin(str(file), first[1]["call"])
        return file
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
        out.writelines(json.dumps(record) + "\n" for _, record in read([file], Selection(), reading))
    return draft


def _written(
    connection: DuckDBPyConnection,
    files: Sequence[Path],
    selection: Selection,
    output: Path,
    error_type: type[Exception],
) -> int:
    columns = ", ".join(f"{_quoted(name)}: {_quoted(of)}" for name, of in TYPES.items())
    # Other lines stand between the records, and the last one may be cut off.
    options = f"columns = {{{columns}}}, format = 'newline_delimited', ignore_errors = true"
    records = f"read_json([{', '.join(map(_quoted, files))}], {options})"
    target = f"{_quoted(output)} (FORMAT parquet, COMPRESSION zstd)"
    wanted = " AND ".join(_conditions(selection))
    try:
        # COPY takes no parameters. The values come from the command line, and each is quoted.
        connection.execute(f"COPY (SELECT * FROM {records} WHERE {wanted}) TO {target}")  # noqa: S608 - all quoted
        found = connection.execute(
            "SELECT count(*), max(schema) FROM read_parquet(?)", [str(output)]
        ).fetchone()
    except error_type as error:
        raise RecordsError(str(error).splitlines()[0]) from None
    count, newest = found or (0, None)
    if newest is not None and newest > SCHEMA:
        raise RecordsError(f"a record has schema {newest}, and this version reads up to {SCHEMA}")
    return int(count)


def _conditions(selection: Selection) -> Iterator[str]:
    yield "outcome IS NOT NULL AND time IS NOT NULL"
    if selection.since is not None:
        yield f"epoch_us(time) >= {round(selection.since * 1e6)}"
    if selection.until is not None:
        yield f"epoch_us(time) < {round(selection.until * 1e6)}"


def _quoted(text: object) -> str:
    escaped = str(text).replace("'", "''")
    return f"'{escaped}'"
