"""An edited prompt -> the flow that is to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mitmproxy import connection, exceptions, http

from aoai_gateway.inspect.replays import aim, as_call
from aoai_gateway.rerun.case_set import PATHS
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import dialect_of, parse_target
from aoai_gateway.workbench.faults import EditError

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow

    from aoai_gateway.engine.call import Setup
    from aoai_gateway.workbench.prompts import Body

LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Edited:
    """A prompt that is ready to be sent, as a client; ``origin``: the call that it was made of."""

    operation: str
    body: Body
    client: str
    run_by: str
    origin: HTTPFlow | None = None


def flow_for(edited: Edited, place: str, setup: Setup) -> HTTPFlow:
    """Make the flow of a run, to go to one place; its body is not read. Raises EditError."""
    if setup.config.client_named(edited.client) is None:
        raise EditError(f"There is no client {edited.client!r}.")
    try:
        # A copy: one that is held, or still under way, can be tried elsewhere meanwhile.
        flow = as_call(edited.origin.copy()) if edited.origin is not None else _new(edited.operation)
        target = parse_target(flow.request.method, flow.request.path)
        deployment, only = aim(
            target.deployment or edited.body.model or place.partition("@")[0], place, setup
        )
        flow.request.path = target.with_deployment(deployment)
    except exceptions.CommandError as error:
        raise EditError(str(error)) from None
    except GatewayError as error:
        raise EditError(error.message) from None
    flow.metadata.pop("gateway_only_backend", None)
    if only is not None:
        flow.metadata["gateway_only_backend"] = only
    flow.request.headers.pop("content-encoding", None)
    flow.request.headers["content-type"] = "application/json"
    in_body = deployment if target.deployment is None else edited.body.model
    flow.request.content = edited.body.asking_for(in_body)
    flow.metadata["gateway_client"] = edited.client
    flow.metadata["gateway_run_by"] = " ".join(edited.run_by.split())[:LONGEST_NAME] or "workbench"
    return flow


def _new(operation: str) -> HTTPFlow:
    """Make the flow of a prompt that was written anew."""
    path = PATHS.get(operation)
    if path is None:
        raise EditError(f"There is no operation {operation!r}: {', '.join(PATHS)}.")
    client = connection.Client(peername=("127.0.0.1", 0), sockname=("127.0.0.1", 0), timestamp_start=0)
    flow = http.HTTPFlow(client, connection.Server(address=None))
    flow.request = http.Request.make("POST", f"http://localhost{path}", b"")
    for name, value in dialect_of(path).headers:
        flow.request.headers[name] = value
    return flow
