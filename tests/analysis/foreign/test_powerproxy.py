"""PowerProxy's usage, as its plugins write it, and as the gateway's sinks do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.backtest import main as backtest_main
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report_command import main as report_main
from aoai_gateway.usage.csv_files import CsvWriter
from aoai_gateway.usage.log_analytics import _row as log_analytics_row
from tests.engine_driver import config
from tests.usage.records import record

HEAD = (
    "request_start_minute,request_start_minute_utc,client,is_streaming,prompt_tokens,completion_tokens,"
    "total_tokens,openai_processing_ms,openai_region\n"
)


def records(path: Path) -> list[dict[str, Any]]:
    return [found for _, found in read([path], Selection(), Reading())]


def test_what_powerproxy_writes(tmp_path: Path) -> None:
    path = tmp_path / "20261128-110000.logs.csv"
    path.write_text(
        HEAD
        + "2026-11-28 11:00,2026-11-28 10:00,Team 1,1,100,20,120,350.5,Sweden Central\n"
        + "2026-11-28 11:01,2026-11-28 10:01,Team 2,0,None,None,None,None,None"
    )
    first, second = records(path)
    assert first["time"] == "2026-11-28T10:00:00.000Z"
    assert (first["client"], first["streaming"], first["status"], first["outcome"]) == (
        "Team 1",
        True,
        200,
        "ok",
    )
    assert (first["input_tokens"], first["output_tokens"]) == (100, 20)
    assert (first["backend_processing_ms"], first["region"]) == (350.5, "Sweden Central")
    assert (second["input_tokens"], second["backend_processing_ms"], second["region"]) == (None, None, None)
    assert (second["deployment"], second["duration_ms"]) == (None, None)


def test_what_its_later_version_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.logs.csv"
    path.write_text(
        "request_received_utc,client,is_streaming,prompt_tokens,completion_tokens,total_tokens,"
        "aoai_roundtrip_time_ms,aoai_region,aoai_endpoint_name\n"
        "2026-11-28 10:00:07.250,Team 1,0,100,20,120,900,Sweden Central,sweden\n"
    )
    (found,) = records(path)
    assert (found["time"], found["duration_ms"], found["endpoint"]) == (
        "2026-11-28T10:00:07.250Z",
        900.0,
        "sweden",
    )


def test_the_sinks_files_give_what_the_records_said(tmp_path: Path) -> None:
    written = [
        record(client="Team 1", streaming=True),
        record(client='A, "b"\nc', input_tokens=None, output_tokens=None),
        record(status=429, outcome="rejected", endpoint=None),
    ]
    CsvWriter(tmp_path).write(written)
    (path,) = tmp_path.iterdir()
    found = records(path)
    assert [(each["client"], each["streaming"], each["input_tokens"]) for each in found] == [
        ("Team 1", True, 100),
        ('A, "b"\nc', False, None),
    ]


@pytest.mark.parametrize("form", ["objects", "text"])
def test_rows_of_the_log_analytics_sink_are_whole_records(form: str, tmp_path: Path) -> None:
    whole = record(time="2026-11-28T10:00:07.250Z", cost=0.5)
    row = log_analytics_row(whole)
    if form == "text":
        row["Record"] = json.dumps(row["Record"])
    path = tmp_path / "query.json"
    path.write_text(json.dumps([row]))
    assert records(path) == [whole]


def test_rows_of_powerproxys_table(tmp_path: Path) -> None:
    row = log_analytics_row(record())
    path = tmp_path / "query.json"
    del row["Record"], row["TimeGenerated"]
    path.write_text(json.dumps([row]))
    (found,) = records(path)
    assert (found["time"], found["client"], found["input_tokens"]) == (
        "2026-11-28T10:00:00.000Z",
        "Team 1",
        100,
    )


def test_a_row_of_a_later_schema_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "query.json"
    path.write_text(json.dumps([log_analytics_row(record(schema=2))]))
    assert report_main([str(path)], None) == 1
    assert "item 1: a record has schema 2" in capsys.readouterr().err


def test_a_backtest_says_why_it_leads_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.logs.csv"
    path.write_text(HEAD + "2026-11-28 11:00,2026-11-28 10:00,Team 1,1,100,20,120,350.5,Sweden Central\n")
    assert backtest_main([str(path), "--config", "x"], lambda _: config("a")) == 1
    said = capsys.readouterr().err
    assert said.startswith("aoai-gateway: 1 record, but no call that can be sent again. From PowerProxy")
    assert "no deployments" in said
