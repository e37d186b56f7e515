"""Sending a call again, somewhere else: a copy of its flow, aimed at a deployment or at one backend."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy import exceptions, http

from aoai_gateway.inspect.annotate import forget
from aoai_gateway.inspect.client_replay import ask_for, restore
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from mitmproxy.flow import Flow

    from aoai_gateway.engine.call import Setup


def as_call(flow: Flow) -> http.HTTPFlow:
    """Copy a flow with the request as its client sent it, to be sent or shown again.

    The copy has no metadata but its client's name. Raises CommandError if the flow is no call.
    """
    if not isinstance(flow, http.HTTPFlow):
        raise exceptions.CommandError("This is no HTTP call.")
    if flow.live:
        raise exceptions.CommandError("The call is still running.")
    if flow.request.raw_content is None:
        raise exceptions.CommandError("The request's body was not kept.")
    copy: http.HTTPFlow = flow.copy()
    copy.intercepted = False
    restore(copy)
    forget(copy)
    copy.marked = ""
    copy.timestamp_created = time.time()  # what flow lists are ordered by: it is a new call
    copy.response = copy.error = None
    try:
        if not parse_target(copy.request.method, copy.request.path).operation.has_prompt:
            raise exceptions.CommandError("This is no call with a prompt that a deployment could be asked.")
    except GatewayError as error:
        raise exceptions.CommandError(f"This is no call to Azure OpenAI: {error.message}") from None
    return copy


def deployment_of(request: http.Request) -> str:
    """Name the deployment that a request asks for. Raises CommandError if it names none."""
    try:
        target = parse_target(request.method, request.path)
        if target.deployment is not None:
            return target.deployment
        content = readable(request.raw_content, request.headers.get("content-encoding"))
        return parse_body(target, request.headers.get("content-type"), content).deployment(target)
    except GatewayError as error:
        raise exceptions.CommandError(error.message) from None


def aim(asked: str, where: str, setup: Setup) -> tuple[str, str | None]:
    """Say for which deployment a call has to ask to get somewhere, and the backend that alone may serve it.

    Args:
        asked: the deployment that it asks for now, "" if it names none.
        where: a virtual deployment, or one backend (``gpt-4o-ptu@sweden``).
        setup: the configuration in force.

    Raises CommandError when there is no such place.
    """
    asked, table = setup.config.spelled(asked), setup.table
    if "@" not in where and table.pool(where) is not None:
        return where, None
    serving = [name for name in table.deployments if any(b.name == where for b in table.pool(name) or ())]
    if not table.deployments and any(b.name == where for b in table.backends):
        serving = [asked]
    if not serving:
        raise exceptions.CommandError(f"There is no {where!r}. You can use {', '.join(places(setup))}.")
    return asked if asked in serving else serving[0], where


def aimed(flow: Flow, where: str, setup: Setup) -> http.HTTPFlow:
    """Copy a flow, to go to a virtual deployment, or to one backend and no other.

    Raises CommandError when there is no such place.
    """
    copy = as_call(flow)
    asked = deployment_of(copy.request)
    deployment, only = aim(asked, where, setup)
    copy.metadata.pop("gateway_only_backend", None)
    if only is not None:
        copy.metadata["gateway_only_backend"] = only
    if only is None or deployment != setup.config.spelled(asked):
        ask_for(copy.request, copy.request.path, deployment)
    return copy


def places(setup: Setup) -> list[str]:
    """List where a call can be sent: the virtual deployments, then the backends."""
    backends = [backend.name for backend in setup.table.backends]
    return [*setup.table.deployments, *(name for name in backends if name not in setup.table.deployments)]
