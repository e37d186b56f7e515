"""Counts the objects that are made to tell other addons of an event, and writes the counts down."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aoai_gateway.runtime import plugin_events as events
from aoai_gateway.runtime import stream_hooks as hooks

COUNTED: tuple[type[Any], ...] = (
    events.ClientIdentified,
    events.BackendChoice,
    events.BackendFailed,
    events.CallFinished,
    events.GatewayClientIdentifiedHook,
    events.GatewayBackendChosenHook,
    events.GatewayBackendFailedHook,
    events.GatewayCallFinishedHook,
    hooks.GatewayAskHook,
    hooks.GatewayCallEndedHook,
)

made: Counter[str] = Counter()


def count(kind: type[Any]) -> None:
    """Count the objects of a class."""
    initialise: Callable[..., None] = kind.__init__

    def counting(self: object, *args: Any, **named: Any) -> None:
        made[kind.__name__] += 1
        initialise(self, *args, **named)

    kind.__init__ = counting


for each in COUNTED:
    count(each)


def done() -> None:
    Path(os.environ["COUNT_EVENTS_IN"]).write_text(json.dumps(made))
