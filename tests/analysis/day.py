"""A day made by hand, whose figures can be told without a program.

- *Shop* uses gpt-4o from 09:00 to 09:59, once a minute: 1,000 tokens in and 200 out, streaming, 2 s each. In
  the minute of 09:30 it comes 10 times; 4 of them are refused, for its 6,000 tokens per minute, and one of
  those is a retry of the SDK's.
- *Batch* uses gpt-4o at 12:00, 30 calls in one minute: 500 in, 500 out, not streaming. Every third one
  spills, since the provisioned backend is in a break. Two more have no backend; one is aborted.
- A stranger comes with a wrong key 7 times.
"""

from __future__ import annotations

from typing import Any

from tests.usage.records import attempt, record

DAY = "2026-11-28T"


def shop() -> list[dict[str, Any]]:
    each = {"client": "Shop", "streaming": True, "input_tokens": 1000, "output_tokens": 200, "cost": 0.0045}
    calls = [
        record(time=f"{DAY}09:{minute:02}:10.000Z", duration_ms=2000.0, first_token_ms=300.0, **each)
        for minute in range(60)
    ]
    calls += [
        record(time=f"{DAY}09:30:{20 + n}.000Z", duration_ms=2000.0, first_token_ms=300.0, **each)
        for n in range(5)
    ]
    refused = {
        "client": "Shop",
        "streaming": True,
        "outcome": "rejected",
        "status": 429,
        "error": "quota_exceeded",
        "endpoint": None,
        "input_tokens": None,
        "output_tokens": None,
        "attempts": [],
        "refused_by": {
            "quota": "tokens_per_minute",
            "deployment": None,
            "limit": 6000,
            "asked": 1500,
            "left": 0,
        },
    }
    calls += [
        record(time=f"{DAY}09:30:{40 + n}.000Z", client_retry=1 if n == 3 else None, **refused)
        for n in range(4)
    ]
    return calls


def batch() -> list[dict[str, Any]]:
    each = {"client": "Batch", "input_tokens": 500, "output_tokens": 500, "cost": 0.00625}
    skip = {"backend": "gpt-4o-ptu@sweden", "cause": "break", "reason": "429", "wait_ms": 900.0}
    spilled = [attempt("gpt-4o@france", skipped=[skip])]
    calls = [
        record(
            time=f"{DAY}12:00:{n:02}.000Z",
            duration_ms=1000.0 * (n + 1),
            attempts=spilled if n % 3 == 0 else [attempt()],
            **each,
        )
        for n in range(30)
    ]
    nothing = {"client": "Batch", "input_tokens": None, "output_tokens": None}
    out = {"outcome": "backends_out", "status": 429, "error": "all_backends_out", "attempts": []}
    calls += [record(time=f"{DAY}12:00:{40 + n}.000Z", **nothing, **out) for n in range(2)]
    gone = {"outcome": "client_gone", "status": None, "delivered_tokens": 40, "prompt_tokens_counted": 500}
    calls.append(record(time=f"{DAY}12:00:50.000Z", **nothing, **gone))
    return calls


def stranger() -> list[dict[str, Any]]:
    unknown = {"client": None, "deployment": None, "call": None, "outcome": "rejected", "status": 401}
    empty = {"error": "401", "endpoint": None, "attempts": [], "input_tokens": None, "output_tokens": None}
    return [record(time=f"{DAY}12:00:00.000Z", count=7, **unknown, **empty)]


def day() -> list[dict[str, Any]]:
    return [*shop(), *batch(), *stranger()]
