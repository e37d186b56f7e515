"""How long to wait for a backend in one attempt.

A streaming call's first byte should come soon. A non-streaming answer's headers come when the whole
completion is done, so its limit is what the client itself waits for, tightened only by what this backend's
speed and the call's bound make plausible: a constant of a few seconds would have long completions sent, and
billed, twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.call import Deadlines
from aoai_gateway.wire.operations import EMBEDDINGS

if TYPE_CHECKING:
    from aoai_gateway.call import Call
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.speed import Speed

NON_STREAMING_SECONDS = 600.0
"""How long the official SDKs wait for an answer by default."""


def deadlines_for(call: Call, backend: Backend, speed: Speed | None) -> Deadlines:
    """Give the deadlines of an attempt; ``speed``: what is known of this backend, if anything is."""
    replay, timeouts = call.setup.config.replay, backend.endpoint.connections.timeouts
    body, allowed = call.body, call.client_timeout()
    assert body is not None
    if body.stream:
        first_byte = replay.first_byte_seconds
        if allowed is not None:
            first_byte = min(first_byte, allowed)
    else:
        first_byte = allowed or timeouts.read or NON_STREAMING_SECONDS
        # An embedding has no completion; of anything else without a bound nothing is plausible.
        bound = 0 if call.target.operation is EMBEDDINGS else call.edits.get("max_tokens", body.max_tokens)
        plausible = speed.plausible(bound) if speed is not None else None
        if plausible is not None:
            first_byte = min(first_byte, plausible)
    return Deadlines(timeouts.connect, first_byte, replay.preamble_seconds, replay.idle_seconds)
