"""The lessons of answers for later calls: how fast a backend is, and what only one resource can resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.failures import keeps_state
from aoai_gateway.engine.routing_request import desk_of, session_of
from aoai_gateway.engine.timeouts import begins_within, completion_bound
from aoai_gateway.routing.responsiveness import Speed
from aoai_gateway.wire.secrets import Grant

if TYPE_CHECKING:
    from aoai_gateway.engine.attempt import Attempt
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import ClientGone, Ended
    from aoai_gateway.engine.shared import SharedState
    from aoai_gateway.routing.backends import Backend, Pool

BORROWED, LEAST_BORROWED = 2.0, 2.0
"""How many times longer than others of its pool a backend takes that is not known, and seconds at least."""

BYTES_PER_TOKEN = 4.0
"""The estimate for the text of an answer that is not over: it is counted when its call has ended, off the
event loop."""


def slowest_begin(shared: SharedState, call: Call, backend: Backend) -> float | None:
    """Return the seconds within which even slow answers to such a call begin at a backend; None: unknown."""
    return begins_within(call, shared.speeds.get(backend.serving(call.deployment)))


def expected_begin(shared: SharedState, call: Call, pool: Pool) -> float | None:
    """Return the seconds within which an answer should begin, at a backend that has shown nothing yet.

    The speed of others of the pool is a hint, to be taken with care.
    """
    if not len(shared.speeds):
        return None
    known = [seconds for other in pool if (seconds := slowest_begin(shared, call, other)) is not None]
    return max(LEAST_BORROWED, BORROWED * max(known)) if known else None


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
        _learn_home(shared, call, attempt, end)
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
    bound = completion_bound(call)
    if bound and tokens:
        shared.answer_lengths.learn(call.client.name, call.deployment, tokens, bound)


def learn_cut_off(shared: SharedState, call: Call, attempt: Attempt, gone: ClientGone) -> None:
    """Learn from an answer whose client has just left: it is longer than what had come by then.

    A client that was cut off itself did not find the answer too long; of a session, no answer is the last.
    """
    bound = completion_bound(call)
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


def _learn_home(shared: SharedState, call: Call, attempt: Attempt, end: Ended) -> None:
    assert call.body is not None
    # What it refers to could be resolved there, too.
    keys = (call.response_id, session_of(call), desk_of(call), *end.made, *call.body.references)
    for key in keys:
        if key is not None:
            shared.affinity.remember(key, attempt.backend.endpoint.name, end.now)
