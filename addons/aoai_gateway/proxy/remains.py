"""What is left of layers when their connection has ended (mitmproxy 12).

Layers refer to each other through their context, and each to itself by the method that takes its next event.
So they would all stay until a garbage collection, a hundred objects for a connection, and one may be far off:
the collector is kept off what stays (`app.memory`), and an open connection is among it.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING

from mitmproxy.proxy.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator


def take_apart(top: Layer) -> bool:
    """Break the circles of references in a layer and in all below it. Whether that was done.

    It is not, as long as one of them waits for something: an addon may still be asked about a call.
    """
    found = list(_with_all_below(top))
    if any(_waits(layer) for layer in found):
        return False
    for layer in found:
        layer.context.layers.clear()
        vars(layer).clear()
    return True


def _waits(layer: Layer) -> bool:
    return bool(layer._paused or layer._paused_event_queue or getattr(layer, "streams", None))


def _with_all_below(top: Layer) -> Iterator[Layer]:
    """Find layers as they refer to each other: directly, by a method, or in a dict."""
    known = top.context.layers
    found = set(known[: known.index(top)]) if top in known else set()  # at first, those above it
    left = [top]
    while left:
        layer = left.pop()
        if layer in found:
            continue
        found.add(layer)
        yield layer
        for value in vars(layer).values():
            for each in value.values() if isinstance(value, dict) else (value,):
                below = each.__self__ if isinstance(each, MethodType) else each
                if isinstance(below, Layer):
                    left.append(below)
