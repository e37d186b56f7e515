"""What is written down of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy.http import Headers

from aoai_gateway.config.models import Client
from aoai_gateway.usage.record import ATTEMPT_FIELDS, FIELDS, usage_record
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, throttled, world

HEAD = {
    "x-ms-region": "Sweden Central",
    "apim-request-id": "from-b",
    "x-request-id": "other",
    "openai-processing-ms": "12.5",
    "azure-openai-deployment-utilization": "42.0%",
}


def test_a_replayed_call() -> None:
    usage = Usage(input_tokens=12, output_tokens=30, total_tokens=42, cached_tokens=8, reasoning_tokens=5)
    here = world("ptu@a", "b").script(a=throttled(retry_after="3"), b=Answer(usage=usage, headers=HEAD))
    client = Client(name="Team 1", key="key-of-team-1", priority="critical")
    headers = {"x-stainless-retry-count": "2", "x-ms-client-request-id": "from-the-client"}
    trace = here.call(max_tokens=100, client=client, headers=headers)
    trace.call.request_seconds = 2.5
    record = usage_record(trace.call)
    assert tuple(record) == tuple(FIELDS)
    assert all(value is None or isinstance(value, FIELDS[name]) for name, value in record.items())
    assert {tuple(attempt) for attempt in record["attempts"]} == {ATTEMPT_FIELDS}
    assert record | {"attempts": None} == {
        "schema": 1,
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
        "region": "Sweden Central",
        "provisioned": False,
        "service_tier": None,
        "cache_write_tokens": 0,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "delivered_tokens": None,
        "prompt_tokens_counted": None,
        "cost": None,
        "chunk_gap_p50_ms": None,
        "chunk_gap_max_ms": None,
        "policy": [],
        "refused_by": None,
        "retry_after_ms": None,
        "client_request_id": "from-the-client",
        "backend_request_id": "from-b",
        "backend_processing_ms": 12.5,
        "traceparent": None,
        "run_by": None,
        "fallback": None,
        "service_tier_requested": None,
        "spillover": None,
        "cached_audio_tokens": 0,
        "responses": None,
        "messages_in": None,
        "messages_out": None,
        "close_code": None,
        "closed_by": None,
        "usage_of": None,
        "fallback_refused": None,
        "utilization": 0.42,
        "request_ms": 2500.0,
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
            "region": None,
            "request_id": None,
            "started_ms": 0.0,
            "first_token_ms": None,
            "spillover": None,
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
            "region": "Sweden Central",
            "request_id": "from-b",
            "started_ms": 100.0,
            "first_token_ms": None,
            "spillover": None,
        },
    ]


def test_a_call_that_was_not_understood() -> None:
    record = usage_record(world("a").call(b"{").call)
    assert tuple(record) == tuple(FIELDS)
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


# --- policy as data ----------------------------------------------------------------------------------


class Named(dict[str, str]):
    """Headers that are no mitmproxy's, as a backtest has them."""


def test_the_clients_headers_are_read_from_each_kind_of_mapping() -> None:
    call = world("a").call().call
    fields = [
        (b"X-Request-Id", b"second"),
        (b"x-stainless-retry-count", b"2"),
        (b"TraceParent", b"00-a"),
        (b"traceparent", b"00-b"),
        (b"X-MS-Client-Request-Id", b"caf\xc3\xa9"),
        (b"cookie", b"x"),
    ]

    def read(headers: Any) -> tuple[Any, ...]:
        call.headers = headers
        record = usage_record(call)
        return record["client_request_id"], record["client_retry"], record["traceparent"]

    assert read(Headers(fields)) == ("café", 2, "00-a, 00-b")
    named = Named({"x-request-id": "second", "x-stainless-retry-count": "2", "traceparent": "00-a"})
    assert read(named) == ("second", 2, "00-a")
    unfit = Headers([(b"x-request-id", b"\xff"), (b"traceparent", b"a" * 300)])
    assert read(unfit) == (None, None, None)


def limited(**policy: object) -> Client:
    return Client(name="limited", key="key-of-limited", **policy)


