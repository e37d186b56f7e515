"""Spillover: a provisioned deployment that is full lets a standard one of its resource answer.

Azure does that by itself, where the deployment or the request (``x-ms-spillover-deployment``) names the
standard one, and tells it in the answer's headers; a failed spill gives the standard deployment's failure,
with the same headers (how-to/spillover-traffic-management). Such an answer says nothing about the provisioned
one, but that it was full.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aoai_gateway.wire.hints import Headers, RateLimits, read_rate_limits

FROM = "x-ms-spillover-from-deployment"
SPILLED = "x-ms-is-spilled-over"
SERVED_BY = "x-ms-deployment-name"
ERROR = "x-ms-spillover-error"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spillover:
    """What an answer's headers say of a spill; None where they do not.

    ``start`` is the provisioned deployment, ``end`` the standard one that has answered, ``error`` the status
    (or code) with which the first one refused.
    """

    start: str | None = None
    end: str | None = None
    error: str | None = None


def read_spillover(headers: Headers) -> Spillover | None:
    """Return what the headers say; None for an answer that was not spilled over."""
    if not headers:
        return None
    start = headers.get(FROM)
    if not start and (headers.get(SPILLED) or "").strip().lower() != "true":
        return None
    return Spillover(_name(start), _name(headers.get(SERVED_BY)), _name(headers.get(ERROR)))


def own_rate_limits(headers: Headers) -> RateLimits:
    """Return the figures of the deployment that was asked; none where another one has answered."""
    return read_rate_limits(headers) if read_spillover(headers) is None else RateLimits()


def _name(value: str | None) -> str | None:
    return value if value is not None and _NAME.fullmatch(value) else None
