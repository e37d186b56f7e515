"""Reports on captures: what flows tell of calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import Headers, HTTPFlow, Response
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from aoai_gateway.analysis.captures import record_of
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.inspect.annotate import annotate, annotate_attempt
from aoai_gateway.usage.record import ATTEMPT_FIELDS, usage_record
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, throttled, world

USAGE = {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}
ANSWER = {"model": "gpt-4o-2024-11-20", "choices": [{"finish_reason": "stop", "message": {}}], "usage": USAGE}


def flow(
    path: str = "/openai/v1/chat/completions", *, status: int = 200, content: bytes | None = None, **body: Any
) -> HTTPFlow:
    made = tflow.tflow(resp=True)
    made.request.method, made.request.path = "POST", path
    made.request.headers = Headers([(b"content-type", b"application/json")])
    made.request.raw_content = json.dumps({"model": "gpt-4o", "messages": [], **body}).encode()
    given = json.dumps(ANSWER).encode() if content is None else content
    kind = "text/event-stream" if body.get("stream") else "application/json"
    made.response = Response.make(status, given, {"content-type": kind})
    made.request.timestamp_start, made.response.timestamp_end = 1_700_000_000.0, 1_700_000_000.75
    return made


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(*flows: HTTPFlow) -> Path:
        path = tmp_path / "calls.flows"
        with path.open("wb") as file:
            writer = FlowWriter(file)
            for one in flows:
                writer.add(one)
        return path

    return write


def test_a_flow_says_of_a_call_what_its_record_says() -> None:
    usage = Usage(input_tokens=1000, output_tokens=100, total_tokens=1100, cached_tokens=400)
    here = world("ptu@a", "b").script(a=throttled(retry_after="3"), b=Answer(usage=usage))
    call = here.call(max_tokens=100).call
    made = flow(max_tokens=100)
    annotate(made, call)
    found = record_of(made)
    assert found is not None
    expected = usage_record(call)
    for field in ("call", "client", "operation", "api", "standin", "endpoint", "outcome", "status"):
        assert found[1][field] == expected[field], field
    for field in ("deployment", "max_tokens", "streaming", "input_tokens", "output_tokens", "cached_tokens"):
        assert found[1][field] == expected[field], field
    assert found[1]["duration_ms"] == expected["duration_ms"]
    assert {tuple(each) for each in found[1]["attempts"]} == {ATTEMPT_FIELDS}
    kept = ("backend", "status", "failure", "reason", "answered_ms", "duration_ms", "started_ms")
    assert [{key: each[key] for key in kept} for each in found[1]["attempts"]] == [
        {key: each[key] for key in kept} for each in expected["attempts"]
    ]


def test_a_report_on_a_capture(save: Callable[..., Path]) -> None:
    here = world("a", "b").script(a=throttled(retry_after="3"))
    call = here.call().call
    served, failed = flow(), flow(status=429)
    annotate(served, call)
    annotate_attempt(failed, call, call.attempts[0])
    refused = flow(status=429, content=b'{"error":{"code":"quota_exceeded"}}')
    refused.metadata |= {
        "gateway_outcome": "rejected",
        "gateway_error": "quota_exceeded",
        "gateway_client": "Bob",
    }
    elsewhere = flow("/health")
    reading = Reading()
    made = report(
        read([save(served, failed, refused, elsewhere)], Selection(), reading), reading, percentile=99
    )
    assert (made["totals"]["requests"], made["totals"]["served"], made["totals"]["refused"]) == (2, 1, 1)
    assert made["totals"]["refused_by_cause"] == {"quota_exceeded": 1}
    assert {row["client"] for row in made["consumers"]} == {"anybody", "Bob"}


def test_what_another_proxy_has_captured_is_read_from_the_wire(save: Callable[..., Path]) -> None:
    stream = (
        b'data: {"id":"x","model":"gpt-4o-2024-11-20","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\ndata: [DONE]\n\n"
    )
    deployments = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    path = save(flow(deployments), flow(stream=True, content=stream), flow(status=429, content=b"{}"))
    whole, streamed, throttled_one = (record for _, record in read([path], Selection(), Reading()))
    assert (whole["deployment"], whole["api"], whole["duration_ms"]) == ("mine", "classic", 750)
    assert (whole["input_tokens"], whole["output_tokens"]) == (70, 30)
    assert (streamed["streaming"], streamed["input_tokens"], streamed["finish_reason"]) == (True, 70, "stop")
    assert (throttled_one["status"], throttled_one["outcome"]) == (429, "ok")


def test_of_a_damaged_capture_the_good_part_counts(save: Callable[..., Path]) -> None:
    path, reading = save(flow(), flow()), Reading()
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(read([path], Selection(), reading))) == 1
    assert reading.unreadable == 1


def test_a_log_that_begins_with_a_date_is_no_capture(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("2026-11-29T10:00:00Z INFO ready\n")
    assert list(read([path], Selection(), Reading())) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"gateway_tokens_in": "many"},
        {"gateway_tokens_in": -1},
        {"gateway_client": ["a"]},
        {"gateway_timeline": 5},
        {"gateway_timeline": [{}]},
        {"gateway_timeline": ["x"]},
        {"gateway_timeline": [{"backend": "a@b", "started": "x", "answered": 1}]},
        {"gateway_timeline": [{"backend": 5}]},
        {"gateway_outcome": {}},
        {"gateway_duration_ms": True},
    ],
)
def test_metadata_of_another_type_cost_their_flow_alone(
    metadata: dict[str, Any], save: Callable[..., Path]
) -> None:
    odd = flow()
    odd.metadata.update(metadata)
    path, reading = save(flow(), odd, flow()), Reading()
    made = report(read([path], Selection(), reading), reading, percentile=99)
    assert (made["records"], made["unreadable"], made["totals"]["served"]) == (2, 1, 2)
    assert f"{path}, flow 2 (" in made["passed_over"]


@pytest.mark.parametrize("begun", [-1e12, 1e18, float("inf"), float("nan")])
def test_a_flow_at_no_time_is_passed_over(begun: float, save: Callable[..., Path]) -> None:
    odd = flow()
    odd.request.timestamp_start = begun
    reading = Reading()
    assert len(list(read([save(flow(), odd)], Selection(), reading))) == 1
    assert reading.unreadable == 1
