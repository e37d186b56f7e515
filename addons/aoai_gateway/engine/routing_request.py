"""The pool that may serve a call, and its needs: how much, in which class, where it can be served at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.estimates import DEFAULT_COMPLETION
from aoai_gateway.routing.order import RoutingRequest, able, draw_lots, draw_takers
from aoai_gateway.wire import errors
from aoai_gateway.wire.credential_errors import unauthorized
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operation import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import Ended
    from aoai_gateway.engine.plan import Plan
    from aoai_gateway.routing.affinity import Affinity
    from aoai_gateway.routing.backends import Pool


ENDPOINT_HEADER = "x-gateway-endpoint"
"""By which a client chooses the endpoint of a call that is for no deployment, such as a list of files."""


def pool_of(call: Call, plan: Plan) -> Pool:
    """Return the backends that may serve a call by a plan (empty: none does).

    Raises GatewayError (403) if the client may use no backend that serves it.
    """
    deployment, mine = plan.deployment, plan.pool
    if plan.is_barred:
        serves = f" serves the deployment '{deployment}'" if deployment else " is in service"
        raise errors.forbidden(f"None of the endpoints that you may use{serves}.", code="EndpointNotAllowed")
    if not deployment:
        mine = _at_named_endpoint(call, mine)
    if call.granted is not None:
        # Only the resource that has made a secret knows it.
        mine = tuple(b for b in mine if b.endpoint.name == call.granted.endpoint)
        if not mine:
            raise unauthorized()
    if call.only_backend is not None:
        mine = tuple(b for b in mine if b.name == call.only_backend)
        if not mine:
            raise errors.forbidden(
                f"'{call.only_backend}' is not one of the backends that may serve '{deployment}'.",
                code="EndpointNotAllowed",
            )
    return mine


def _at_named_endpoint(call: Call, pool: Pool) -> Pool:
    chosen = call.headers.get(ENDPOINT_HEADER)
    if chosen is None:
        return pool
    mine = tuple(backend for backend in pool if backend.endpoint.name == chosen)
    if not mine:
        raise errors.forbidden(
            f"The header {ENDPOINT_HEADER} names none of the endpoints that you may use.",
            code="EndpointNotAllowed",
        )
    return mine


def has_backends(call: Call, plan: Plan) -> bool:
    """Whether any backend may serve the call by a plan."""
    try:
        return bool(pool_of(call, plan))
    except GatewayError:
        return False


CHARACTERS_PER_TOKEN = 4
"""The estimate for a prompt that was not counted. Azure's limiters estimate from the number of characters,
too."""

TOGETHER = ("assistants.create", "threads.create")
"""Operations that make what is used together, and refer to nothing that tells where the other one is."""

UNBOUNDED_COMPLETION = 16
"""Tokens that a limiter reserves for a completion without a bound (the default of max_tokens in Azure's
reference of the completions API)."""


def routing_request_of(
    call: Call, pool: Pool, now: float, affinity: Affinity, draw: Callable[[], float]
) -> RoutingRequest:
    """Return what an admitted call wants of a pool. ``draw`` gives a number in [0, 1)."""
    config, plan, operation = call.setup.config, call.plan, call.target.operation
    assert call.cls is not None and call.body is not None
    if call.estimate > plan.smallest_limit:
        _note_too_small(call, pool)
    request = RoutingRequest(
        call_id=call.id,
        client=call.client.name,
        cls=call.cls,
        pool=pool,
        deployment=call.deployment,
        operation=operation.name,
        tier=call.requested_tier,
        queue_name=plan.queue_name,
        tokens=_tokens(call),
        grows=not operation.reserves,
        size=len(call.body.raw),
        arrived=call.started,
        weight=plan.weight,
        strategy=plan.strategy,
        home=_home(call, pool, now, affinity) if _refers(call) else None,
        higher=config.classes_above[call.cls.rank],
        limited=plan.has_classes,
        too_small=call.too_small,
    )
    if plan.leaves_to_streams and not call.body.stream:
        # Among those that can serve it at all: by chance alone, no call is left without a backend.
        request.takes = draw_takers(able(request), draw)
    if plan.strategy == "weighted":
        request.lots = draw_lots(pool, draw)
    return request


def _session_of(call: Call) -> str | None:
    """Name the conversation, if the client does: agents send a key for the prompt cache, or a header."""
    assert call.body is not None
    session = call.body.prompt_cache_key or call.headers.get("session-id")
    return f"session {call.client.name}: {session}" if session else None


def _desk_of(call: Call) -> str | None:
    """Name the place where a client makes assistants and threads: a run needs both, at one resource."""
    if call.target.operation.name in TOGETHER:
        return f"assistants and threads of {call.client.name}"
    return None


def keeps_state(call: Call) -> bool:
    """Whether a call's answer names what only the resource has that gave it."""
    assert call.body is not None
    state = call.target.operation.state
    # Any other chat completion has an id too, but nothing refers to it; it would only push others out.
    return state is State.ALWAYS or (state is State.IF_STORED and call.body.store is True)


def learn_home(affinity: Affinity, call: Call, endpoint: str, end: Ended) -> None:
    """Note which endpoint holds what an answer names."""
    assert call.body is not None
    # What its call refers to could be resolved there, too.
    keys = (call.response_id, _session_of(call), _desk_of(call), *end.made, *call.body.references)
    for key in keys:
        if key is not None:
            affinity.remember(key, endpoint, end.now)


def _tokens(call: Call) -> int:
    """Return what a limiter will count for the call."""
    assert call.body is not None
    bound = call.completion_bound()
    completion = UNBOUNDED_COMPLETION * call.answers() if bound is None else bound
    if not call.target.operation.reserves:
        completion = min(completion, DEFAULT_COMPLETION)
    prompt = call.body.text_size // CHARACTERS_PER_TOKEN if call.prompt is None else call.prompt.tokens
    return prompt + completion


def _note_too_small(call: Call, pool: Pool) -> None:
    limits = ((backend.key, backend.declared.tokens_per_minute) for backend in pool)
    call.too_small |= {key for key, limit in limits if limit is not None and call.estimate > limit}


def _refers(call: Call) -> bool:
    """Whether the call may refer to state that an endpoint holds."""
    body = call.body
    assert body is not None
    return bool(body.references) or body.has_encrypted_reasoning or call.target.operation.name in TOGETHER


def _home(call: Call, pool: Pool, now: float, affinity: Affinity) -> str | None:
    """Return the endpoint that holds the state which the call refers to, as far as that is known."""
    body = call.body
    assert body is not None
    home = None
    if body.references:
        homes = (affinity.home(key, now) for key in body.references)
        home = next((each for each in homes if each is not None), None)
    if home is None and body.previous_response_id is None and body.has_encrypted_reasoning:
        # Only the resource that encrypted it can read it.
        session = _session_of(call)
        home = affinity.home(session, now) if session is not None else None
    if home is None and (desk := _desk_of(call)) is not None:
        home = affinity.home(desk, now)
    if home is None or any(backend.endpoint.name == home for backend in pool):
        return home
    return None
