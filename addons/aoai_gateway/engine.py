"""The engine: what is done with a call, decided without doing it.

:meth:`Engine.run` is a generator of effects over a :class:`~aoai_gateway.call.Call`. It yields what it
wants done (send this to that backend, let the failed body run out, deliver, reject) and is sent what came
of it, with the time at which it came. It opens no socket and reads no clock, so the proxy drives it with
live traffic and tests drive it in virtual time.

A call goes through three stages:

1. **Admission.** What does it ask for, is the client allowed to, is there a pool for it.
2. **Attempts.** The pool is ordered; the first backend is tried. A failure that another backend may not
   repeat opens a break and leads to the next one. Anything else is the answer.
3. **Delivery.** The answer goes to the client as it comes. From the first byte on nothing can be replayed.

The rules for a failed attempt:

- *Which failures are replayed.* 408, 429, 500, 502, 503, 504, no connection, TLS, a connection dropped
  before the headers, a deadline; and a stream that is refused before its first content. Our own credential
  refused (401, 403) is our fault, so that is replayed too; the client's own token refused is its answer.
- *Calls that create state* beyond a stored answer are replayed only if they were certainly not processed:
  429, no connection.
- *A dropped connection that was used before* says nothing about the backend: it may have been closed while
  idle. Once more to the same backend, on a new connection, without a break. A call that creates state goes
  out on a new connection at once, since after a drop nobody would know whether it had been taken.
- *One call cannot empty a pool.* When a second backend fails in the same way (same 5xx, time-out, dropped
  connection), the cause is the call: its breaks for that are withdrawn and the answer is returned. The same
  if there is no second backend to ask.
- *A call larger than a backend's whole limit* is not held against the backend.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aoai_gateway.budgeting import Budgets
from aoai_gateway.call import (
    Announce,
    Answered,
    Attempt,
    Call,
    Choose,
    Chosen,
    ClientGone,
    Deliver,
    Drain,
    Drained,
    Effect,
    Ended,
    Failed,
    FailureKind,
    Outcome,
    Reject,
    Result,
    Return,
    Send,
)
from aoai_gateway.deadlines import deadlines_for
from aoai_gateway.policy.access import check_access, visible_deployments
from aoai_gateway.policy.contracts import contract
from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.routing.breaks import Break, BreakLengths, Breaks
from aoai_gateway.routing.order import Order, draw_takers, order
from aoai_gateway.routing.speed import Speed
from aoai_gateway.wire import errors
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.hints import describe, read_rate_limits, retry_hint
from aoai_gateway.wire.operations import RESPONSES
from aoai_gateway.wire.sizes import text_size

if TYPE_CHECKING:
    from collections.abc import Generator
    from random import Random

    from aoai_gateway.config.models import Config
    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.breaks import Scope

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which Azure's documentation recommends to retry."""

OUR_CREDENTIAL_REFUSED = frozenset({401, 403})


class Engine:
    """Decides for all calls of a gateway, and holds what they share: breaks, affinity, speeds."""

    def __init__(self, random: Random) -> None:
        self.breaks = Breaks()
        self.affinity = Affinity()
        self.speeds: dict[tuple[BackendKey, str], Speed] = {}
        """By backend and real deployment: an endpoint without standins serves fast and slow ones."""
        self.budgets = Budgets()
        self._random = random

    def run(self, call: Call, content_type: str | None, raw: bytes, now: float) -> Generator[Effect, Result]:
        """Lead a call from its complete request (``raw``: the body) to its end.

        The first ``next()`` and every ``send()`` give an effect. When the generator returns, the call
        has ended, and its ``outcome`` says how.
        """
        try:
            pool = self._admit(call, content_type, raw)
            admitted = yield from self.budgets.admit(call, now)
        except GatewayError as error:
            yield from self._reject(call, error, now + call.waited, Outcome.REJECTED)
            return
        if admitted is None:
            return
        if call.asked:
            # The client's contract led to another deployment.
            pool = self._pool(call)
        yield from _Attempts(self, call, pool, admitted).run()
        yield from self.budgets.settle(call)

    def _admit(self, call: Call, content_type: str | None, raw: bytes) -> Pool:
        body = call.body = parse_body(call.target, content_type, raw)
        call.deployment = body.deployment(call.target)
        table = call.setup.table
        if table.pool(call.deployment) is None:
            visible = visible_deployments(call.client, table.deployments)
            raise errors.deployment_not_found(call.deployment, visible)
        check_access(call.client, call.deployment)
        pool = self._pool(call)
        # Azure estimates from the characters of the prompt. Eight bytes a token is less than any
        # text has, and low is what is wanted here.
        call.estimate = text_size(raw) // 8 + (body.max_tokens or 0) * max(body.n, body.best_of)
        return pool

    def _pool(self, call: Call) -> Pool:
        """Give the backends that may serve this client."""
        pool = call.setup.table.pool(call.deployment) or ()
        allowed = contract(call.setup.config, call.client, call.deployment)
        mine = tuple(b for b in pool if allowed.allows_endpoint(b.endpoint.name))
        if pool and not mine:
            raise errors.forbidden(
                f"None of the endpoints that you may use serves the deployment '{call.deployment}'.",
                code="EndpointNotAllowed",
            )
        if call.only_backend is not None:
            mine = tuple(b for b in mine if b.name == call.only_backend)
            if not mine:
                raise errors.forbidden(
                    f"'{call.only_backend}' is none of the backends that may serve '{call.deployment}'.",
                    code="EndpointNotAllowed",
                )
        return mine

    def _reject(
        self, call: Call, error: GatewayError, now: float, outcome: Outcome
    ) -> Generator[Effect, Result]:
        call.error, call.status, call.outcome, call.ended = error, error.status, outcome, now
        yield Reject(error)


