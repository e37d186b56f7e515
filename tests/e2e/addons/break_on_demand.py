"""Makes a function of the gateway raise, once, when a test asks for it by a file with the function's name.

What stands in the file instead may be ``begin`` or ``report``: the names of all functions that were called
between the two are written beside it.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from aoai_gateway.app import addon
from aoai_gateway.engine import aftermath, attempts, call, engine, failures, scheduler
from aoai_gateway.inspect import inspector, put_off
from aoai_gateway.proxy import (
    delivery,
    downstream_request,
    downstream_response,
    engine_driver,
    health,
    http1,
    layer,
    request_head,
    stream,
    stream_context,
    upstream,
    upstream_attempt,
    upstream_response,
)
from aoai_gateway.runtime import gateway, queue_waker, stream_hooks
from aoai_gateway.wire import masking

CLASSES: tuple[type, ...] = (
    stream.GatewayStream,
    stream_context.StreamContext,
    downstream_request.RequestSteps,
    downstream_response.DownstreamResponse,
    delivery.Delivery,
    engine_driver.EngineDriver,
    upstream_attempt.UpstreamAttempt,
    upstream_response.UpstreamResponse,
    engine.Engine,
    attempts.Attempts,
    scheduler.Scheduler,
    queue_waker.QueueWaker,
    layer.GatewayLayer,
    http1.GatewayHttp1Server,
    gateway.Gateway,
    addon.GatewayAddon,
    stream_hooks.Ask,
    masking.Screen,
)
FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (upstream.BackendHttp1Client, "send"),
    (upstream.BackendHttp1Client, "read_headers"),
    (upstream.BackendHttp1Client, "read_body"),
    (delivery.Lane, "take"),
    (delivery, "whole_chunks"),
    (health, "answer"),
    (downstream_request, "models_response"),
    (downstream_request, "accept_request"),
    (downstream_request, "check_request"),
    (downstream_request, "strip_known"),
    (upstream_attempt, "mask_head"),
    (upstream_attempt, "mask_decoded"),
    (upstream_attempt, "replace_names"),
    (downstream_request, "place"),
    (request_head, "target_of"),
    (upstream_attempt, "build_request"),
    (upstream_attempt, "without_secrets"),
    (put_off, "annotate"),
    (engine, "parse_body"),
    (call.Setup, "plan"),
    (aftermath, "routing_request_of"),
    (failures, "hint_of"),
    (failures, "none_left"),
    (scheduler, "order"),
    (inspector, "attempt_flow"),
)
PLUGIN = (
    "gateway_client_identified",
    "gateway_backend_chosen",
    "gateway_backend_failed",
    "gateway_call_finished",
)


def functions() -> dict[str, tuple[Any, str]]:
    """The gateway's functions that can be made to raise, by names such as ``GatewayStream.deliver_body``."""
    found = {f"{owner.__name__.rpartition('.')[2]}.{name}": (owner, name) for owner, name in FUNCTIONS}
    for owner in CLASSES:
        for base in owner.__mro__:
            if base.__module__.startswith("aoai_gateway."):
                for name, value in vars(base).items():
                    if isinstance(value, FunctionType) and not name.startswith("__"):
                        found[f"{owner.__name__}.{name}"] = (owner, name)
    for owner, name in found.values():
        inspect.getattr_static(owner, name)  # one that was renamed is told when tests are collected
    return found


# Scenes whose client sends the half of a request would take that long each time.
downstream_request.SWALLOW_SECONDS = 0.5

NAMES = sorted([*functions(), *(f"Plugin.{event}" for event in PLUGIN)])


class Plugin:
    """Listens to all events of the gateway, and breaks functions."""

    def __init__(self, asked: Path) -> None:
        self._asked = asked
        self._called: set[str] = set()
        for event in PLUGIN:
            setattr(self, event, self._breakable(f"Plugin.{event}", lambda _: None))

    def load(self, _: object) -> None:
        for label, (owner, name) in functions().items():
            setattr(owner, name, self._breakable(label, inspect.getattr_static(owner, name)))

    def _breakable(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._look(label)
            return function(*args, **kwargs)

        return wrapper

    def _look(self, label: str) -> None:
        self._called.add(label)
        if not self._asked.exists():
            return
        what = self._asked.read_text()
        if what == label:
            self._asked.unlink()
            raise RuntimeError(os.environ["BREAK_SAYING"])
        if what == "report":
            self._asked.with_suffix(".report").write_text("\n".join(self._called))
            self._asked.unlink()
        if what == "begin":
            self._called = {label}
            self._asked.unlink()


addons = [Plugin(Path(os.environ["BREAK_ASKED"]))] if "BREAK_ASKED" in os.environ else []
