"""The engine in virtual time: recorded calls are led through it, against backends of the simulator's limiter.

Nothing waits: a heap of events is the clock. Each call's generator is led as the proxy leads it; what the
proxy reads from the wire is here what the recording and the limiter say. Prompts were not recorded, so no
body is read: each call comes with the recorded facts of one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.recorded import PATHS, Decision, Outcomes
from aoai_gateway.analysis.virtual_backends import Deployment, limits_of
from aoai_gateway.engine import effects
from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import NOTHING, Call, Outcome, Setup
from aoai_gateway.engine.engine import Engine
from aoai_gateway.quota.counters import LEASE, Counters
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.tokens import Count
from aoai_gateway.usage.record import cost_of
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target, parse_target
from aoai_gateway.wire.usage import Usage
from aoai_simulator import limits

if TYPE_CHECKING:
    from aoai_gateway.analysis.recorded import RecordedCall, Recording
    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.responsiveness import Liveness

BEGIN = 1_000.0
"""When the first call comes, on the clock of the engine."""

REFUSAL_SECONDS = 0.05
"""Seconds until a backend's 429 is there."""

REFUSAL_BODY = b'{"error":{"code":"429","message":"Rate limit exceeded."}}'

BYTES_A_TOKEN = 4
"""Bytes of a prompt's text for each token, for what the engine estimates from its size."""

LOOK_SECONDS = 0.001
"""Seconds between two looks at the queue that only time brings about."""


