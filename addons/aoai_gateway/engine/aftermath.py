"""The consequences of a failed attempt: whose fault it is, whether the call goes on, and the client's answer.

- *A failure that a call may have caused breaks nothing by itself*: :mod:`~aoai_gateway.routing.suspicion`. A
  time-out that the client chose is not even a suspicion.
- *One call cannot empty a pool.* When a second backend fails in the same way (same 5xx, time-out, dropped
  connection), the cause is the call: its breaks for that are withdrawn and the answer is returned. The same
  if there is no second backend to ask. It takes one at another endpoint, if the pool has any: those at one
  endpoint go down together. And if another one only had no room, the breaks stay: it might have answered.
  Silence is the exception: there, other calls are the witnesses.
- *A fault in the gateway's own part of a request* breaks the standin, and every other backend is asked. If
  none can do better, the last answer is the client's, and the breaks are withdrawn. Where there is nothing at
  a path, the break is for that operation alone; for that of its client, if the path or the api-version that
  it chose may be the cause.
- *A call larger than a backend's whole limit* is not held against the backend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aoai_gateway.engine import effects, failures
from aoai_gateway.engine.answer_times import client_timeout, learn_cut_off
from aoai_gateway.engine.attempt import Attempt, FailureKind, Fault
from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.engine.routing_request import routing_request_of
from aoai_gateway.routing.breaker import Break, FailedCall
from aoai_gateway.routing.order import Cause, Order
from aoai_gateway.routing.suspicion import Finding, Witness
from aoai_gateway.wire import errors
from aoai_gateway.wire.backend_errors import Refusal, describe, is_encryption_foreign
from aoai_gateway.wire.hints import own_rate_limits

if TYPE_CHECKING:
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.engine.shared import SharedState
    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.wire.gateway_error import GatewayError

SHORTEST_BREAK = 0.1
"""Seconds of an endpoint's break that is to make it half open."""

_FAULT = "fault"
"""The faults of attempts that failed for a cause that the gateway itself put in."""


