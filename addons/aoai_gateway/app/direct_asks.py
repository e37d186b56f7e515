"""What a stream waits for, awaited without a walk through all addons (mitmproxy 12).

A stream waits by a hook that only the gateway's own addon has a method for. mitmproxy looks for that method
in each of its addons, and in theirs, whenever a call waits: for a counter in Redis, a token, its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.addonmanager import safecall
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionHandler

from aoai_gateway.runtime.stream_hooks import GatewayAskHook

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mitmproxy.proxy.commands import StartHook

    from aoai_gateway.runtime.stream_hooks import Ask

_hook_task = ConnectionHandler.hook_task


def install(perform: Callable[[Ask], Awaitable[None]]) -> None:
    """Have ``perform`` called for what streams ask from now on; once is enough."""

    async def hook_task(self: ConnectionHandler, hook: StartHook) -> None:
        if not isinstance(hook, GatewayAskHook):
            await _hook_task(self, hook)
            return
        # As mitmproxy does: idle connections are not closed meanwhile, and what goes wrong is logged.
        with self.timeout_watchdog.disarm(), safecall():
            await perform(hook.data)
        await self.server_event(events.HookCompleted(hook))

    ConnectionHandler.hook_task = hook_task  # type: ignore[method-assign]  # mitmproxy makes its handlers itself
