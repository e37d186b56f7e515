"""Responses of the gateway's own: errors, connections on which there is nothing else, and lists of models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer

from aoai_gateway.quota.access import visible_deployments
from aoai_gateway.wire import errors
from aoai_gateway.wire.dialects import OPENAI

if TYPE_CHECKING:
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.config.models import Client
    from aoai_gateway.engine.call import Setup
    from aoai_gateway.wire.dialects import Dialect
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.targets import Target


def error_response(
    error: GatewayError, dialect: Dialect = OPENAI, call_id: str | None = None
) -> http.Response:
    """Make a response of an error of the gateway's own, in the dialect of its client."""
    body = dialect.error_body(error, call_id)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers),
    ]
    if call_id is not None and dialect.request_id is not None:
        fields.append((dialect.request_id.encode(), call_id.encode()))
    return http.Response.make(error.status, body, http.Headers(fields))


class RefusedConnection(Layer):
    """Answers a connection with an error, before any request is read, and ends it."""

    def __init__(self, context: Context, error: GatewayError) -> None:
        super().__init__(context)
        self._error = error

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            client = self.context.client
            yield commands.SendData(client, http1.assemble_response(error_response(self._error)))
            yield commands.CloseConnection(client)


def models_response(setup: Setup, client: Client, target: Target) -> http.Response:
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
