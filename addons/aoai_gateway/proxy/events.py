"""The events that other addons can implement, beside mitmproxy's own.

A plugin is an ordinary mitmproxy addon, loaded with ``-s my_addon.py``: a module or class with functions
named like the events below. They may be coroutines, except where it says that nobody waits. An event that
no addon listens to is never built.

============================  ======================================  =======================================
event                         argument                                what it can do
============================  ======================================  =======================================
gateway_client_identified     `ClientIdentified`                      change the request's headers; refuse
gateway_backend_chosen        `BackendChoice`                         veto or reorder the candidates; refuse
gateway_backend_failed        `BackendFailed`                         look on (nobody waits for it)
gateway_call_finished         `CallFinished`                          look on (nobody waits for it)
============================  ======================================  =======================================

Refusing is raising a :class:`~aoai_gateway.wire.errors.GatewayError`; any other exception fails closed: the
client gets a 500 and nothing is sent.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mitmproxy import hooks
from mitmproxy.addonmanager import traverse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.call import Attempt, Call
    from aoai_gateway.config.models import Client
    from aoai_gateway.routing.backends import Backend


@dataclass(slots=True)
class ClientIdentified:
    """A request's headers came, and its client is known. ``flow.request`` has no body yet."""

    flow: http.HTTPFlow
    client: Client


@dataclass(slots=True)
class BackendChoice:
    """The candidates for the next attempt, best first. Reorder the list, or take out what must not be."""

    flow: http.HTTPFlow
    call: Call
    candidates: list[Backend]


@dataclass(slots=True)
class BackendFailed:
    """An attempt failed; ``attempt`` says where and why, and how long the break is."""

    flow: http.HTTPFlow
    call: Call
    attempt: Attempt


@dataclass(slots=True)
class CallFinished:
    """A call ended; ``record`` is what the usage log gets."""

    flow: http.HTTPFlow
    call: Call
    record: Mapping[str, Any]


@dataclass
class GatewayClientIdentifiedHook(hooks.Hook):
    """The client of a request is known; its body has not been read."""

    data: ClientIdentified


@dataclass
class GatewayBackendChosenHook(hooks.Hook):
    """The candidates for the next attempt are known."""

    data: BackendChoice


@dataclass
class GatewayBackendFailedHook(hooks.Hook):
    """An attempt failed."""

    data: BackendFailed


@dataclass
class GatewayCallFinishedHook(hooks.Hook):
    """A call ended."""

    data: CallFinished


class Listeners:
    """Which events anybody listens to, so that the others cost nothing.

    Addons come and go (``-s`` reloads scripts), so :meth:`refresh` is called now and then, off the path
    of requests.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._heard: frozenset[str] = frozenset(self._names)

    def refresh(self, addons: AddonManager) -> None:
        """Look again at which of the events the loaded addons implement."""
        loaded = list(traverse(addons.chain))
        self._heard = frozenset(n for n in self._names if any(callable(getattr(a, n, None)) for a in loaded))

    def __contains__(self, name: str) -> bool:
        return name in self._heard


async def ask(addons: AddonManager, hook: hooks.Hook) -> None:
    """Trigger an event whose listeners have a say: unlike mitmproxy's own trigger, exceptions are raised."""
    for addon in traverse(addons.chain):
        function = getattr(addon, hook.name, None)
        if callable(function):
            result = function(*hook.args())
            if inspect.isawaitable(result):
                await result
