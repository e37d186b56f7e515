"""What can be refused of a call ahead of its body: by its head, or by the lines of a batch.

A large body costs its transfer, memory and a turn at being read. So a call whose head says enough is refused
before its body is read: a deployment in the path that does not exist or is not the client's, and requests or
tokens of which the client has none left. The same call would be refused with its body, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine.admission import limit_of
from aoai_gateway.quota.access import check_access, visible_deployments
from aoai_gateway.quota.quotas import Reservation
from aoai_gateway.wire import errors
from aoai_gateway.wire.bodies import has_unread_lines
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operation import Cost, Model

if TYPE_CHECKING:
    from aoai_gateway.config.models import Client
    from aoai_gateway.engine.call import Setup
    from aoai_gateway.quota.quotas import Decision
    from aoai_gateway.wire.batch_file import Lines
    from aoai_gateway.wire.request_body import RequestBody
    from aoai_gateway.wire.targets import Target


def check_deployment(setup: Setup, client: Client, deployment: str) -> None:
    """Check that a deployment exists and is the client's to use. Raises GatewayError."""
    if setup.table.pool(deployment) is None:
        visible = visible_deployments(client, setup.table.deployments)
        raise errors.deployment_not_found(deployment, visible)
    if not setup.plan(client, deployment).terms.may_use:
        check_access(client, deployment)


def check_lines(setup: Setup, client: Client, lines: Lines, deployment: str) -> None:
    """Check that a batch's lines name one deployment, which the client may use. Raises GatewayError.

    Where every client may use every name, it is the endpoint's to find faults in the file.
    """
    if lines.fault is not None:
        if setup.config.virtual_deployments or client.deployments_allowed is not None:
            raise lines.fault
        return
    try:
        check_deployment(setup, client, deployment)
    except GatewayError as error:
        message = f"Line {lines.first} of the batch's input file: {error.message}"
        raise replace(error, message=message, param="file") from None


def check_lines_are_read(body: RequestBody) -> None:
    """Check a call of a client that may not use every deployment: its lines are read. Raises GatewayError."""
    if has_unread_lines(body):
        raise errors.forbidden(
            "You may not use every deployment, so the lines of a batch must be read here. Upload them in one "
            "piece: POST files, with the purpose 'batch'.",
            code="DeploymentNotAllowed",
        )


def check_rights(setup: Setup, client: Client, target: Target) -> Reservation | None:
    """Check that the client may ask for what the path names. Raises GatewayError.

    Returns what must fit its quotas at least: one request. None if that decides nothing.
    """
    named = target.deployment if target.operation.model is not Model.NONE else None
    deployment = setup.config.spelled(named) if named else ""
    if deployment:
        check_deployment(setup, client, deployment)
    terms = setup.plan(client, deployment).terms
    if terms.dry_run:
        return None
    if deployment and not terms.has_limit_here and target.operation.cost is not Cost.NONE:
        raise errors.no_limit_configured(deployment)
    # Without the deployment, it is not known what the client's policy does about it.
    if terms.on_exceed.action != "reject" or not terms.quotas:
        return None
    return Reservation(f"ahead of {client.name}", client.name, terms.quotas, tokens=0)


def check_fits(decision: Decision) -> None:
    """Check that one request fits. Raises GatewayError (429)."""
    if not decision.admitted:
        text = f"Your quota of {limit_of(decision)} is used up."
        raise errors.rate_limited(text, decision.retry_after)
