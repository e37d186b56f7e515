"""Usage records for analysis: lines of JSON, Parquet and DuckDB's own file; what writing and asking takes.

    .venv/bin/python tests/bench/records.py [RECORDS]

One thread; a folder in the place for temporary files needs 1.7 GB for a million records.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from aoai_gateway.analysis.parquet import OFFLINE, TYPES
from tests.usage.records import attempt, record

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


def records(count: int) -> Any:
    """Make records of 40 clients: a tenth of the calls are replayed, 3 % are over a quota."""
    random, at = Random(1), datetime(2026, 11, 1, tzinfo=UTC)
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


def measured(name: str, work: Callable[[], object]) -> None:
    """Do something, and say what it took."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:60} {cpu:6.2f} s of CPU, {time.perf_counter() - begin:6.2f} s", flush=True)


def main(count: int) -> None:
    """Measure all of it."""
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in TYPES.items())
    with tempfile.TemporaryDirectory() as folder:
        lines, parquet, own = (
            Path(folder, name) for name in ("usage.jsonl", "usage.parquet", "usage.duckdb")
        )
        with lines.open("w") as out:
            out.writelines(json.dumps(each, separators=(",", ":")) + "\n" for each in records(count))
        source = f"read_json('{lines}', format = 'newline_delimited', columns = {{{columns}}})"
        with duckdb.connect(own, config=OFFLINE) as database:
            ask = database.execute
            ask("SET threads = 1; SET TimeZone = 'UTC'")
            measured("write Parquet", lambda: ask(f"COPY (FROM {source}) TO '{parquet}' (COMPRESSION zstd)"))
            measured("write DuckDB", lambda: ask(f"CREATE TABLE usage AS FROM {source}; CHECKPOINT"))
            for file in (lines, parquet, own):
                print(f"{file.name:60} {file.stat().st_size / 1e6:6.0f} MB")
            for name, query in QUERIES.items():
                for form, table in (("lines", source), ("Parquet", f"'{parquet}'"), ("DuckDB", "usage")):
                    measured(f"{name}, {form}", partial(_all, database, query.format(table)))


def _all(database: duckdb.DuckDBPyConnection, query: str) -> object:
    return database.execute(query).fetchall()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