class _Attempts:
    """The attempts of one call, and the delivery of the answer."""

    def __init__(self, engine: Engine, call: Call, pool: Pool, now: float) -> None:
        self._engine = engine
        self._call = call
        self._pool = pool
        self._now = now
        self._config: Config = call.setup.config
        self._lengths = BreakLengths(
            self._config.breaks.default_seconds,
            self._config.breaks.floor_seconds,
            self._config.breaks.ceiling_seconds,
        )
        self._tried: set[BackendKey] = set()
        self._alike: dict[str, list[tuple[Attempt, Scope]]] = {}
        """Failed attempts and what they broke, by what went wrong, where the call may be the cause."""
        self._last: tuple[Attempt, str, bytes | None] | None = None
        """The last failed attempt, what went wrong (as in `_alike`), and its answer's body."""

    def run(self) -> Generator[Effect, Result]:
        call, engine = self._call, self._engine
        takers = draw_takers(self._pool, call.streaming, engine._random.random)
        home = self._home()
        while True:
            found = order(
                self._pool,
                now=self._now,
                breaks=engine.breaks,
                takes=takers,
                tried=self._tried,
                home=home,
                too_small=self._is_too_small,
            )
            call.skipped = found.skipped
            candidates = found.candidates
            if candidates and call.consult:
                chosen = yield Choose(candidates)
                if self._gone(chosen):
                    return
                assert isinstance(chosen, Chosen)
                self._now = chosen.now
                if chosen.error is not None:
                    yield from engine._reject(call, chosen.error, self._now, Outcome.REJECTED)
                    return
                candidates = tuple(b for b in chosen.candidates if b in found.candidates)
            if not candidates or self._spent():
                yield from self._give_up(found)
                return
            if (yield from self._try(candidates[0])):
                return

    def _home(self) -> str | None:
        """Give the endpoint that holds the state which the call refers to, as far as that is known."""
        body = self._call.body
        assert body is not None
        key = body.previous_response_id
        if key is None and body.has_encrypted_reasoning:
            # Only the resource that encrypted it can read it.
            key = self._session()
        home = self._engine.affinity.home(key, self._now) if key is not None else None
        return home if any(b.endpoint.name == home for b in self._pool) else None

    def _session(self) -> str | None:
        """Name the conversation, if the client does: agents send a key for the prompt cache, or a header."""
        call = self._call
        assert call.body is not None
        session = call.body.prompt_cache_key or call.headers.get("session-id")
        return f"session {call.client.name}: {session}" if session else None

    def _is_too_small(self, backend: Backend) -> bool:
        if backend.key in self._call.too_small:
            return True
        limit = backend.standin.tokens_per_minute if backend.standin else None
        return limit is not None and self._call.estimate > limit

    def _spent(self) -> bool:
        call, replay = self._call, self._config.replay
        return len(call.attempts) >= replay.max_attempts or (
            bool(call.attempts) and self._now - call.started >= replay.max_seconds
        )

    def _gone(self, result: Result) -> bool:
        if not isinstance(result, ClientGone):
            return False
        call = self._call
        call.outcome, call.ended = Outcome.CLIENT_GONE, result.now
        if call.attempt is not None and call.attempt.ended is None:
            call.attempt.ended = result.now
        return True

    # --- one attempt ---------------------------------------------------------------------------------

    def _try(self, backend: Backend) -> Generator[Effect, Result, bool]:
        """Try one backend. True if the call has ended, False if the next one is to be tried."""
        call = self._call
        attempt = Attempt(len(call.attempts) + 1, backend, self._now)
        call.attempts.append(attempt)
        self._tried.add(backend.key)
        deadlines = deadlines_for(call, backend, self._engine.speeds.get(self._served(backend)))
        attempt.deadline = deadlines.first_byte
        result = yield Send(attempt, deadlines, fresh=self._creates_state())
        if isinstance(result, Failed) and result.kind is FailureKind.DROPPED and result.reused:
            attempt.resent = True
            result = yield Send(attempt, deadlines, fresh=True)
        if self._gone(result):
            return True
        self._now = result.now
        if isinstance(result, Answered):
            attempt.answered, attempt.status = result.now, result.status
            if result.status not in RETRYABLE and result.status not in OUR_CREDENTIAL_REFUSED:
                yield from self._deliver(attempt, result)
                return True
            drained = yield Drain(attempt)
            if self._gone(drained):
                return True
            assert isinstance(drained, Drained)
            self._now = drained.now
            if not self._is_replayed(result.status):
                attempt.ended = self._now
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

    def _is_replayed(self, status: int) -> bool:
        if status in OUR_CREDENTIAL_REFUSED:
            return not self._call.brings_own_token
        if status not in RETRYABLE:
            return False
        return status == 429 or not self._creates_state()

    def _creates_state(self) -> bool:
        body = self._call.body
        assert body is not None
        return self._call.target.operation.stateful_create or body.background

    def _after_failure(self, attempt: Attempt, failed: Failed) -> Generator[Effect, Result, bool]:
        call, engine = self._call, self._engine
        like = self._like(failed)
        fits = self._fits(attempt.backend, failed)
        scope = self._scope(attempt.backend, failed)
        if fits:
            hint = self._hint(failed)
            attempt.break_seconds, attempt.scope = self._lengths.length(hint), scope
            until = self._now + attempt.break_seconds
            engine.breaks.open(scope, Break(self._now, until, failed.reason, call.id))
        speed = engine.speeds.get(self._served(attempt.backend))
        if failed.kind is FailureKind.TIMEOUT and speed is not None and not call.streaming:
            # It would have taken longer than this. Were that not learned, a backend that became slow
            # would be cut off, and its answers billed, for ever.
            assert call.body is not None
            speed.learn(failed.now - attempt.started, call.body.max_tokens or 0)
        yield Announce(attempt, failed.body)

        self._last = (attempt, like, failed.body) if like else None
        if like:
            alike = self._alike.setdefault(like, [])
            alike.append((attempt, scope))
            # A call that creates state may have been taken, when nothing says that it was not.
            if len(alike) > 1 or self._creates_state():
                yield from self._answer_failure(attempt, like, failed.body)
                return True
        return False

    @staticmethod
    def _like(failed: Failed) -> str:
        """Name a failure that the call itself may be the cause of; "" for one that it is not."""
        if failed.kind is FailureKind.STATUS and failed.status is not None:
            caused = failed.status >= 500 or failed.status == 408
            return str(failed.status) if caused else ""
        if failed.kind in (FailureKind.TIMEOUT, FailureKind.DROPPED, FailureKind.PROTOCOL):
            return failed.kind.value
        return ""

    @staticmethod
    def _scope(backend: Backend, failed: Failed) -> Scope:
        """Give what a failure breaks: what concerns the whole endpoint breaks all of it."""
        whole = failed.kind in (FailureKind.CONNECT, FailureKind.TLS) or (
            failed.kind is FailureKind.STATUS and failed.status in OUR_CREDENTIAL_REFUSED
        )
        return (backend.key.endpoint, None if whole else backend.key.standin)

    def _fits(self, backend: Backend, failed: Failed) -> bool:
        """Whether the call is within the limit that the refusing backend names."""
        if failed.headers is None or (failed.status != 429 and failed.kind is FailureKind.STATUS):
            return True
        limit = read_rate_limits(failed.headers).limit_tokens
        if limit is None or self._call.estimate <= limit:
            return True
        self._call.too_small.add(backend.key)
        return False

    def _hint(self, failed: Failed) -> float | None:
        if failed.headers is None:
            return None
        if failed.kind is FailureKind.STATUS and failed.status in OUR_CREDENTIAL_REFUSED:
            return self._lengths.ceiling
        return retry_hint(failed.headers, failed.body, failed.now + self._call.wall)

    def _served(self, backend: Backend) -> tuple[BackendKey, str]:
        return (backend.key, backend.deployment(self._call.deployment))

    # --- the end -------------------------------------------------------------------------------------

    def _deliver(self, attempt: Attempt, answered: Answered) -> Generator[Effect, Result]:
        call, engine = self._call, self._engine
        call.status = answered.status
        end = yield Deliver(attempt)
        attempt.ended = end.now
        told = end if isinstance(end, Ended) else end.so_far if isinstance(end, ClientGone) else None
        call.served = answered.status < 400 and told is not None
        if told is not None:
            call.first_content = told.first_content
            call.usage, call.model, call.response_id = told.usage, told.model, told.response_id
            call.finish_reason = told.finish_reason
            call.delivered_characters = told.delivered_characters
        if isinstance(end, Ended):
            call.ended = end.now
            call.outcome = Outcome.OK if end.complete else Outcome.TRUNCATED
            if not end.complete:
                attempt.reason = end.reason
        if self._gone(end):
            return
        if answered.status < 300 and call.outcome is Outcome.OK:
            # A chat completion has an id too, but nothing refers to it; it would only push others out.
            if call.target.operation is RESPONSES:
                for key in (call.response_id, self._session()):
                    if key is not None:
                        engine.affinity.remember(key, attempt.backend.endpoint.name, end.now)
            if not call.streaming:
                tokens = call.usage.output_tokens if call.usage else 0
                speed = engine.speeds.setdefault(self._served(attempt.backend), Speed())
                speed.learn(end.now - attempt.started, tokens)

    def _answer_failure(self, attempt: Attempt, like: str, body: bytes | None) -> Generator[Effect, Result]:
        """Answer with a failure that the call itself may have caused, and hold it against nobody."""
        call, engine = self._call, self._engine
        for earlier, scope in self._alike.get(like, ()):
            engine.breaks.withdraw(scope, call.id)
            call.withdrawn.append(scope)
            earlier.break_seconds = None
        if attempt.failure is FailureKind.STATUS:
            yield from self._return(attempt, body)
        elif attempt.failure is FailureKind.TIMEOUT:
            error = errors.upstream_timeout(attempt.deadline)
            yield from engine._reject(call, error, self._now, Outcome.BACKENDS_OUT)
        else:
            error = errors.upstream_disconnected()
            yield from engine._reject(call, error, self._now, Outcome.BACKENDS_OUT)

    def _return(self, attempt: Attempt, body: bytes | None) -> Generator[Effect, Result]:
        """Answer with what the backend said, if all of it came."""
        call = self._call
        if body is None:
            error = errors.upstream_disconnected()
            yield from self._engine._reject(call, error, self._now, Outcome.BACKENDS_OUT)
            return
        call.status, call.outcome, call.ended = attempt.status, Outcome.OK, self._now
        yield Return(attempt, body)

    def _give_up(self, found: Order) -> Generator[Effect, Result]:
        call, engine = self._call, self._engine
        if self._last is not None:
            yield from self._answer_failure(*self._last)
            return
        reasons = [
            (s.backend.name, s.reason, math.inf if s.seconds is None else s.seconds) for s in found.skipped
        ]
        waits = [s.seconds for s in found.skipped if s.seconds is not None]
        if not waits and call.too_small:
            error = errors.rate_limited(
                f"The request asks for about {call.estimate:,} tokens, more than the whole limit of any "
                "backend. Lower max_tokens or send a shorter prompt.",
                math.inf,
                code="larger_than_limits",
            )
        else:
            wait = min(waits) if waits else self._config.breaks.default_seconds
            error = errors.all_backends_out(call.deployment, wait, reasons)
        yield from engine._reject(call, error, self._now, Outcome.BACKENDS_OUT)