class VirtualGateway:
    """One candidate configuration, and the recorded traffic that is led through it."""

    def __init__(self, config: Config, recording: Recording, *, seed: int = 1) -> None:
        self.config = config
        self.setup = Setup(config, RoutingTable(config))
        self.recording = recording
        self.engine = Engine(Random(seed))  # noqa: S311 - to be the same each time
        self.counters = Counters()
        self.now = BEGIN
        self.unix_offset = recording.calls[0].at - BEGIN if recording.calls else 0.0
        self.outcomes: list[Outcomes] = []
        self.unknown_clients = 0
        """Calls of clients that the configuration does not have."""
        self.reservations: dict[str, Any] = {}
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._arrived = 0
        self._deployments: dict[str, Deployment] = {}
        self._clients = {client.name: client for client in config.clients if client.enabled}
        self.standing: dict[str, tuple[_Running, float]] = {}
        """The calls that wait in a queue, and until when."""
        self._asked = False
        self._timer = math.inf

    # --- the clock -------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int], None] = lambda _: None) -> list[Outcomes]:
        """Lead all calls to their ends. ``progress`` is told now and then how many have come."""
        self.at(BEGIN + LEASE / 3, self._renew)
        for number, recorded in enumerate(self.recording.calls):
            self._pass_until(recorded.at - self.unix_offset)
            self._arrive(recorded)
            if not number & 0xFFF:
                progress(number)
        self._pass_until(math.inf)
        return self.outcomes

    def _pass_until(self, time: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= time:
            self.now, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        if time < math.inf:
            self.now = max(self.now, time)

    def at(self, time: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do something at a time of the engine's clock, which is not over."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what, arguments))

    def _renew(self) -> None:
        self.counters.renew(list(self.reservations.values()), self.now + self.unix_offset)
        if len(self._heap) > 0:
            self.at(self.now + LEASE / 3, self._renew)

    # --- calls -----------------------------------------------------------------------------------------

    def _arrive(self, recorded: RecordedCall) -> None:
        self._arrived += 1
        client = self._clients.get(recorded.client) or self.config.entra_client
        if client is None:
            self.unknown_clients += 1
            self.outcomes.append(Outcomes(recorded, Decision("401", ""), 0.0, False, None))
            return
        target = _target(recorded.operation)
        call = Call(
            # Files may hold a record twice.
            id=str(self._arrived),
            client=client,
            target=target,
            setup=self.setup,
            started=self.now,
            unix_offset=self.unix_offset,
            headers=NOTHING,
            body=_body(recorded, target),
        )
        running = _Running(self, recorded, call)
        running.step(None)
        if recorded.patience is not None and not running.done:
            self.at(self.now + recorded.patience, running.hang_up)

    def ended(self, running: _Running) -> None:
        """Note what became of a call."""
        call = running.call
        attempts = call.attempts
        backend = attempts[-1].backend.name if attempts else ""
        if call.error is not None:
            decision = Decision(call.error.code, "")
        elif call.outcome is Outcome.OK and call.status == 429:
            decision = Decision("backend", backend)
        elif call.outcome in (Outcome.OK, Outcome.TRUNCATED):
            decision = Decision("served", backend)
        else:
            decision = Decision(call.outcome.value if call.outcome else "error", "")
        spilled = bool(attempts) and (len(attempts) > 1 or bool(attempts[0].skipped))
        self.outcomes.append(Outcomes(running.recorded, decision, call.waited, spilled, cost_of(call)))

    def deployment(self, backend: Backend) -> Deployment:
        """Return a backend's limiter: declared limits, those of a simulated one, or what was observed."""
        found = self._deployments.get(backend.name)
        if found is None:
            observed = self.recording.observed_limits.get(backend.name)
            found = self._deployments[backend.name] = Deployment(limits_of(backend, observed))
        return found

    # --- the queue, as runtime/queue_waker.py has it ----------------------------------------------------

    def stand(self, running: _Running, until: float) -> None:
        """Let a call wait in its queue."""
        ident = running.call.id
        self.standing[ident] = (running, until)
        self._look()
        if ident in self.standing:
            self.at(max(until, self.now), self._over, ident)

    def changed(self) -> None:
        """Look whether a call can be released, once in a turn."""
        if not self._asked:
            self._asked = True
            self.at(self.now, self._look_if_changed)

    def _look_if_changed(self) -> None:
        """Look, unless that has been done since."""
        if self._asked:
            self._look()

    def wake(self, ident: str) -> None:
        """End the wait of a call."""
        standing = self.standing.pop(ident, None)
        if standing is not None:
            self.at(self.now, standing[0].woken)

    def _over(self, ident: str) -> None:
        """Wake a call whose time in the queue is over, unless it is released just then."""
        if ident in self.standing:
            self._look()
            standing = self.standing.get(ident)
            if standing is not None and standing[1] <= self.now:
                self.wake(ident)

    def _look(self) -> None:
        self._asked = False
        for request in self.engine.scheduler.serve_waiting(self.now):
            self.wake(request.call_id)
        due = math.inf
        if self.standing:
            due = max(self.engine.scheduler.look_again, self.now + LOOK_SECONDS)
        if due != self._timer:
            self._timer = due
            if due < math.inf:
                self.at(due, self._look_again, due)

    def _look_again(self, due: float) -> None:
        """Look as the scheduler has asked for, unless it has asked for another time since."""
        if due == self._timer:
            self._timer = math.inf
            self._look()


class _Running:
    """One call under way."""

    def __init__(self, gateway: VirtualGateway, recorded: RecordedCall, call: Call) -> None:
        self._gateway = gateway
        self.recorded = recorded
        self.call = call
        self.done = False
        self.gone = False
        self._run: EffectGenerator[None] = gateway.engine.lead(call, gateway.now)
        self._effect: effects.Effect | None = None
        self._steps = 0
        self._place: Deployment | None = None
        self._booked: limits.Reservation | None = None
        self._liveness: Liveness | None = None
        """Of the backend that it was sent to."""
        self._rest = 0.0
        """Seconds from the begin of the answer to its end, at the backend that it was sent to."""

    def step(self, result: effects.Result | None) -> None:
        """Lead the engine to its next effect that takes time. None as the result begins."""
        gateway, run = self._gateway, self._run
        self._steps += 1
        try:
            while True:
                self._effect = effect = run.send(result)  # type: ignore[arg-type]  # None begins it
                if gateway.standing:
                    gateway.changed()
                result = self._carry_out(effect)
                if result is None:
                    return
        except StopIteration:
            self.done = True
            if gateway.standing:
                gateway.changed()
            gateway.ended(self)

    def _carry_out(self, effect: effects.Effect) -> effects.Result | None:
        """Do what takes no time, and give its result; begin what takes time, and give None."""
        gateway, now = self._gateway, self._gateway.now
        match effect:
            case effects.Send():
                self._send(effect)
                return None
            case effects.Deliver():
                self._deliver()
                return None
            case effects.CountTokens():
                return effects.Counted(now, Count(self.recorded.prompt, True, "recorded"))
            case effects.CountDelivered():
                return effects.Counted(now, Count(self.recorded.completion, True, "recorded"))
            case effects.Reserve():
                decision = gateway.counters.reserve(effect.reservation, now + gateway.unix_offset)
                if decision.admitted:
                    gateway.reservations[effect.reservation.id] = effect.reservation
                return effects.Reserved(now, decision)
            case effects.Book():
                gateway.reservations[effect.reservation.id] = effect.reservation
                gateway.counters.book(effect.reservation, now + gateway.unix_offset)
            case effects.Settle():
                gateway.reservations.pop(effect.reservation.id, None)
                gateway.counters.settle(
                    effect.reservation, effect.tokens, now + gateway.unix_offset, effect.cost
                )
            case effects.Cancel():
                gateway.reservations.pop(effect.reservation.id, None)
                gateway.counters.cancel(effect.reservation, now + gateway.unix_offset)
            case effects.Choose():
                return effects.Chosen(now, effect.candidates)
            case effects.Renew():
                return effects.Renewed(now, is_new=False)
            case effects.Announce() | effects.Return() | effects.Reject():
                pass
            case effects.Drain():
                return effects.Drained(now, REFUSAL_BODY)
            case effects.WaitInQueue():
                gateway.stand(self, effect.until)
                return None
            case effects.WaitUntil():
                self._later(effects.Done(effect.at))
                return None
        return effects.Done(now)

    def _later(self, result: effects.Result, used: int | None = None) -> None:
        """Go on at the time of a result, if the call is still where it is now. ``used``: see `_settle`."""
        self._gateway.at(result.now, self._go_on, self._steps, result, used)

    def _go_on(self, steps: int, result: effects.Result, used: int | None) -> None:
        if self._steps == steps and not self.done:
            if used is not None and self._booked is not None:
                self._settle(used)
            if isinstance(result, effects.Answered) and self._liveness is not None:
                # What it sends comes bit by bit until the end.
                self._liveness.hear(result.now + self._rest)
            self.step(result)

    def _send(self, effect: effects.Send) -> None:
        gateway, recorded, backend = self._gateway, self.recorded, effect.attempt.backend
        fault = recorded.faults.get(backend.name)
        now, latest = gateway.now, gateway.now + effect.timeouts.first_byte
        self._liveness = effect.attempt.liveness
        begin, self._rest = self._pace(backend.name)
        if fault is not None:
            self._fail(fault.status, min(now + fault.seconds, latest))
            return
        place = gateway.deployment(backend)
        bound = self.call.edits.get("max_tokens", recorded.most)
        cost = recorded.prompt + (recorded.completion if bound is None else bound)
        decision = place.admit(cost, now)
        if not decision.admitted:
            self._later(effects.Answered(now + REFUSAL_SECONDS, 429, dict(decision.headers)))
            return
        self._place, self._booked = place, decision.reservation
        if now + begin > latest:
            self._fail(None, latest)
            return
        self._later(effects.Answered(now + begin, recorded.status, dict(decision.headers)))

    def _fail(self, status: int | None, at: float) -> None:
        if status is not None:
            self._later(effects.Answered(at, status, {}))
            return
        self._settle(0)
        self._later(effects.Failed(at, FailureKind.TIMEOUT, "no answer in time"))

    def _pace(self, backend: str) -> tuple[float, float]:
        """Return the seconds until the answer begins, and from then to its end."""
        recorded = self.recorded
        if backend == recorded.decision.backend and recorded.begin is not None:
            rest = (recorded.duration or recorded.begin) - recorded.begin
            return recorded.begin, max(0.0, rest)
        speed = self._gateway.recording.speed(backend)
        text = recorded.completion / speed.tokens
        if recorded.stream:
            return speed.begin, text
        return max(speed.begin, text), 0.0

    def _deliver(self) -> None:
        now, recorded = self._gateway.now, self.recorded
        completion = min(recorded.completion, self.call.edits.get("max_tokens", recorded.completion))
        usage = Usage(recorded.prompt, completion, recorded.prompt + completion, recorded.cached)
        end = effects.Ended(now + self._rest, complete=True, first_content=now, usage=usage)
        self._later(end, usage.total_tokens)

    def _settle(self, used: int) -> None:
        if self._place is not None and self._booked is not None:
            self._place.settle(self._booked, used, self._gateway.now)
        self._place = self._booked = None

    def hang_up(self) -> None:
        """The client goes, as it did when it was recorded."""
        if self.done:
            return
        self.gone = True
        if isinstance(self._effect, effects.WaitInQueue):
            self._gateway.wake(self.call.id)
            return
        self._settle(self.recorded.prompt)
        now, is_delivered = self._gateway.now, isinstance(self._effect, effects.Deliver)
        so_far = effects.Ended(now, complete=False) if is_delivered else None
        self.step(effects.ClientGone(now, so_far))

    def woken(self) -> None:
        """It is released, or its time in the queue is over."""
        if not self.done:
            now = self._gateway.now
            self.step(effects.ClientGone(now) if self.gone else effects.Done(now))


@cache
def _target(operation: str) -> Target:
    return parse_target("POST", PATHS[operation])


def _body(recorded: RecordedCall, target: Target) -> RequestBody:
    return RequestBody(
        operation=target.operation,
        raw=b"",
        parsed={},
        text_size=BYTES_A_TOKEN * recorded.prompt,
        model=recorded.deployment,
        stream=recorded.stream,
        max_tokens=recorded.most,
    )
