"""A Call: all that is known of one request.

Nothing of a request is kept on an object that calls share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aoai_gateway.bounded import Bounded
from aoai_gateway.engine.plan import make_plan
from aoai_gateway.wire.operation import Cost
from aoai_gateway.wire.operations import COMPLETIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from aoai_gateway.config.models import Client, Config
    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.effects import Ended
    from aoai_gateway.engine.plan import Plan
    from aoai_gateway.quota.effective_policy import PolicyAction
    from aoai_gateway.quota.quotas import Decision, Reservation
    from aoai_gateway.routing.backends import Backend, BackendKey, RoutingTable
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.routing.order import Skip
    from aoai_gateway.tokens import Count
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.delivered import Delivered
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.hints import Headers
    from aoai_gateway.wire.request_body import RequestBody
    from aoai_gateway.wire.secrets import Grant
    from aoai_gateway.wire.targets import Target
    from aoai_gateway.wire.usage import Usage


MOST_PLANS, LONGEST_NAME = 4096, 64
"""The most plans that are kept, and the longest name of a deployment for which one is kept (Azure's longest).
Callers can make names up: where no deployment is configured, and in how they spell one."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One loaded configuration and the tables computed from it. A call keeps the one it began with."""

    config: Config
    table: RoutingTable
    _plans: Bounded[tuple[str, str], Plan] = field(
        default_factory=lambda: Bounded(MOST_PLANS), init=False, repr=False, compare=False
    )

    def plan(self, client: Client, deployment: str) -> Plan:
        """Return the plan of a client's calls for a deployment, as they spell it."""
        key = (client.name, deployment)
        plan = self._plans.get(key)
        if plan is None:
            plan = make_plan(self.config, self.table, client, self.config.spelled(deployment))
            if len(deployment) <= LONGEST_NAME:
                self._plans.put(key, plan)
        return plan


class FellBack(NamedTuple):
    """A call went on from one virtual deployment (``start``) to another one (``end``)."""

    refusal: Refusal
    start: str
    end: str


class Barred(NamedTuple):
    """A virtual deployment to which a call may not fall back, and why."""

    end: str
    why: str


class Notice(StrEnum):
    """In what a call is not served as it asked; the answer has each as the header ``x-gateway-{notice}``."""

    CLAMPED = "clamped"
    """The request limits lowered a parameter."""
    DEGRADED = "degraded"
    """Over its quota, it got another deployment, priority or bound."""
    FALLBACK = "fallback"
    """For which cause another virtual deployment serves it: ``content_filter gpt-4o -> gpt-4o-mini``."""
    DRY_RUN = "dry-run"
    """The policy is not enforced; these words say what it would have done."""


@dataclass(slots=True)
class Session:
    """What is counted of a session of messages, beside its tokens."""

    responses: int = 0
    """Responses that have begun."""
    messages_in: int = 0
    """Messages of the client's."""
    messages_out: int = 0
    """Messages to the client."""
    close_code: int | None = None
    """How it was closed (RFC 6455 §7.4)."""
    closed_by: str | None = None
    """Which side closed it: ``client``, ``backend`` or ``gateway``."""


class Outcome(StrEnum):
    """How a call ended, for the usage record."""

    OK = "ok"
    """A backend's answer of any status reached the client."""
    REJECTED = "rejected"
    """The gateway answered by itself."""
    BACKENDS_OUT = "backends_out"
    """No backend could be found that answers."""
    TRUNCATED = "truncated"
    """The backend broke its answer off."""
    CLIENT_GONE = "client_gone"
    CLIENT_STALLED = "client_stalled"
    """The client did not read its answer, and its connection was closed."""
    ERROR = "error"
    """A bug of the gateway."""

    @property
    def is_the_clients(self) -> bool:
        """Whether the client ended the call, before it was over."""
        return self in (Outcome.CLIENT_GONE, Outcome.CLIENT_STALLED)


COMPLETIONS_DEFAULT_OUTPUT = 16
"""``max_tokens`` of the older completions API where it is absent (OpenAI's API reference)."""

LARGEST_BOUND = 2**31 - 1
"""The largest bound, of all answers of a call together."""

_TIER = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)

NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})
"""What most calls have in the place of a mapping."""

NO_BACKENDS: Final[AbstractSet[BackendKey]] = frozenset()


