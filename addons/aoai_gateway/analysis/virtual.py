"""The engine in virtual time: recorded calls are led through it, against backends of the simulator's limiter.

Nothing waits: a heap of events is the clock. Each call's generator is led as the proxy leads it; what the
proxy reads from the wire is here what the recording and the limiter say. Prompts were not recorded, so a body
is never decoded: the engine asks for large ones to be decoded elsewhere, and is given the recorded facts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.recorded import PATHS, Decision
from aoai_gateway.analysis.virtual_backends import Deployment, limits_of
from aoai_gateway.engine.call import Call, FailureKind, Outcome, Setup
from aoai_gateway.engine.effects import (
    Announce,
    Answered,
    Book,
    Cancel,
    Choose,
    Chosen,
    ClientGone,
    CountDelivered,
    Counted,
    CountTokens,
    Deliver,
    Done,
    Drain,
    Drained,
    Ended,
    Failed,
    ParseBody,
    Parsed,
    Reject,
    Renew,
    Renewed,
    Reserve,
    Reserved,
    Return,
    Send,
    Settle,
    WaitInQueue,
    WaitUntil,
)
from aoai_gateway.engine.engine import Engine
from aoai_gateway.quota.counters import LEASE, Counters
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.tokens import Count
from aoai_gateway.usage.record import cost_of
from aoai_gateway.wire.bodies import LARGE_BODY
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target, parse_target
from aoai_gateway.wire.usage import Usage
from aoai_simulator import limits

if TYPE_CHECKING:
    from collections.abc import Generator

    from aoai_gateway.analysis.recorded import RecordedCall, Recording
    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.effects import Effect, Result
    from aoai_gateway.routing.backends import Backend

BEGIN = 1_000.0
"""When the first call comes, on the clock of the engine."""

REFUSAL_SECONDS = 0.05
"""Until a backend's 429 is there."""

REFUSAL_BODY = b'{"error":{"code":"429","message":"Rate limit exceeded."}}'

BYTES_A_TOKEN = 4
"""Of a prompt's text, for what the engine estimates from its size."""

UNREAD = bytes(LARGE_BODY + 1)
"""Stands for every body; the engine has it decoded elsewhere."""

LOOK_SECONDS = 0.001
"""Between two looks at the line that only time brings about."""


@dataclass(slots=True)
class Outcomes:
    """What became of one call under a candidate."""

    call: RecordedCall
    decision: Decision
    waited: float
    spilled: bool
    cost: float | None


