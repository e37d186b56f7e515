"""Records as the gateway writes them, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from aoai_gateway.usage.record import empty_record


def attempt(backend: str = "gpt-4o-ptu@sweden", **values: Any) -> dict[str, Any]:
    return {
        "backend": backend,
        "status": 200,
        "failure": None,
        "reason": None,
        "break_ms": None,
        "answered_ms": 100.0,
        "duration_ms": 1000.0,
        "resent": False,
        "skipped": [],
        "region": "Sweden Central",
        "request_id": None,
        "started_ms": 0.0,
        "first_token_ms": None,
        "spillover": None,
    } | values


def record(**values: Any) -> dict[str, Any]:
    """A served call, with what differs from it."""
    plain = empty_record() | {
        "time": "2026-11-28T10:00:00.000Z",
        "call": "call-1",
        "client": "Team 1",
        "priority": "standard",
        "operation": "chat.completions",
        "api": "v1",
        "deployment": "gpt-4o",
        "endpoint": "sweden",
        "standin": "gpt-4o-ptu",
        "model": "gpt-4o-2024-11-20",
        "streaming": False,
        "outcome": "ok",
        "status": 200,
        "finish_reason": "stop",
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "waited_ms": 0.0,
        "in_line_ms": 0.0,
        "duration_ms": 1000.0,
        "attempts": [attempt()],
        "count": 1,
        "region": "Sweden Central",
        "backend_processing_ms": 90.0,
    }
    unknown = set(values) - set(plain)
    assert not unknown, f"no fields of a record: {unknown}"
    return plain | values
