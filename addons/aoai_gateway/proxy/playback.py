"""``r`` in mitmproxy and mitmweb: a replayed flow takes the way of every call, through the policies.

mitmproxy's replay handler builds a plain HTTP layer, which would send the flow where it went before, with
no key. Ours is put in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.addons import clientplayback
from mitmproxy.addons.clientplayback import MockServer

from aoai_gateway.inspect.annotate import forget
from aoai_gateway.proxy.layer import GatewayLayer

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.options import Options

    from aoai_gateway.proxy.gateway import Gateway


def install(gateway: Gateway) -> None:
    """Have mitmproxy replay flows through the gateway."""

    class GatewayReplayHandler(_StockHandler):
        """Replays a flow through the gateway's layer."""

        def __init__(self, flow: http.HTTPFlow, options: Options) -> None:
            super().__init__(flow, options)
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
