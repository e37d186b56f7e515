"""LiteLLM's spend logs, as its database and its API give them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.backtest import main as backtest_main
from aoai_gateway.analysis.foreign.litellm import MASTER_KEY
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report_command import main as report_main
from tests.engine_driver import config

KEY = "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"

SERVED: dict[str, Any] = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": KEY,
    "spend": 0.0045,
    "total_tokens": 120,
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "startTime": "2026-11-28T10:00:00.000Z",
    "endTime": "2026-11-28T10:00:02.500Z",
    "completionStartTime": "2026-11-28T10:00:00.400Z",
    "model": "azure/gpt-4o-ptu",
    "model_id": "1",
    "model_group": "gpt-4o",
    "api_base": "https://contoso-sweden.openai.azure.com/",
    "user": "default_user_id",
    "metadata": {
        "user_api_key_alias": "search",
        "usage_object": {"prompt_tokens_details": {"cached_tokens": 64}},
    },
    "cache_hit": "False",
    "end_user": "alice",
    "status": "success",
}

REFUSED: dict[str, Any] = SERVED | {
    "request_id": "0d8f",
    "spend": 0.0,
    "total_tokens": 0,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "completionStartTime": "2026-11-28T10:00:02.500Z",
    "metadata": {
        "user_api_key_alias": "search",
        "status": "failure",
        "error_information": {"error_code": "429", "error_class": "RateLimitError"},
    },
    "status": "failure",
}


def cell(name: str, value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).replace("T", " ").rstrip("Z") if "Time" in name else value


def as_csv(path: Path, *rows: Mapping[str, Any], delimiter: str = ",") -> Path:
    """Write rows as psql's ``\\copy … CSV HEADER`` does."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(cell(name, value) for name, value in row.items())
    return path


def only(path: Path) -> dict[str, Any]:
    ((_, record),) = read([path], Selection(), Reading())
    return record


def as_lines(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_served_stream(tmp_path: Path) -> None:
    record = only(as_lines(tmp_path / "spend.jsonl", SERVED))
    wanted = {
        "time": "2026-11-28T10:00:00.000Z",
        "call": "chatcmpl-1",
        "client": "search",
        "user": "alice",
        "operation": "chat.completions",
        "deployment": "gpt-4o",
        "endpoint": "contoso-sweden.openai.azure.com",
        "standin": "gpt-4o-ptu",
        "streaming": True,
        "outcome": "ok",
        "status": 200,
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_tokens": 64,
        "cost": 0.0045,
        "first_token_ms": 400.0,
        "duration_ms": 2500.0,
    }
    assert {key: record[key] for key in wanted} == wanted
    assert [each["backend"] for each in record["attempts"]] == ["gpt-4o-ptu@contoso-sweden.openai.azure.com"]


@pytest.mark.parametrize("form", ["csv", "semicolons", "array", "pretty", "page", "pretty page", "utf-16"])
def test_each_way_to_export_them_gives_the_same_records(form: str, tmp_path: Path) -> None:
    path, rows = tmp_path / "spend", [SERVED, REFUSED]
    if form in ("csv", "semicolons"):
        as_csv(path, *rows, delimiter=";" if form == "semicolons" else ",")
    elif form == "utf-16":
        path.write_text(json.dumps(rows), encoding="utf-16")
    else:
        shape = {"data": rows, "total": 2} if form.endswith("page") else rows
        path.write_text(json.dumps(shape, indent=2 if form.startswith("pretty") else None))
    lines = as_lines(tmp_path / "spend.jsonl", *rows)
    found, wanted = ([*read([each], Selection(), Reading())] for each in (path, lines))
    assert found == wanted
    assert len(found) == 2


def test_a_call_that_failed(tmp_path: Path) -> None:
    record = only(as_lines(tmp_path / "spend.jsonl", REFUSED))
    assert (record["outcome"], record["status"], record["error"]) == ("rejected", 429, "RateLimitError")
    assert (record["input_tokens"], record["cost"], record["streaming"]) == (None, None, False)


@pytest.mark.parametrize(
    ("key", "client"),
    [(KEY, "key 88dc28d0"), (MASTER_KEY, MASTER_KEY), ("sk-1234secret", None)],
)
def test_a_key_without_an_alias_is_named_by_its_hash_and_never_by_itself(
    key: str, client: str | None, tmp_path: Path
) -> None:
    assert only(as_lines(tmp_path / "a.jsonl", SERVED | {"api_key": key, "metadata": {}}))["client"] == client


def test_a_model_without_a_price_has_no_cost(tmp_path: Path) -> None:
    assert only(as_lines(tmp_path / "a.jsonl", SERVED | {"spend": 0.0}))["cost"] is None
    assert only(as_lines(tmp_path / "b.jsonl", SERVED | {"spend": 0.0, "cache_hit": "True"}))["cost"] == 0.0


@pytest.mark.parametrize(
    ("column", "value"),
    [("prompt_tokens", "many"), ("startTime", "noon"), ("prompt_tokens", -1), ("endTime", "28/11/2026, x")],
)
def test_a_row_with_a_wrong_value_is_passed_over(column: str, value: object, tmp_path: Path) -> None:
    reading = Reading()
    path = as_lines(tmp_path / "a.jsonl", SERVED | {column: value}, SERVED)
    assert len([*read([path], Selection(), reading)]) == 1
    assert reading.told().endswith(f"{path}, line 1 ({column})")


def test_the_report_says_what_they_do_not_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_csv(tmp_path / "spend.csv", SERVED, REFUSED)
    assert report_main([str(path)], None) == 0
    said = capsys.readouterr().out
    assert "2 requests: 1 served, 1 refused" in said
    assert "From LiteLLM's spend logs. They do not tell which limit refused a call" in said
    assert max(map(len, said.splitlines())) <= 80
    assert report_main([str(path), "--format", "html"], None) == 0
    assert "From LiteLLM&#x27;s spend logs." in capsys.readouterr().out


def test_a_backtest_leads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_csv(tmp_path / "spend.csv", SERVED, REFUSED)
    assert backtest_main([str(path), "--config", "x", "--format", "json"], lambda _: config("a")) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["calls"] == 2
    assert made["recorded"]["totals"]["served"] == 1
    assert made["recorded"]["totals"]["refused"] == {"RateLimitError": 1}
