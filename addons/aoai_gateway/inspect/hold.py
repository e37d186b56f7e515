"""Holding a flow (``intercept``) in a way that ends.

mitmproxy holds a flow after all addons have had their say, and waits for nothing but its being resumed: the
client of a flow that is killed while it is held gets no answer, and one that hangs up leaves it held. This
addon comes last, and waits in mitmproxy's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import ctx, hooks

from aoai_gateway.proxy.hooks import let_go

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow


class Hold:
    """Waits for the end of a flow's being held."""

    name = "gatewayhold"

    async def request(self, flow: HTTPFlow) -> None:
        """Hold a call before anything is decided about it."""
        await self._hold(flow)

    async def response(self, flow: HTTPFlow) -> None:
        """Hold an answer before the client gets it."""
        await self._hold(flow)

    async def _hold(self, flow: HTTPFlow) -> None:
        if not flow.intercepted:
            return
        if not flow.live:
            # A failed attempt, or a flow from a file: it is over, and nobody waits for it.
            flow.resume()
            return
        # mitmproxy tells the user interface after this event, which would be too late.
        await ctx.master.addons.trigger_event(hooks.UpdateHook([flow]))
        await let_go(flow)
