"""Access: which deployments, which endpoints and which priority class a client may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.config.patterns import matches_any, matches_deployment
from aoai_gateway.wire import errors
from aoai_gateway.wire.targets import unknown_path_refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.config.models import Config, Policy
    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.wire.targets import Target

PRIORITY_HEADER = "x-gateway-priority"
"""The header by which a request asks for a class."""


def may_use(policy: Policy, deployment: str) -> bool:
    """Whether a client (or a group) may use the deployment; one without a list may use all of them."""
    allowed = policy.deployments_allowed
    return allowed is None or any(matches_deployment(pattern, deployment) for pattern in allowed)


def may_use_endpoint(policy: Policy, endpoint: str) -> bool:
    """Whether the endpoint of this name may serve a client (or a group); without a list, all may."""
    allowed = policy.endpoints_allowed
    return allowed is None or matches_any(allowed, endpoint)


def check_access(policy: Policy, deployment: str) -> None:
    """Raise a 403 that names what is allowed, if the client may not use the deployment."""
    if not may_use(policy, deployment):
        raise errors.deployment_not_allowed(deployment, policy.deployments_allowed or ())


def check_passed_on(config: Config, target: Target) -> None:
    """Raise a 404 for an operation that the gateway does not know, unless such are passed on."""
    if not config.aoai.forward_unknown_paths:
        raise unknown_path_refused(target)


def visible_deployments(policy: Policy, deployments: Iterable[str]) -> tuple[str, ...]:
    """Return those of the deployments that the client may use, in their order."""
    return tuple(deployment for deployment in deployments if may_use(policy, deployment))


def class_of(config: Config, priority: str | None, asked: str | None) -> PriorityClass:
    """Return the class of a request.

    ``priority``: its client's, or the lower one it was degraded to; None without any. ``asked``: the
    value of `PRIORITY_HEADER`, if it is there. Without priorities it means nothing, so that a client can
    send it to every gateway.

    :raises GatewayError: 400, when the header's value is no class, or a higher one than the request has.
    """
    own = config.priority_class(priority)
    if asked is None or not config.priorities:
        return own
    lower = {cls.name: cls for cls in config.priority_classes[own.rank :]}
    found = lower.get(asked.strip())
    if found is None:
        raise errors.priority_not_allowed(asked, lower)
    return found
