"""Access: which client may use which deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aoai_gateway.config.models import Client


def may_use(client: Client, deployment: str) -> bool:
    """Whether the client may use the deployment; a client without a list may use all of them."""
    return client.deployments_allowed is None or deployment in client.deployments_allowed


def check_access(client: Client, deployment: str) -> None:
    """Raise a 403 that names what is allowed, if the client may not use the deployment."""
    if not may_use(client, deployment):
        raise errors.deployment_not_allowed(deployment, client.deployments_allowed or ())


def visible_deployments(client: Client, deployments: Iterable[str]) -> tuple[str, ...]:
    """Give those of the deployments that the client may use, in their order."""
    return tuple(d for d in deployments if may_use(client, d))
