"""Usage records for analysis: lines of JSON, Parquet and DuckDB's own file; what writing and asking takes.

    nice -n 19 .venv/bin/python tests/bench/records.py [--records 10000000] [--folder /tmp]

One thread, and as much memory as ``--memory`` allows DuckDB. A million records are made up; more are the same
ones some days later, with other ids. They are written line by line, so the program itself needs no memory for
them. Ten million need 18 GB in the folder, which are removed in the end.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from aoai_gateway.analysis.export import OFFLINE, TYPES
from tests.usage.records import attempt, record

BASE = 1_000_000
BEGIN = date(2026, 11, 1)
SPAN_DAYS = 2
"""The days within which a base of records lies, and by which each copy is later."""

QUERIES = {
    "tokens per minute, p95 of each client": """
        SELECT client, quantile_cont(tokens, 0.95) FROM (
            SELECT client, date_trunc('minute', time), sum(input_tokens + output_tokens) AS tokens
            FROM {0} GROUP BY ALL) GROUP BY ALL""",
    "429s per hour, by cause": """
        SELECT date_trunc('hour', time), coalesce(refused_by.quota, error), count(*)
        FROM {0} WHERE status = 429 GROUP BY ALL""",
    "percentiles of latency": """
        SELECT deployment, quantile_cont(duration_ms, [0.5, 0.95, 0.99])
        FROM {0} WHERE status < 400 GROUP BY ALL""",
    "failed attempts, by backend": """
        SELECT a.backend, a.reason, count(*) FROM (SELECT unnest(attempts) AS a FROM {0})
        WHERE a.failure IS NOT NULL GROUP BY ALL""",
}

_DAY = re.compile(r'(?<="time":")[\d-]{10}')
_ID = re.compile(r'(?<=")[0-9a-f]{32}(?=")')


def records(count: int) -> Iterator[dict[str, Any]]:
    """Make records of 40 clients: a tenth of the calls are replayed, 3 % are over a quota."""
    random, at = Random(1), datetime(BEGIN.year, BEGIN.month, BEGIN.day, tzinfo=UTC)
    for _ in range(count):
        at += timedelta(seconds=random.expovariate(8))
        deployment = random.choice(("gpt-4o", "gpt-4o-mini", "o4-mini"))
        first, given = random.lognormvariate(6, 0.4), int(random.lognormvariate(5, 0.8))
        taken, whole = int(random.lognormvariate(6.5, 0.8)), first + 18 * given
        common = {
            "time": at.isoformat(timespec="milliseconds"),
            "call": f"{random.getrandbits(128):032x}",
            "client": f"team-{random.randrange(40)}",
            "deployment": deployment,
        }
        if random.random() < 0.03:
            over = {"status": 429, "outcome": "rejected", "error": "quota_exceeded", "attempts": []}
            yield record(**common, **over, refused_by={"quota": "tokens_per_minute", "limit": 6000})
            continue
        failed = attempt(f"{deployment}@sweden", status=429, failure="status", reason="429")
        served = attempt(f"{deployment}@france", answered_ms=first, duration_ms=whole)
        attempts = [failed, served] if random.random() < 0.1 else [served]
        yield record(
            **common, input_tokens=taken, output_tokens=given, first_token_ms=first, duration_ms=whole,
            attempts=attempts, backend_request_id=f"{random.getrandbits(128):032x}",
        )  # fmt: skip


def copied(line: str, number: int) -> str:
    """Return a line of the base as the copy of this number has it: days later, and its ids turned."""
    day = date.fromisoformat(_DAY.search(line)[0])  # type: ignore[index]
    line = _DAY.sub(str(day + timedelta(days=SPAN_DAYS * number)), line, count=1)
    return _ID.sub(lambda found: found[0][number:] + found[0][:number], line)


def write_lines(path: Path, count: int) -> None:
    """Write so many records, a base of them and copies of it."""
    base = path.with_suffix(".base")
    with base.open("w") as out:
        out.writelines(json.dumps(each, separators=(",", ":")) + "\n" for each in records(min(count, BASE)))
    with path.open("w") as out:
        for number in range(-(-count // BASE)):
            with base.open() as source:
                lines = (copied(line, number) for line in source)
                out.writelines(line for _, line in zip(range(count - number * BASE), lines, strict=False))
    base.unlink()


def measured(name: str, work: Callable[[], object]) -> None:
    """Do something, and say what it took."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:60} {cpu:7.2f} s of CPU, {time.perf_counter() - begin:7.2f} s", flush=True)


def main(count: int, folder: Path, memory: str) -> None:
    """Measure all of it."""
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in TYPES.items())
    lines, parquet, own = (folder / name for name in ("usage.jsonl", "usage.parquet", "usage.duckdb"))
    measured(f"make {count:,} records", partial(write_lines, lines, count))
    source = f"read_json('{lines}', format = 'newline_delimited', columns = {{{columns}}})"
    with duckdb.connect(own, config=OFFLINE) as database:
        ask = database.execute
        ask(f"SET threads = 1; SET TimeZone = 'UTC'; SET memory_limit = '{memory}'")
        measured("write Parquet", lambda: ask(f"COPY (FROM {source}) TO '{parquet}' (COMPRESSION zstd)"))
        measured("write DuckDB", lambda: ask(f"CREATE TABLE usage AS FROM {source}; CHECKPOINT"))
        for file in (lines, parquet, own):
            print(f"{file.name:60} {file.stat().st_size / 1e6:7.0f} MB")
        for name, query in QUERIES.items():
            for form, table in (("Parquet", f"'{parquet}'"), ("DuckDB", "usage"), ("lines", source)):
                measured(f"{name}, {form}", partial(_all, database, query.format(table)))
    print(f"memory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def _all(database: duckdb.DuckDBPyConnection, query: str) -> object:
    return database.execute(query).fetchall()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=BASE)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--memory", default="2GB", help="what DuckDB may take")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        main(args.records, Path(place), args.memory)