def test_a_refused_call_says_which_quota_what_was_asked_what_was_left_and_what_was_told() -> None:
    client = limited(max_tokens_per_minute=1000)
    here = world("a", clients=(client,)).script(a=Answer(usage=Usage(100, 500, 600)))
    here.call(max_tokens=600, client=client)
    record = usage_record(here.call(max_tokens=700, client=client).call)
    refused = record["refused_by"]
    assert refused | {"asked": None, "left": None} == {
        "quota": "tokens_per_minute",
        "deployment": None,
        "limit": 1000,
        "asked": None,
        "left": None,
    }
    assert refused["asked"] >= 700 > refused["left"] >= 0
    assert 0 < record["retry_after_ms"] <= 60_000
    assert (record["cost"], record["attempts"]) == (None, [])
    (action,) = record["policy"]
    assert (action["action"], action["what"], action["dry_run"]) == ("quota", "tokens_per_minute", False)


def test_a_dry_run_says_as_data_what_would_have_been() -> None:
    client = limited(max_tokens_per_minute=1000, dry_run=True)
    here = world("a", clients=(client,)).script(a=Answer(usage=Usage(100, 500, 600)))
    here.call(max_tokens=600, client=client)
    record = usage_record(here.call(max_tokens=700, client=client).call)
    (action,) = record["policy"]
    assert (action["what"], action["limit"], action["dry_run"]) == ("tokens_per_minute", 1000, True)
    assert action["asked"] >= 700
    assert (record["refused_by"], record["outcome"], record["retry_after_ms"]) == (None, "ok", None)


def test_a_call_that_waits_for_its_quota_has_one_entry_for_it() -> None:
    client = limited(max_requests_per_minute=1, when_exceeded={"action": "wait", "seconds": 5})
    here = world("a", clients=(client,)).script(a=Answer(usage=Usage(100, 500, 600)))
    here.call(client=client)
    record = usage_record(here.call(client=client).call)
    assert [each["what"] for each in record["policy"]] == ["requests_per_minute"]
    assert record["refused_by"]["quota"] == "requests_per_minute"


def test_a_clamped_call_says_what_was_asked_for_and_what_was_given() -> None:
    client = limited(request_limits={"max_tokens": 100, "action": "clamp"})
    record = usage_record(world("a", clients=(client,)).call(max_tokens=700, client=client).call)
    (action,) = record["policy"]
    assert (action["action"], action["asked"], action["given"]) == ("clamp", 700, 100)


def test_a_budget_in_money_that_refuses_a_call_is_told_in_money() -> None:
    client = limited(max_cost_per_day=0.001)
    here = world("a", clients=(client,), prices={"gpt": {"input": 2, "output": 8}})
    here.script(a=Answer(usage=Usage(100, 75, 175))).call(client=client)
    record = usage_record(here.call(max_tokens=1000, client=client).call)
    assert record["error"] == "budget_exceeded"
    assert record["refused_by"] == {
        "quota": "cost_per_day",
        "deployment": None,
        "limit": 0.001,
        "asked": pytest.approx(0.008, rel=0.01),
        "left": pytest.approx(0.0002),
    }


# --- cost --------------------------------------------------------------------------------------------


def test_a_call_costs_what_the_price_table_says() -> None:
    price = {"input": 2, "output": 8, "cached_input": 1, "reasoning": 10, "tiers": {"flex": 0.5}}
    usage = Usage(input_tokens=1000, output_tokens=500, cached_tokens=400, reasoning_tokens=100)
    here = world("a", prices={"gpt": price}).script(a=Answer(usage=usage))
    call = here.call().call
    cost = (600 * 2 + 400 * 1 + 400 * 8 + 100 * 10) / 1e6
    assert usage_record(call)["cost"] == pytest.approx(cost)
    call.service_tier = "flex"
    assert usage_record(call)["cost"] == pytest.approx(cost / 2)


def test_a_failed_call_costs_nothing() -> None:
    here = world("a", prices={"gpt": {"input": 2, "output": 8}}).script(a=Answer(500))
    assert usage_record(here.call().call)["cost"] is None
