"""How a call or an attempt ended, in a word of a few: labels of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.counts import OTHER
from aoai_gateway.wire.backend_errors import OUT_OF_CAPACITY

if TYPE_CHECKING:
    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call

OUTCOMES = {
    Outcome.REJECTED: "rejected",
    Outcome.BACKENDS_OUT: "backends_out",
    Outcome.TRUNCATED: "truncated",
    Outcome.CLIENT_GONE: "client_gone",
    Outcome.CLIENT_STALLED: "client_stalled",
    Outcome.ERROR: "bug",
}


TIERS = frozenset({"auto", "default", "flex", "priority", "scale"})
"""Service tiers that are told apart."""


def outcome_of(call: Call) -> str:
    """Say in a word how a call ended, as the metric ``aoai_gateway_calls_total`` has it."""
    if call.outcome is not None and call.outcome is not Outcome.OK:
        return OUTCOMES[call.outcome]
    status = call.status or 0
    if status in OUT_OF_CAPACITY:
        return "throttled"
    return "backend_error" if status >= 500 else "client_error" if status >= 400 else "ok"


def result_of(attempt: Attempt) -> str:
    """Say in a word how an attempt ended: ``ok``, a status, or a kind of failure."""
    if attempt.refusal is not None:
        return attempt.refusal.value
    if attempt.failure is None:
        return "ok" if (attempt.status or 0) < 400 else f"{(attempt.status or 0) // 100}xx"
    if attempt.failure is FailureKind.STATUS:
        return str(attempt.status)
    return attempt.failure.value


def tier_of(name: str | None) -> str:
    """Name a tier; any other text that a client or an answer may hold is one value."""
    return "" if name is None else name if name in TIERS else OTHER


def class_of(call: Call) -> str:
    """Name a call's class; empty if that was not known."""
    return call.cls.name if call.cls is not None else ""
