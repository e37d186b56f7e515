"""A Call: one request's life, and what the engine and whoever drives it say to each other.

The engine (:mod:`aoai_gateway.engine`) is a generator: it yields *effects* (what is to be done) and is
sent *outcomes* (what came of it). All that is known of a request is in its :class:`Call`; nothing of it
is kept on an object that calls share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aoai_gateway.config.models import Client, Config
    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.policy.quotas import Decision, Reservation
    from aoai_gateway.routing.backends import Backend, BackendKey, RoutingTable
    from aoai_gateway.routing.breaks import Scope
    from aoai_gateway.routing.order import Skip
    from aoai_gateway.routing.pulse import Pulse
    from aoai_gateway.tokens import Count
    from aoai_gateway.wire.bodies import RequestBody
    from aoai_gateway.wire.errors import GatewayError
    from aoai_gateway.wire.hints import Headers
    from aoai_gateway.wire.operations import Target
    from aoai_gateway.wire.usage import Usage


@dataclass(frozen=True, slots=True)
class Setup:
    """One loaded configuration and what is computed from it. A call keeps the one it began with."""

    config: Config
    table: RoutingTable


class FailureKind(StrEnum):
    """Why an attempt failed."""

    STATUS = "status"
    """The backend answered with a status that another backend may not give."""
    REFUSED_IN_STREAM = "refused in stream"
    """A 200 whose stream began with a throttling error."""
    CONNECT = "connect"
    TLS = "tls"
    DROPPED = "dropped"
    """The connection ended before the response's headers."""
    TIMEOUT = "timeout"
    """No answer within the deadline."""
    PROTOCOL = "protocol"
    """What came is no HTTP response."""


@dataclass(slots=True)
class Attempt:
    """One send of a call to one backend. Times are on the gateway's monotonic clock, in seconds."""

    number: int
    backend: Backend
    started: float
    deadline: float = 0.0
    """Seconds that it had for the response's headers."""
    answered: float | None = None
    ended: float | None = None
    status: int | None = None
    failure: FailureKind | None = None
    reason: str = ""
    """Why it failed, in a few words, without anything secret: ``429 RateLimitReached``."""
    break_seconds: float | None = None
    """Length of the break that it opened for its own class; None if it opened none."""
    breaks: Mapping[str, float] | None = None
    """Length of the break that it opened for each class."""
    scope: Scope | None = None
    """What that break is on."""
    skipped: tuple[Skip, ...] = ()
    """Backends that were passed over when this one was chosen."""
    pulse: Pulse | None = None
    """The backend's signs of life."""
    resent: bool = False
    """Whether it was sent a second time because a reused connection turned out to be closed."""


class Outcome(StrEnum):
    """How a call ended, for the usage record."""

    OK = "ok"
    """A backend's answer reached the client, whatever its status."""
    REJECTED = "rejected"
    """The gateway answered by itself."""
    BACKENDS_OUT = "backends_out"
    """No backend could be found that answers."""
    TRUNCATED = "truncated"
    """The backend broke its answer off."""
    CLIENT_GONE = "client_gone"
    ERROR = "error"
    """A bug of the gateway."""


LONGEST_TIMEOUT = 86_400.0
"""A client's time-out of more than a day is no time-out."""


@dataclass(slots=True)
class Call:
    """What is known of one request. Whoever drives the engine fills in the first block."""

    id: str
    client: Client
    target: Target
    setup: Setup
    started: float
    """Monotonic seconds; ``wall`` makes them seconds since the epoch."""
    wall: float
    headers: Headers
    """The request's headers, without credentials."""
    brings_own_token: bool = False
    """Whether the client's own Entra ID token goes to the backend, rather than our credential."""
    consult: bool = False
    """Whether somebody outside wants a say in the choice of the backend."""
    only_backend: str | None = None
    """The one backend, ``standin@endpoint``, to which a user of the inspector sends it; clients cannot."""

    body: RequestBody | None = None
    deployment: str = ""
    cls: PriorityClass | None = None
    """Its priority class, once that is known."""
    estimate: int = 0
    """A low estimate of the tokens it asks for, to see that it exceeds a backend's whole limit."""
    attempts: list[Attempt] = field(default_factory=list)
    skipped: tuple[Skip, ...] = ()
    """Backends that were passed over when the last attempt was chosen."""
    decisions: list[str] = field(default_factory=list)
    """What was decided, in order and in words; filled at its end, if somebody looks at flows."""
    too_small: set[BackendKey] = field(default_factory=set)
    """Backends whose whole limit is below the estimate."""
    edits: dict[str, int] = field(default_factory=dict)
    """Members of the body that the client's limits or contract set to another value."""
    told: dict[str, str] = field(default_factory=dict)
    """Response headers that say what the client's limits and quotas did."""
    quota_headers: tuple[tuple[str, str], ...] = ()
    """The client's own remaining quota."""
    prompt: Count | None = None
    """The prompt's tokens, if they were counted."""
    reserved: Reservation | None = None
    """What is booked for the call, until it is settled or cancelled."""
    withdrawn: list[Scope] = field(default_factory=list)
    """Breaks that it had opened and that were taken back, since it was the cause itself."""
    reserved_tokens: int | None = None
    charged_tokens: int | None = None
    """What counted against the client's quotas in the end; None if it has none."""
    waited: float = 0.0
    """Seconds for which it was held back, for its quota or in line."""
    stood_in_line: float = 0.0
    """Of these, seconds in a waiting line."""
    asked: str = ""
    """The deployment that the client asked for, where its contract led to another one."""

    outcome: Outcome | None = None
    status: int | None = None
    error: GatewayError | None = None
    ended: float | None = None
    first_content: float | None = None
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None

    served: bool = False
    """Whether a backend's answer has reached the client, in part at least."""
    delivered_characters: int = 0
    """Of a stream's text, where no usage came."""
    priority: str | None = None
    """Its class, if not the client's own."""

    def client_timeout(self) -> float | None:
        """Give the seconds for which the client waits, as the official SDKs say in a header."""
        for name in ("x-stainless-read-timeout", "x-stainless-timeout"):
            value = self.headers.get(name)
            if value is not None:
                try:
                    seconds = float(value)
                except ValueError:
                    continue
                if 0 < seconds < LONGEST_TIMEOUT:
                    return seconds
        return None

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body is not None and self.body.stream

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None


