"""How long answers take: what earlier ones teach, how long a client waits, and how long an attempt does.

A call that the backend may be working on is the most expensive thing to repeat: it is billed twice. So an
answer may take as long as its client waits for it, streams included: a reasoning model can be silent for
minutes before its first event. A hanging backend is found by the silence towards several calls
(:mod:`~aoai_gateway.routing.responsiveness`). The earlier speed of a backend ends the wait of one call alone
only where such calls can be predicted, and never before ``replay.first_byte_seconds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.attempt import PLAIN_NUMBER
from aoai_gateway.engine.call import NOTHING
from aoai_gateway.engine.effects import AttemptTimeouts
from aoai_gateway.engine.routing_request import keeps_state, learn_home
from aoai_gateway.routing.responsiveness import Speed
from aoai_gateway.wire.secrets import Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import ClientGone, Ended
    from aoai_gateway.engine.shared import SharedState
    from aoai_gateway.routing.backends import Backend, Pool
    from aoai_gateway.routing.client_habits import AnswerLengths

DEADLINE_HEADER = "x-gateway-deadline-ms"
"""The request header with the milliseconds within which a client needs the answer."""

LONGEST_TIMEOUT = 86_400.0
"""A client's time-out of more than a day is no time-out."""

DEFAULT_PATIENCE = 600.0
"""Seconds for which the official SDKs wait for an answer by default."""

SHORTEST_SECONDS = 1.0
"""The shortest time-out of an attempt, even if the client waits for less."""

ANSWER_SHARE = 0.5
"""The share of the client's own time-out that is left for the answer while its duration is unknown."""

BRIEF_EFFORTS = ("none", "minimal")
"""Reasoning efforts with which a model does not think for long."""

BORROWED, LEAST_BORROWED = 2.0, 2.0
"""How many times longer than others of its pool a backend takes that is not known, and seconds at least."""

BYTES_PER_TOKEN = 4.0
"""The estimate for the text of an answer that is not over: it is counted when its call has ended, off the
event loop."""


def client_timeout(call: Call) -> float | None:
    """Return the seconds for which the client waits, by its own or its SDK's header; None without one."""
    if call.headers is NOTHING:
        return None
    units = ((DEADLINE_HEADER, 0.001), ("x-stainless-read-timeout", 1), ("x-stainless-timeout", 1))
    for name, unit in units:
        value = call.headers.get(name)
        if value is not None and PLAIN_NUMBER.fullmatch(value):
            seconds = unit * float(value)
            if 0 < seconds < LONGEST_TIMEOUT:
                return seconds
    return None


def is_foretold(call: Call) -> bool:
    """Whether the time of other answers tells how long this one takes.

    It does not for a call that asks the model to think, for an answer that comes as a whole and is not
    bounded, and for a large body, of which is not known here whether images or files make it large.
    """
    body = call.body
    assert body is not None
    if not body.whole or not call.target.operation.paced:
        return False
    if not body.stream and call.completion_bound() is None:
        return False
    reasoning = body.parsed.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else body.parsed.get("reasoning_effort")
    thinking = body.parsed.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") != "disabled":
        return False
    return effort is None or effort in BRIEF_EFFORTS


def slowest_begin(shared: SharedState, call: Call, backend: Backend) -> float | None:
    """Return the seconds within which even slow answers to such a call begin at a backend; None: unknown.

    For a call of which that can be said at all (`is_foretold`).
    """
    body, speed = call.body, shared.speeds.get(backend.serving(call.deployment))
    assert body is not None
    if speed is None or speed.thinks:
        return None
    return speed.head_within(call.completion_bound(), stream=body.stream, prompt=body.text_size)


def expected_begin(shared: SharedState, call: Call, pool: Pool) -> float | None:
    """Return the seconds within which an answer should begin, at a backend that has shown nothing yet.

    The speed of others of the pool is a hint, to be taken with care.
    """
    if not len(shared.speeds):
        return None
    known = [seconds for other in pool if (seconds := slowest_begin(shared, call, other)) is not None]
    return max(LEAST_BORROWED, BORROWED * max(known)) if known else None


def timeouts_of(call: Call, backend: Backend, slowest: float | None) -> AttemptTimeouts:
    """Return the timeouts of an attempt; ``slowest``: when slow answers begin there (`slowest_begin`)."""
    replay, configured = call.setup.config.replay, backend.endpoint.connections.timeouts
    asked = client_timeout(call)
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


def patience(call: Call, speeds: Sequence[Speed], learned: float | None, lengths: AnswerLengths) -> float:
    """Return the seconds from its begin for which a call may be held back, so that its client still waits.

    ``speeds``: the known speeds of the backends that may serve it. ``learned``: the time after which calls of
    this client were seen to hang up; it counts where the client does not name its time-out. The answer is
    taken to be as slow as the slowest of late, and as long as the longest of this client: a margin beyond
    that would only send calls away that can be answered.
    """
    allowed = client_timeout(call) or learned
    if allowed is None:
        return DEFAULT_PATIENCE
    tokens = lengths.likely(call.client.name, call.deployment, call.completion_bound())
    expected = [speed.answered_within(tokens) for speed in speeds]
    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return allowed * (1 - ANSWER_SHARE)
    return max(0.0, allowed - max(known))


def speed_of(shared: SharedState, call: Call, backend: Backend) -> Speed:
    """Return what is known of a backend's speed, to be added to."""
    served = backend.serving(call.deployment)
    speed = shared.speeds.get(served)
    if speed is None:
        speed = Speed()
        shared.speeds.put(served, speed)
    return speed


def learn_answer(shared: SharedState, call: Call, attempt: Attempt, end: Ended) -> None:
    """Learn from a complete answer that has just ended."""
    if keeps_state(call):
        learn_home(shared.affinity, call, attempt.backend.endpoint.name, end)
    if end.minted is not None:
        grant = Grant(attempt.backend.endpoint.name, call.client.name, call.deployment)
        shared.affinity.remember(end.minted, grant.written(), end.now)
    if not call.target.operation.paced or attempt.spillover is not None:
        return
    assert call.body is not None
    tokens = call.usage.output_tokens if call.usage else 0
    speed, took = speed_of(shared, call, attempt.backend), end.now - attempt.started
    speed.learn_answer(took, tokens)
    if not call.body.stream:
        speed.learn(took, tokens, call.body.text_size)
    bound = call.completion_bound()
    if bound and tokens:
        shared.answer_lengths.learn(call.client.name, call.deployment, tokens, bound)


def learn_cut_off(shared: SharedState, call: Call, attempt: Attempt, gone: ClientGone) -> None:
    """Learn from an answer whose client has just left: it is longer than what had come by then.

    A client that was cut off itself did not find the answer too long; of a session, no answer is the last.
    """
    bound = call.completion_bound()
    if gone.stalled or not bound or call.session is not None or not call.target.operation.paced:
        return
    told = gone.so_far
    if attempt.spillover is not None or (told is not None and told.finish_reason is not None):
        return
    written = _written(told) if told is not None else 0.0
    if not written:
        speed = shared.speeds.get(attempt.backend.serving(call.deployment))
        written = speed.written_within(gone.now - attempt.started) if speed is not None else 0.0
    shared.answer_lengths.cut_off(call.client.name, call.deployment, written, bound)


def _written(told: Ended) -> float:
    """Return about how many tokens of an answer had come; 0 if it is not known."""
    tokens = told.usage.output_tokens if told.usage is not None else 0
    text = told.delivered
    return max(tokens, (text.kept_bytes + text.beyond) / BYTES_PER_TOKEN if text is not None else 0.0)
