"""What the writers of usage records write: rotation, PowerProxy's CSV, Log Analytics, OpenTelemetry."""

from __future__ import annotations

import csv
import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aoai_gateway.config.sinks import LogAnalyticsSink, OtlpSink
from aoai_gateway.usage.csv_files import COLUMNS, CsvWriter
from aoai_gateway.usage.lines import JsonLinesWriter
from aoai_gateway.usage.log_analytics import LogAnalyticsWriter
from aoai_gateway.usage.otlp import OtlpWriter
from aoai_gateway.usage.sink import SinkError
from tests.usage.records import attempt, record


class Clock:
    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).timestamp()

    def __call__(self) -> float:
        return self.now


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


# --- JSON lines -----------------------------------------------------------------------------------------


def test_a_file_is_set_aside_before_it_grows_too_large(tmp_path: Path) -> None:
    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T10:00:00Z")
    writer = JsonLinesWriter(path, rotate_bytes=20, clock=clock)
    for n in range(5):
        writer.write([{"n": n}])  # 8 bytes
    assert numbers(path) == [4]
    assert numbers(tmp_path / "usage.20261128-100000.jsonl") == [0, 1]
    assert numbers(tmp_path / "usage.20261128-100000-2.jsonl") == [2, 3]


def test_each_day_has_a_file_of_its_own(tmp_path: Path) -> None:
    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T23:59:59Z")
    writer = JsonLinesWriter(path, daily=True, clock=clock)
    for n in range(3):
        writer.write([{"n": n}])
        os.utime(path, (clock.now, clock.now))
        clock.now += 1
    assert numbers(path) == [1, 2]
    assert numbers(tmp_path / "usage.20261129-000000.jsonl") == [0]


def test_the_newest_files_stay(tmp_path: Path) -> None:
    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T10:00:00Z")
    (tmp_path / "usage.notes.jsonl").write_text("not ours")
    writer = JsonLinesWriter(path, rotate_bytes=8, keep=2, clock=clock)
    for n in range(6):
        writer.write([{"n": n}])
        os.utime(path, (clock.now, clock.now))
        clock.now += 1
    kept = sorted(each.name for each in tmp_path.iterdir())
    assert kept == [
        "usage.20261128-100004.jsonl",
        "usage.20261128-100005.jsonl",
        "usage.jsonl",
        "usage.notes.jsonl",
    ]


def test_processes_that_write_to_one_file_lose_and_double_nothing(tmp_path: Path) -> None:
    # Each opening of a file has a lock of its own, so threads are to one another what processes are.
    def work(worker: int) -> None:
        writer = JsonLinesWriter(tmp_path / "usage.jsonl", rotate_bytes=60)
        for n in range(100):
            writer.write([{"n": 1000 * worker + n}])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    written = [n for path in tmp_path.iterdir() for n in numbers(path)]
    assert sorted(written) == [1000 * worker + n for worker in range(4) for n in range(100)]


def test_a_file_that_cannot_be_set_aside_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, name: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    path = tmp_path / "usage.jsonl"
    writer = JsonLinesWriter(path, rotate_bytes=8)
    for n in range(3):
        writer.write([{"n": n}])
    assert numbers(path) == [0, 1, 2]
    assert "cannot be set aside as" in caplog.text


def test_old_files_that_another_process_deletes_first_cost_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def vanish(path: Path, **options: Any) -> os.stat_result:
        if path.name.startswith("usage.2026") and "-10000" in path.name:
            path.unlink(missing_ok=True)
        return stat(path, **options)

    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T10:00:00Z")
    writer = JsonLinesWriter(path, rotate_bytes=8, keep=1, clock=clock)
    writer.write([{"n": 0}])
    writer.write([{"n": 1}])
    clock.now += 1
    monkeypatch.setattr(Path, "stat", vanish)
    writer.write([{"n": 2}])
    assert numbers(path) == [2]


