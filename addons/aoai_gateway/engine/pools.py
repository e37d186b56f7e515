"""Which backends may serve a call: those of its deployment, less those that its client may not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.wire import errors
from aoai_gateway.wire.errors import GatewayError

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.plan import Plan
    from aoai_gateway.routing.backends import Pool

ENDPOINT_HEADER = "x-gateway-endpoint"
"""By which a client chooses the endpoint of a call that is for no deployment, such as a list of files."""


def pool_of(call: Call, plan: Plan) -> Pool:
    """Return the backends that may serve a call by a plan (empty: none does).

    Raises GatewayError (403) if the client may use none of those that serve it.
    """
    deployment, mine = plan.deployment, plan.pool
    if plan.is_barred:
        serves = f" serves the deployment '{deployment}'" if deployment else " is in service"
        raise errors.forbidden(f"None of the endpoints that you may use{serves}.", code="EndpointNotAllowed")
    if not deployment:
        mine = _at_named_endpoint(call, mine)
    if call.granted is not None:
        # Only the resource that has made a secret knows it.
        mine = tuple(b for b in mine if b.endpoint.name == call.granted.endpoint)
        if not mine:
            raise errors.unauthorized()
    if call.only_backend is not None:
        mine = tuple(b for b in mine if b.name == call.only_backend)
        if not mine:
            raise errors.forbidden(
                f"'{call.only_backend}' is not one of the backends that may serve '{deployment}'.",
                code="EndpointNotAllowed",
            )
    return mine


def _at_named_endpoint(call: Call, pool: Pool) -> Pool:
    chosen = call.headers.get(ENDPOINT_HEADER)
    if chosen is None:
        return pool
    mine = tuple(backend for backend in pool if backend.endpoint.name == chosen)
    if not mine:
        raise errors.forbidden(
            f"The header {ENDPOINT_HEADER} names none of the endpoints that you may use.",
            code="EndpointNotAllowed",
        )
    return mine


def has_backends(call: Call, plan: Plan) -> bool:
    """Whether any backend may serve the call by a plan."""
    try:
        return bool(pool_of(call, plan))
    except GatewayError:
        return False
