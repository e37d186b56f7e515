"""The plan of a client's calls for a deployment: all that the configuration decides before one of them comes.

A call goes through the steps for what is configured, and through no others; its plan says which these are.
What depends on the state of the moment (breaks, capacity, what is left of a quota) is in no plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.config.fallbacks import fallbacks_of
from aoai_gateway.quota.effective_policy import effective_policy
from aoai_gateway.quota.request_limits import NO_LIMITS
from aoai_gateway.wire.backend_errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.config.endpoints import Strategy
    from aoai_gateway.config.models import Client, Config
    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.quota.effective_policy import EffectivePolicy
    from aoai_gateway.routing.backends import Pool, RoutingTable


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided about a client's calls for one deployment, or (``deployment`` is "") for none."""

    deployment: str
    """The deployment's name as the configuration spells it."""
    is_known: bool
    """Whether there is such a deployment at all."""
    terms: EffectivePolicy
    is_free: bool
    """Whether admission has nothing to do: nothing of its calls is limited, counted or noted."""
    pool: Pool
    """The backends of the deployment that the client may use."""
    is_barred: bool
    """Whether there are backends, and the client may use none of them."""
    cls: PriorityClass
    """The client's own priority class."""
    has_classes: bool
    """Whether priority classes are configured. Else nothing waits, and a call asks for none."""
    weight: float
    """The client's, among others of its class."""
    queue_name: str
    """The name of the queue."""
    strategy: Strategy
    fallbacks: Mapping[Refusal, str]
    """The virtual deployments to which calls fall back, by cause, if the client may use them."""
    smallest_limit: float
    """The tokens per minute of the smallest backend of the pool whose limit is declared."""
    leaves_to_streams: bool
    """Whether a backend of the pool takes only a part of the calls that are no streams."""


def make_plan(config: Config, table: RoutingTable, client: Client, deployment: str) -> Plan:
    """Return the plan of a client's calls for a deployment, as the configuration spells it."""
    terms = effective_policy(config, client, deployment)
    found = table.pool(deployment) if deployment else table.endpoints
    serving = found or ()
    pool = tuple(backend for backend in serving if terms.allows_endpoint(backend.endpoint.name))
    limits = [backend.declared.tokens_per_minute for backend in pool]
    written = fallbacks_of(config, deployment)
    return Plan(
        deployment=deployment,
        is_known=found is not None,
        terms=terms,
        is_free=not terms.has_quotas
        and terms.has_limit_here
        and terms.request_limits is NO_LIMITS
        and client.user_from is None,
        pool=serving if len(pool) == len(serving) else pool,
        is_barred=bool(serving) and not pool,
        cls=config.priority_class(client.priority),
        has_classes=bool(config.priorities),
        weight=client.weight or 1.0,
        queue_name=deployment if deployment in config.virtual_deployments else "",
        strategy=config.strategy_of(deployment),
        fallbacks={Refusal(cause): other for cause, other in written.items()},
        smallest_limit=min((limit for limit in limits if limit is not None), default=math.inf),
        leaves_to_streams=any(backend.non_streaming_fraction < 1 for backend in pool),
    )
