"""The attempts of one call: which backend is tried next, how its result is used, and when to give up.

Each turn a backend is found and claimed (see :mod:`~aoai_gateway.engine.scheduler`), or waited for in the
queue, and the attempt is made. Its result is the client's answer, or leads to the next turn.

- *A dropped connection that was used before* proves nothing about the backend: it may have been closed while
  idle. Once more to the same backend, on a new connection, without a break. A call that creates state goes
  out on a new connection at once, since after a drop it would be unknown whether it had been taken.
- *A credential that the backend refuses with 401*, and that is fetched, may have been taken back: it is
  fetched anew, once for all calls, and the call is sent once more.
- *No backend is tried twice*, except one that lacked capacity, by a call that may wait for it.

What else a failure leads to: :mod:`~aoai_gateway.engine.aftermath`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine import effects
from aoai_gateway.engine.aftermath import Aftermath
from aoai_gateway.engine.answer_times import (
    expected_begin,
    is_foretold,
    learn_answer,
    learn_cut_off,
    patience,
    slowest_begin,
    speed_of,
    timeouts_of,
)
from aoai_gateway.engine.attempt import Attempt, FailureKind, Fault
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.failures import is_failure

if TYPE_CHECKING:
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.order import Order
    from aoai_gateway.wire.backend_errors import Refusal


WITHOUT_USAGE_SECONDS = 3_600.0
"""How long it is remembered that a backend does not take ``stream_options``: it may be updated."""

CREDENTIAL_REFUSED = 401
"""With a 403, the credential is known, and another one of the same identity has no more rights."""


class Attempts(Aftermath):
    """The attempts of one call, and the delivery of the answer."""

    def run(self) -> EffectGenerator[Refusal | None]:
        """Try one backend after the other until the call has ended.

        Returns the cause if another deployment is to serve it instead; if none can, `answer_refused` ends it.
        """
        try:
            while True:
                found = self._look()
                backend = self._claim(found)
                if backend is None or self._call.consult:
                    backend = yield from self._find(found, backend)
                if backend is None or (yield from self._try(backend)):
                    return self.refusal
        finally:
            self._scheduler.close(self._request, self._now)

    # --- which backend ---------------------------------------------------------------------------------

    def _look(self) -> Order:
        found = self._scheduler.candidates(self._request, self._now)
        self._call.skipped = self._request.skipped = found.skipped
        return found

    def _claim(self, found: Order) -> Backend | None:
        """Claim the best backend that is to be had at once; None if there is none, or the call gives up."""
        scheduler, request = self._scheduler, self._request
        if not found.candidates or not scheduler.is_free(request) or self._spent():
            return None
        for backend in found.candidates:
            if scheduler.acquire(request, backend, self._now):
                return backend
        return None

    def _find(self, found: Order, claimed: Backend | None) -> EffectGenerator[Backend | None]:
        """Wait for a backend where none is to be had at once, and have plugins choose. None: it has ended."""
        if claimed is None:
            to_be_had = bool(found.candidates) and self._scheduler.is_free(self._request)
            if to_be_had or self._spent():
                yield from self._give_up(found)
                return None
            if not (yield from self._wait(found)):
                return None
        given = self._request.backend
        if given is not None and self._call.consult:
            return (yield from self._consult(given))
        return given

    def _consult(self, given: Backend) -> EffectGenerator[Backend | None]:
        """Let plugins choose the backend; until then the call keeps the one it has."""
        request, scheduler = self._request, self._scheduler
        others = [b for b in scheduler.candidates(request, self._now).candidates if b is not given]
        chosen = yield effects.Choose((given, *others))
        if isinstance(chosen, effects.ClientGone):
            self._note_gone(chosen)
            scheduler.release(request, self._now)
            return None
        assert isinstance(chosen, effects.Chosen)
        self._now = chosen.now
        if chosen.error is not None:
            scheduler.release(request, self._now)
            yield from self._reject(chosen.error, Outcome.REJECTED)
            return None
        # Much may have happened meanwhile.
        still = scheduler.candidates(request, self._now).candidates
        for backend in chosen.candidates:
            if backend is given:
                if scheduler.breaks.on(backend, self._now, request.cls.name, request.marks) is None:
                    return backend
            elif backend in others and backend in still:
                scheduler.release(request, self._now)
                scheduler.acquire(request, backend, self._now)
                return backend
        scheduler.release(request, self._now)
        yield from self._give_up(self._look())
        return None

    def _wait(self, found: Order) -> EffectGenerator[bool]:
        """Wait in the queue until there is a backend for the call. False if it has ended instead."""
        call, request, scheduler = self._call, self._request, self._scheduler
        cls, begun = request.cls, self._now
        until = self._may_wait_until()
        hopeless = not found.candidates and (
            until <= begun or begun + found.broken_for(request.tried) > until
        )
        # A call that may not wait gets a free backend all the same, if the waiting ones cannot use it.
        length = cls.wait_length if until > begun else sys.maxsize
        if hopeless or not scheduler.join(request, self._config.minimum_shares, max_length=length):
            yield from self._give_up(found, line_full=not hopeless)
            return False
        result = yield effects.WaitInQueue(until)
        call.queue_wait += result.now - begun
        call.waited += result.now - begun
        if isinstance(result, effects.ClientGone):
            self._note_gone(result)
            # Nothing was sent to the backend that it may have been given: all of that is free again.
            scheduler.release(request, self._now)
            return False
        self._now = result.now
        if request.backend is None:
            scheduler.leave(request)
            yield from self._give_up(self._look(), line_full=request.pushed_out)
            return False
        call.skipped = request.skipped
        return True

    def _may_wait_until(self) -> float:
        """Return the time until which the class and the client's own time-out let the call wait."""
        call = self._call
        cls = self._request.cls
        if not cls.may_wait:
            return self._now
        speeds = (self._shared.speeds.get(self._served(backend)) for backend in self._pool)
        learned = self._shared.patience.of(call.client.name, cls.name, call.streaming)
        known = [speed for speed in speeds if speed is not None]
        bound = patience(call, known, learned, self._shared.answer_lengths)
        until = self._now + cls.wait_seconds - call.queue_wait
        return max(self._now, min(until, call.started + bound))

    def _spent(self) -> bool:
        call, replay = self._call, self._config.replay
        return len(call.attempts) >= replay.max_attempts or (
            bool(call.attempts) and self._now - call.started >= replay.max_seconds
        )

    # --- one attempt -----------------------------------------------------------------------------------

    def _try(self, backend: Backend) -> EffectGenerator[bool]:
        """Try one backend. True if the call has ended, False if the next one is to be tried."""
        call = self._call
        attempt = Attempt(len(call.attempts) + 1, backend, self._now, skipped=self._request.skipped)
        call.attempts.append(attempt)
        slowest = within = None
        if is_foretold(call):
            slowest = slowest_begin(self._shared, call, backend)
            within = expected_begin(self._shared, call, self._pool) if slowest is None else slowest
        timeouts = timeouts_of(call, backend, slowest)
        attempt.deadline, attempt.implausible = timeouts.first_byte, timeouts.implausible
        attempt.liveness = self._scheduler.liveness(backend, call.deployment)
        attempt.liveness.sent(call.id, self._now, within)
        if call.streaming and self._lacks_usage(backend):
            call.usage_unknown |= {backend.key}
        result = yield effects.Send(attempt, timeouts, fresh=call.creates_state)
        if not isinstance(result, effects.Answered) or result.status == CREDENTIAL_REFUSED:
            result = yield from self._send_again(attempt, timeouts, within, result)
        if not isinstance(result, effects.Answered) or is_failure(result.status):
            return (yield from self._after_attempt(attempt, result))
        self._now = result.now
        attempt.note_answered(result.status, result.headers, result.now)
        self._begin_delivery(attempt, result)
        if result.error is not None:
            attempt.ended = self._now
            self._scheduler.ended(self._request, 0, self._now)
            yield from self._reject(result.error, Outcome.REJECTED)
            return True
        self._end_delivery(attempt, result.status, (yield effects.Deliver(attempt)))
        return True

    def _lacks_usage(self, backend: Backend) -> bool:
        """Whether a backend is known not to take the ``stream_options`` that the gateway adds."""
        known = self._shared.without_usage
        return bool(len(known)) and (known.get(self._version(backend)) or self._now) > self._now

    def _version(self, backend: Backend) -> str:
        """Name the API that the call speaks at a backend."""
        target = self._call.target
        return "\n".join((*backend.key, target.api, (target.api_version or "")[:64]))

    # --- once more to the same backend -----------------------------------------------------------------

    def _send_again(
        self,
        attempt: Attempt,
        timeouts: effects.AttemptTimeouts,
        within: float | None,
        result: effects.Result,
    ) -> EffectGenerator[effects.Result]:
        """Send the call once more, where that proves nothing about the backend. Returns what came of it."""
        call, backend = self._call, attempt.backend
        if isinstance(result, effects.Failed) and result.kind is FailureKind.DROPPED and result.reused:
            result = yield from self._resend(attempt, timeouts, within, result.now, fresh=True)
        if isinstance(result, effects.Failed) and result.fault is Fault.STREAM_OPTIONS:
            # It is the gateway that asked for usage: once more, as the client has it.
            call.usage_unknown |= {backend.key}
            result = yield from self._resend(attempt, timeouts, within, result.now)
            if isinstance(result, effects.Answered) and result.status < 400:
                self._shared.without_usage.put(self._version(backend), result.now + WITHOUT_USAGE_SECONDS)
        if (
            isinstance(result, effects.Answered)
            and result.status == CREDENTIAL_REFUSED
            and self._may_renew(backend, result)
        ):
            refused = yield from self._drain(attempt, result)
            result = yield from self._renew(attempt, refused)
            if isinstance(result, effects.Renewed):
                result = yield from self._resend(attempt, timeouts, within, result.now)
        return result

    def _resend(
        self,
        attempt: Attempt,
        timeouts: effects.AttemptTimeouts,
        within: float | None,
        now: float,
        *,
        fresh: bool = False,
    ) -> EffectGenerator[effects.Result]:
        attempt.resent = True
        assert attempt.liveness is not None
        attempt.liveness.sent(self._call.id, now, within)
        return (yield effects.Send(attempt, timeouts, fresh=fresh or self._call.creates_state))

    def _may_renew(self, backend: Backend, answered: effects.Answered) -> bool:
        """Whether a refused credential can be fetched anew. A written key stays the same."""
        if self._call.brings_own_token:
            return False
        in_time = answered.now - self._call.started < self._config.replay.max_seconds
        return in_time and backend.endpoint.credential_source is not None

    def _renew(
        self, attempt: Attempt, refused: effects.Failed | effects.ClientGone
    ) -> EffectGenerator[effects.Renewed | effects.Failed | effects.ClientGone]:
        """Have another credential fetched. Returns the refusal as it was, if there is no other."""
        if isinstance(refused, effects.ClientGone):
            return refused
        renewed = yield effects.Renew(attempt)
        if isinstance(renewed, effects.ClientGone):
            return renewed
        assert isinstance(renewed, effects.Renewed)
        if not renewed.is_new:
            return replace(refused, now=renewed.now)
        attempt.resent = True
        return renewed

    # --- its answer ------------------------------------------------------------------------------------

    def _note_answer(self, attempt: Attempt, told: effects.Ended) -> None:
        """Keep the facts of an answer."""
        self._call.note_delivery(attempt, told)
        if told.usage is not None and told.usage.reasoning_tokens and attempt.spillover is None:
            speed_of(self._shared, self._call, attempt.backend).thinks = True

    def _begin_delivery(self, attempt: Attempt, answered: effects.Answered) -> None:
        call, body = self._call, self._call.body
        assert body is not None
        call.status = answered.status
        self._scheduler.answered(self._request, answered.headers, self._now, attempt.started)
        if body.stream and answered.status == 200 and attempt.spillover is None:
            speed = speed_of(self._shared, call, attempt.backend)
            speed.learn_begin(answered.now - attempt.started, body.text_size)
        if call.target.operation.websocket:
            # A session may last for an hour. What it takes of the backend, its responses tell one by one.
            self._scheduler.ended(self._request, 0, self._now)

    def _end_delivery(self, attempt: Attempt, status: int, end: effects.Result) -> None:
        """Note the end of an answer of this status, complete or not."""
        call = self._call
        if isinstance(end, effects.ClientGone) and status < 400:
            learn_cut_off(self._shared, call, attempt, end)
        attempt.ended = end.now
        told = (
            end
            if isinstance(end, effects.Ended)
            else end.so_far
            if isinstance(end, effects.ClientGone)
            else None
        )
        if told is not None:
            self._note_answer(attempt, told)
        used = call.usage.total_tokens if call.usage is not None else None if call.served else 0
        if attempt.spillover is not None:
            used = 0  # its tokens are another deployment's
        self._scheduler.ended(self._request, used, end.now)
        if not isinstance(end, effects.Ended):
            if status < 400:
                # A stream is written as it is read. Other answers are written by the time that they begin.
                begun = call.streaming and call.first_content is not None
                attempt.unseen = call.usage is None and not begun
            if isinstance(end, effects.ClientGone):
                self._note_gone(end)
            return
        self._now = call.ended = end.now
        call.outcome = Outcome.OK if end.complete and not end.failed else Outcome.TRUNCATED
        call.is_whole = end.complete
        if call.outcome is Outcome.TRUNCATED:
            attempt.reason = end.failed or end.reason
        if end.error is not None:
            call.error, call.outcome = end.error, Outcome.REJECTED
        if call.outcome is Outcome.OK and status < 300:
            learn_answer(self._shared, call, attempt, end)

    def keep_refused(self) -> None:
        """Keep the facts of an answer that was blocked, as no other takes its place: it is to be paid for."""
        assert self._refused is not None
        attempt, failed, _ = self._refused
        if failed is not None and failed.answer is not None:
            self._note_answer(attempt, failed.answer)
            self._call.served = True
