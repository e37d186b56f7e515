"""A call sent again, as it was or somewhere else: it takes the way of every call, through the policies.

The replay handler behind mitmproxy's ``r`` builds a plain HTTP layer, which would send the flow where it went
before, with no key. Ours is put in its place.

The flow of a failed attempt holds what was sent to that backend: the name of a standin, which clients cannot
ask for. It is replayed as its call: `restore` makes it ask for the virtual deployment again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy import ctx, exceptions, http
from mitmproxy.addons import clientplayback
from mitmproxy.addons.clientplayback import MockServer

from aoai_gateway.inspect.annotate import forget
from aoai_gateway.proxy.layer import GatewayLayer
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from mitmproxy.flow import Flow
    from mitmproxy.options import Options

    from aoai_gateway.engine.call import Setup
    from aoai_gateway.runtime.gateway import Gateway


def restore(flow: http.HTTPFlow) -> None:
    """Give the flow of a failed attempt its client's request again; other flows stay as they are.

    Edits that a user has made to the body stay, but for the deployment's name.
    """
    path = flow.metadata.get("gateway_path")
    if not isinstance(path, str):
        return
    deployment = str(flow.metadata.get("gateway_asked") or flow.metadata.get("gateway_deployment", ""))
    ask_for(flow.request, path, deployment)


def ask_for(request: http.Request, path: str, deployment: str) -> None:
    """Have a request ask for a deployment: in its path, and in its body where that names one."""
    request.path = path
    try:
        target = parse_target(request.method, path)
        request.path = target.with_deployment(deployment)
        content = readable(request.raw_content, request.headers.get("content-encoding"))
        body = parse_body(target, request.headers.get("content-type"), content)
    except GatewayError:
        return  # it was edited into something else; the gateway says so when it is sent
    if target.deployment is None:
        request.content = body.edited(deployment)


async def play(flow: http.HTTPFlow) -> None:
    """Replay a flow at once, beside mitmproxy's queue of replays; returns when its answer is complete."""
    flow.is_replay = "request"
    flow.response = None
    flow.error = None
    await clientplayback.ReplayHandler(flow, ctx.options).replay()


def install(gateway: Gateway) -> None:
    """Have mitmproxy replay flows through the gateway."""

    class GatewayReplayHandler(_StockHandler):
        """Replays a flow through the gateway's layer."""

        def __init__(self, flow: http.HTTPFlow, options: Options) -> None:
            super().__init__(flow, options)
            restore(flow)
            forget(flow)
            context = self.layer.context
            context.layers.remove(self.layer)
            layer = GatewayLayer(context, gateway)
            layer.connections[context.client] = MockServer(flow, context.fork())
            self.layer = layer

        async def replay(self) -> None:
            """Replay the flow, but not before the gateway is up: ``-C`` begins as soon as mitmproxy is."""
            await gateway.configured.wait()
            await super().replay()

    clientplayback.ReplayHandler = GatewayReplayHandler  # type: ignore[misc]  # in its place, on purpose


_StockHandler = clientplayback.ReplayHandler


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
