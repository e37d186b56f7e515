"""Many calls at once over one engine, in virtual time: minutes of traffic in the time of a few steps.

A :class:`Traffic` is a heap of events and a clock. Each :class:`Caller` is one request to the gateway: its
engine generator is led as the proxy leads it, with the proxy's own `UpstreamResponse` for every attempt; the
backends are those of `azure`. The queue is driven as `runtime/queue_waker.py` drives it: asked after
every step of any call, at the time that the scheduler names, and when a call's own time is over.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mitmproxy.proxy.layers.http import HttpEvent, ResponseEndOfMessage, ResponseProtocolError

from aoai_gateway.config.models import Client, Config, Priority
from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.engine.effects import (
    ClientGone,
    Deliver,
    Done,
    Drain,
    Effect,
    Ended,
    Failed,
    Reject,
    Result,
    Send,
    WaitInQueue,
    WaitUntil,
)
from aoai_gateway.proxy.stream_events import DEADLINE_SLACK
from aoai_gateway.proxy.upstream_response import UpstreamResponse
from aoai_gateway.runtime.queue_waker import SHORTEST_PAUSE
from aoai_gateway.wire.usage import Usage
from tests.engine.scenarios.azure import LATENCY, Azure, Deployment, Served, State, Work
from tests.engine_driver import DEPLOYMENT, Stage, Trace, config

EPSILON = 1e-9


@dataclass
class Caller:
    """One request to the gateway, and what its client makes of it."""

    traffic: Traffic
    trace: Trace
    work: Work
    over: Callable[[Caller], None] | None = None
    run: Any = None
    pending: Effect | None = None
    received: UpstreamResponse | None = None
    served: Served | None = None
    released: list[float] = field(default_factory=list)
    """When it was given a backend from the queue."""
    stood: list[tuple[float, float]] = field(default_factory=list)
    """From when until when it stood in a queue."""
    steps: int = 0
    done: bool = False

    @property
    def call(self) -> Call:
        return self.trace.call

    @property
    def sends(self) -> list[tuple[float, str]]:
        """When it was sent where."""
        return [(at, e.attempt.backend.name) for at, e in self.trace.effects if isinstance(e, Send)]

    @property
    def sent_at(self) -> float:
        """Seconds from the begin of the traffic until it was first sent to a backend."""
        return self.sends[0][0] - self.traffic.begun

    @property
    def ok(self) -> bool:
        return self.call.outcome is Outcome.OK and self.call.status == 200

    @property
    def code(self) -> str:
        """The code of the gateway's own answer."""
        return self.trace.error.code

    @property
    def headers(self) -> Mapping[str, str]:
        """What the client is told when it is refused."""
        final = self.trace.final
        if isinstance(final, Reject):
            return {name.lower(): value for name, value in final.error.headers}
        return {}

    # --- the engine ------------------------------------------------------------------------------------

    def step(self, result: Result | None = None) -> None:
        """Lead the engine to its next effect that takes time."""
        here = self.traffic
        self.steps += 1
        self.pending = None
        while True:
            try:
                effect = next(self.run) if result is None else self.run.send(result)
            except StopIteration:
                self._end()
                return
            here.changed()
            self.trace.effects.append((here.now, effect))
            result = here.at_once(effect)
            if isinstance(effect, Deliver):
                result = self._begin_delivery()
            if result is None:
                break
        self.pending = effect
        match effect:
            case Send():
                self._send(effect)
            case Drain():
                assert self.received is not None
                self.received.drain(here.now)
                self._watch()
            case WaitInQueue():
                here.stand(self, effect.until)
            case WaitUntil():
                here.at(effect.at, self._still(lambda: self.step(Done(here.now))))
            case Deliver():
                pass
            case _:
                raise AssertionError(f"no driver does {effect}")

    def _still(self, what: Callable[[], None]) -> Callable[[], None]:
        """Do something only if the call is still where it is now."""
        steps = self.steps
        return lambda: what() if self.steps == steps and not self.done else None

    def _end(self) -> None:
        self.done = True
        self._abandon()
        self.traffic.ended(self)
        if self.over is not None:
            self.over(self)

    def _abandon(self) -> None:
        if self.served is not None:
            self.served.close()
            self.served = None

    # --- an attempt ------------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        here, attempt = self.traffic, effect.attempt
        cls = self.call.cls
        assert cls is not None
        brk = here.engine.breaks.on(attempt.backend, here.now, cls.name)
        if brk is not None and brk.since < here.now - EPSILON and not attempt.resent:
            self.trace.breaks_at_send.append(attempt.backend.name)
        self.received = UpstreamResponse(
            self.call,
            attempt,
            reused=False,
            timeouts=effect.timeouts,
            remove_usage=False,
            now=here.now,
        )
        place = here.azure.places[attempt.backend.endpoint.name]
        if place.state == "refusing":
            place.sent_into.append(here.now)
            here.after(LATENCY, self._still(self._not_connected))
            return
        self.served = here.azure.serve(attempt.backend.name, self.work, self._hear)
        self._watch()

    def _not_connected(self) -> None:
        self.step(Failed(self.traffic.now, FailureKind.CONNECT, "connection refused"))

    def _hear(self, event: HttpEvent) -> None:
        """Something came from the backend, or its connection ended."""
        here, received = self.traffic, self.received
        assert received is not None
        if isinstance(self.pending, Deliver):
            if isinstance(event, ResponseProtocolError):
                self.step(Ended(here.now, complete=False, reason="broke off its answer"))
            elif isinstance(event, ResponseEndOfMessage):
                self.step(self._answer())
            else:
                received.came(here.now)
                self._watch()
            return
        result = received.receive(event, here.now)
        if result is None:
            self._watch()
        else:
            self.step(result)

    def _begin_delivery(self) -> Result | None:
        received = self.received
        assert received is not None
        if received.ended or not received.streaming:
            return self._answer()
        self.pending = Deliver(self.call.attempts[-1])
        received.came(self.traffic.now)
        self._watch()
        return None

    def _answer(self) -> Ended:
        work = self.work
        usage = Usage(work.prompt, work.completion, work.prompt + work.completion)
        return Ended(self.traffic.now, complete=True, usage=usage)

    def _watch(self) -> None:
        received = self.received
        assert received is not None
        if received.due < math.inf:
            # As with the proxy's timers, an old one finds that there is more time now.
            self.traffic.watch(self, received.due)

    def look_at_the_time(self) -> None:
        """The time of an attempt's deadline has come, perhaps."""
        here, received = self.traffic, self.received
        if self.done or received is None or self.served is None:
            return
        if received.due > here.now + DEADLINE_SLACK:
            self._watch()
        elif isinstance(self.pending, Deliver):
            self._abandon()
            self.step(Ended(here.now, complete=False, reason="nothing came for too long"))
        elif isinstance(self.pending, Send | Drain):
            result = received.deadline_passed(here.now)
            if result is None:
                self._watch()
            else:
                self._abandon()
                self.step(result)

    # --- the client ------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """The client goes."""
        if self.done:
            return
        here = self.traffic
        self.trace.gone = True
        if isinstance(self.pending, WaitInQueue):
            here.left(self)
            return
        self._abandon()
        so_far = Ended(here.now, complete=False) if isinstance(self.pending, Deliver) else None
        self.step(ClientGone(here.now, so_far))

    def woken(self) -> None:
        """It is released, or its time in the queue is over."""
        here = self.traffic
        assert isinstance(self.pending, WaitInQueue)
        self.stood[-1] = (self.stood[-1][0], here.now)
        self.step(ClientGone(here.now) if self.trace.gone else Done(here.now))