class VirtualGateway:
    """One candidate configuration, and the recorded traffic that is led through it."""

    def __init__(self, config: Config, recording: Recording, *, seed: int = 1) -> None:
        self.config = config
        self.setup = Setup(config, RoutingTable(config))
        self.recording = recording
        self.engine = Engine(Random(seed))  # noqa: S311 - to be the same each time
        self.counters = Counters()
        self.now = BEGIN
        self.wall = recording.calls[0].at - BEGIN if recording.calls else 0.0
        self.outcomes: list[Outcomes] = []
        self.unknown_clients = 0
        """Calls of clients that the configuration does not have."""
        self.reservations: dict[str, Any] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._arrived = 0
        self._deployments: dict[str, Deployment] = {}
        self._clients = {client.name: client for client in config.clients if client.enabled}
        self._standing: dict[str, tuple[_Running, float]] = {}
        self._asked = False
        self._timer = math.inf

    # --- the clock -------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int], None] = lambda _: None) -> list[Outcomes]:
        """Lead all calls to their ends. ``progress`` is told now and then how many have come."""
        self.at(BEGIN + LEASE / 3, self._renew)
        for number, recorded in enumerate(self.recording.calls):
            self._pass_until(recorded.at - self.wall)
            self._arrive(recorded)
            if not number & 0xFFF:
                progress(number)
        self._pass_until(math.inf)
        return self.outcomes

    def _pass_until(self, time: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= time:
            at, _, what = heapq.heappop(heap)
            self.now = max(self.now, at)
            what()
        if time < math.inf:
            self.now = max(self.now, time)

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Do something at a time of the engine's clock."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what))

    def _renew(self) -> None:
        self.counters.renew(list(self.reservations.values()), self.now + self.wall)
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
        call = Call(
            # Files may hold a record twice.
            id=str(self._arrived),
            client=client,
            target=_target(recorded.operation),
            setup=self.setup,
            started=self.now,
            wall=self.wall,
            headers={},
        )
        running = _Running(self, recorded, call)
        running.step(None)
        if recorded.patience is not None and not running.done:
            self.at(self.now + recorded.patience, running.hang_up)

    def ended(self, running: _Running) -> None:
        """Note what became of a call."""
        call = running.call
        backend = call.attempt.backend.name if call.attempt is not None else ""
        if call.error is not None:
            decision = Decision(call.error.code, "")
        elif call.outcome is Outcome.OK and call.status == 429:
            decision = Decision("backend", backend)
        elif call.outcome in (Outcome.OK, Outcome.TRUNCATED):
            decision = Decision("served", backend)
        else:
            decision = Decision(call.outcome.value if call.outcome else "error", "")
        spilled = bool(call.attempts) and (len(call.attempts) > 1 or bool(call.attempts[0].skipped))
        self.outcomes.append(Outcomes(running.recorded, decision, call.waited, spilled, cost_of(call)))

    def deployment(self, backend: Backend) -> Deployment:
        """Give a backend's limiter: declared limits, those of a simulated one, or what was observed."""
        found = self._deployments.get(backend.name)
        if found is None:
            observed = self.recording.observed_limits.get(backend.name)
            found = self._deployments[backend.name] = Deployment(limits_of(backend, observed))
        return found

    # --- the waiting line, as runtime/queue_waker.py has it ----------------------------------------------

    def stand(self, running: _Running, until: float) -> None:
        """Let a call wait in its line."""
        self._standing[running.call.id] = (running, until)
        self._look()

    def changed(self) -> None:
        """Look whether a call can be released, once in a turn."""
        if self._standing and not self._asked:
            self._asked = True
            self.at(self.now, self._look)

    def wake(self, ident: str) -> None:
        """End the wait of a call."""
        standing = self._standing.pop(ident, None)
        if standing is not None:
            self.at(self.now, standing[0].woken)

    def _look(self) -> None:
        self._asked = False
        for request in self.engine.scheduler.serve_waiting(self.now):
            self.wake(request.call_id)
        for ident in [each for each, (_, until) in self._standing.items() if until <= self.now]:
            self.wake(ident)
        if not self._standing:
            self._timer = math.inf
            return
        due = min(min(until for _, until in self._standing.values()), self.engine.scheduler.look_again)
        self._timer = due = max(due, self.now + LOOK_SECONDS)
        if due < math.inf:
            self.at(due, lambda: self._look() if self._timer == due else None)


class _Running:
    """One call under way."""

    __slots__ = (
        "_booked",
        "_effect",
        "_gateway",
        "_place",
        "_run",
        "_steps",
        "call",
        "done",
        "gone",
        "recorded",
    )

    def __init__(self, gateway: VirtualGateway, recorded: RecordedCall, call: Call) -> None:
        self._gateway = gateway
        self.recorded = recorded
        self.call = call
        self.done = False
        self.gone = False
        self._run: Generator[Effect, Result] = gateway.engine.run(
            call, "application/json", UNREAD, gateway.now
        )
        self._effect: Effect | None = None
        self._steps = 0
        self._place: Deployment | None = None
        self._booked: limits.Reservation | None = None

    def step(self, result: Result | None) -> None:
        """Lead the engine to its next effect that takes time."""
        gateway = self._gateway
        self._steps += 1
        while True:
            try:
                effect = next(self._run) if result is None else self._run.send(result)
            except StopIteration:
                self.done = True
                gateway.changed()
                gateway.ended(self)
                return
            self._effect = effect
            gateway.changed()
            result = self._at_once(effect)
            if result is None:
                self._begin(effect)
                return

    def _at_once(self, effect: Effect) -> Result | None:
        """Do what takes no time; None if it does take time."""
        gateway, now = self._gateway, self._gateway.now
        match effect:
            case ParseBody():
                return Parsed(now, _body(self.recorded, effect.target))
            case CountTokens():
                return Counted(now, Count(self.recorded.prompt, True, "recorded"))
            case CountDelivered():
                return Counted(now, Count(self.recorded.completion, True, "recorded"))
            case Reserve():
                decision = gateway.counters.reserve(effect.reservation, now + gateway.wall)
                if decision.admitted:
                    gateway.reservations[effect.reservation.id] = effect.reservation
                return Reserved(now, decision)
            case Book():
                gateway.reservations[effect.reservation.id] = effect.reservation
                gateway.counters.book(effect.reservation, now + gateway.wall)
            case Settle():
                gateway.reservations.pop(effect.reservation.id, None)
                gateway.counters.settle(effect.reservation, effect.tokens, now + gateway.wall, effect.cost)
            case Cancel():
                gateway.reservations.pop(effect.reservation.id, None)
                gateway.counters.cancel(effect.reservation, now + gateway.wall)
            case Choose():
                return Chosen(now, effect.candidates)
            case Renew():
                return Renewed(now, is_new=False)
            case Announce() | Return() | Reject():
                pass
            case Drain():
                return Drained(now, REFUSAL_BODY)
            case _:
                return None
        return Done(now)

    def _begin(self, effect: Effect) -> None:
        gateway = self._gateway
        match effect:
            case Send():
                self._send(effect)
            case Deliver():
                self._deliver(effect)
            case WaitInQueue():
                gateway.stand(self, effect.until)
            case WaitUntil():
                self._later(effect.at, lambda: Done(gateway.now))

    def _later(self, time: float, result: Callable[[], Result]) -> None:
        """Go on at a time, if the call is still where it is now."""
        steps = self._steps

        def go_on() -> None:
            if self._steps == steps and not self.done:
                self.step(result())

        self._gateway.at(time, go_on)

    def _send(self, effect: Send) -> None:
        gateway, recorded, backend = self._gateway, self.recorded, effect.attempt.backend
        fault = recorded.faults.get(backend.name)
        now, latest = gateway.now, gateway.now + effect.deadlines.first_byte
        if fault is not None:
            self._fail(effect, fault.status, min(now + fault.seconds, latest))
            return
        place = gateway.deployment(backend)
        bound = self.call.edits.get("max_tokens", recorded.most)
        cost = recorded.prompt + (recorded.completion if bound is None else bound)
        decision = place.admit(cost, now)
        if not decision.admitted:
            headers = dict(decision.headers)
            self._later(now + REFUSAL_SECONDS, lambda: Answered(gateway.now, 429, headers))
            return
        self._place, self._booked = place, decision.reservation
        begin, _ = self._pace(backend.name)
        if now + begin > latest:
            self._fail(effect, None, latest)
            return
        status, headers = recorded.status, dict(decision.headers)
        self._later(now + begin, lambda: Answered(gateway.now, status, headers))

    def _fail(self, effect: Send, status: int | None, at: float) -> None:
        gateway = self._gateway
        if status is not None:
            self._later(at, lambda: Answered(gateway.now, status, {}))
            return
        self._settle(0)
        self._later(at, lambda: Failed(gateway.now, FailureKind.TIMEOUT, "no answer in time"))

    def _pace(self, backend: str) -> tuple[float, float]:
        """Give the seconds until the answer begins, and from then to its end."""
        recorded = self.recorded
        if backend == recorded.decision.backend and recorded.begin is not None:
            rest = (recorded.duration or recorded.begin) - recorded.begin
            return recorded.begin, max(0.0, rest)
        speed = self._gateway.recording.speed(backend)
        text = recorded.completion / speed.tokens
        if recorded.stream:
            return speed.begin, text
        return max(speed.begin, text), 0.0

    def _deliver(self, effect: Deliver) -> None:
        gateway, recorded = self._gateway, self.recorded
        _, rest = self._pace(effect.attempt.backend.name)
        began = gateway.now
        completion = min(recorded.completion, self.call.edits.get("max_tokens", recorded.completion))
        usage = Usage(recorded.prompt, completion, recorded.prompt + completion, recorded.cached)

        def end() -> Result:
            self._settle(usage.total_tokens)
            return Ended(gateway.now, complete=True, first_content=began, usage=usage)

        self._later(gateway.now + rest, end)

    def _settle(self, used: int) -> None:
        if self._place is not None and self._booked is not None:
            self._place.settle(self._booked, used, self._gateway.now)
        self._place = self._booked = None

    def hang_up(self) -> None:
        """The client goes, as it did when it was recorded."""
        if self.done:
            return
        self.gone = True
        if isinstance(self._effect, WaitInQueue):
            self._gateway.wake(self.call.id)
            return
        self._settle(self.recorded.prompt)
        so_far = Ended(self._gateway.now, complete=False) if isinstance(self._effect, Deliver) else None
        self.step(ClientGone(self._gateway.now, so_far))

    def woken(self) -> None:
        """It is released, or its time in line is over."""
        if not self.done:
            now = self._gateway.now
            self.step(ClientGone(now) if self.gone else Done(now))


_TARGETS: dict[str, Target] = {}


def _target(operation: str) -> Target:
    found = _TARGETS.get(operation)
    if found is None:
        found = _TARGETS[operation] = parse_target("POST", PATHS[operation])
    return found


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
