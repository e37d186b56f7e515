"""The events that other addons can implement, beside mitmproxy's own.

A plugin is an ordinary mitmproxy addon, loaded with ``-s my_addon.py``: a module or class with functions
named like the events below. They may be coroutines; the gateway does not wait for those of the last two. An
event that no addon listens to is never built.

============================  ======================================  =======================================
event                         argument                                what it can do
============================  ======================================  =======================================
gateway_client_identified     `ClientIdentified`                      change the request's headers; refuse
gateway_backend_chosen        `BackendChoice`                         veto or reorder the candidates; refuse
gateway_backend_failed        `BackendFailed`                         observe (the call does not wait)
gateway_call_finished         `CallFinished`                          observe (the call does not wait)
============================  ======================================  =======================================

Refusing is raising a `GatewayError` (:mod:`~aoai_gateway.wire.gateway_error`); any other exception fails
closed: the client gets a 500 and nothing is sent. So does a coroutine that takes more than 30 seconds.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from inspect import iscoroutinefunction
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import safecall, traverse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.flow import Flow

    from aoai_gateway.config.models import Client
    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.backends import Backend


FLOW_HOOKS = (
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
    "websocket_start",
    "websocket_message",
    "websocket_end",
)
OUR_EVENTS = (
    "gateway_client_identified",
    "gateway_backend_chosen",
    "gateway_backend_failed",
    "gateway_call_finished",
)

LISTENED_TO = FLOW_HOOKS + OUR_EVENTS

SEEN_BY = ("response", "error", "gateway_call_finished")
"""Events whose listeners see a call's flow at its end; without any, its comments have no reader."""


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
    """An attempt failed; ``attempt`` has the backend, the reason and the length of the break."""

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


OPENING = ("server_connect", "tls_start_server")
"""mitmproxy's events in which an addon may change how a connection to a server is opened."""

ASKS = "gateway_asks"
"""An attribute of addons that ask what became of a call (`Observer.say`) before they read it on its flow."""

OWN_MODULES = ("mitmproxy.", "aoai_gateway.")
"""The modules of addons that are no plugins."""


class Listeners:
    """Which addon listens to which event, so that the others cost nothing.

    mitmproxy offers each event of a flow to all of its addons, some 35, in a task of its own, and an update
    after it: a third of what a proxied request costs. Where all listeners are plain functions, a stream
    calls them itself, in the same order and with the same treatment of their exceptions. One that waits only
    now and then is a plain function, and returns something to await when it does.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = (*names, "update")
        self._loaded: list[object] = []
        """The addons themselves: the id of one that is gone may be another's by now."""
        self._registered: list[object] = []
        """The same, in the order in which mitmproxy has come to know them."""
        self._functions: dict[str, tuple[Callable[..., Any], ...]] = {}
        self._awaited: frozenset[str] = frozenset(self._names)
        """Events with a listener that must be awaited; all of them until the first look."""
        self.events: frozenset[str] = frozenset(self._names)
        """Events that have a listener, likewise."""
        self.requests_are_wanted = True
        """Whether one may look at requests' bodies, which are in memory then."""
        self.calls_are_wanted = True
        """Whether plugins get calls, which they may look at when these are over."""
        self.all_ask = False
        """Whether all who see flows ask what became of a call before they read it on its flow."""
        self.plugins_open = True
        """Whether a plugin has a say in how connections to servers are opened; until then, it may."""

    def refresh(self, addons: AddonManager) -> bool:
        """Look again, if addons have come or gone (``-s`` reloads scripts). Whether they have."""
        # mitmproxy registers each addon that it loads, also those within others.
        registered = list(addons.lookup.values())
        if len(registered) == len(self._registered) and all(map(is_, registered, self._registered)):
            return False
        self._registered = registered
        loaded = list(traverse(addons.chain))
        if len(loaded) == len(self._loaded) and all(map(is_, loaded, self._loaded)):
            return False
        self._loaded = loaded
        self._functions = {
            name: tuple(f for f in (getattr(addon, name, None) for addon in loaded) if callable(f))
            for name in self._names
        }
        self.events = frozenset(name for name, functions in self._functions.items() if functions)
        self.requests_are_wanted = not self.events.isdisjoint(LISTENED_TO)
        self.calls_are_wanted = not self.events.isdisjoint(OUR_EVENTS)
        self._awaited = frozenset(
            name for name, functions in self._functions.items() if any(map(iscoroutinefunction, functions))
        )
        self.all_ask = all(
            getattr(getattr(function, "__self__", None), ASKS, False)
            for functions in self._functions.values()
            for function in functions
        )
        self.plugins_open = any(
            callable(getattr(addon, name, None))
            for addon in loaded
            if not type(addon).__module__.startswith(OWN_MODULES)
            for name in OPENING
        )
        return True

    def can_be_called(self, name: str) -> bool:
        """Whether all listeners of an event, and of the update after it, are plain functions."""
        return name not in self._awaited and "update" not in self._awaited

    def call(self, name: str, flow: Flow) -> Coroutine[Any, Any, None] | None:
        """Call the listeners of a flow's event, as mitmproxy does: an exception does not stop the next.

        Where one of them has something to wait for, returns what is to be awaited: it, and the next ones.
        """
        updates, updated = self._functions["update"], [flow]
        wait = _call(self._functions[name], flow)
        if wait is not None:
            return _go_on((wait, flow), (_Wait(None, updates), updated))
        wait = _call(updates, updated)
        return None if wait is None else _go_on((wait, updated))


class _Wait(NamedTuple):
    """What a listener has to wait for, and those that come after it."""

    awaitable: Awaitable[Any] | None
    left: Sequence[Callable[..., Any]]


def _call(functions: Sequence[Callable[..., Any]], argument: Flow | list[Flow]) -> _Wait | None:
    """Call listeners until one of them has something to wait for; None if none has."""
    for place, function in enumerate(functions):
        try:
            result = function(argument)
        except exceptions.AddonHalt:
            return None
        except Exception as error:
            _tell(error)
            continue
        if result is not None and inspect.isawaitable(result):
            return _Wait(result, functions[place + 1 :])
    return None


async def _go_on(*events: tuple[_Wait, Flow | list[Flow]]) -> None:
    """Wait for the listeners of events, each with its argument, and call the next ones."""
    for first, argument in events:
        wait: _Wait | None = first
        while wait is not None:
            try:
                with safecall():
                    if wait.awaitable is not None:
                        await wait.awaitable
            except exceptions.AddonHalt:
                break
            wait = _call(wait.left, argument)


def _tell(error: Exception) -> None:
    """Log an addon's exception as mitmproxy does; an `OptionsError` is raised again."""
    with safecall():
        raise error


async def ask(addons: AddonManager, hook: hooks.Hook) -> None:
    """Trigger an event whose listeners can refuse: unlike mitmproxy's own trigger, exceptions are raised."""
    for addon in traverse(addons.chain):
        function = getattr(addon, hook.name, None)
        if callable(function):
            result = function(*hook.args())
            if inspect.isawaitable(result):
                await result
