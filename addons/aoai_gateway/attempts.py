"""The attempts of one call: which backend is tried next, what becomes of it, and when to give up.

Each turn a backend is found and claimed (see :mod:`~aoai_gateway.dispatch`), or waited for in line, and the
attempt is made. What comes of it is the client's answer, or leads to the next turn.

- *A dropped connection that was used before* says nothing about the backend: it may have been closed while
  idle. Once more to the same backend, on a new connection, without a break. A call that creates state goes
  out on a new connection at once, since after a drop nobody would know whether it had been taken.
- *One call cannot empty a pool.* When a second backend fails in the same way (same 5xx, time-out, dropped
  connection), the cause is the call: its breaks for that are withdrawn and the answer is returned. The same
  if there is no second backend to ask. It takes one at another endpoint, if the pool has any: those at one
  endpoint go down together. And if another one only had no room, the breaks stay: it would have told.
  Silence is the exception: there, other calls bear witness.
- *What a call may have caused breaks nothing by itself.* It is a suspicion until another call bears witness
  (:mod:`~aoai_gateway.routing.suspicion`). A time-out that the client chose is not even that, and a client
  that leaves takes its suspicions with it.
- *A call larger than a backend's whole limit* is not held against the backend.
- *No backend is tried twice*, except one that lacked capacity, by a call that may wait for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aoai_gateway.call import Attempt, Call, FailureKind, Outcome
from aoai_gateway.deadlines import begins_within, completion_bound, deadlines_for, patience
from aoai_gateway.effects import (
    Announce,
    Answered,
    Choose,
    Chosen,
    ClientGone,
    Deliver,
    Drain,
    Drained,
    Effect,
    Ended,
    Failed,
    Reject,
    Result,
    Return,
    Send,
    StandInLine,
)
from aoai_gateway.failures import (
    broken_by,
    cause_in_call,
    content_of,
    creates_state,
    is_failure,
    is_proof,
    is_replayed,
    lacks_capacity,
    refuses_us,
    was_not_taken,
    way_of,
)
from aoai_gateway.routing.breaks import Break
from aoai_gateway.routing.capacity import MOST_BACKENDS
from aoai_gateway.routing.order import Cause, Order
from aoai_gateway.routing.speed import Speed
from aoai_gateway.routing.suspicion import Finding, Witness
from aoai_gateway.wire import errors
from aoai_gateway.wire.hints import describe, read_rate_limits, retry_hint
from aoai_gateway.wire.operations import RESPONSES
from aoai_gateway.wishes import session_of, wish_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from aoai_gateway.config.models import Config
    from aoai_gateway.engine import Engine
    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.breaks import Scope
    from aoai_gateway.wire.errors import GatewayError

BORROWED, LEAST_BORROWED = 2.0, 2.0
"""How many times longer than others of its pool a backend takes that is not known, and seconds at least."""


class Attempts:
    """The attempts of one call, and the delivery of the answer."""

    def __init__(self, engine: Engine, call: Call, pool: Pool, now: float) -> None:
        self._engine = engine
        self._dispatcher = engine.dispatcher
        self._call = call
        self._pool = pool
        self._now = now
        self._config: Config = call.setup.config
        self._wish = wish_of(call, pool, now, engine.affinity, engine.random.random)
        self._dispatcher.expect(self._wish, now)
        self._alike: dict[str, list[tuple[Attempt, Scope]]] = {}
        """Failed attempts and what they broke, by what went wrong, where the call may be the cause."""
        self._last: tuple[Attempt, str, bytes | None] | None = None
        """The last failed attempt, what went wrong (as in `_alike`), and its answer's body."""

    def run(self) -> Generator[Effect, Result]:
        """Try one backend after the other until the call has ended."""
        try:
            while True:
                backend = yield from self._next_backend()
                if backend is None or (yield from self._try(backend)):
                    return
        finally:
            self._dispatcher.over(self._wish, self._now)

    # --- which backend ---------------------------------------------------------------------------------

    def _next_backend(self) -> Generator[Effect, Result, Backend | None]:
        """Claim the next backend, after a wait perhaps. None if the call has ended."""
        wish, dispatcher = self._wish, self._dispatcher
        found = self._look()
        if self._spent():
            yield from self._give_up(found)
            return None
        if dispatcher.is_free(wish) and found.candidates:
            if not any(dispatcher.claim(wish, backend, self._now) for backend in found.candidates):
                yield from self._give_up(found)
                return None
        elif not (yield from self._wait(found)):
            return None
        given = wish.backend
        if given is not None and self._call.consult:
            return (yield from self._consult(given))
        return given

    def _look(self) -> Order:
        found = self._dispatcher.look(self._wish, self._now)
        self._call.skipped = self._wish.skipped = found.skipped
        return found

    def _consult(self, given: Backend) -> Generator[Effect, Result, Backend | None]:
        """Ask whoever wants a say which backend it shall be; until then the call keeps the one it has."""
        wish, dispatcher = self._wish, self._dispatcher
        others = [b for b in dispatcher.look(wish, self._now).candidates if b is not given]
        chosen = yield Choose((given, *others))
        if self._gone(chosen):
            dispatcher.unclaim(wish, self._now)
            return None
        assert isinstance(chosen, Chosen)
        self._now = chosen.now
        if chosen.error is not None:
            dispatcher.unclaim(wish, self._now)
            yield from self._reject(chosen.error, Outcome.REJECTED)
            return None
        # Much may have happened meanwhile.
        still = dispatcher.look(wish, self._now).candidates
        for backend in chosen.candidates:
            if backend is given:
                if dispatcher.breaks.on(backend, self._now, wish.cls.name, wish.client) is None:
                    return backend
            elif backend in others and backend in still:
                dispatcher.unclaim(wish, self._now)
                dispatcher.claim(wish, backend, self._now)
                return backend
        dispatcher.unclaim(wish, self._now)
        yield from self._give_up(self._look())
        return None

    def _wait(self, found: Order) -> Generator[Effect, Result, bool]:
        """Stand in line until there is a backend for the call. False if it has ended instead."""
        call, wish, dispatcher = self._call, self._wish, self._dispatcher
        cls, begun = wish.cls, self._now
        until = self._may_wait_until()
        hopeless = not found.candidates and (until <= begun or begun + found.broken_for(wish.tried) > until)
        # Who does not wait gets what is free all the same, if those who do cannot use it.
        length = cls.wait_length if until > begun else len(wish.pool) + 1_000_000
        if hopeless or not dispatcher.join(wish, self._config.minimum_shares, max_length=length):
            yield from self._give_up(found, line_full=not hopeless)
            return False
        result = yield StandInLine(until)
        call.stood_in_line += result.now - begun
        call.waited += result.now - begun
        if self._gone(result):
            # Nothing was sent to the backend that it may have been given: all of that is free again.
            dispatcher.unclaim(wish, self._now)
            return False
        self._now = result.now
        if wish.backend is None:
            dispatcher.leave(wish)
            yield from self._give_up(self._look())
            return False
        call.skipped = wish.skipped
        return True

    def _may_wait_until(self) -> float:
        """Give the time until which the class and the client's own time-out let the call wait."""
        call = self._call
        cls = self._wish.cls
        if not cls.may_wait:
            return self._now
        speeds = (self._engine.speeds.get(self._served(backend)) for backend in self._pool)
        learned = self._engine.patience.of(call.client.name, cls.name, call.streaming)
        bound = patience(call, [speed for speed in speeds if speed is not None], learned)
        until = self._now + cls.wait_seconds - call.stood_in_line
        return max(self._now, min(until, call.started + bound))

    def _spent(self) -> bool:
        call, replay = self._call, self._config.replay
        return len(call.attempts) >= replay.max_attempts or (
            bool(call.attempts) and self._now - call.started >= replay.max_seconds
        )

    def _gone(self, result: Result) -> bool:
        if not isinstance(result, ClientGone):
            return False
        call = self._call
        self._now = result.now
        call.outcome, call.ended = Outcome.CLIENT_GONE, result.now
        self._engine.patience.hung_up(
            call.client.name, self._wish.cls.name, call.streaming, result.now - call.started
        )
        self._dispatcher.suspicions.withdraw(call.id)
        if call.attempt is not None and call.attempt.ended is None:
            call.attempt.ended = result.now
        return True

    # --- one attempt -----------------------------------------------------------------------------------

    def _try(self, backend: Backend) -> Generator[Effect, Result, bool]:
        """Try one backend. True if the call has ended, False if the next one is to be tried."""
        call = self._call
        attempt = Attempt(len(call.attempts) + 1, backend, self._now, skipped=self._wish.skipped)
        call.attempts.append(attempt)
        speed = self._engine.speeds.get(self._served(backend))
        deadlines = deadlines_for(call, backend, speed)
        attempt.deadline = deadlines.first_byte
        pulse = attempt.pulse = self._dispatcher.pulse(backend, call.deployment)
        attempt.implausible = deadlines.implausible
        within = self._begins_within(backend)
        pulse.sent(call.id, self._now, within)
        result = yield Send(attempt, deadlines, fresh=creates_state(call))
        if isinstance(result, Failed) and result.kind is FailureKind.DROPPED and result.reused:
            attempt.resent = True
            pulse.sent(call.id, result.now, within)
            result = yield Send(attempt, deadlines, fresh=True)
        if self._gone(result):
            return True
        self._now = result.now
        if isinstance(result, Answered):
            attempt.answered, attempt.status = result.now, result.status
            if not is_failure(result.status):
                yield from self._deliver(attempt, result)
                return True
            drained = yield Drain(attempt)
            if self._gone(drained):
                return True
            assert isinstance(drained, Drained)
            self._now = drained.now
            if not is_replayed(call, result.status):
                attempt.ended = self._now
                self._dispatcher.ended(self._wish, None, self._now)
                yield from self._return(attempt, drained.body)
                return True
            failed = Failed(
                drained.now,
                FailureKind.STATUS,
                describe(result.status, drained.body or b""),
                status=result.status,
                headers=result.headers,
                body=drained.body,
            )
        else:
            assert isinstance(result, Failed)
            failed = result
        attempt.ended, attempt.failure, attempt.reason = failed.now, failed.kind, failed.reason
        return (yield from self._after_failure(attempt, failed))

    def _after_failure(self, attempt: Attempt, failed: Failed) -> Generator[Effect, Result, bool]:
        call, engine = self._call, self._engine
        like = "" if failed.silent else cause_in_call(failed)
        scope = self._hold_against(attempt, failed)
        speed = engine.speeds.get(self._served(attempt.backend))
        if failed.kind is FailureKind.TIMEOUT and attempt.implausible and speed is not None:
            speed.cut_off(failed.now - attempt.started, stream=call.streaming)
        yield Announce(attempt, failed.body)

        self._last = (attempt, like, failed.body) if like else None
        if like:
            alike = self._alike.setdefault(like, [])
            alike.append((attempt, scope))
            # A call that creates state may have been taken, when nothing says that it was not.
            if self._is_the_cause(alike) or creates_state(call):
                yield from self._answer_failure(attempt, like, failed.body)
                return True
        return False

    def _is_the_cause(self, alike: list[tuple[Attempt, Scope]]) -> bool:
        """Whether it is the call that lets backends fail in this way."""
        failed = {attempt.backend.endpoint.name for attempt, _ in alike}
        elsewhere = any(backend.endpoint.name not in failed for backend in self._pool)
        return len(alike) > 1 and (len(failed) > 1 or not elsewhere)

    def _hold_against(self, attempt: Attempt, failed: Failed) -> Scope:
        """Open the breaks that a failure calls for, and note what it says of the backend's capacity."""
        call, wish, dispatcher, now = self._call, self._wish, self._dispatcher, self._now
        backend = attempt.backend
        scope = broken_by(backend, failed)
        lacking = lacks_capacity(failed)
        limits = read_rate_limits(failed.headers) if failed.headers is not None else None
        if limits is not None and lacking and (limits.limit_tokens or math.inf) < call.estimate:
            # The call is too large for it, which says nothing about others.
            call.too_small.add(backend.key)
        elif not self._is_impatience(attempt, failed):
            hint = self._hint(failed)
            if lacking and limits is not None:
                dispatcher.refused(wish, limits, hint, now)
            self._break(attempt, failed, scope, hint)
        if not (lacking and wish.cls.may_wait):
            wish.tried.add(backend.key)
        dispatcher.ended(wish, 0 if was_not_taken(failed) else None, now)
        return scope

    def _is_impatience(self, attempt: Attempt, failed: Failed) -> bool:
        """Whether time ran out that the client gave, rather than we."""
        allowed = self._call.client_timeout()
        by_client = allowed is not None and attempt.deadline >= allowed
        return failed.kind is FailureKind.TIMEOUT and not failed.silent and by_client

    def _break(self, attempt: Attempt, failed: Failed, scope: Scope, hint: float | None) -> None:
        """Open a break for all, for the call's client, or none yet, as far as there is evidence."""
        call, wish, breaks, now = self._call, self._wish, self._dispatcher.breaks, self._now
        finding = Finding.FOR_ALL
        if not lacks_capacity(failed):
            witness = Witness(call.id, wish.client, content_of(call), now, is_proof(failed, hint))
            finding = self._dispatcher.suspicions.hear(scope, way_of(failed), witness)
        if finding is Finding.FOR_CLIENT and len(self._config.clients) > 1:
            seconds = wish.cls.breaks.length(hint)
            reason = f"{failed.reason} (for calls of {wish.client} only)"
            breaks.open(scope, Break(now, now + seconds, reason, call.id, client=wish.client))
        elif finding is not Finding.SUSPICION:
            lengths = {cls.name: cls.breaks for cls in self._config.priority_classes}
            opened = breaks.open_for(scope, hint, now, failed.reason, call.id, lengths)
            attempt.break_seconds, attempt.scope = opened[wish.cls.name], scope
            attempt.breaks = opened

    def _hint(self, failed: Failed) -> float | None:
        if failed.headers is None:
            return None
        if refuses_us(failed):
            return self._config.breaks.ceiling_seconds
        return retry_hint(failed.headers, failed.body, failed.now + self._call.wall)

    def _served(self, backend: Backend) -> tuple[BackendKey, str]:
        return (backend.key, backend.deployment(self._call.deployment))

    # --- the end ---------------------------------------------------------------------------------------

    def _deliver(self, attempt: Attempt, answered: Answered) -> Generator[Effect, Result]:
        call = self._call
        call.status = answered.status
        self._dispatcher.answered(self._wish, answered.headers, self._now, attempt.started)
        if call.streaming and answered.status == 200:
            assert call.body is not None
            self._speed(attempt).learn_begin(answered.now - attempt.started, call.body.text_size)
        end = yield Deliver(attempt)
        attempt.ended = end.now
        told = end if isinstance(end, Ended) else end.so_far if isinstance(end, ClientGone) else None
        call.served = answered.status < 400 and told is not None
        if told is not None:
            call.first_content = told.first_content
            call.usage, call.model, call.response_id = told.usage, told.model, told.response_id
            if told.usage is not None and told.usage.reasoning_tokens:
                self._speed(attempt).thinks = True
            call.finish_reason = told.finish_reason
            call.delivered = told.delivered
        used = call.usage.total_tokens if call.usage is not None else None if call.served else 0
        self._dispatcher.ended(self._wish, used, end.now)
        if isinstance(end, Ended):
            self._now = call.ended = end.now
            call.outcome = Outcome.OK if end.complete else Outcome.TRUNCATED
            if not end.complete:
                attempt.reason = end.reason
        if not self._gone(end) and answered.status < 300 and call.outcome is Outcome.OK:
            self._learn(attempt)

    def _learn(self, attempt: Attempt) -> None:
        call, engine = self._call, self._engine
        # A chat completion has an id too, but nothing refers to it; it would only push others out.
        if call.target.operation is RESPONSES:
            for key in (call.response_id, session_of(call)):
                if key is not None:
                    engine.affinity.remember(key, attempt.backend.endpoint.name, self._now)
        tokens = call.usage.output_tokens if call.usage else 0
        self._speed(attempt).learn_answer(self._now - attempt.started, tokens)
        if not call.streaming:
            assert call.body is not None
            self._speed(attempt).learn(self._now - attempt.started, tokens, call.body.text_size)

    def _begins_within(self, backend: Backend) -> float | None:
        """Give the seconds within which the answer should begin, so that silence means something."""
        call, speeds = self._call, self._engine.speeds
        own = begins_within(call, speeds.get(self._served(backend)))
        if own is not None:
            return own
        # It has shown nothing yet. What others of the pool have shown is a hint, to be taken with care.
        others = (begins_within(call, speeds.get(self._served(other))) for other in self._pool)
        known = [seconds for seconds in others if seconds is not None]
        return max(LEAST_BORROWED, BORROWED * max(known)) if known else None

    def _speed(self, attempt: Attempt) -> Speed:
        speeds, served = self._engine.speeds, self._served(attempt.backend)
        speed = speeds.pop(served, None) or Speed()
        speeds[served] = speed
        if len(speeds) > MOST_BACKENDS:
            del speeds[next(iter(speeds))]
        return speed

    def _answer_failure(
        self, attempt: Attempt, like: str, body: bytes | None, *, withdraw: bool = True
    ) -> Generator[Effect, Result]:
        """Answer with a failure that the call itself may have caused.

        ``withdraw``: it is held against nobody.
        """
        call = self._call
        if withdraw:
            self._dispatcher.suspicions.withdraw(call.id)
        for earlier, scope in self._alike.get(like, ()) if withdraw else ():
            self._dispatcher.breaks.withdraw(scope, call.id)
            if earlier.scope is not None:
                call.withdrawn.append(scope)
            earlier.break_seconds = None
        if attempt.failure in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM):
            yield from self._return(attempt, body)
        elif attempt.failure is FailureKind.TIMEOUT:
            error = errors.upstream_timeout(attempt.deadline, streaming=call.streaming)
            yield from self._reject(error, Outcome.BACKENDS_OUT)
        else:
            yield from self._reject(errors.upstream_disconnected(), Outcome.BACKENDS_OUT)

    def _return(self, attempt: Attempt, body: bytes | None) -> Generator[Effect, Result]:
        """Answer with what the backend said, if all of it came."""
        call = self._call
        if body is None:
            yield from self._reject(errors.upstream_disconnected(), Outcome.BACKENDS_OUT)
            return
        # A failure inside a 200 is returned as it came.
        call.status, call.outcome, call.ended = attempt.status or 200, Outcome.OK, self._now
        yield Return(attempt, body)

    def _reject(self, error: GatewayError, outcome: Outcome) -> Generator[Effect, Result]:
        call = self._call
        call.error, call.status, call.outcome, call.ended = error, error.status, outcome, self._now
        yield Reject(error)

    def _what_helps(self) -> str:
        """Say how a call gets below the limits: by that of its two parts which makes it large."""
        answer = completion_bound(self._call) or 0
        if 2 * answer < self._call.estimate:
            return "Send a shorter prompt."
        return "Lower max_tokens, or the number of answers."

    def _give_up(self, found: Order, *, line_full: bool = False) -> Generator[Effect, Result]:
        call = self._call
        if self._last is not None:
            failed = {a.backend.endpoint.name for a, _ in self._alike.get(self._last[1], ())}
            busy = (Cause.FULL, Cause.KEPT_FREE)
            would_tell = any(s.cause in busy and s.backend.endpoint.name not in failed for s in found.skipped)
            yield from self._answer_failure(*self._last, withdraw=not would_tell)
            return
        reasons = [
            (s.backend.name, s.reason, math.inf if s.seconds is None else s.seconds) for s in found.skipped
        ]
        wait = found.soonest
        if wait is None and call.too_small:
            error = errors.rate_limited(
                f"The request asks for about {call.estimate:,} tokens, more than the whole limit of any "
                f"backend. {self._what_helps()}",
                math.inf,
                code="larger_than_limits",
            )
        else:
            wait = self._config.breaks.default_seconds if wait is None else wait
            # There may be room sooner, but those who stand in the queue come first.
            wait = max(wait, self._dispatcher.standing_wait(self._wish, self._now), call.stood_in_line)
            causes = {skip.cause for skip in found.skipped if skip.seconds is not None}
            code = "all_backends_out"
            if line_full:
                code = "waiting_line_full"
            elif call.stood_in_line >= errors.SHORTEST_WAIT:
                code = "waiting_line_timeout"
            elif Cause.KEPT_FREE in causes:
                code = "shed"
            error = errors.all_backends_out(
                call.deployment, wait, reasons, code=code, waited_seconds=call.stood_in_line
            )
        yield from self._reject(error, Outcome.BACKENDS_OUT)
