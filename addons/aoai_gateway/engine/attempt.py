"""An attempt: one send of a call to one backend, and what its answer's head tells of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from aoai_gateway.wire.hints import read_spillover, utilization_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.routing.order import Skip
    from aoai_gateway.routing.responsiveness import Liveness
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.hints import Headers, Spillover

REQUEST_IDS = ("apim-request-id", "x-request-id", "x-ms-request-id", "request-id")
"""Headers in which a backend names the request, the most useful one first."""

_LONGEST_FACT = 128

PLAIN_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)
"""A time as peers write it. ``nan``, ``1e309`` and the like are no times."""


class Fault(StrEnum):
    """The fault of a refused call, where the client did not put it in."""

    STANDIN = "standin"
    """The deployment, which the configuration names, does not exist there."""
    PATH = "path"
    """The endpoint's URL or path prefix leads nowhere."""
    OPERATION = "operation"
    """The standin's model does not do what is asked for."""
    STREAM_OPTIONS = "stream_options"
    """It does not know the usage that the gateway asks for."""
    ELSEWHERE = "elsewhere"
    """The call refers to state that another resource holds."""


class FailureKind(StrEnum):
    """Why an attempt failed."""

    STATUS = "status"
    """The backend answered with a status that another backend may not give."""
    REFUSED_IN_STREAM = "refused in stream"
    """A 200 that was, before any content, an error which stands for a status that is replayed."""
    CREDENTIAL = "credential"
    """The gateway has no token or key to show there just now; nothing was sent."""
    CONNECT = "connect"
    TLS = "tls"
    DROPPED = "dropped"
    """The connection ended before the response's headers."""
    TIMEOUT = "timeout"
    """No answer within the deadline."""
    PROTOCOL = "protocol"
    """The bytes that came are no HTTP response."""


@dataclass(slots=True)
class Attempt:
    """One send of a call to one backend. Times are on the gateway's monotonic clock, in seconds."""

    number: int
    backend: Backend
    started: float
    deadline: float = 0.0
    """Seconds that it had for the response's headers."""
    implausible: bool = False
    """Whether that is what the backend's own speed makes plausible, less than the client waits."""
    answered: float | None = None
    ended: float | None = None
    status: int | None = None
    failure: FailureKind | None = None
    reason: str = ""
    """Why it failed, in a few words, without anything secret: ``429 RateLimitReached``."""
    detail: str = field(default="", repr=False)
    """The system's own words for it, for the log alone."""
    break_seconds: float | None = None
    """Length of the break that it opened for its own class; None if it opened none."""
    breaks: Mapping[str, float] | None = None
    """Length of the break that it opened for each class."""
    scope: Scope | None = None
    """The scope of that break."""
    skipped: tuple[Skip, ...] = ()
    """Backends that were passed over when this one was chosen."""
    fault: Fault | None = None
    of_client: bool = False
    """Whether what the client chose may be the fault's cause: only its calls are kept from the backend."""
    refusal: Refusal | None = None
    """Why another deployment was asked: the backend itself is well."""
    taken: bool = True
    """Whether the backend may have begun to work on it."""
    unseen: bool = True
    """Whether it may have worked for an answer of which nothing, or not the end, was waited for."""
    liveness: Liveness | None = None
    """The backend's signs of life."""
    resent: bool = False
    """Whether it was sent a second time because an idle connection turned out to be closed."""
    first_content: float | None = None
    """When the first content of its stream came."""
    region: str | None = None
    """Where the backend runs, as its answer says (``x-ms-region``)."""
    request_id: str | None = None
    """The backend's own name for the request, for a ticket to Azure."""
    spillover: Spillover | None = None
    """Where Azure let another deployment of the resource answer: what it says of that."""
    processing_ms: float | None = None
    """How long the backend says that it took (``openai-processing-ms``)."""
    utilization: float | None = None
    """How full a provisioned deployment says to be; 1.0 is full, more is possible."""

    @property
    def is_backends_failure(self) -> bool:
        """Whether it failed, and not only refused what another deployment may serve."""
        return self.failure is not None and self.refusal is None

    def note_answered(self, status: int, headers: Headers, now: float) -> None:
        """Note that a response began."""
        self.unseen = False
        self.answered, self.status = now, status
        self.note_head(headers)

    def note_head(self, headers: Headers) -> None:
        """Keep what an answer's head says by which the request is found at Azure."""
        if not headers:
            return  # as in a backtest, of a backend without limits
        self.spillover = read_spillover(headers)
        region = headers.get("x-ms-region")
        self.region = _short(region) if region else None
        self.request_id = _request_id(headers)
        self.utilization = utilization_of(headers)
        said = headers.get("openai-processing-ms")
        self.processing_ms = float(said) if said is not None and PLAIN_NUMBER.fullmatch(said) else None


def _request_id(headers: Headers) -> str | None:
    for name in REQUEST_IDS:
        said = headers.get(name)
        if said and (short := _short(said)):
            return short
    return None


def _short(value: str) -> str | None:
    return value[:_LONGEST_FACT] if value.isprintable() else None
