"""What a client may do, how much and when: the part of a client's configuration that a group can share."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from aoai_gateway.config.fields import (
    DISTINCT,
    Amount,
    Count,
    DeploymentName,
    DeploymentPattern,
    DeploymentPatterns,
    LimitName,
    Model,
    Name,
    NamePatterns,
    Seconds,
    Whole,
    alone_for,
    fault,
)
from aoai_gateway.config.patterns import matches_deployment

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""A header's name (RFC 9110 §5.6.2)."""


# --- end users: the persons behind a client ----------------------------------------------------------------


class UserSource(Model):
    """Where the name of a call's end user is."""

    place: Literal["header", "claim", "body"]
    """In a header of the request, in a claim of its verified token, or in a member of its body."""
    name: Name
    """The name of that header, claim or member."""


def _source(value: object) -> object:
    if not isinstance(value, str):
        return value
    place, _, name = value.strip().partition(" ")
    name = name.strip()
    if place not in ("header", "claim", "body") or not _TOKEN.fullmatch(name):
        raise fault(
            "does not say where an end user's name is", "write header x-end-user, claim oid, or body user"
        )
    return {"place": place, "name": name.lower() if place == "header" else name}


UserFrom = Annotated[UserSource, BeforeValidator(_source, json_schema_input_type=str)]
"""``header x-end-user``, ``claim oid`` or ``body user``."""

LIMITS_PER_USER = ("tokens_per_minute", "requests_per_minute", "tokens_per_day", "tokens_per_month")
"""The kinds of limit on one end user; each key has ``max_`` before it."""


class PerUser(Model):
    """What each end user of a client may use, over all virtual deployments."""

    max_tokens_per_minute: Whole | None = None
    """Tokens in any 60 s."""
    max_requests_per_minute: Whole | None = None
    """Requests in any 60 s."""
    max_tokens_per_day: Whole | None = None
    """Tokens per calendar day, UTC."""
    max_tokens_per_month: Whole | None = None
    """Tokens per calendar month, UTC."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not dict(self.limits()):
            raise fault("sets no limit", "write {max_tokens_per_minute: 5000}")
        return self

    def limits(self) -> Iterator[tuple[str, int]]:
        """Iterate over the limits that are set, each with its kind."""
        for kind in LIMITS_PER_USER:
            limit: int | None = getattr(self, f"max_{kind}")
            if limit is not None:
                yield kind, limit


# --- limits ------------------------------------------------------------------------------------------------

TOTAL = "total"
"""In a mapping of limits: the limit over all virtual deployments together."""


def _limit_kind(value: object) -> str:
    return "per deployment" if isinstance(value, Mapping) else "over all"


Limit = Annotated[
    Annotated[Whole, Tag("over all")] | Annotated[Mapping[LimitName, Whole], DISTINCT, Tag("per deployment")],
    Discriminator(_limit_kind),
]
"""One number over all virtual deployments, or one for each, and ``total`` for all of them together."""

LimitInThousands = Annotated[
    Annotated[Amount, Tag("over all")]
    | Annotated[Mapping[LimitName, Amount], DISTINCT, Tag("per deployment")],
    Discriminator(_limit_kind),
]
"""The same in thousands."""

LIMITS: Mapping[str, tuple[tuple[str, int], ...]] = {
    "tokens_per_minute": (("max_tokens_per_minute", 1), ("max_tokens_per_minute_in_k", 1000)),
    "requests_per_minute": (("max_requests_per_minute", 1),),
    "tokens_per_day": (("max_tokens_per_day", 1),),
    "tokens_per_month": (("max_tokens_per_month", 1),),
}
"""The kinds of limit, and the keys that set each with the factor that they count in."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """One kind of limit of one client: over all virtual deployments together, and for some of them."""

    total: int | None
    deployments: Mapping[str, int]

    def covers(self, deployment: str) -> bool:
        """Return whether it limits a deployment. A client is refused where a limit that it has does not."""
        return self.total is not None or deployment in self.deployments


class Bound(Model):
    """How long a completion may be, in tokens."""

    ceiling: Count | None = None
    """Tokens of an answer at most, under any name of that parameter; `max_tokens: 1000` says the same."""
    default: Count | None = None
    """Tokens of an answer for requests that say nothing; the ceiling if not set."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.ceiling is not None and self.default is not None and self.default > self.ceiling:
            raise fault("has a default above its ceiling")
        return self


class RequestBounds(Model):
    """What one request may ask for."""

    max_tokens: (
        Annotated[Bound, BeforeValidator(alone_for("ceiling"), json_schema_input_type=Count | Bound)] | None
    ) = None
    """Tokens of an answer (max_tokens, max_completion_tokens, max_output_tokens); a number is the ceiling."""
    n: Count | None = None
    """Answers to one prompt."""
    best_of: Count | None = None
    """Candidates of which the best are returned."""
    prompt_tokens: Count | None = None
    """Tokens of the prompt; a longer one is always rejected."""
    action: Literal["reject", "clamp"] | None = None
    """`reject` requests with higher values (the default), or `clamp` them: lower the values."""


