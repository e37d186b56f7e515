"""``r`` in mitmproxy and mitmweb: a replayed flow takes the way of every call, through the policies.

mitmproxy's replay handler builds a plain HTTP layer, which would send the flow where it went before, with
no key. Ours is put in its place.

The flow of a failed attempt holds what was sent to that backend: the name of a standin, which clients cannot
ask for. It is replayed as its call: `restore` makes it ask for the virtual deployment again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import ctx
from mitmproxy.addons import clientplayback
from mitmproxy.addons.clientplayback import MockServer

from aoai_gateway.inspect.annotate import forget
from aoai_gateway.proxy.layer import GatewayLayer
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.options import Options

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