# --- effects: what the engine wants done -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long to wait in one attempt, in seconds."""

    connect: float
    first_byte: float
    """For the response's headers, once the request is sent."""
    preamble: float
    """For the first event that says whether a stream is a refusal."""
    idle: float
    """Between two chunks of a body."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call to a backend. Leads to `Answered`, `Failed` or `ClientGone`."""

    attempt: Attempt
    deadlines: Deadlines
    fresh: bool = False
    """Not on a connection that was used before."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a failed response's body run out, within bounds. Leads to `Drained` or `ClientGone`."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class ParseBody:
    """Decode a large body, off the event loop. Leads to `Parsed`, `Refused` or `ClientGone`."""

    target: Target
    content_type: str | None
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CountTokens:
    """Count the prompt's tokens, off the event loop if it is large. Leads to `Counted` or `Refused`."""

    target: Target
    body: RequestBody
    model: str | None


@dataclass(frozen=True, slots=True)
class Reserve:
    """Book tokens and requests against the client's quotas. Leads to `Reserved`."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Settle:
    """Replace what was booked by what was used. Leads to `Done`."""

    reservation: Reservation
    tokens: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take back what was booked. Leads to `Done`."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Hold the call back until a time. Leads to `Done` or `ClientGone`."""

    at: float


@dataclass(frozen=True, slots=True)
class StandInLine:
    """Wait for a backend, in the line that the call has joined. Leads to `Done` or `ClientGone`.

    It is done when the dispatcher has released the call, or ``until`` has passed.
    """

    until: float


@dataclass(frozen=True, slots=True)
class Choose:
    """Ask whoever wants a say which of the candidates to try. Leads to `Chosen` or `ClientGone`."""

    candidates: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell that an attempt failed; nothing is awaited. Leads to `Done`."""

    attempt: Attempt
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the answer to the client as it comes. Leads to `Ended` or `ClientGone`."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Return:
    """Answer with the failed response of the last attempt, whose body has run out. The last effect."""

    attempt: Attempt
    body: bytes


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer with an error of the gateway's own. The last effect."""

    error: GatewayError


type Effect = (
    ParseBody
    | CountTokens
    | Reserve
    | Settle
    | Cancel
    | WaitUntil
    | StandInLine
    | Send
    | Drain
    | Choose
    | Announce
    | Deliver
    | Return
    | Reject
)


# --- outcomes: what came of it -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A response began; if it is a stream, with something other than a refusal."""

    now: float
    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt came to nothing."""

    now: float
    kind: FailureKind
    reason: str
    reused: bool = False
    """Whether it failed on a connection that had served before."""
    silent: bool = False
    """Whether it is the backend that is silent, as other calls show."""
    status: int | None = None
    headers: Headers | None = None
    """Of the 200 whose stream was a refusal."""
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """The failed response's body; None if it did not end within the bounds."""

    now: float
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The candidates as others want them; they may have been reordered or left out."""

    now: float
    candidates: Sequence[Backend]
    error: GatewayError | None = None
    """Somebody refuses the call."""


@dataclass(frozen=True, slots=True)
class Done:
    """It is done."""

    now: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A delivered answer ended."""

    now: float
    complete: bool
    """False if the backend broke it off."""
    reason: str = ""
    first_content: float | None = None
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    delivered_characters: int = 0
    """Of a stream's text, where no usage tells what it cost."""


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client hung up; whatever was under way has been stopped."""

    now: float
    so_far: Ended | None = None
    """What had been delivered until then."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body that is what it should be."""

    now: float
    body: RequestBody


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot be done, and that is the call's answer."""

    now: float
    error: GatewayError


@dataclass(frozen=True, slots=True)
class Counted:
    """The prompt's tokens."""

    now: float
    count: Count


@dataclass(frozen=True, slots=True)
class Reserved:
    """Whether it was booked, and how the quotas stand."""

    now: float
    decision: Decision


type Result = (
    Parsed | Refused | Counted | Reserved | Answered | Failed | Drained | Chosen | Done | ClientGone | Ended
)
