"""The engine: the decisions about a call, without I/O.

:meth:`Engine.run` is a generator of effects over a :class:`~aoai_gateway.engine.call.Call`. It yields
requests to its driver (send this to that backend, let the failed body run out, deliver, reject) and is sent
their results, each with its time. It opens no socket and reads no clock, so the proxy drives it with
live traffic and tests drive it in virtual time.

A call goes through these stages:

1. **Admission.** What does it ask for, is the client allowed to, in which priority class, is there a pool
   for it (:mod:`~aoai_gateway.engine.plan`), does it fit the client's limits
   (:mod:`~aoai_gateway.engine.admission`).
2. **Attempts.** The pool is ordered; the first backend that has room is tried, or waited for. A failure that
   another backend may not repeat opens a break and leads to the next one. Anything else is the answer
   (:mod:`~aoai_gateway.engine.attempts`).
3. **Fallback.** A deployment that cannot serve the call (its content filter, its model's context) may lead to
   another virtual deployment, if the configuration says so (:mod:`~aoai_gateway.engine.fallback`).
4. **Delivery.** The answer goes to the client as it comes. From the first byte on nothing can be replayed.
5. **Settlement.** What the call has cost takes the place of what was booked for it. Where its work goes on
   after the answer, that is when a later call looks at its end (:mod:`~aoai_gateway.engine.settlement`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.admission import Admission
from aoai_gateway.engine.ahead import check_deployment, check_lines, check_lines_are_read
from aoai_gateway.engine.attempts import Attempts
from aoai_gateway.engine.call import NOTHING, Call, Outcome
from aoai_gateway.engine.effects import ClientGone, ParseBody, Parsed, Refused, Reject
from aoai_gateway.engine.estimates import Estimates
from aoai_gateway.engine.fallback import fall_back, find_ways_out
from aoai_gateway.engine.routing_request import pool_of
from aoai_gateway.engine.settlement import Settlement
from aoai_gateway.engine.shared import SharedState
from aoai_gateway.quota.access import PRIORITY_HEADER, check_passed_on, class_of
from aoai_gateway.wire.bodies import coding_of, is_read_elsewhere, parse_body
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.engine.effects import Book, Cancel, EffectGenerator, Settle
    from aoai_gateway.routing.backends import Pool
    from aoai_gateway.routing.breaker import Breaks
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.request_body import RequestBody
    from aoai_gateway.wire.stored import Stored


class Engine:
    """Decides for all calls of a gateway. ``shared``: what its calls share with those of other processes."""

    def __init__(self, random: Random, shared: SharedState | None = None) -> None:
        self.shared = shared = SharedState(random) if shared is None else shared
        self.scheduler = shared.scheduler
        self.affinity = shared.affinity
        self.speeds = shared.speeds
        self.patience = shared.patience
        estimates = Estimates()
        self.admission = Admission(estimates)
        self.settlement = Settlement(estimates, shared.unfinished)

    @property
    def breaks(self) -> Breaks:
        """The breaks in force."""
        return self.scheduler.breaks

    def run(
        self, call: Call, content_type: str | None, raw: bytes | Stored, now: float
    ) -> EffectGenerator[None]:
        """Lead a call from its complete request (``raw``: the body) to its end.

        The first ``next()`` and every ``send()`` give an effect. When the generator returns, the call
        has ended, and has its ``outcome``.
        """
        coding = coding_of(call.headers.get("content-encoding")) if raw else None
        try:
            if isinstance(raw, bytes) and coding is None and not is_read_elsewhere(call.target, len(raw)):
                call.body = parse_body(call.target, content_type, raw)
            else:
                most = call.setup.config.limits.body_bytes
                parsed = yield ParseBody(call.target, content_type, raw, coding, most)
                now = parsed.now
                if isinstance(parsed, ClientGone):
                    call.outcome, call.ended = Outcome.CLIENT_GONE, now
                    return
                if isinstance(parsed, Refused):
                    raise parsed.error
                assert isinstance(parsed, Parsed)
                call.body = parsed.body
        except GatewayError as error:
            yield from self._reject(call, error.without_frames(), now, Outcome.REJECTED)
            return
        yield from self.lead(call, now)

    def lead(self, call: Call, now: float) -> EffectGenerator[None]:
        """Lead a call whose body is read to its end, as `run` does."""
        assert call.body is not None
        admitted: float | None = now
        try:
            pool = self._check_rights(call, call.body)
            if not call.plan.is_free:
                admitted = yield from self.admission.admit(call, now)
                if call.priority is not None:
                    # It was degraded.
                    call.cls = self._class(call)
                if admitted is not None and call.asked:
                    # The client's policy led to another deployment.
                    pool = pool_of(call, call.plan)
        except GatewayError as error:
            yield from self._reject(call, error.without_frames(), now + call.waited, Outcome.REJECTED)
            return
        if admitted is None:
            return
        attempts = self._attempts(call, pool, admitted)
        refusal = yield from attempts.run()
        if refusal is not None:
            yield from self._fall_back(call, attempts, refusal)
        if call.stretched:
            self.admission.forget(call)
        yield from self.settlement.settle(call)

    def abandoned(self, call: Call) -> Iterator[Book | Settle | Cancel]:
        """Say what becomes of the bookings of a call that cannot be led to its end.

        What was delivered of its answer is charged, so it is to be known by then (`Settlement.uncounted`).
        """
        if call.stretched:
            self.admission.forget(call)
        if call.reserved is None and call.taken_back is None:
            return iter(())
        return self.settlement.abandoned(call)

    def _attempts(self, call: Call, pool: Pool, now: float) -> Attempts:
        if call.plan.fallbacks:
            find_ways_out(call)
        else:
            call.fallbacks = call.barred = NOTHING
        return Attempts(self.shared, call, pool, now)

    def _fall_back(self, call: Call, attempts: Attempts, refusal: Refusal | None) -> EffectGenerator[None]:
        """Try the call at the deployments to which it falls back, one after the other."""
        while refusal is not None:
            moved = None
            try:
                moved = yield from fall_back(self.admission, call, refusal, attempts.now)
            finally:
                if moved is None:
                    attempts.keep_refused()
            if moved is None:
                if call.outcome is None:
                    yield from attempts.answer_refused()
                return
            attempts = self._attempts(call, *moved)
            refusal = yield from attempts.run()

    def _check_rights(self, call: Call, body: RequestBody) -> Pool:
        """Check that the client may have what its call asks for. Returns the backends that may serve it."""
        if not call.target.operation.known:
            check_passed_on(call.setup.config, call.target)
        named = body.deployment(call.target)
        if call.granted is not None:
            named = call.granted.deployment or named
        plan = call.setup.plan(call.client, named)
        call.assign(plan)
        if call.client.deployments_allowed is not None:
            check_lines_are_read(body)
        if body.lines is not None:
            check_lines(call.setup, call.client, body.lines, call.deployment)
        elif call.deployment and not (plan.is_known and plan.terms.may_use):
            check_deployment(call.setup, call.client, call.deployment)
        call.cls = self._class(call)
        pool = pool_of(call, plan)
        # Azure estimates from the characters of the prompt. No text has as few tokens as one for eight
        # bytes, and a low estimate is wanted here.
        bound = (call.completion_bound() or 0) if call.target.operation.reserves else 0
        call.estimate = body.text_size // 8 + bound
        return pool

    @staticmethod
    def _class(call: Call) -> PriorityClass:
        plan = call.plan
        asked = call.headers.get(PRIORITY_HEADER) if plan.has_classes else None
        if asked is None and call.priority is None:
            return plan.cls
        config = call.setup.config
        wanted = class_of(config, call.client.priority, asked)
        if call.priority is None:
            return wanted
        # It asks for a class within its client's; the policy may have degraded it since.
        return max(wanted, config.priority_class(call.priority), key=lambda cls: cls.rank)

    def _reject(self, call: Call, error: GatewayError, now: float, outcome: Outcome) -> EffectGenerator[None]:
        call.error, call.status, call.outcome, call.ended = error, error.status, outcome, now
        answered = yield Reject(error)
        # Its prompt may have been counted meanwhile, or its quotas asked for elsewhere.
        call.ended = answered.now
