"""What is written down of a call."""

from __future__ import annotations

import json

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.usage.record import usage_record
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, throttled, world

FIELDS = [
    "time",
    "call",
    "client",
    "priority",
    "operation",
    "api",
    "deployment",
    "endpoint",
    "standin",
    "model",
    "streaming",
    "max_tokens",
    "outcome",
    "status",
    "error",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "reserved_tokens",
    "charged_tokens",
    "clamped",
    "degraded",
    "dry_run",
    "asked_deployment",
    "waited_ms",
    "in_line_ms",
    "first_token_ms",
    "duration_ms",
    "client_retry",
    "response_id",
    "attempts",
    "skipped",
    "count",
    "address",
    "user",
    "run_by",
]


def test_a_replayed_call() -> None:
    usage = Usage(input_tokens=12, output_tokens=30, total_tokens=42, cached_tokens=8, reasoning_tokens=5)
    here = world("ptu@a", "b").script(a=throttled(retry_after="3"), b=Answer(usage=usage))
    client = Client(name="Team 1", key="key-of-team-1", priority="critical")
    trace = here.call(max_tokens=100, client=client, headers={"x-stainless-retry-count": "2"})
    record = usage_record(trace.call)
    assert list(record) == FIELDS
    assert record | {"attempts": None} == {
        "time": "2023-11-14T22:30:00.000Z",
        "call": trace.call.id,
        "client": "Team 1",
        "priority": "critical",
        "operation": "chat.completions",
        "api": "v1",
        "deployment": "gpt",
        "endpoint": "b",
        "standin": "b",
        "model": None,
        "streaming": False,
        "max_tokens": 100,
        "outcome": "ok",
        "status": 200,
        "error": None,
        "finish_reason": None,
        "input_tokens": 12,
        "output_tokens": 30,
        "cached_tokens": 8,
        "reasoning_tokens": 5,
        "reserved_tokens": None,
        "charged_tokens": None,
        "clamped": None,
        "degraded": None,
        "dry_run": None,
        "asked_deployment": None,
        "waited_ms": 0.0,
        "in_line_ms": 0.0,
        "first_token_ms": None,
        "duration_ms": 1200.0,
        "client_retry": 2,
        "response_id": None,
        "attempts": None,
        "skipped": [{"backend": "ptu@a", "cause": "break", "reason": "429", "wait_ms": 3000.0}],
        "count": 1,
        "address": None,
        "user": None,
        "run_by": None,
    }
    assert record["attempts"] == [
        {
            "backend": "ptu@a",
            "status": 429,
            "failure": "status",
            "reason": "429",
            "break_ms": 3000.0,
            "answered_ms": 100.0,
            "duration_ms": 100.0,
            "resent": False,
            "skipped": [],
        },
        {
            "backend": "b@b",
            "status": 200,
            "failure": None,
            "reason": None,
            "break_ms": None,
            "answered_ms": 100.0,
            "duration_ms": 1100.0,
            "resent": False,
            "skipped": record["skipped"],
        },
    ]


def test_a_call_that_was_not_understood() -> None:
    record = usage_record(world("a").call(b"{").call)
    assert list(record) == FIELDS
    assert (record["outcome"], record["status"], record["error"]) == ("rejected", 400, "invalid_body")
    assert (record["deployment"], record["endpoint"], record["attempts"]) == (None, None, [])


def test_a_call_whose_client_hung_up() -> None:
    record = usage_record(world("a").call(gone_at=0).call)
    assert (record["outcome"], record["status"], record["endpoint"]) == ("client_gone", None, "a")


def test_every_record_is_json() -> None:
    for trace in (world("a").call(), world("a").call(b"{"), world("a").call(gone_at=0)):
        assert json.loads(json.dumps(usage_record(trace.call))) == usage_record(trace.call)


def test_nothing_of_a_prompt_or_a_key_is_in_it() -> None:
    messages = [{"role": "user", "content": "my-prompt"}]
    trace = world("a").script(a=Answer(500, body=b"my-answer")).call(messages=messages)
    text = json.dumps(usage_record(trace.call))
    for secret in ("my-prompt", "my-answer", "key-of", "example"):
        assert secret not in text


@pytest.mark.parametrize(
    ("said", "count"),
    [("0", 0), ("3", 3), ("", None), ("-1", None), ("²", None), ("9" * 50, None), ("x", None)],
)
def test_a_clients_retry_count_is_a_small_number_or_nothing(said: str, count: int | None) -> None:
    trace = world("a").call(headers={"x-stainless-retry-count": said})
    assert usage_record(trace.call)["client_retry"] == count
