"""Effects and results: the messages between the engine and its driver.

The engine (:mod:`aoai_gateway.engine.engine`) is a generator: it yields *effects* (requests to its
driver) and is sent their *results*. Times are on the gateway's monotonic clock, in seconds.

Neither is changed once it is made. They are not frozen all the same: each call makes a dozen, and a frozen
one takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from aoai_gateway.engine.attempt import Attempt, FailureKind, Fault
    from aoai_gateway.quota.quotas import Decision, Reservation
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.tokens import Count
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.delivered import Delivered
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.hints import Headers
    from aoai_gateway.wire.request_body import RequestBody
    from aoai_gateway.wire.stored import Stored
    from aoai_gateway.wire.targets import Target
    from aoai_gateway.wire.usage import Usage

# --- effects -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class AttemptTimeouts:
    """How long to wait in one attempt, in seconds."""

    connect: float
    first_byte: float
    """The time for the response's headers, once the request is sent."""
    preamble: float
    """The time for the first event that shows whether a stream is a refusal."""
    idle: float
    """The time between two chunks of a body."""
    implausible: bool = False
    """Whether ``first_byte`` is what the backend's own speed makes plausible, less than the client waits."""


@dataclass(slots=True)
class Send:
    """Send the call to a backend. Leads to `Answered`, `Failed` or `ClientGone`."""

    attempt: Attempt
    timeouts: AttemptTimeouts
    fresh: bool = False
    """Not on a connection that was used before."""


@dataclass(slots=True)
class Drain:
    """Let a failed response's body run out, within bounds. Leads to `Drained` or `ClientGone`."""

    attempt: Attempt


@dataclass(slots=True)
class Renew:
    """Fetch another credential for an attempt's backend, which refuses the one that it was shown.

    Leads to `Renewed` or `ClientGone`.
    """

    attempt: Attempt


@dataclass(slots=True)
class ParseBody:
    """Decode a large body, or a coded one, off the event loop. Leads to `Parsed`, `Refused` or `ClientGone`.

    ``raw``: the body, or where it is stored; ``coding``: its content coding, to be undone within ``most``
    bytes.
    """

    target: Target
    content_type: str | None
    raw: bytes | Stored = field(repr=False)
    coding: str | None = None
    most: int = 0


@dataclass(slots=True)
class CountTokens:
    """Count the prompt's tokens, off the event loop if it is large. Leads to `Counted` or `Refused`."""

    target: Target
    body: RequestBody
    model: str | None


@dataclass(slots=True)
class CountDelivered:
    """Count the tokens of an answer that brought no usage. Leads to `Counted`."""

    delivered: Delivered
    model: str | None


@dataclass(slots=True)
class Reserve:
    """Book tokens and requests against the client's quotas. Leads to `Reserved`."""

    reservation: Reservation


@dataclass(slots=True)
class Book:
    """Book, whether it fits or not: a backend has worked on the call. Leads to `Done`."""

    reservation: Reservation


@dataclass(slots=True)
class Settle:
    """Replace a booking by the real usage. Leads to `Done`.

    ``cost``: what a budget in money counts, if there is one.
    """

    reservation: Reservation
    tokens: int
    cost: int | None = None


@dataclass(slots=True)
class Cancel:
    """Take back what was booked. Leads to `Done`."""

    reservation: Reservation


@dataclass(slots=True)
class WaitUntil:
    """Hold the call back until a time. Leads to `Done` or `ClientGone`."""

    at: float


@dataclass(slots=True)
class WaitInQueue:
    """Wait for a backend, in the queue that the call has joined. Leads to `Done` or `ClientGone`.

    It is done when the scheduler has released the call, or ``until`` has passed.
    """

    until: float


@dataclass(slots=True)
class Choose:
    """Let plugins choose among the candidates. Leads to `Chosen` or `ClientGone`."""

    candidates: tuple[Backend, ...]


@dataclass(slots=True)
class Announce:
    """Tell that an attempt failed. Leads to `Done`, once plugins have heard of it."""

    attempt: Attempt
    body: bytes | None


@dataclass(slots=True)
class Deliver:
    """Hand the answer to the client as it comes. Leads to `Ended` or `ClientGone`."""

    attempt: Attempt


