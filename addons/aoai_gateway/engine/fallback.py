"""Fallback: another virtual deployment for a call that its own one cannot serve.

A deployment's ``fallback`` names others, by the cause: its content filter blocked the prompt, or the answer
before any of it was delivered; the prompt is too long for its model; no endpoint has it. A call falls back
only to what its client may use, and is admitted there like any other: by the limits and quotas that the
client has there. It is one request, and is counted once: what was booked for the first deployment is taken
back before it is booked for the second. If it is refused there, the first deployment's answer is the
client's, and the first booking is made anew, even if it fits no more: a backend has worked on the call. So
it is if the client hangs up meanwhile.

A call never comes back to a deployment that it has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.call import Barred, Call, FellBack, Notice
from aoai_gateway.engine.effects import Cancel
from aoai_gateway.engine.routing_request import has_backends, pool_of
from aoai_gateway.engine.settlement import book_again
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from aoai_gateway.engine.admission import Admission
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.engine.plan import Plan
    from aoai_gateway.routing.backends import Pool
    from aoai_gateway.wire.backend_errors import Refusal


NO_BACKEND = "no_backend"
"""No backend that may serve it has not seen the call: of those the client may use, with what it refers to."""


def find_ways_out(call: Call) -> None:
    """Find the deployments to which a call may fall back from where it is, and those to which it may not."""
    fallbacks: dict[Refusal, str] = {}
    barred: dict[Refusal, Barred] = {}
    for cause, other in call.plan.fallbacks.items():
        why = _bar(call, other)
        if why:
            barred[cause] = Barred(other, why)
        else:
            fallbacks[cause] = other
    call.fallbacks, call.barred = fallbacks, barred


def _bar(call: Call, other: str) -> str:
    """Say why a call may not go on to a deployment; "": it may."""
    plan = call.setup.plan(call.client, other)
    terms = plan.terms
    if any(step.start == other for step in call.fell_back):
        return "left_before"
    if not terms.may_use:
        return "not_allowed"
    if not (terms.has_limit_here or terms.dry_run):
        return "no_limit"
    return "" if has_backends(call, plan) else NO_BACKEND


CHANGED = (
    "plan",
    "deployment",
    "asked",
    "prompt",
    "quota",
    "reserved_tokens",
    "stretched",
    "edits",
    "notices",
    "policy",
)
"""What an admission changes of a call."""


def fall_back(
    admission: Admission, call: Call, refusal: Refusal, now: float
) -> EffectGenerator[tuple[Pool, float] | None]:
    """Admit the call to the deployment for this cause. Returns the backends that may serve it, and the time.

    None: it is not admitted there, and everything is as before; or it has ended, which its outcome tells.
    """
    first, other = call.deployment, call.fallbacks[refusal]
    plan = call.setup.plan(call.client, other)
    pool = _pool(call, plan)
    if not pool:
        call.stay(refusal, other, NO_BACKEND)
        return None
    before: dict[str, Any] = {name: getattr(call, name) for name in CHANGED}
    admitted, why = None, ""
    # From here on, until it is booked there: wherever this ends, the first booking is made anew.
    call.taken_back, call.reserved = call.reserved, None
    try:
        if call.taken_back is not None:
            yield Cancel(call.taken_back)
        call.asked = call.asked or first
        call.assign(plan)
        try:
            admitted = yield from admission.admit(call, now, at_once=True)
        except GatewayError as error:
            why = error.code
    finally:
        if admitted is None:
            for name, value in before.items():
                setattr(call, name, value)
    if admitted is None:
        if why:
            call.stay(refusal, other, why)
        yield from book_again(call)
        return None
    call.taken_back = None
    for name, value in before["edits"].items():
        call.edit(name, min(value, call.edits.get(name, value)))
    call.fell_back += (FellBack(refusal, first, other),)
    call.note(Notice.FALLBACK, f"{refusal} {first} -> {other}")
    return pool, admitted


def _pool(call: Call, plan: Plan) -> Pool:
    """Return the backends of another deployment that have not seen the call yet."""
    seen = {attempt.backend.key for attempt in call.attempts}
    pool = tuple(backend for backend in pool_of(call, plan) if backend.key not in seen)
    body, attempt = call.body, call.attempt
    assert body is not None and attempt is not None
    if body.references or body.has_encrypted_reasoning:
        # What it refers to is where it was understood.
        pool = tuple(backend for backend in pool if backend.endpoint is attempt.backend.endpoint)
    return pool