@dataclass(slots=True)
class Call:
    """The facts about one request. The driver of the engine fills in the first block.

    What it notes of itself is replaced and never changed, so that calls share what is empty, as it mostly is:
    many are kept, and the garbage collector looks at each list and set of them.
    """

    id: str
    client: Client
    target: Target
    setup: Setup
    started: float
    """Monotonic seconds; ``unix_offset`` makes them seconds since the epoch."""
    unix_offset: float
    headers: Headers
    """The request's headers, without credentials."""
    claims: Mapping[str, str] = field(default=NOTHING, repr=False)
    """What the client's verified token says, if it came with one."""
    user: str | None = field(default=None, repr=False)
    """The name of its end user, if it has one."""
    brings_own_token: bool = False
    """Whether the client's own Entra ID token goes to the backend, rather than our credential."""
    unproven: bool = False
    """Whether no backend has accepted that token yet, so that it may be made up."""
    consult: bool = False
    """Whether a plugin takes part in the choice of the backend."""
    only_backend: str | None = None
    """The one backend, ``standin@endpoint``, to which a user of the inspector sends it; clients cannot."""

    granted: Grant | None = None
    """The rights of a secret that was made for one session, where the client shows one."""

    run_by: str | None = None
    """Who has sent it from the workbench, as they call themselves; None for a client's own call."""

    body: RequestBody | None = None
    deployment: str = ""
    plan: Plan = field(init=False, repr=False)
    """What its configuration decides about it; set together with `deployment`, see `assign`."""
    cls: PriorityClass | None = None
    """Its priority class, once that is known."""
    estimate: int = 0
    """A low estimate of the tokens it asks for, to see that it exceeds a backend's whole limit."""
    attempts: list[Attempt] = field(default_factory=list)
    skipped: tuple[Skip, ...] = ()
    """Backends that were passed over when the last attempt was chosen."""
    decisions: Sequence[str] = ()
    """The decisions, in order and in words; filled at its end, if flows are looked at."""
    too_small: AbstractSet[BackendKey] = NO_BACKENDS
    """Backends whose whole limit is below the estimate."""
    usage_unknown: AbstractSet[BackendKey] = NO_BACKENDS
    """Backends that do not know ``stream_options.include_usage`` in the call's api-version."""
    edits: Mapping[str, int] = NOTHING
    """Members of the body that the client's limits or policy set to another value."""
    notices: Mapping[Notice, str] = NOTHING
    """The effects of the client's limits and quotas, in words."""
    policy: tuple[PolicyAction, ...] = ()
    """The same as data, and every quota that refused it."""
    quota: Decision | None = None
    """The last decision on its quotas."""
    prompt: Count | None = None
    """The prompt's tokens, if they were counted."""
    reserved: Reservation | None = None
    """The booking for the call, until it is settled or cancelled."""
    taken_back: Reservation | None = None
    """The booking that was cancelled for another deployment, until the call is booked there."""
    withdrawn: tuple[Scope, ...] = ()
    """Breaks that it had opened and that were taken back, since it was the cause itself."""
    stretched: bool = False
    """Whether it may take more than is booked for it: no bound was set, and so much was not left."""
    reserved_tokens: int | None = None
    charged_tokens: int | None = None
    """The tokens charged to the client's quotas in the end; None if it has no quotas."""
    waited: float = 0.0
    """Seconds for which it was held back, for its quota or in the queue."""
    queue_wait: float = 0.0
    """Of these, the seconds in the queue."""
    request_seconds: float = 0.0
    """Seconds that its request took before it began: from the head, for upload, a token's check, a hold."""
    asked: str = ""
    """The deployment that the client asked for, where its policy or a fallback led to another one."""
    fallbacks: Mapping[Refusal, str] = NOTHING
    """The virtual deployments to which it may fall back from where it is, by the cause."""
    barred: Mapping[Refusal, Barred] = NOTHING
    """Those to which it may not, though the configuration names them."""
    fallback_refused: str | None = None
    """Why no other deployment took the place of a refused answer: ``content_filter a -> b: not_allowed``."""
    fell_back: tuple[FellBack, ...] = ()
    """How it came to where it is."""
    bookings: int = 0
    """How often quotas were asked to book it: each booking has a name of its own."""

    outcome: Outcome | None = None
    is_whole: bool = True
    """Whether an answer that has ended is all that the backend had to send, be it that it failed."""
    status: int | None = None
    error: GatewayError | None = None
    ended: float | None = None
    first_content: float | None = None
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    service_tier: str | None = None
    """The tier that served it, as the answer says."""
    delivered_tokens: int | None = None
    """Tokens of an answer that brought no usage, counted here."""
    chunk_gaps: tuple[float, float] | None = None
    """Of a stream: the median and the longest gap between two chunks, in seconds."""

    served: bool = False
    """Whether a backend's answer has reached the client, in part at least."""
    delivered: Delivered | None = None
    """The answer's text, to be counted where no usage came."""
    heard_seconds: float | None = None
    """How long the audio was that was transcribed, where the answer says so."""
    priority: str | None = None
    """Its class, if not the client's own."""
    session: Session | None = None
    """Set once it is a session of messages."""
    answer_state: str | None = None
    """The state of the response or the run that the answer describes."""
    looked_at: Usage | None = None
    """The usage in an answer that tells of another call: of a response that is looked at, say."""
    goes_on: bool = False
    """Whether the work goes on after the answer, so that its tokens are not known yet."""
    usage_of: str | None = None
    """The id of the earlier call whose tokens its usage is; its own answer came before they were known."""

    def assign(self, plan: Plan) -> None:
        """Assign it to the deployment of a plan."""
        self.plan, self.deployment = plan, plan.deployment

    def note_delivery(self, attempt: Attempt, told: Ended) -> None:
        """Take over what the answer says that goes to the client, as far as it has come."""
        self.served = (attempt.status or 0) < 400
        self.first_content = attempt.first_content = told.first_content
        self.model, self.response_id = told.model, told.response_id
        self.answer_state = told.state
        if self.target.operation.cost is not Cost.NONE:
            self.usage = told.usage
        else:
            self.looked_at = told.usage
        self.finish_reason, self.service_tier = told.finish_reason, told.service_tier
        self.delivered, self.heard_seconds = told.delivered, told.seconds

    def take_delivered(self, tokens: int) -> None:
        """Note the tokens of an answer that brought no usage. Of its prompt, the backend may have told."""
        self.delivered_tokens = tokens
        prompt = self.delivered.prompt if self.delivered is not None else None
        if prompt is not None:
            self.usage = replace(prompt, output_tokens=tokens, total_tokens=prompt.input_tokens + tokens)

    def forget_texts(self) -> None:
        """Let go of the prompt, the answer and the headers of a call that is over, but may be kept."""
        self.body = self.delivered = None
        self.headers = NOTHING

    def note(self, notice: Notice, words: str) -> None:
        """Note what was done to it, for its answer's headers."""
        said = self.notices.get(notice)
        self.note_alone(notice, f"{said}; {words}" if said else words)

    def note_alone(self, notice: Notice, words: str) -> None:
        """Note it in the place of what was noted of the kind before."""
        self.notices = {**self.notices, notice: words}

    def edit(self, member: str, value: int) -> None:
        """Note to what a member of the body is set."""
        self.edits = {**self.edits, member: value}

    def may_fall_back(self, refusal: Refusal) -> bool:
        """Whether another deployment may serve it for this cause; where none may, why is noted."""
        if refusal in self.barred:
            self.stay(refusal, *self.barred[refusal])
        return refusal in self.fallbacks

    def stay(self, refusal: Refusal, end: str, why: str) -> None:
        """Note that it keeps a refused answer, and why another deployment (``end``) does not serve it."""
        self.fallback_refused = f"{refusal} {self.deployment} -> {end}: {why}"

    def next_booking(self) -> str:
        """Return the name of the next booking.

        A refused booking and the next one are two questions; no store may take them for one.
        """
        self.bookings += 1
        return self.id if self.bookings == 1 else f"{self.id}/{self.bookings - 1}"

    def completion_bound(self) -> int | None:
        """Return the most tokens that all its answers can have together; None: nothing bounds them.

        It is the bound of one answer, times ``n`` or ``best_of``, times the number of prompts.
        """
        assert self.body is not None
        operation = self.target.operation
        if operation.cost is not Cost.ANSWER:
            return 0
        bound = self.edits.get("max_tokens", self.body.max_tokens) or None
        if bound is None and operation is COMPLETIONS:
            bound = COMPLETIONS_DEFAULT_OUTPUT
        return None if bound is None else min(bound * self.answers(), LARGEST_BOUND)

    def answers(self) -> int:
        """Return how many answers it asks for, candidates included."""
        body, edits = self.body, self.edits
        assert body is not None
        if not edits:
            return body.prompts * max(body.n, body.best_of)
        return body.prompts * max(edits.get("n", body.n), edits.get("best_of", body.best_of))

    @property
    def creates_state(self) -> bool:
        """Whether it leaves something behind at the backend that serves it, beyond a stored answer."""
        assert self.body is not None
        return self.target.operation.creates or self.body.background

    def adds_usage(self, backend: Backend | None = None) -> bool:
        """Whether the gateway asks a backend for the stream's usage because the client did not."""
        body = self.body
        return (
            body is not None
            and body.stream
            and body.include_usage is not True
            and self.target.knows_stream_options
            and (backend is None or backend.key not in self.usage_unknown)
        )

    @property
    def requested_tier(self) -> str | None:
        """The service tier that the client asks for, if it names one: ``flex``, ``priority``, …"""
        tier = self.body.parsed.get("service_tier") if self.body is not None and self.body.is_json else None
        return tier if isinstance(tier, str) and _TIER.fullmatch(tier) else None

    @property
    def quota_headers(self) -> tuple[tuple[str, str], ...]:
        """The client's own remaining quota, for the answer."""
        return () if self.quota is None else self.quota.headers()

    @property
    def streaming(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body is not None and self.body.stream

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None
