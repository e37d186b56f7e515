"""How long to wait for a backend in one attempt.

A call that the backend may be working on is the most expensive thing to repeat: it is billed twice. So an
answer may take as long as its client waits for it, streams included: a reasoning model can be silent for
minutes before its first event. A hanging backend is found by the silence towards several calls
(:mod:`~aoai_gateway.routing.responsiveness`). The earlier speed of a backend ends the wait of one call alone
only where such calls can be predicted, and never before ``replay.first_byte_seconds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.call import DEFAULT_PATIENCE
from aoai_gateway.engine.effects import AttemptTimeouts
from aoai_gateway.routing.responsiveness import Speed
from aoai_gateway.wire.operation import Cost
from aoai_gateway.wire.operations import COMPLETIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.client_habits import AnswerLengths

COMPLETIONS_DEFAULT_OUTPUT = 16
"""``max_tokens`` of the older completions API where it is absent (OpenAI's API reference)."""

LARGEST_BOUND = 2**31 - 1
"""The largest bound, of all answers of a call together."""

SHORTEST_SECONDS = 1.0
"""The shortest time-out of an attempt, even if the client waits for less."""

ANSWER_SHARE = 0.5
"""The share of the client's own time-out that is left for the answer while its duration is unknown."""

BRIEF_EFFORTS = ("none", "minimal")
"""Reasoning efforts with which a model does not think for long."""


def completion_bound(call: Call) -> int | None:
    """Return the most tokens that all answers of a call can have together; None: nothing bounds them.

    It is the bound of one answer, times ``n`` or ``best_of``, times the number of prompts.
    """
    body = call.body
    assert body is not None
    operation = call.target.operation
    if operation.cost is not Cost.ANSWER:
        return 0
    bound = call.edits.get("max_tokens", body.max_tokens) or None
    if bound is None and operation is COMPLETIONS:
        bound = COMPLETIONS_DEFAULT_OUTPUT
    return None if bound is None else min(bound * answers(call), LARGEST_BOUND)


def answers(call: Call) -> int:
    """Return how many answers a call asks for, candidates included."""
    body, edits = call.body, call.edits
    assert body is not None
    if not edits:
        return body.prompts * max(body.n, body.best_of)
    return body.prompts * max(edits.get("n", body.n), edits.get("best_of", body.best_of))


def is_foretold(call: Call) -> bool:
    """Whether the time of other answers tells how long this one takes.

    It does not for a call that asks the model to think, for an answer that comes as a whole and is not
    bounded, and for a large body, of which is not known here whether images or files make it large.
    """
    body = call.body
    assert body is not None
    if not body.whole or not call.target.operation.paced:
        return False
    if not body.stream and completion_bound(call) is None:
        return False
    reasoning = body.parsed.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else body.parsed.get("reasoning_effort")
    thinking = body.parsed.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") != "disabled":
        return False
    return effort is None or effort in BRIEF_EFFORTS


def begins_within(call: Call, speed: Speed | None) -> float | None:
    """Return the seconds within which even slow answers to such a call begin; None: unknown.

    For a call of which that can be said at all (`is_foretold`).
    """
    body = call.body
    assert body is not None
    if speed is None or speed.thinks:
        return None
    return speed.head_within(completion_bound(call), stream=body.stream, prompt=body.text_size)


def patience(call: Call, speeds: Sequence[Speed], learned: float | None, lengths: AnswerLengths) -> float:
    """Return the seconds from its begin for which a call may be held back, so that its client still waits.

    ``speeds``: the known speeds of the backends that may serve it. ``learned``: the time after which calls of
    this client were seen to hang up; it counts where the client does not name its time-out. The answer is
    taken to be as slow as the slowest of late, and as long as the longest of this client: a margin beyond
    that would only send calls away that can be answered.
    """
    allowed = call.client_timeout() or learned
    if allowed is None:
        return DEFAULT_PATIENCE
    tokens = lengths.likely(call.client.name, call.deployment, completion_bound(call))
    expected = [speed.answered_within(tokens) for speed in speeds]
    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return allowed * (1 - ANSWER_SHARE)
    return max(0.0, allowed - max(known))


def timeouts_of(call: Call, backend: Backend, slowest: float | None) -> AttemptTimeouts:
    """Return the timeouts of an attempt; ``slowest``: when slow answers begin there (`begins_within`)."""
    replay, configured = call.setup.config.replay, backend.endpoint.connections.timeouts
    asked = call.client_timeout()
    # A client that waits for less hangs up by itself.
    allowed = max(asked, SHORTEST_SECONDS) if asked else configured.read or DEFAULT_PATIENCE
    if call.target.operation.websocket:
        allowed = min(allowed, replay.handshake_seconds)
    if slowest is None:
        return AttemptTimeouts(configured.connect, allowed, replay.preamble_seconds, replay.idle_seconds)
    plausible = max(replay.first_byte_seconds, Speed.plausible(slowest))
    implausible = plausible < allowed
    first_byte = plausible if implausible else allowed
    return AttemptTimeouts(
        configured.connect, first_byte, replay.preamble_seconds, replay.idle_seconds, implausible=implausible
    )