@dataclass(slots=True)
class Return:
    """Answer with the failed response of the last attempt, whose body is read; a settlement may follow."""

    attempt: Attempt
    body: bytes


@dataclass(slots=True)
class Reject:
    """Answer with an error of the gateway's own; a settlement may follow."""

    error: GatewayError


type Effect = (
    ParseBody
    | CountTokens
    | CountDelivered
    | Reserve
    | Book
    | Settle
    | Cancel
    | WaitUntil
    | WaitInQueue
    | Send
    | Drain
    | Renew
    | Choose
    | Announce
    | Deliver
    | Return
    | Reject
)


# --- results -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answered:
    """A response began. With a failed status its body is not read yet; a stream has begun with no refusal."""

    now: float
    status: int
    headers: Headers
    error: GatewayError | None = None
    """What the client is told in the place of the answer, all of which has come: it says more."""


@dataclass(slots=True)
class Failed:
    """An attempt came to nothing."""

    now: float
    kind: FailureKind
    reason: str
    reused: bool = False
    """Whether it failed on a connection that had served before, or had been opened ahead."""
    fault: Fault | None = None
    silent: bool = False
    """Whether it is the backend that is silent, as other calls show."""
    status: int | None = None
    headers: Headers | None = None
    """The headers of the 200 that was a refusal."""
    body: bytes | None = None
    detail: str = ""
    """The system's own words for it, for the log alone."""
    refusal: Refusal | None = None
    """Why another deployment may serve the call, if it may fall back to one. All of the answer has come."""
    answer: Ended | None = None
    """The facts of such an answer, where it is a 200 that the content filter blocked."""


@dataclass(slots=True)
class Drained:
    """The failed response's body; None if it did not end within the bounds."""

    now: float
    body: bytes | None


@dataclass(slots=True)
class Renewed:
    """Whether there is a credential that the backend has not seen yet."""

    now: float
    is_new: bool


@dataclass(slots=True)
class Chosen:
    """The candidates as others want them; they may have been reordered or left out."""

    now: float
    candidates: Sequence[Backend]
    error: GatewayError | None = None
    """The gateway refuses the call."""


@dataclass(slots=True)
class Done:
    """It is done."""

    now: float


@dataclass(slots=True)
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
    made: tuple[str, ...] = ()
    """References that only the resource that answered can resolve (`wire.references`)."""
    finish_reason: str | None = None
    service_tier: str | None = None
    delivered: Delivered | None = None
    """The answer's text, to be counted where no usage came."""
    seconds: float | None = None
    """How long the audio was that was transcribed, where the answer says so."""
    error: GatewayError | None = None
    """Why the gateway ended a session."""
    failed: str = ""
    """How the backend itself has told, in its stream, that it failed: the client has all of that."""
    minted: str | None = None
    """The digest of a secret that was made (`wire.secrets`)."""
    state: str | None = None
    """The state of the response or the run that the answer describes: ``queued``, ``completed``, …"""


@dataclass(slots=True)
class ClientGone:
    """The client hung up; the effect under way has been stopped."""

    now: float
    so_far: Ended | None = None
    """The text that had been delivered until then."""
    stalled: bool = False
    """Whether it did not hang up by itself: it was cut off since it did not read its answer."""


@dataclass(slots=True)
class Parsed:
    """A body that is what it should be."""

    now: float
    body: RequestBody


@dataclass(slots=True)
class Refused:
    """It cannot be done, and that is the call's answer."""

    now: float
    error: GatewayError


@dataclass(slots=True)
class Counted:
    """The tokens of a prompt, or of an answer as far as it was delivered."""

    now: float
    count: Count


@dataclass(slots=True)
class Reserved:
    """Whether it was booked, and how the quotas stand."""

    now: float
    decision: Decision


type Result = (
    Parsed
    | Refused
    | Counted
    | Reserved
    | Answered
    | Failed
    | Drained
    | Renewed
    | Chosen
    | Done
    | ClientGone
    | Ended
)

type EffectGenerator[T] = Generator[Effect, Result, T]
"""A part of the engine: its driver carries out the effects, and sends what came of them."""
