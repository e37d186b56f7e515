"""``GET …/models``: what a client may ask for is its virtual deployments, not what some resource has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mitmproxy import http

from aoai_gateway.proxy.error_responses import error_response
from aoai_gateway.quota.access import visible_deployments
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from aoai_gateway.config.models import Client
    from aoai_gateway.engine.call import Setup
    from aoai_gateway.wire.targets import Target


def answer(setup: Setup, client: Client, target: Target) -> http.Response:
    """Answer with the list of the client's virtual deployments, or with one of them."""
    visible = visible_deployments(client, setup.table.deployments)
    dialect = target.operation.dialect
    model = dialect.model
    if not target.ids:
        return _json(dialect.model_list([model(name) for name in visible]))
    name = setup.config.spelled(target.ids[0])
    if name not in visible:
        return error_response(errors.deployment_not_found(name, visible), dialect)
    return _json(model(name))


def _json(document: dict[str, Any]) -> http.Response:
    return http.Response.make(200, json.dumps(document).encode(), {"content-type": "application/json"})
