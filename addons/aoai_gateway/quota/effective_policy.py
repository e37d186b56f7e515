"""The effective policy of one client at one virtual deployment: all of its rules, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from aoai_gateway.quota.access import may_use, may_use_endpoint
from aoai_gateway.quota.quotas import Quota, budget_of
from aoai_gateway.quota.request_limits import NO_LIMITS, RequestLimits

if TYPE_CHECKING:
    from aoai_gateway.config.models import Client, Config, Policy
    from aoai_gateway.quota.quotas import Budget


@dataclass(frozen=True, slots=True)
class OnExceed:
    """What happens to a request that does not fit into its quotas.

    `wait`: until it fits, at most `seconds`. `degrade`: those of `deployment`, `max_tokens` and
    `priority` that are set, in this order; without any, it amounts to `reject`.
    """

    action: Literal["reject", "wait", "degrade"] = "reject"
    seconds: float = 0.0
    deployment: str | None = None
    max_tokens: int | None = None
    priority: str | None = None


REJECT = OnExceed()


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """The rules for one client at one virtual deployment.

    `quotas`: at most one with this deployment and one over all (`deployment` None). `has_limit_here` is
    false where one of the client's limits is set per deployment, and neither for this one nor in total:
    the client is refused. `endpoints` are the names of the endpoints that may serve it; None is all.

    `dry_run`: `quotas`, `has_limit_here`, `request_limits` and `on_exceed` only report what they would
    have done. `endpoints`, like the deployments that the client may use, hold all the same.
    """

    client: str
    deployment: str
    quotas: tuple[Quota, ...] = ()
    per_user: Quota | None = None
    """What each end user may use; its deployment is still to be set."""
    budget: Budget | None = None
    """What the client may spend, wherever it does."""
    has_limit_here: bool = True
    endpoints: frozenset[str] | None = None
    request_limits: RequestLimits = NO_LIMITS
    on_exceed: OnExceed = REJECT
    dry_run: bool = False
    may_use: bool = True
    """Whether the client may use the deployment at all."""
    has_quotas: bool = field(init=False)
    counts_prompts: bool = field(init=False)
    """Whether a limit is in tokens or in money, so that prompts are counted."""

    def __post_init__(self) -> None:
        quotas = [each for each in (*self.quotas, self.per_user, self.budget) if each is not None]
        object.__setattr__(self, "has_quotas", bool(quotas))
        counts = any(limit.counts_tokens for quota in quotas for limit, _ in quota.set_limits)
        object.__setattr__(self, "counts_prompts", counts or self.request_limits.prompt_tokens is not None)

    def allows_endpoint(self, name: str) -> bool:
        """Whether the endpoint of this name may serve the client."""
        return self.endpoints is None or name in self.endpoints


@dataclass(frozen=True, slots=True)
class PolicyAction:
    """What the client's policy did to a call, or would have done in a dry run.

    ``action``: ``clamp`` (a member of the body was set), ``degrade`` (served in a lesser way), ``quota`` (a
    quota refused it) or ``reject`` (another rule did). ``what``: the member, ``deployment``, ``priority``,
    the kind of the quota's limit, or the error's code. Of a quota, ``asked`` is what was to be booked,
    ``given`` what was left, ``limit`` its size, ``deployment`` the one it is for (None: all), ``seconds`` the
    time until it would fit.
    """

    action: str
    what: str
    asked: str | float | None = None
    given: str | float | None = None
    dry_run: bool = False
    limit: float | None = None
    deployment: str | None = None
    seconds: float | None = None


class _Everywhere(NamedTuple):
    """What holds of a client at every deployment: the same objects, however many names it asks for."""

    over_all: Quota | None
    per_user: Quota | None
    budget: Budget | None
    endpoints: frozenset[str] | None


def _everywhere(config: Config, client: Client) -> _Everywhere:
    kept: dict[str, _Everywhere] = config.derived.setdefault(_Everywhere, {})
    found = kept.get(client.name)
    if found is None:
        found = kept[client.name] = _Everywhere(
            _quota_at(client, None),
            Quota(None, **dict(client.per_user.limits())) if client.per_user else None,
            budget_of(client),
            _endpoints(config, client),
        )
    return found


def effective_policy(config: Config, client: Client, deployment: str) -> EffectivePolicy:
    """Return a client's policy at a deployment, also at one that it may not use."""
    everywhere = _everywhere(config, client)
    here = _quota_at(client, deployment)
    return EffectivePolicy(
        client=client.name,
        deployment=deployment,
        quotas=tuple(quota for quota in (here, everywhere.over_all) if quota is not None),
        per_user=everywhere.per_user,
        budget=everywhere.budget,
        has_limit_here=_has_limit(client, deployment),
        endpoints=everywhere.endpoints,
        request_limits=_request_limits(client, deployment),
        on_exceed=_on_exceed(config, client, deployment),
        dry_run=bool(client.dry_run),
        may_use=may_use(client, deployment),
    )


def quotas_of(client: Client) -> tuple[Quota, ...]:
    """Return all quotas of a client: the one over all first, then one for each deployment that is named."""
    named = sorted({name for _, amounts in client.amounts() for name in amounts.deployments})
    quotas = (_quota_at(client, deployment) for deployment in (None, *named))
    return tuple(quota for quota in quotas if quota is not None)


def _quota_at(client: Client, deployment: str | None) -> Quota | None:
    """Return a client's quota at a deployment, or over all of them (None)."""
    limits: dict[str, int] = {}
    for kind, amounts in client.amounts():
        limit = amounts.total if deployment is None else amounts.deployments.get(deployment)
        if limit is not None:
            limits[kind] = limit
    return Quota(deployment, **limits) if limits else None


def _has_limit(policy: Policy, deployment: str) -> bool:
    return all(amounts.covers(deployment) for _, amounts in policy.amounts())


def _endpoints(config: Config, policy: Policy) -> frozenset[str] | None:
    if policy.endpoints_allowed is None:
        return None
    names = (endpoint.name for endpoint in config.aoai.endpoints)
    return frozenset(name for name in names if may_use_endpoint(policy, name))


def _request_limits(policy: Policy, deployment: str) -> RequestLimits:
    if policy.request_limits is None:
        return NO_LIMITS
    bounds = policy.request_limits.at(deployment)
    return RequestLimits(
        max_tokens=bounds.max_tokens.ceiling if bounds.max_tokens else None,
        default_max_tokens=bounds.max_tokens.default if bounds.max_tokens else None,
        n=bounds.n,
        best_of=bounds.best_of,
        prompt_tokens=bounds.prompt_tokens,
        clamp=bounds.action == "clamp",
    )


def _on_exceed(config: Config, policy: Policy, deployment: str) -> OnExceed:
    said = policy.when_exceeded
    if said is None:
        return REJECT
    other = said.deployment
    if other is not None and (other == deployment or not _may_be_served(config, policy, other)):
        other = None
    return OnExceed(said.action, said.seconds or 0.0, other, said.max_tokens, said.priority)


def _may_be_served(config: Config, policy: Policy, deployment: str) -> bool:
    """Whether a request for the deployment would get past the client's policies, but for its quotas."""
    if not may_use(policy, deployment) or not _has_limit(policy, deployment):
        return False
    return any(may_use_endpoint(policy, backend.endpoint.name) for backend in config.pool(deployment))