# --- CSV ------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_has_powerproxys_columns(tmp_path: Path) -> None:
    clock = Clock("2026-11-28T10:00:30Z")
    writer = CsvWriter(tmp_path / "logs", clock=clock)
    writer.write(
        [record(client='Büro "A", 2'), record(streaming=True, input_tokens=None, output_tokens=None)]
    )
    (path,) = (tmp_path / "logs").iterdir()
    assert path.name == datetime.fromtimestamp(clock.now).strftime("%Y%m%d-%H%M%S.logs.csv")
    local = datetime(2026, 11, 28, 10, tzinfo=UTC).astimezone()
    first, second = rows(path)
    assert tuple(first) == COLUMNS
    assert first == {
        "request_start_minute": f"{local:%Y-%m-%d %H:%M}",
        "request_start_minute_utc": "2026-11-28 10:00",
        "client": 'Büro "A", 2',
        "is_streaming": "0",
        "prompt_tokens": "100",
        "completion_tokens": "20",
        "total_tokens": "120",
        "openai_processing_ms": "90.0",
        "openai_region": "Sweden Central",
    }
    assert (second["is_streaming"], second["total_tokens"]) == ("1", "")


def test_only_calls_that_a_backend_answered_are_in_the_csv(tmp_path: Path) -> None:
    refused = record(outcome="rejected", status=429, endpoint=None, attempts=[])
    CsvWriter(tmp_path / "logs").write([refused, record(status=400), record(outcome="client_gone")])
    assert not (tmp_path / "logs").exists()


def test_csv_files_are_new_for_each_start_day_and_size_and_bounded(tmp_path: Path) -> None:
    clock = Clock("2026-11-28T10:00:00Z")
    for _ in range(2):
        CsvWriter(tmp_path, clock=clock).write([record()])
    writer = CsvWriter(tmp_path, rotate_bytes=300, daily=True, keep=3, clock=clock)
    for _ in range(6):
        writer.write([record()])
        clock.now += 86_400 / 2
        assert len(list(tmp_path.iterdir())) <= 4
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 4, "three that were set aside, and the one that is written to"
    assert all(len(rows(path)) >= 1 for path in kept)


@pytest.mark.parametrize("keep", [1, 2])
def test_files_that_other_processes_write_to_are_no_old_ones(tmp_path: Path, keep: int) -> None:
    clock = Clock("2026-11-28T10:00:00Z")
    writers = [CsvWriter(tmp_path, rotate_bytes=300, daily=True, keep=keep, clock=clock) for _ in range(3)]
    for _ in range(4):
        for writer in writers:
            writer.write([record()])
        clock.now += 86_400
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 3 + keep
    assert all(len(rows(path)) == 1 for path in kept)
    for writer in writers:
        writer.close()


def test_a_csv_file_that_was_moved_away_is_left_alone(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path, clock=Clock("2026-11-28T10:00:00Z"))
    writer.write([record()])
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "moved")
    writer.write([record()])
    assert len(rows(path)) == len(rows(tmp_path / "moved")) == 1


# --- Log Analytics --------------------------------------------------------------------------------------

ANALYTICS = LogAnalyticsSink(endpoint="https://x.example/", rule_id="dcr-1")


class Ingestion:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.uploaded: list[dict[str, Any]] = []

    def upload(self, *, rule_id: str, stream_name: str, logs: list[dict[str, Any]]) -> None:
        assert (rule_id, stream_name) == ("dcr-1", "Custom-AzureOpenAIUsage_PP_CL")
        if self.error is not None:
            raise self.error
        self.uploaded += logs


def test_rows_have_the_columns_of_powerproxys_table() -> None:
    ingestion = Ingestion()
    refused = record(outcome="rejected", status=429)
    LogAnalyticsWriter(ANALYTICS, ingestion).write([record(), refused])
    first, second = ingestion.uploaded
    assert first.pop("Record") == record()
    assert first == {
        "TimeGenerated": "2026-11-28T10:00:00.000Z",
        "Client": "Team 1",
        "RequestStartMinute": "2026-11-28 10:00",
        "IsStreaming": False,
        "PromptTokens": 100,
        "CompletionTokens": 20,
        "TotalTokens": 120,
        "OpenAIProcessingMS": 90.0,
        "OpenAIRegion": "Sweden Central",
    }
    assert "TotalTokens" not in second
    assert second["Record"]["status"] == 429


@pytest.mark.parametrize("error", [HttpResponseError("secret"), ServiceRequestError("secret")])
def test_a_refused_upload_is_told_without_what_the_service_said(error: Exception) -> None:
    with pytest.raises(SinkError) as caught:
        LogAnalyticsWriter(ANALYTICS, Ingestion(error)).write([record()])
    assert "secret" not in str(caught.value)


