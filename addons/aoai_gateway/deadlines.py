"""How long to wait for a backend in one attempt.

A streaming call's first byte should come soon. A non-streaming answer's headers come when the whole
completion is done, so its limit is what the client itself waits for, tightened only by what this backend's
speed and the call's bound make plausible: a constant of a few seconds would have long completions sent, and
billed, twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.effects import Deadlines
from aoai_gateway.wire.operations import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.call import Call
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.speed import Speed

NON_STREAMING_SECONDS = 600.0
"""How long the official SDKs wait for an answer by default."""


ANSWER_SHARE = 0.5
"""Of the client's own time-out, what is left for the answer while nothing is known of how long it takes."""

ANSWER_MARGIN = 1.2
"""How many times longer than the slowest answers of late the answer may take, else."""


def completion_bound(call: Call) -> int | None:
    """Give the most tokens that the call's completions can have; None: nothing bounds them."""
    body = call.body
    assert body is not None
    if call.target.operation is EMBEDDINGS:
        return 0
    bound = call.edits.get("max_tokens", body.max_tokens)
    if bound is None:
        return None
    return bound * max(call.edits.get("n", body.n), call.edits.get("best_of", body.best_of))


def patience(call: Call, speeds: Sequence[Speed], learned: float | None) -> float:
    """Give the seconds from its begin for which a call may be held back, so that its client still waits.

    ``speeds``: what is known of the backends that may serve it. ``learned``: the time after which calls of
    this client were seen to hang up; it counts where the client does not say its time-out.
    """
    allowed = call.client_timeout() or learned
    if allowed is None:
        return NON_STREAMING_SECONDS
    answers = [speed.answered_within(completion_bound(call)) for speed in speeds]
    known = [seconds for seconds in answers if seconds is not None]
    if not known:
        return allowed * (1 - ANSWER_SHARE)
    return max(0.0, allowed - ANSWER_MARGIN * max(known))


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
        plausible = speed.plausible(completion_bound(call)) if speed is not None else None
        if plausible is not None:
            first_byte = min(first_byte, plausible)
    return Deadlines(timeouts.connect, first_byte, replay.preamble_seconds, replay.idle_seconds)
