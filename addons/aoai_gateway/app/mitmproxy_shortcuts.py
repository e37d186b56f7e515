"""Two shorter ways through mitmproxy 12, in the place of its own.

A stream waits by a hook that only the gateway's own addon has a method for. mitmproxy looks for that method
in each of its addons, and in theirs, whenever a call waits: for a counter in Redis, a token, its turn.

mitmproxy checks each field of a request or a response when it is made. For a field that may be None it
raises an exception, and catches it, for each type that the value has not. Each of these refers to itself, so
it stays until a garbage collection, with the frames of all that was under way: the request, its flow, its
stream. That was a tenth of what a call costs, and most of the garbage that it leaves.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from mitmproxy.addonmanager import safecall
from mitmproxy.http import MessageData
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionHandler

from aoai_gateway.runtime.stream_hooks import GatewayAskHook

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mitmproxy.proxy.commands import StartHook

    from aoai_gateway.runtime.stream_hooks import Ask

_hook_task = ConnectionHandler.hook_task


def ask_directly(perform: Callable[[Ask], Awaitable[None]]) -> None:
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


def check_fields_quickly() -> None:
    """Have mitmproxy's messages check their fields in the short way; again, it changes nothing."""
    if _check_fields is not None:  # it is, where Python runs with -O
        MessageData.__post_init__ = _check  # type: ignore[method-assign]  # in its place, on purpose


def _check(self: MessageData) -> None:
    for name, kind in _kinds(type(self)):
        if not isinstance(getattr(self, name), kind):
            # An int where a float is expected is right, too; and what is wrong is said there.
            _check_fields(self)
            return


@cache
def _kinds(of: type[MessageData]) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in fields(of))


_check_fields: Any = getattr(MessageData, "__post_init__", None)