class Traffic(Stage):
    """The gateway, its callers, its backends and the clock that they share."""

    def __init__(self, configuration: Config, deployments: Mapping[str, Deployment], seed: int = 1) -> None:
        super().__init__(configuration, random=Random(seed))
        self.dice = Random(seed)
        self.begun = self.now
        self.azure = Azure(deployments, lambda: self.now, self.after)
        self.callers: list[Caller] = []
        self.running: dict[str, Caller] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stands: dict[str, tuple[Caller, float]] = {}
        self._asked = False
        self._timer = math.inf
        self._watched: dict[str, float] = {}

    # --- the clock -------------------------------------------------------------------------------------

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Do something at a time of the gateway's clock."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self.at(self.now + seconds, what)

    def on(self, seconds: float, what: Callable[[], object]) -> None:
        """Do something so many seconds after the begin of the traffic."""
        self.at(self.begun + seconds, lambda: (what(), None)[1])

    def jump(self, seconds: float) -> None:
        """Let the clock jump: events that are due in between come late."""
        self.now += seconds

    def run(self, seconds: float = math.inf) -> Traffic:
        """Let time pass until so many seconds after the begin, or until nothing more happens."""
        while self._heap and self._heap[0][0] <= self.begun + seconds:
            at, _, what = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            what()
        if seconds < math.inf:
            self.now = max(self.now, self.begun + seconds)
        return self

    def watch(self, caller: Caller, due: float) -> None:
        """Look at a caller's deadline when it is due; one timer for each caller is enough."""
        ident = caller.call.id
        if self._watched.get(ident, math.inf) <= due:
            return
        self._watched[ident] = due

        def look() -> None:
            if self._watched.get(ident) == due:
                del self._watched[ident]
                caller.look_at_the_time()

        self.at(due, look)

    # --- the queue, as runtime/queue_waker.py has it -------------------------------------------------------

    def stand(self, caller: Caller, until: float) -> None:
        """Let a caller wait in its queue."""
        self._stands[caller.call.id] = (caller, until)
        caller.stood.append((self.now, self.now))
        self._look()

    def left(self, caller: Caller) -> None:
        """Wake a caller that has gone."""
        self._wake(caller.call.id)

    def changed(self) -> None:
        """Look whether a call can be released, once in a turn."""
        if self._stands and not self._asked:
            self._asked = True
            self.at(self.now, self._look)

    def _look(self) -> None:
        self._asked = False
        for request in self.engine.scheduler.serve_waiting(self.now):
            # It may have been woken already, since its time was over: then it has a backend after all.
            self.running[request.call_id].released.append(self.now)
            self._wake(request.call_id)
        for ident in [each for each, (_, until) in self._stands.items() if until <= self.now]:
            self._wake(ident)
        self._set_timer()

    def _wake(self, ident: str) -> None:
        standing = self._stands.pop(ident, None)
        if standing is not None:
            self.at(self.now, standing[0].woken)

    def _set_timer(self) -> None:
        due = min((until for _, until in self._stands.values()), default=math.inf)
        if self._stands:
            due = min(due, self.engine.scheduler.look_again)
        self._timer = due = max(due, self.now + SHORTEST_PAUSE)
        if due < math.inf:
            self.at(due, lambda: self._look() if self._timer == due else None)

    @property
    def waiting(self) -> list[Caller]:
        """The callers that wait in the queue."""
        return [caller for caller, _ in self._stands.values()]

    # --- callers ---------------------------------------------------------------------------------------

    def client(self, name: str) -> Client:
        return next(client for client in self.config.clients if client.name == name)

    def call(
        self,
        client: str,
        *,
        prompt: int = 500,
        most: int = 200,
        completion: int | None = None,
        stream: bool = False,
        timeout: float | None = None,
        patience: float | None = None,
        priority: str | None = None,
        over: Callable[[Caller], None] | None = None,
        **members: Any,
    ) -> Caller:
        """Send a request now. ``timeout``: what its client says; ``patience``: after which it hangs up."""
        headers = {} if timeout is None else {"x-stainless-read-timeout": f"{timeout:g}"}
        if priority is not None:
            headers["x-gateway-priority"] = priority
        call = self.make_call(f"call {len(self.callers)}", self.client(client), headers=headers)
        text = "word" * prompt
        body = {
            "model": DEPLOYMENT,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": most,
            "stream": stream,
            **members,
        }
        work = Work(prompt, most, min(most, completion or most), stream)
        caller = Caller(self, Trace(call), work, over)
        caller.run = self.engine.run(call, "application/json", json.dumps(body).encode(), self.now)
        self.callers.append(caller)
        self.running[call.id] = caller
        caller.step()
        if patience is not None:
            self.after(patience, caller.hang_up)
        return caller

    def come(self, seconds: float, client: str, **but: Any) -> None:
        """Send a request so many seconds after the begin."""
        self.on(seconds, lambda: self.call(client, **but))

    def ended(self, caller: Caller) -> None:
        """Check a call that has ended."""
        del self.running[caller.call.id]
        self._watched.pop(caller.call.id, None)
        # The proxy asks once more when a generator has returned.
        self.changed()
        caller.trace.check(self.config)

    def of(self, client: str) -> list[Caller]:
        """Return a client's requests, by arrival."""
        return [caller for caller in self.callers if caller.call.client.name == client]

    def become(self, endpoint: str, state: State) -> None:
        """Let an endpoint hang, reset, or be well again."""
        self.azure.become(endpoint, state)

    def check_nothing_is_left(self) -> None:
        """Check that every call has ended and nothing of any is kept."""
        scheduler = self.engine.scheduler
        assert not self.running, "every call ends"
        assert not self._stands, "no call waits for ever"
        assert not any(len(queue) for _, queue in scheduler.queues())
        assert not scheduler._in_flight
        for _, queue in scheduler.queues():
            assert len(queue) == 0
            assert queue._total_in_flight == 0
        for capacity in scheduler.capacities._capacities.values():
            assert not capacity._bookings, "no booking is left"
        for liveness in scheduler._livenesses.values():
            assert not liveness._pending, "no call is waited for"
        for half_open in _half_open(self):
            assert not half_open.leases, "no probe is left"
        assert self.counters.open_reservations == 0


def traffic(
    *backends: str | tuple[str, Mapping[str, Any]],
    azure: Mapping[str, Deployment],
    classes: Sequence[Mapping[str, Any]],
    clients: Sequence[Mapping[str, Any]] = (),
    seed: int = 1,
    **parts: Any,
) -> Traffic:
    """Make traffic over one pool (see `engine_driver.config`); without clients, one for each class."""
    named = clients or [{"name": each["name"], "priority": each["name"]} for each in classes]
    configuration = config(
        *backends,
        priorities=tuple(Priority.model_validate(each) for each in classes),
        clients=tuple(Client.model_validate({"key": f"key-of-{each['name']}", **each}) for each in named),
        **parts,
    )
    return Traffic(configuration, azure, seed)


def _half_open(here: Traffic) -> Iterator[Any]:
    for classes in here.engine.breaks.probes.half_open.values():
        yield from classes.values()