class RequestLimits(RequestBounds):
    """What one request may ask for, of any deployment and of some."""

    deployments: Annotated[Mapping[DeploymentPattern, RequestBounds], DISTINCT] = {}
    """By virtual deployment or pattern; each key there wins over the same key outside."""

    def at(self, deployment: str) -> RequestBounds:
        """Return the bounds at a deployment; its own entry counts, else the first pattern that matches."""
        by_pattern = self.deployments
        own = by_pattern.get(deployment) or next(
            (by_pattern[pattern] for pattern in by_pattern if matches_deployment(pattern, deployment)), None
        )
        return RequestBounds.model_construct(
            **{name: _first(own, self, name) for name in RequestBounds.model_fields}
        )


class WhenExceeded(Model):
    """What happens to a request that does not fit into its client's limits."""

    action: Literal["reject", "wait", "degrade"]
    """`reject` (429 at once), `wait` until it fits, or `degrade`; short form: `when_exceeded: reject`."""
    seconds: Seconds | None = None
    """With `wait`: the seconds that it waits at most."""
    deployment: DeploymentName | None = None
    """With `degrade`, tried first: another virtual deployment."""
    max_tokens: Count | None = None
    """With `degrade`, tried next: the tokens of the answer at most."""
    priority: Name | None = None
    """With `degrade`, tried last: a lower priority, outside of the quota."""

    @model_validator(mode="after")
    def _what_belongs_to_the_action(self) -> Self:
        lesser = [key for key in ("deployment", "max_tokens", "priority") if getattr(self, key) is not None]
        if self.action == "wait" and self.seconds is None:
            raise fault("does not say how long to wait", "write {action: wait, seconds: 20}")
        if self.action == "degrade" and not lesser:
            raise fault(
                "does not say to what", "write {action: degrade, deployment: …}, or max_tokens, or priority"
            )
        if self.action != "wait" and self.seconds is not None:
            raise fault("has seconds, which only the action wait knows")
        if self.action != "degrade" and lesser:
            raise fault(f"has {lesser[0]}, which only the action degrade knows")
        return self


def _action(value: object) -> object:
    return {"action": value} if isinstance(value, str) else value


class Policy(Model):
    """What a client or a group of clients may do. None is "not said": the group's word counts, if any."""

    deployments_allowed: DeploymentPatterns | None = None
    """Deployments that it may use: `a, b` or a list, of names or patterns like `gpt-4o*`; all if not set."""
    endpoints_allowed: NamePatterns | None = None
    """Endpoints that may serve it: `a, b` or a list, of names or patterns; all if not set."""
    priority: Name | None = None
    """Its class, one of `priorities`; `default_priority` if not set."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Its part of what its class gets while calls wait, compared with other clients; 1 if not set."""
    max_tokens_per_minute: Limit | None = None
    """Tokens in any 60 s: one number over all deployments, or one for each and `total` for all."""
    max_tokens_per_minute_in_k: LimitInThousands | None = None
    """The same in thousands."""
    max_requests_per_minute: Limit | None = None
    """Requests in any 60 s: one number over all deployments, or one for each and `total` for all."""
    max_tokens_per_day: Limit | None = None
    """Tokens per day (UTC calendar): one number over all deployments, or one for each and `total`."""
    max_tokens_per_month: Limit | None = None
    """Tokens per month (UTC calendar): one number over all deployments, or one for each and `total`."""
    max_cost_per_day: Amount | None = None
    """What its calls may cost per calendar day, UTC, in the currency of `prices`."""
    max_cost_per_month: Amount | None = None
    """What its calls may cost per calendar month, UTC, in the currency of `prices`."""
    request_limits: RequestLimits | None = None
    """What one request may ask for."""
    when_exceeded: (
        Annotated[
            WhenExceeded,
            BeforeValidator(_action, json_schema_input_type=Literal["reject"] | WhenExceeded),
        ]
        | None
    ) = None
    """What happens to a request that does not fit: reject (the default), wait, or degrade."""
    user_from: UserFrom | None = None
    """Where calls name their end user: `header x-end-user`, `claim oid` or `body user`."""
    per_user: PerUser | None = None
    """What each end user may use; needs `user_from`."""
    user_in_records: Literal["hashed", "plain"] | None = None
    """How usage records name end users: by a pseudonym (the default), or as they are."""
    dry_run: bool | None = None
    """`true`: limits and quotas only report what they would do. Access is enforced nevertheless."""

    def amounts(self) -> Iterator[tuple[str, Amounts]]:
        """Yield each kind of limit that is set (a key of LIMITS), and how much it is."""
        for kind, keys in LIMITS.items():
            for key, factor in keys:
                written = getattr(self, key)
                if isinstance(written, Mapping):
                    each = {name: round(amount * factor) for name, amount in written.items()}
                    yield kind, Amounts(each.pop(TOTAL, None), each)
                elif written is not None:
                    yield kind, Amounts(round(written * factor), {})

    def inherited(self, group: "Policy") -> dict[str, Any]:
        """Return the group's values of the keys on which this policy says nothing.

        Two keys that set the same kind of limit count as one.
        """
        said = {name for name in Policy.model_fields if getattr(self, name) is not None}
        for keys in LIMITS.values():
            names = {key for key, _ in keys}
            said |= names if names & said else set()
        return {name: getattr(group, name) for name in Policy.model_fields if name not in said}


class Group(Policy):
    """What many clients have in common."""

    name: Name
    """The name by which clients refer to it."""
    description: str = ""
    """For people."""


def _first(own: Model | None, general: Model, name: str) -> Any:
    value = getattr(own, name, None)
    return getattr(general, name) if value is None else value
