"""Records as a Parquet file: the same records, in columns."""

from __future__ import annotations

import builtins
import gzip
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from mitmproxy.io import FlowWriter

from aoai_gateway.analysis import records as records_module
from aoai_gateway.analysis.export import main
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.usage.record import FIELDS, usage_record
from tests.analysis.day import day
from tests.analysis.test_captures import flow
from tests.engine_driver import ANYBODY, throttled, world
from tests.usage.records import record


def lines(path: Path, records: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def rows(path: Path, query: str = "*") -> list[Any]:
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {query} FROM read_parquet(?)", [str(path)]).fetchall()


def test_a_day_has_the_figures_of_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = lines(tmp_path / "usage.jsonl", day()), tmp_path / "usage.parquet"
    assert main([str(source), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 103 records\n"
    reading = Reading()
    totals = report(read([source], Selection(), reading), reading, percentile=99)["totals"]
    # A call that was broken off has no usage, but its tokens were counted.
    counted = "CASE WHEN delivered_tokens IS NOT NULL THEN prompt_tokens_counted END"
    taken, given = f"coalesce(input_tokens, {counted})", "coalesce(output_tokens, delivered_tokens)"
    assert rows(out, f"sum(count), sum({taken}), sum({given}), round(sum(cost), 6)") == [
        (totals["requests"], totals["input_tokens"], totals["output_tokens"], totals["cost"])
    ]
    spilled = "count(*) FILTER (attempts[1].skipped[1].cause = 'break')"
    assert rows(out, f"max(refused_by.limit), {spilled}, min(epoch_ms(time))") == [(6000, 10, 1795856410000)]
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["usage.jsonl", "usage.parquet"]


def test_a_real_record_loses_nothing(tmp_path: Path) -> None:
    client = ANYBODY.but(max_tokens_per_minute=1)
    here = world("a", "b", clients=(client,)).script(a=throttled(retry_after="3"))
    made = [usage_record(here.call(client=client, max_tokens=50).call) for _ in range(3)]
    out = tmp_path / "usage.parquet"
    assert main([str(lines(tmp_path / "u", made)), "-o", str(out)]) == 0
    fields = [field for field in FIELDS if field not in ("time", "policy")]
    for row, expected in zip(rows(out, ", ".join(f'"{field}"' for field in fields)), made, strict=True):
        assert dict(zip(fields, row, strict=True)) == {field: expected[field] for field in fields}


def test_a_spillover_keeps_a_code_that_is_no_number(tmp_path: Path) -> None:
    spilled = {"from": "ptu", "to": "standard", "error": "too_many_requests"}
    out = tmp_path / "usage.parquet"
    assert main([str(lines(tmp_path / "u", [record(spillover=spilled)])), "-o", str(out)]) == 0
    assert rows(out, "spillover") == [(spilled,)]


def test_other_lines_compressed_files_captures_and_older_records(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("2026-11-29T10:00:00Z INFO ready\n" + json.dumps(record()) + '\n{"half": ')
    compressed = tmp_path / "usage.jsonl.gz"
    older = {key: value for key, value in record(call="old").items() if key != "utilization"}
    compressed.write_bytes(gzip.compress((json.dumps(older) + "\n").encode()))
    capture = tmp_path / "calls.flows"
    with capture.open("wb") as file:
        FlowWriter(file).add(flow())
    out = tmp_path / "usage.parquet"
    assert main([*map(str, (log, compressed, capture)), "-o", str(out)]) == 0
    assert len(rows(out)) == 3


@pytest.mark.parametrize("form", ["utf-16", "gzip without the ending", "a file named -"])
def test_what_a_report_reads_is_written(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB itself does not read such files."""
    text, source, out = json.dumps(record()) + "\n", tmp_path / "usage.jsonl", tmp_path / "usage.parquet"
    source.write_bytes(text.encode("utf-16") if form == "utf-16" else gzip.compress(text.encode()))
    if form == "a file named -":
        monkeypatch.chdir(tmp_path)
        Path("-").write_text("another one")
        with source.open("rb") as file:
            monkeypatch.setattr(records_module, "STDIN_NUMBER", file.fileno())
            assert main(["-", "-o", str(out)]) == 0
    else:
        assert main([str(source), "-o", str(out)]) == 0
    assert len(rows(out)) == 1


def test_a_pipe_with_nothing_that_is_wanted_is_an_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.write(writer, (json.dumps(record()) + "\n").encode())
    os.close(writer)
    monkeypatch.setattr(records_module, "STDIN_NUMBER", reader)
    out = tmp_path / "usage.parquet"
    assert main(["-", "--since", "2030-01-01", "-o", str(out)]) == 0
    os.close(reader)
    assert rows(out) == []


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    source, out = lines(tmp_path / "usage.jsonl", [record()]), tmp_path / "usage.parquet"
    assert main([str(source), str(source), "-o", str(out)]) == 0
    assert len(rows(out)) == 1


def test_a_time_that_is_wanted(tmp_path: Path) -> None:
    source, out = lines(tmp_path / "usage.jsonl", day()), tmp_path / "usage.parquet"
    since, until = "2026-11-28T09:30", "2026-11-28T09:31"
    assert main([str(source), "--since", since, "--until", until, "-o", str(out)]) == 0
    assert rows(out, "count(*)") == [(10,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "usage.jsonl: No such file"),
        (json.dumps(record(schema=2)), "a record has schema 2, and this version reads up to 1"),
    ],
)
def test_what_cannot_be_read_is_said(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "usage.jsonl", tmp_path / "usage.parquet"
    if text is not None:
        source.write_text(text + "\n")
    assert main([str(source), "-o", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lines(tmp_path / "usage.jsonl", day())
    assert main([str(source), "-o", str(tmp_path / "none" / "x.parquet")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_a_compressed_file_that_is_cut_off_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "usage.jsonl.gz"
    source.write_bytes(gzip.compress(json.dumps(record()).encode())[:60])
    assert main([str(source), "-o", str(tmp_path / "x.parquet")]) == 1
    assert f"{source}: Compressed file ended" in capsys.readouterr().err


def test_without_duckdb_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([str(lines(tmp_path / "u", day())), "-o", str(tmp_path / "x.parquet")]) == 1
    said = capsys.readouterr().err
    assert "-m pip install" in said
    assert "duckdb" in said
