"""The facts of an answer: what its head tells of the attempt, and what has come of it when it is over."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aoai_gateway.wire.hints import utilization_of
from aoai_gateway.wire.operations import Cost
from aoai_gateway.wire.spillover import read_spillover

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Attempt, Call
    from aoai_gateway.engine.effects import Ended
    from aoai_gateway.wire.hints import Headers

REQUEST_IDS = ("apim-request-id", "x-request-id", "x-ms-request-id", "request-id")
"""Headers in which a backend names the request, the most useful one first."""

_LONGEST_FACT = 128
_MILLISECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


def note_head(attempt: Attempt, headers: Headers) -> None:
    """Keep what an answer's head says by which the request is found at Azure."""
    attempt.spillover = read_spillover(headers)
    region = headers.get("x-ms-region")
    attempt.region = _short(region) if region else None
    attempt.request_id = _request_id(headers)
    attempt.utilization = utilization_of(headers)
    said = headers.get("openai-processing-ms")
    attempt.processing_ms = float(said) if said is not None and _MILLISECONDS.fullmatch(said) else None


def _request_id(headers: Headers) -> str | None:
    for name in REQUEST_IDS:
        said = headers.get(name)
        if said and (short := _short(said)):
            return short
    return None


def _short(value: str) -> str | None:
    return value[:_LONGEST_FACT] if value.isprintable() else None


def note_delivery(call: Call, attempt: Attempt, told: Ended) -> None:
    """Take over what the answer says that goes to the client, as far as it has come."""
    call.served = (attempt.status or 0) < 400
    call.first_content = attempt.first_content = told.first_content
    call.model, call.response_id = told.model, told.response_id
    call.answer_state = told.state
    if call.target.operation.cost is not Cost.NONE:
        call.usage = told.usage
    else:
        call.looked_at = told.usage
    call.finish_reason, call.service_tier = told.finish_reason, told.service_tier
    call.delivered, call.heard_seconds = told.delivered, told.seconds
