"""The hooks by which a stream reaches the event loop.

mitmproxy hands a hook's single argument to every addon that has a method of the hook's name; ours is the
only one. `GatewayAskHook` pauses its stream; the other two do not.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mitmproxy.proxy.commands import StartHook

from aoai_gateway.runtime.plugin_events import ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from mitmproxy import hooks, http
    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.connection import Server

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.runtime.plugin_events import CallFinished


class Ask:
    """An event whose listeners can refuse.

    ``error``: the exception of one of them; ``performed``: whether all others were asked.
    """

    error: Exception | None = None
    performed = False

    def __init__(self, hook: hooks.Hook) -> None:
        self.hook = hook

    async def perform(self, addons: AddonManager) -> None:
        """Trigger the event, and keep what goes wrong for the stream that waits."""
        try:
            async with asyncio.timeout(PLUGIN_SECONDS) as bound:
                await ask(addons, self.hook)
            self.performed = True
        except TimeoutError as error:
            self.error = error
            if bound.expired():
                self.error = TimeoutError(f"No answer to {self.hook.name} within {PLUGIN_SECONDS:g} s.")
        except Exception as error:
            self.error = error


class Awaited(Ask):
    """Something that a stream waits for. ``result``: its outcome, if it did not fail."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable
        self.result: Any = None

    async def perform(self, addons: AddonManager) -> None:
        """Await it."""
        try:
            self.result = await self._awaitable
            self.performed = True
        except Exception as error:
            self.error = error


class Resume(Ask):
    """Wait until a user lets an intercepted flow go on."""

    def __init__(self, flow: http.HTTPFlow) -> None:
        self.flow = flow

    async def perform(self, addons: AddonManager) -> None:
        """Wait."""
        await let_go(self.flow)


PLUGIN_SECONDS = 30.0
"""The time for the plugins that an event asks: until they have answered, a call may hold a backend."""

LOOK_SECONDS = 0.2
"""How often a flow that is held is looked at."""


async def let_go(flow: http.HTTPFlow) -> None:
    """Wait until a held flow is resumed or killed, or its client has hung up.

    mitmproxy's own wait knows only of the first: to kill a held flow leaves its client hanging, and a
    client's hang-up leaves the flow held.
    """
    while flow.intercepted:
        if not flow.client_conn.connected:
            flow.resume()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await flow.wait_for_resume()


@dataclass(slots=True)
class AttemptFailed:
    """The data to show a failed attempt. ``request``: as sent, less its secrets."""

    flow: http.HTTPFlow
    call: Call
    attempt: Attempt
    request: http.Request
    response: http.Response | None
    server: Server


@dataclass
class GatewayAskHook(StartHook):
    """Plugins are asked, and can refuse."""

    data: Ask


@dataclass
class GatewayAttemptFailedHook(StartHook):
    """An attempt failed, and is to be shown as a flow of its own."""

    blocking: ClassVar[bool] = False  # type: ignore[misc]  # a class attribute in StartHook, too
    data: AttemptFailed


@dataclass
class GatewayBreaksWithdrawnHook(StartHook):
    """Breaks were withdrawn, which other processes may share."""

    blocking: ClassVar[bool] = False  # type: ignore[misc]  # as above
    data: Sequence[Scope]


@dataclass
class GatewayCallEndedHook(StartHook):
    """A call ended, and an addon listens to that."""

    blocking: ClassVar[bool] = False  # type: ignore[misc]  # as above
    data: CallFinished