class Aftermath:
    """The failures of one call, and their consequences."""

    def __init__(self, shared: SharedState, call: Call, pool: Pool, now: float) -> None:
        self._shared = shared
        self._scheduler = shared.scheduler
        self._call = call
        self._pool = pool
        self._now = now
        self._config = call.setup.config
        self._request = routing_request_of(call, pool, now, shared.affinity, shared.random.random)
        if self._request.limited:
            self._scheduler.expect(self._request, now)
        self._alike: dict[str, list[tuple[Attempt, Scope]]] = {}
        """Failed attempts and their breaks, by the kind of failure, where the call may be the cause."""
        self._last: tuple[Attempt, str, bytes | None] | None = None
        """The last failed attempt, the kind of its failure (as in `_alike`), and its answer's body."""
        self._refused: tuple[Attempt, effects.Failed | None, bytes | None] | None = None
        """The attempt whose answer is the client's, unless the call falls back; its failure, and the body."""
        self.refusal: Refusal | None = None
        """Why the call is to fall back, once that is known."""
        if call.attempts:
            self._request.tried.update(attempt.backend.key for attempt in call.attempts)

    @property
    def now(self) -> float:
        """The time of the last result."""
        return self._now

    def _after_attempt(self, attempt: Attempt, result: effects.Result) -> EffectGenerator[bool]:
        """Lead on from an attempt that has brought no answer. True if the call has ended."""
        if isinstance(result, effects.Answered):
            self._now = result.now
            attempt.taken = False
            read = yield from self._drain(attempt, result)
            if isinstance(read, effects.Failed):
                attempt.taken = result.status not in failures.NOT_TAKEN
                if not failures.is_replayed(self._call, result.status):
                    attempt.ended = self._now = read.now
                    self._scheduler.ended(self._request, None, self._now)
                    yield from self._return(attempt, read.body)
                    return True
            result = read
        elif isinstance(result, effects.Failed) and result.headers is not None:
            attempt.note_head(result.headers)
        if isinstance(result, effects.ClientGone):
            self._note_gone(result)
            return True
        assert isinstance(result, effects.Failed)
        self._now, failed = result.now, result
        attempt.ended, attempt.failure, attempt.reason = failed.now, failed.kind, failed.reason
        attempt.detail = failed.detail
        if failed.refusal is not None:
            yield from self._after_refusal(attempt, failed)
            return True
        attempt.taken = failed.fault is None and not failures.was_not_taken(failed)
        # A time-out that the client chose shows nothing about the backend.
        attempt.unseen = self._is_impatience(attempt, failed)
        if failed.fault is not None:
            attempt.status, attempt.fault = failed.status, failed.fault
            return (yield from self._after_fault(attempt, failed, failed.fault))
        return (yield from self._after_failure(attempt, failed))

    def _drain(
        self, attempt: Attempt, answered: effects.Answered
    ) -> EffectGenerator[effects.Failed | effects.ClientGone]:
        """Read a failed response to its end."""
        attempt.note_answered(answered.status, answered.headers, answered.now)
        drained = yield effects.Drain(attempt)
        if isinstance(drained, effects.ClientGone):
            return drained
        assert isinstance(drained, effects.Drained)
        return effects.Failed(
            drained.now,
            FailureKind.STATUS,
            describe(answered.status, drained.body or b""),
            status=answered.status,
            headers=answered.headers,
            body=drained.body,
        )

    def _after_failure(self, attempt: Attempt, failed: effects.Failed) -> EffectGenerator[bool]:
        call, shared = self._call, self._shared
        like = "" if failed.silent else failures.cause_in_call(failed)
        scope = self._hold_against(attempt, failed)
        speed = shared.speeds.get(self._served(attempt.backend))
        if failed.kind is FailureKind.TIMEOUT and attempt.implausible and speed is not None:
            speed.cut_off(failed.now - attempt.started, stream=call.streaming)
        yield from self._announce(attempt, failed.body)

        self._last = (attempt, like, failed.body) if like else None
        if like:
            alike = self._alike.setdefault(like, [])
            alike.append((attempt, scope))
            # A call that creates state may have been taken, unless something proves that it was not.
            if self._is_the_cause(alike) or call.creates_state:
                yield from self._answer_failure(attempt, like, failed.body)
                return True
        return False

    def _after_fault(self, attempt: Attempt, failed: effects.Failed, fault: Fault) -> EffectGenerator[bool]:
        """Ask the next backend, since the client is not to blame. True if the call has ended.

        The answer is kept: it is the client's if no backend can do better, and the breaks are withdrawn then.
        """
        call, request, now = self._call, self._request, self._now
        backend, breaks = attempt.backend, self._scheduler.breaks
        seconds = self._config.breaks.ceiling_seconds
        scope: Scope = (backend.key.endpoint, backend.key.standin)
        request.tried.add(backend.key)
        known = request.home is not None
        if fault is Fault.ELSEWHERE:
            request.home = None
            request.tried.update(b.key for b in self._pool if b.endpoint.name == backend.endpoint.name)
        elif fault in (Fault.OPERATION, Fault.PATH):
            if fault is Fault.PATH:
                scope = (backend.key.endpoint, None)
                attempt.of_client = failures.may_be_clients_path(call, failed.body)
            mark = request.own_operation if attempt.of_client else f"operation {request.operation}"
            breaks.open(scope, Break(now, now + seconds, failed.reason, call.id, only=mark))
        else:
            attempt.scope = scope
            lengths = {cls.name: cls.breaks for cls in self._config.priority_classes}
            told = FailedCall(attempt.scope, now, seconds, failed.reason, call.id)
            attempt.breaks = breaks.open_for(told, lengths)
            attempt.break_seconds = attempt.breaks[request.cls.name]
        self._scheduler.ended(request, 0, now)
        yield from self._announce(attempt, failed.body)
        self._last = (attempt, _FAULT, failed.body)
        self._alike.setdefault(_FAULT, []).append((attempt, scope))
        if fault is Fault.ELSEWHERE and known and not is_encryption_foreign(failed.status or 0, failed.body):
            # It is not where it was made either: it has expired.
            yield from self._answer_failure(*self._last)
            return True
        return False

    def _after_refusal(self, attempt: Attempt, failed: effects.Failed) -> EffectGenerator[None]:
        """Keep an answer that is the client's, unless the call falls back. The backend is well."""
        attempt.unseen = False
        attempt.answered, attempt.status, attempt.refusal = failed.now, failed.status, failed.refusal
        assert failed.headers is not None
        self._scheduler.answered(self._request, failed.headers, self._now, attempt.started)
        usage = failed.answer.usage if failed.answer is not None else None
        self._scheduler.ended(self._request, usage.total_tokens if usage is not None else 0, self._now)
        self._refused, self.refusal = (attempt, failed, failed.body), failed.refusal
        yield from self._announce(attempt, failed.body)

    def answer_refused(self) -> EffectGenerator[None]:
        """Answer with the refusal that would have led to another deployment: no other may serve the call."""
        assert self._refused is not None
        attempt, _, body = self._refused
        yield from self._return(attempt, body)

    def _announce(self, attempt: Attempt, body: bytes | None) -> EffectGenerator[None]:
        """Tell that an attempt failed. Plugins that hear of it may take their time."""
        announced = yield effects.Announce(attempt, body)
        self._now = announced.now

    def _is_the_cause(self, alike: list[tuple[Attempt, Scope]]) -> bool:
        """Whether it is the call that lets backends fail in this way."""
        failed = {attempt.backend.endpoint.name for attempt, _ in alike}
        elsewhere = any(backend.endpoint.name not in failed for backend in self._pool)
        return len(alike) > 1 and (len(failed) > 1 or not elsewhere)

    def _hold_against(self, attempt: Attempt, failed: effects.Failed) -> Scope:
        """Open the breaks that a failure calls for, and note its figures of the backend's capacity."""
        call, request, scheduler, now = self._call, self._request, self._scheduler, self._now
        backend = attempt.backend
        scope = failures.broken_by(backend, failed)
        lacking = failures.lacks_capacity(failed)
        limits = own_rate_limits(failed.headers) if failed.headers is not None else None
        if limits is not None and lacking and (limits.limit_tokens or math.inf) < call.estimate:
            # The call is too large for it, which shows nothing about others.
            call.too_small = request.too_small = call.too_small | {backend.key}
        elif not self._is_impatience(attempt, failed):
            hint = failures.hint_of(call, failed)
            if failures.lacks_tier(failed, request.tier):
                # There is room for calls of other tiers, as far as is known.
                self._break_for_tier(failed, scope, hint)
            else:
                if lacking and limits is not None:
                    # The time that is named is of the deployment to which it was spilled.
                    scheduler.refused(request, limits, hint if attempt.spillover is None else None, now)
                self._break(attempt, failed, scope, hint)
        if not (lacking and request.cls.may_wait):
            request.tried.add(backend.key)
        scheduler.ended(request, 0 if failures.was_not_taken(failed) else None, now)
        return scope

    def _is_impatience(self, attempt: Attempt, failed: effects.Failed) -> bool:
        """Whether time ran out that the client gave, rather than we."""
        allowed = client_timeout(self._call)
        by_client = allowed is not None and attempt.deadline >= allowed
        return failed.kind is FailureKind.TIMEOUT and not failed.silent and by_client

    def _break(self, attempt: Attempt, failed: effects.Failed, scope: Scope, hint: float | None) -> None:
        """Open a break for all, for the call's client, or none yet, as far as there is evidence."""
        call, request, breaks, now = self._call, self._request, self._scheduler.breaks, self._now
        if failures.refuses_us(failed) and breaks.is_shown_another(scope[0], call.started):
            return  # it refuses a key that was mended since
        finding = Finding.FOR_ALL
        if not failures.lacks_capacity(failed):
            witness = Witness(
                call.id, request.client, failures.content_of(call), now, failures.is_proof(failed, hint)
            )
            finding = self._scheduler.suspicions.hear(scope, failures.way_of(failed), witness)
        if finding is Finding.FOR_CLIENT and len(self._config.clients) > 1:
            seconds = request.cls.breaks.length(hint)
            mark = f"client {request.client}"
            reason = f"{failed.reason} (for calls of {request.client} only)"
            refused = failures.refuses_us(failed)
            breaks.open(scope, Break(now, now + seconds, reason, call.id, only=mark, refuses_us=refused))
        elif finding is not Finding.SUSPICION:
            lengths = {cls.name: cls.breaks for cls in self._config.priority_classes}
            told = FailedCall(
                scope,
                now,
                hint,
                failed.reason,
                call.id,
                failures.lacks_capacity(failed),
                failures.refuses_us(failed),
            )
            opened = breaks.open_for(told, lengths)
            attempt.break_seconds, attempt.scope = opened[request.cls.name], scope
            attempt.breaks = opened
            if failed.silent and attempt.liveness is not None and attempt.liveness.whole_silent:
                # What else is there may be well, or not: one call of each class finds out.
                whole = told._replace(scope=(scope[0], None), hint=SHORTEST_BREAK)
                breaks.open_for(whole, lengths)

    def _break_for_tier(self, failed: effects.Failed, scope: Scope, hint: float | None) -> None:
        """Open a break for calls that ask for the same service tier."""
        request, now = self._request, self._now
        seconds = request.cls.breaks.length(hint)
        only = request.marks[-1]
        reason = f"{failed.reason} (for the service tier {request.tier} only)"
        self._scheduler.breaks.open(scope, Break(now, now + seconds, reason, self._call.id, only=only))

    def _answer_failure(
        self, attempt: Attempt, like: str, body: bytes | None, *, withdraw: bool = True
    ) -> EffectGenerator[None]:
        """Answer with a failure that the call itself may have caused.

        ``withdraw``: it counts against no backend.
        """
        call = self._call
        if withdraw:
            self._withdraw(like)
        if attempt.failure in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM):
            yield from self._return(attempt, body)
        elif attempt.failure is FailureKind.TIMEOUT:
            error = errors.upstream_timeout(attempt.deadline, streaming=call.streaming)
            yield from self._reject(error, Outcome.BACKENDS_OUT)
        else:
            yield from self._reject(errors.upstream_disconnected(), Outcome.BACKENDS_OUT)

    def _withdraw(self, like: str) -> None:
        """Take back what failures of a kind have opened: the call is their cause."""
        call = self._call
        self._scheduler.suspicions.withdraw(call.id)
        for earlier, scope in self._alike.get(like, ()):
            self._scheduler.breaks.withdraw(scope, call.id)
            if earlier.scope is not None:
                call.withdrawn += (scope,)
            earlier.break_seconds = None

    def _return(self, attempt: Attempt, body: bytes | None) -> EffectGenerator[None]:
        """Answer with the backend's failed response, if all of it came."""
        call = self._call
        if body is None:
            yield from self._reject(errors.upstream_disconnected(), Outcome.BACKENDS_OUT)
            return
        # A failure inside a 200 is returned as it came.
        call.status, call.outcome, call.ended = attempt.status or 200, Outcome.OK, self._now
        yield effects.Return(attempt, body)

    def _reject(self, error: GatewayError, outcome: Outcome) -> EffectGenerator[None]:
        call = self._call
        call.error, call.status, call.outcome, call.ended = error, error.status, outcome, self._now
        yield effects.Reject(error)

    def _give_up(self, found: Order, *, line_full: bool = False) -> EffectGenerator[None]:
        call = self._call
        last = self._last
        if last is not None and last[0].fault in (Fault.STANDIN, Fault.PATH):
            # Is there a backend that might have served it, and could not be asked?
            untried = (s for s in found.skipped if s.backend.key not in self._request.tried)
            if any(skip.seconds is not None for skip in untried):
                self._last = None
        if self._last is not None:
            failed = {a.backend.endpoint.name for a, _ in self._alike.get(self._last[1], ())}
            busy = (Cause.FULL, Cause.KEPT_FREE)
            would_tell = any(s.cause in busy and s.backend.endpoint.name not in failed for s in found.skipped)
            attempt, like, body = self._last
            is_missing = attempt.fault is Fault.STANDIN and not would_tell
            if is_missing and call.may_fall_back(Refusal.MISSING_MODEL):
                self._withdraw(like)
                self._refused, self.refusal = (attempt, None, body), Refusal.MISSING_MODEL
                return
            yield from self._answer_failure(*self._last, withdraw=not would_tell)
            return
        standing = self._scheduler.standing_wait(self._request, self._now)
        error = failures.none_left(call, found, standing, line_full=line_full)
        yield from self._reject(error, Outcome.BACKENDS_OUT)

    def _served(self, backend: Backend) -> BackendKey:
        return backend.serving(self._call.deployment)

    def _note_gone(self, result: effects.ClientGone) -> None:
        """Note that the client has hung up, and what that teaches."""
        call = self._call
        self._now = result.now
        call.outcome = Outcome.CLIENT_STALLED if result.stalled else Outcome.CLIENT_GONE
        call.ended = result.now
        # A session lasts for as long as its client likes.
        if not result.stalled and call.session is None:
            self._shared.patience.hung_up(
                call.client.name, self._request.cls.name, call.streaming, result.now - call.started
            )
        self._scheduler.suspicions.withdraw(call.id)
        if call.attempt is not None and call.attempt.ended is None:
            call.attempt.ended = result.now
            learn_cut_off(self._shared, call, call.attempt, result)
