"""Logs of API Management and of Azure OpenAI, as Log Analytics exports them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.export import main as export_main
from aoai_gateway.analysis.reading import Reading, RecordsError, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report_command import main as report_main
from tests.usage.records import record

GATEWAY: dict[str, Any] = {
    "TimeGenerated": "2026-11-28T10:00:00.1234567Z",
    "CorrelationId": "c1",
    "ApimSubscriptionId": "team-1",
    "OperationId": "ChatCompletions_Create",
    "Url": "https://apim/openai/deployments/gpt-4o/chat/completions?api-version=1&subscription-key=secret",
    "ResponseCode": 200,
    "TotalTime": 1500,
    "BackendTime": 1400,
    "BackendResponseCode": 200,
    "BackendUrl": "https://contoso-sweden.openai.azure.com/openai/deployments/gpt-4o/chat/completions",
    "Region": "Sweden Central",
}

LLM: dict[str, Any] = {
    "TimeGenerated": "2026-11-28T10:00:00Z",
    "CorrelationId": "c1",
    "DeploymentName": "gpt-4o",
    "ModelName": "gpt-4o-2024-11-20",
    "IsStreamCompletion": True,
    "PromptTokens": 100,
    "CompletionTokens": 20,
    "TotalTokens": 120,
    "SequenceNumber": 0,
}

OPENAI: dict[str, Any] = {
    "TimeGenerated": "2026-11-28T10:00:00Z",
    "Category": "RequestResponse",
    "OperationName": "ChatCompletions_Create",
    "DurationMs": 800,
    "ResultSignature": "429",
    "CallerIPAddress": "10.0.0.***",
    "CorrelationId": "c1",
    "Resource": "CONTOSO-SWEDEN",
    "properties_s": json.dumps(
        {"streamType": "Streaming", "modelDeploymentName": "gpt-4o", "modelName": "gpt-4o", "objectId": ""}
    ),
}


def written(tmp_path: Path, *rows: Mapping[str, Any], name: str = "query.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(rows))
    return path


def of(path: Path) -> list[dict[str, Any]]:
    return [found for _, found in read([path], Selection(), Reading())]


def test_a_join_of_both_tables_tells_all(tmp_path: Path) -> None:
    (found,) = of(written(tmp_path, LLM | GATEWAY))
    wanted = {
        "time": "2026-11-28T10:00:00.123Z",
        "call": "c1",
        "client": "team-1",
        "operation": "chat.completions",
        "deployment": "gpt-4o",
        "endpoint": "contoso-sweden.openai.azure.com",
        "model": "gpt-4o-2024-11-20",
        "streaming": True,
        "outcome": "ok",
        "status": 200,
        "input_tokens": 100,
        "output_tokens": 20,
        "duration_ms": 1500.0,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert "secret" not in json.dumps(found)


def test_a_portals_csv(tmp_path: Path) -> None:
    path = tmp_path / "query_data.csv"
    path.write_text(
        '\ufeff"TimeGenerated [UTC]",CorrelationId,ApimSubscriptionId,DeploymentName,PromptTokens,'
        "CompletionTokens,ResponseCode,TotalTime\n"
        '"11/28/2026, 2:00:00.123 PM",c1,team-1,gpt-4o,100,20,200,1500\n',
        encoding="utf-8",
    )
    (found,) = of(path)
    assert (found["time"], found["input_tokens"], found["duration_ms"]) == (
        "2026-11-28T14:00:00.123Z",
        100,
        1500.0,
    )


@pytest.mark.parametrize(
    ("backend", "reason", "outcome", "error"),
    [(429, "", "ok", None), (None, "TokenLimitExceeded", "rejected", "TokenLimitExceeded")],
)
def test_whose_429_it_was(
    backend: int | None, reason: str, outcome: str, error: str | None, tmp_path: Path
) -> None:
    row = GATEWAY | {"ResponseCode": 429, "BackendResponseCode": backend, "LastErrorReason": reason}
    (found,) = of(written(tmp_path, row))
    assert (found["status"], found["outcome"], found["error"]) == (429, outcome, error)


@pytest.mark.parametrize(("status", "wanted"), [(0, None), (None, None), (200, 200)])
def test_a_call_that_its_client_ended(status: int | None, wanted: int | None, tmp_path: Path) -> None:
    """APIM has no status for a client that was gone before its answer began."""
    row = GATEWAY | {"ResponseCode": status, "LastErrorReason": "ClientConnectionFailure"}
    (found,) = of(written(tmp_path, row))
    assert (found["outcome"], found["status"]) == ("client_gone", wanted)


def test_calls_of_other_apis_are_none(tmp_path: Path) -> None:
    row = GATEWAY | {"Url": "https://apim/orders/7", "OperationId": "get-order"}
    assert len(of(written(tmp_path, row, GATEWAY))) == 1


def test_parts_of_long_messages_are_no_calls(tmp_path: Path) -> None:
    part = dict.fromkeys(LLM) | {"TimeGenerated": LLM["TimeGenerated"], "SequenceNumber": 1}
    (found,) = of(written(tmp_path, part, LLM))
    assert (found["deployment"], found["input_tokens"], found["streaming"]) == ("gpt-4o", 100, True)


def test_both_tables_unjoined_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path, GATEWAY), written(tmp_path, LLM, name="llm.json")]
    with pytest.raises(RecordsError, match="join both tables on CorrelationId"):
        list(read(files, Selection(), Reading()))
    out = tmp_path / "usage.parquet"
    assert export_main([*map(str, files), "-o", str(out)]) == 1
    assert "join both tables on CorrelationId" in capsys.readouterr().err
    assert not out.exists()


def test_azure_openais_own_log(tmp_path: Path) -> None:
    (found,) = of(written(tmp_path, OPENAI, OPENAI | {"Category": "Audit"}))
    assert (found["client"], found["deployment"], found["status"], found["duration_ms"]) == (
        "10.0.0.***",
        "gpt-4o",
        429,
        800.0,
    )
    assert found["attempts"][0]["backend"] == "gpt-4o@contoso-sweden"


TWICE = "calls that are in more than one of these count each time."


def test_logs_that_may_have_the_same_calls_are_said_to_count_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = OPENAI | {"CorrelationId": "another"}
    files = [str(written(tmp_path, LLM | GATEWAY)), str(written(tmp_path, logged, name="openai.json"))]
    assert report_main([*files, "--format", "json"], None) == 0
    said = json.loads(capsys.readouterr().out)["remarks"]
    assert said[0] == f"APIM's gateway log, Azure OpenAI's request log: {TWICE}"
    assert report_main([files[1], "--format", "json"], None) == 0
    assert TWICE not in capsys.readouterr().out


def test_so_are_they_beside_records_of_the_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "usage.jsonl"
    own.write_text(json.dumps(record()) + "\n")
    files = [str(own), str(written(tmp_path, OPENAI))]
    assert report_main([*files, "--format", "json"], None) == 0
    said = json.loads(capsys.readouterr().out)["remarks"]
    assert said[0] == f"usage records, Azure OpenAI's request log: {TWICE}"
    assert report_main([str(own), "--format", "json"], None) == 0
    assert json.loads(capsys.readouterr().out)["remarks"] == []


def test_an_export_says_what_such_records_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, broken, out = tmp_path / "usage.jsonl", OPENAI | {"DurationMs": "long"}, tmp_path / "usage.parquet"
    own.write_text(json.dumps(record()) + "\n")
    files = [str(own), str(written(tmp_path, OPENAI, broken))]
    assert export_main([*files, "-o", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}: 2 records\n"
    said = " ".join(told.err.split())
    assert TWICE in said
    assert "From Azure OpenAI's request log. It has no tokens" in said
    assert "1 line is no usage record; the first:" in said
    assert "(DurationMs)" in said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"MetricName": "ActiveTokens", "TimeGrain": "PT1M", "Total": 5}, "Azure Monitor's metrics"),
        ({"run_seconds": 5, "rpm": 1.0, "tpm": {}}, "aoai-gateway benchmark takes the same options"),
    ],
)
def test_figures_without_calls_are_an_error_that_says_what_to_do(
    row: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(row) + "\n")
    assert report_main([str(path)], None) == 1
    assert said in capsys.readouterr().err
