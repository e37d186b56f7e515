"""What the writers of usage records write: rotation, PowerProxy's CSV, Log Analytics."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

from aoai_gateway.usage.csv_files import COLUMNS, CsvWriter
from aoai_gateway.usage.lines import JsonLinesWriter, line_of
from aoai_gateway.usage.log_analytics import BATCH_SECONDS, CONNECT_SECONDS, READ_SECONDS, LogAnalyticsWriter
from aoai_gateway.usage.sink import SinkError
from aoai_gateway.usage.writer_process import LogAnalytics
from tests.usage.records import record


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
        writer.write([line_of({"n": n})])  # 8 bytes
    assert numbers(path) == [4]
    assert numbers(tmp_path / "usage.20261128-100000.jsonl") == [0, 1]
    assert numbers(tmp_path / "usage.20261128-100000-2.jsonl") == [2, 3]


def test_each_day_has_a_file_of_its_own(tmp_path: Path) -> None:
    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T23:59:59Z")
    writer = JsonLinesWriter(path, daily=True, clock=clock)
    for n in range(3):
        writer.write([line_of({"n": n})])
        os.utime(path, (clock.now, clock.now))
        clock.now += 1
    assert numbers(path) == [1, 2]
    assert numbers(tmp_path / "usage.20261129-000000.jsonl") == [0]


def test_the_newest_files_stay(tmp_path: Path) -> None:
    path, clock = tmp_path / "usage.jsonl", Clock("2026-11-28T10:00:00Z")
    (tmp_path / "usage.notes.jsonl").write_text("not ours")
    writer = JsonLinesWriter(path, rotate_bytes=8, keep=2, clock=clock)
    for n in range(6):
        writer.write([line_of({"n": n})])
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
            writer.write([line_of({"n": 1000 * worker + n})])

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
        writer.write([line_of({"n": n})])
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
    writer.write([line_of({"n": 0})])
    writer.write([line_of({"n": 1})])
    clock.now += 1
    monkeypatch.setattr(Path, "stat", vanish)
    writer.write([line_of({"n": 2})])
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

ANALYTICS = LogAnalytics("https://x.example/", "dcr-1", "Custom-AzureOpenAIUsage_PP_CL")


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


TOKEN = {"access_token": "token", "token_type": "Bearer", "expires_in": 86_400}
ENTRA = {
    "issuer": "https://login.microsoftonline.com/tenant/v2.0",
    "authorization_endpoint": "https://login.microsoftonline.com/tenant/oauth2/v2.0/authorize",
    "token_endpoint": "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
}


class Network:
    """In the place of the network below Azure's libraries: gives tokens, and answers uploads as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.seconds = 0.0
        """That an upload takes."""
        self.answers: list[tuple[int, dict[str, str]]] = []
        """To the next uploads: status and headers; then 204."""
        self.limits: dict[str, Any] = {}
        """Of the requests to each host."""
        self.uploads: list[float] = []
        """When each began."""
        monkeypatch.setattr(requests.Session, "request", self.request)
        monkeypatch.setattr("azure.core.pipeline.transport.RequestsTransport.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def request(self, method: str, url: str, *, timeout: Any, **_: Any) -> requests.Response:
        host = urlsplit(url).hostname
        self.limits[str(host)] = timeout
        if host == "x.example":
            self.uploads.append(self.now)
            self.now += self.seconds
            return answer(*(self.answers.pop(0) if self.answers else (204, {})))
        return answer(200, {"content-type": "application/json"}, {**ENTRA, **TOKEN})


def answer(status: int, headers: dict[str, str], body: object = None) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.headers.update(headers)
    data = io.BytesIO(b"" if body is None else json.dumps(body).encode())
    made.raw = HTTPResponse(data, headers, status, preload_content=False)
    return made


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


@pytest.mark.parametrize(
    ("identity", "host"),
    [
        ({"tenant_id": "tenant", "client_id": "id", "client_secret": "secret"}, "login.microsoftonline.com"),
        ({"client_id": "id"}, "169.254.169.254"),
        ({}, "169.254.169.254"),
    ],
)
def test_requests_for_a_token_have_the_time_limits_that_uploads_have(
    network: Network, identity: dict[str, str], host: str
) -> None:
    writer = LogAnalyticsWriter(replace(ANALYTICS, **identity))
    assert writer.write([record()]) == 0
    writer.close()
    assert network.limits == dict.fromkeys((host, "x.example"), (CONNECT_SECONDS, READ_SECONDS))


@pytest.mark.parametrize("pause", ["59", "60", "3600"])
def test_an_upload_is_tried_again_after_a_pause_if_there_is_time(network: Network, pause: str) -> None:
    writer = LogAnalyticsWriter(ANALYTICS, clock=lambda: network.now)
    for _ in range(2):
        network.now, network.uploads, network.answers = 100.0, [], [(429, {"Retry-After": pause})]
        if float(pause) < BATCH_SECONDS:
            assert writer.write([record()]) == 0
            assert network.uploads == [100.0, 100.0 + float(pause)]
        else:
            with pytest.raises(SinkError, match=r"^Log Analytics answered 429$"):
                writer.write([record()])
            assert network.now == 100.0


def test_nothing_of_a_batch_is_begun_when_its_time_is_over(network: Network) -> None:
    writer = LogAnalyticsWriter(ANALYTICS, clock=lambda: network.now)
    many = [record(client="x" * 300_000) for _ in range(12)]
    network.seconds = 25.0
    with pytest.raises(SinkError, match=r"^ServiceRequestTimeoutError$"):
        writer.write(many)
    assert network.uploads == [0.0, 25.0, 50.0]
    network.seconds = 1.0
    network.uploads.clear()
    assert writer.write(many) == 0
    assert len(network.uploads) > 3


# --- lines of JSON --------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(), max_size=20)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS


@given(st.dictionaries(TEXTS, VALUES | st.lists(VALUES, max_size=3), max_size=5))
def test_a_line_of_any_record_is_ascii_and_says_the_same(held: dict[str, Any]) -> None:
    line = line_of(held)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert json.loads(line) == held


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        line_of({"a": object()})