# --- OpenTelemetry --------------------------------------------------------------------------------------

OTLP = OtlpSink(endpoint="http://localhost:4318")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def two_attempts(**values: Any) -> dict[str, Any]:
    first = attempt(status=429, failure="status", reason="429", answered_ms=50.0, duration_ms=50.0)
    second = attempt("gpt-4o@france", started_ms=60.0, first_token_ms=200.0, duration_ms=900.0)
    return record(attempts=[first, second], duration_ms=960.0, streaming=True, first_token_ms=260.0, **values)


def test_a_call_is_a_span_and_each_attempt_one_within_it() -> None:
    spans = InMemorySpanExporter()
    writer = OtlpWriter(OTLP, spans=spans, reader=InMemoryMetricReader())
    assert writer.write([two_attempts(traceparent=f"00-{TRACE}-{PARENT}-01")]) == 0
    first, second, call = spans.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in (first, second, call)} == {TRACE}
    assert f"{call.parent.span_id:016x}" == PARENT
    assert first.parent.span_id == second.parent.span_id == call.context.span_id
    begun = round(datetime(2026, 11, 28, 10, tzinfo=UTC).timestamp()) * 10**9
    assert (call.start_time - begun, call.end_time - begun) == (0, 960_000_000)
    assert (second.start_time - begun, second.end_time - begun) == (60_000_000, 960_000_000)
    assert [event.timestamp - begun for event in second.events] == [260_000_000]
    assert (call.name, first.name) == ("chat gpt-4o", "attempt 1: gpt-4o-ptu@sweden")
    assert (first.attributes["error.type"], first.status.is_ok) == ("429", False)
    assert call.status.is_ok
    assert call.attributes["gen_ai.provider.name"] == "azure.ai.openai"
    assert call.attributes["gen_ai.usage.input_tokens"] == 100
    assert call.attributes["gen_ai.response.time_to_first_chunk"] == 0.26


def test_what_the_client_does_not_sample_is_not_exported() -> None:
    spans = InMemorySpanExporter()
    writer = OtlpWriter(OTLP, spans=spans, reader=InMemoryMetricReader())
    writer.write([record(traceparent=f"00-{TRACE}-{PARENT}-00")])
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize("said", [None, "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_usable_traceparent_a_trace_begins_here(said: str | None) -> None:
    spans = InMemorySpanExporter()
    OtlpWriter(OTLP, spans=spans, reader=InMemoryMetricReader()).write([record(traceparent=said)])
    assert [span.parent is None for span in spans.get_finished_spans()] == [False, True]


def test_the_metrics_are_those_of_the_conventions() -> None:
    reader = InMemoryMetricReader()
    writer = OtlpWriter(OTLP, spans=InMemorySpanExporter(), reader=reader)
    writer.write(
        [two_attempts(), record(outcome="rejected", status=429, error="quota_exceeded", attempts=[])]
    )
    found = {
        metric.name: list(metric.data.data_points)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    points = found["gen_ai.client.token.usage"]
    assert {p.attributes["gen_ai.token.type"]: p.sum for p in points} == {"input": 100, "output": 20}
    durations = found["gen_ai.client.operation.duration"]
    assert sorted(point.attributes.get("error.type", "") for point in durations) == ["", "quota_exceeded"]
    assert found["gen_ai.client.operation.time_to_first_chunk"][0].sum == pytest.approx(0.26)


def test_names_of_deployments_that_clients_make_up_are_no_attributes() -> None:
    reader = InMemoryMetricReader()
    writer = OtlpWriter(OTLP, spans=InMemorySpanExporter(), reader=reader)
    missing = [record(deployment=f"made-up-{number}", status=404) for number in range(10)]
    writer.write([*missing, record(deployment="real"), record(deployment="real", status=500)])
    names = {
        point.attributes["gen_ai.request.model"]
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert names == {"(other)", "real"}


class Refusing(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.FAILURE


def test_spans_that_the_collector_does_not_take_are_a_loss() -> None:
    writer = OtlpWriter(OTLP, spans=Refusing(), reader=InMemoryMetricReader())
    with pytest.raises(SinkError, match="did not take"):
        writer.write([record()])
