"""Drives the engine in virtual time: backends follow a script, the clock moves as the script says.

A :class:`World` is one gateway's engine, its configuration and its clock. `World.call` leads one call from
its body to its end and gives a :class:`Trace` of what the engine wanted. What must hold for every call
whatever happens (see `Trace.check`) is checked for every call of every test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mitmproxy.http import Headers

from aoai_gateway.config.fallbacks import fallbacks_of
from aoai_gateway.config.models import Aoai, Client, Config, Endpoint, Standin, VirtualDeployment
from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.engine.call import Call, Outcome, Setup
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
    Effect,
    Ended,
    Failed,
    ParseBody,
    Parsed,
    Refused,
    Reject,
    Renew,
    Renewed,
    Reserve,
    Reserved,
    Result,
    Return,
    Send,
    Settle,
    WaitInQueue,
    WaitUntil,
)
from aoai_gateway.engine.engine import Engine
from aoai_gateway.quota.counters import Counters
from aoai_gateway.routing.backends import Backend, RoutingTable
from aoai_gateway.tokens import Counter
from aoai_gateway.wire.backend_errors import Refusal
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target
from aoai_gateway.wire.usage import Usage

DEPLOYMENT = "gpt"
CHAT = "/openai/v1/chat/completions"
RESPONSES = "/openai/v1/responses"
EMBEDDINGS = "/openai/v1/embeddings"

ANYBODY = Client(name="anybody", key="key-of-anybody")


# --- configurations ----------------------------------------------------------------------------------


def config(*backends: str | tuple[str, Mapping[str, Any]], **parts: Any) -> Config:
    """Make a configuration whose one pool is these backends, in this order.

    A backend is written ``standin@endpoint``, or just a name for both; with a mapping of the standin's
    fields beside it if need be. Neighbours at one endpoint share it.
    """
    standins: dict[str, list[Standin]] = {}
    for backend in backends:
        name, fields = (backend, {}) if isinstance(backend, str) else backend
        standin, _, endpoint = name.partition("@")
        standins.setdefault(endpoint or standin, []).append(Standin(name=standin, **fields))
    endpoints = [
        Endpoint(
            name=endpoint,
            url=f"https://{endpoint}.example/",
            key=f"key-of-{endpoint}",
            virtual_deployments=(VirtualDeployment(name=DEPLOYMENT, standins=tuple(here)),),
            **parts.get("endpoint", {}),
        )
        for endpoint, here in standins.items()
    ]
    rest = {"clients": (ANYBODY,), **parts}
    rest.pop("endpoint", None)
    return Config(aoai=Aoai(endpoints=tuple(endpoints)), **rest)


# --- what backends do --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Answer with a status after so many seconds. ``body`` of a failure: None if it does not end in time."""

    status: int = 200
    after: float = 0.1
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = b'{"error":{"code":"some_code"}}'
    takes: float = 1.0
    """From the answer's headers to its end."""
    complete: bool = True
    failed: str = ""
    """How its stream says that it has failed."""
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    seconds: float | None = None
    state: str | None = None
    """That of the response or the run which it tells of."""


@dataclass(frozen=True)
class Fail:
    """Come to nothing after so many seconds; with ``reused``, the first time on an old connection."""

    kind: FailureKind
    after: float = 0.1
    reused: bool = False
    reason: str = ""
    fault: Fault | None = None


@dataclass(frozen=True)
class Refuse:
    """Refuse inside a 200's stream."""

    after: float = 0.1
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 429
    """The status that its error stands for."""


@dataclass(frozen=True)
class Block:
    """Answer that another deployment may serve the call; where it cannot fall back, that is the answer."""

    refusal: Refusal
    status: int = 400
    after: float = 0.1
    usage: Usage | None = None

    @property
    def answer(self) -> Answer:
        return Answer(self.status, self.after, usage=self.usage, takes=0.0)


@dataclass(frozen=True)
class Hang:
    """Say nothing until the deadline has passed."""


type Behaviour = Answer | Fail | Refuse | Block | Hang

OK = Answer()
DROP = Fail(FailureKind.DROPPED)
IDLE_CLOSED = Fail(FailureKind.DROPPED, reused=True)
NO_CONNECTION = Fail(FailureKind.CONNECT, reason="connection refused")

KEY_REFUSED = Answer(
    401,
    body=b'{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API '
    b'endpoint. Make sure to provide a valid key for an active subscription."}}',
)


def throttled(**headers: str) -> Answer:
    """A 429; ``retry_after_ms="20"`` is a header of that name."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(429, headers=named, body=b'{"error":{"code":"429"}}')


# --- one call ----------------------------------------------------------------------------------------


@dataclass
class Trace:
    """What the engine wanted in one call. ``effects`` with the time of each."""

    call: Call
    effects: list[tuple[float, Effect]] = field(default_factory=list)
    breaks_at_send: list[str] = field(default_factory=list)
    """Backends that were sent to although they were in a break."""
    gone: bool = False

    @property
    def sends(self) -> list[str]:
        """Names of the backends sent to, a resend counted again."""
        return [e.attempt.backend.name for _, e in self.effects if isinstance(e, Send)]

    @property
    def sent(self) -> list[Send]:
        return [e for _, e in self.effects if isinstance(e, Send)]

    @property
    def final(self) -> Effect | None:
        """The effect that answers the client."""
        ends = [e for _, e in self.effects if isinstance(e, Deliver | Return | Reject)]
        return ends[0] if ends else None

    @property
    def error(self) -> GatewayError:
        """The gateway's own answer."""
        assert isinstance(self.final, Reject)
        return self.final.error

    @property
    def announced(self) -> list[str]:
        return [e.attempt.backend.name for _, e in self.effects if isinstance(e, Announce)]

    def check(self, configuration: Config) -> None:
        """Check what holds for every call."""
        call, kinds = self.call, [type(effect) for _, effect in self.effects]
        finals = [kind for kind in kinds if kind in (Deliver, Return, Reject)]
        assert len(finals) == 1 or (self.gone and not finals), "one answer, unless its client has gone"
        after = kinds[kinds.index(finals[0]) + 1 :] if finals else []
        late = 2 if call.unproven else 0
        assert len(after) <= 2 + late, "a booking of tokens and one of money end; one is made late"
        ends = {Settle, Cancel, Reserve} if call.unproven else {Settle, Cancel}
        assert set(after) <= ends, "nothing but a booking's end is wanted after the answer"
        booked = [e.reservation.id for e in (e for _, e in self.effects) if isinstance(e, Settle | Cancel)]
        assert len(booked) == len(set(booked)), "each booking is settled once"
        most = 2 + call.unproven
        assert len(booked) <= most or call.asked or call.setup.config.derived.get(fallbacks_of), "one booking"
        assert sum(isinstance(e, Settle) for _, e in self.effects) <= most, "a call is counted once"
        assert call.outcome is not None
        assert call.ended is not None
        assert call.ended >= call.started
        assert (call.outcome is Outcome.CLIENT_GONE) == self.gone
        assert len(call.attempts) <= configuration.replay.max_attempts
        for attempt in call.attempts:
            sends = [send for send in self.sent if send.attempt is attempt]
            assert len(sends) == 1 + attempt.resent
            assert attempt.ended is not None
            assert attempt.ended >= attempt.started
            assert (attempt.failure is None) or attempt.reason
            assert "example" not in attempt.reason, "no URL in a reason"
        tried = [attempt.backend.key for attempt in call.attempts]
        assert call.cls is None or call.cls.may_wait or len(tried) == len(set(tried)), "none is tried twice"
        assert [a.number for a in call.attempts] == list(range(1, len(tried) + 1))
        assert not self.breaks_at_send, "nothing is sent to a backend that is in a break"
        failed = [a.backend.name for a in call.attempts if a.failure is not None]
        if not self.gone:
            assert self.announced == failed, "every failed attempt is told, once"


class Stage:
    """One engine, its configuration, its clients' counters and its clock."""

    def __init__(self, configuration: Config, *, random: Random | None = None) -> None:
        self.now = 1_000.0
        self.unix_offset = 1_700_000_000.0
        self.engine = Engine(random or Random(1))
        self.counters = Counters()
        self.counter = Counter()
        self.announcing_takes = 0.0
        """Seconds that plugins take over a failed attempt."""
        self.engine.shared.unfinished.settle = self.at_once
        self.adopt(configuration)

    def adopt(self, configuration: Config) -> None:
        """Put another configuration in force."""
        self.config = configuration
        self.setup = Setup(configuration, RoutingTable(configuration))

    def backend(self, name: str) -> Backend:
        return next(b for b in self.setup.table.backends if name in (b.name, b.endpoint.name))

    def make_call(
        self,
        ident: str,
        client: Client,
        *,
        method: str = "POST",
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
        own_token: bool = False,
        unproven: bool = False,
        consult: bool = False,
        claims: Mapping[str, str] | None = None,
    ) -> Call:
        """Make a call that comes now."""
        return Call(
            id=ident,
            client=client,
            target=parse_target(method, path),
            setup=self.setup,
            started=self.now,
            unix_offset=self.unix_offset,
            headers=_headers(headers or {}),
            claims=claims or {},
            brings_own_token=own_token,
            unproven=unproven,
            consult=consult,
        )

    def at_once(self, effect: Effect) -> Result | None:
        """Do what takes no time; None if it does."""
        match effect:
            case Announce():
                self.now += self.announcing_takes
            case Return() | Reject():
                pass
            case CountDelivered():
                return Counted(self.now, self.counter.count_delivered(effect.delivered, effect.model))
            case CountTokens():
                operation = effect.target.operation.name
                count = self.counter.count_request(operation, effect.body.parsed, effect.model)
                return Counted(self.now, count)
            case Reserve():
                decision = self.counters.reserve(effect.reservation, self.now + self.unix_offset)
                return Reserved(self.now, decision)
            case Book():
                self.counters.book(effect.reservation, self.now + self.unix_offset)
            case Settle():
                self.counters.settle(
                    effect.reservation, effect.tokens, self.now + self.unix_offset, effect.cost
                )
            case Cancel():
                self.counters.cancel(effect.reservation, self.now + self.unix_offset)
            case _:
                return None
        return Done(self.now)


class World(Stage):
    """One call after the other; backends follow scripts: a list each (its last entry stays in force)."""

    def __init__(self, configuration: Config, *, random: Random | None = None) -> None:
        super().__init__(configuration, random=random)
        self.while_waiting: list[Callable[[], object]] = []
        """Done one by one at the ends of calls' waits, before these ask again."""
        self.parsing_takes = 0.1
        """Seconds, of a large body."""
        self.renews = True
        """Whether there is another credential, where a backend refuses the one that it was shown."""
        self.scripts: dict[str, list[Behaviour]] = {}

    def script(self, **behaviours: Behaviour | Sequence[Behaviour]) -> World:
        """Say what endpoints do; of several standins at one endpoint, ``standin_at_endpoint``."""
        for name, behaviour in behaviours.items():
            listed = [behaviour] if not isinstance(behaviour, Sequence) else list(behaviour)
            self.scripts[name.replace("_at_", "@")] = listed
        return self

    def in_break(self, name: str) -> float | None:
        """Seconds for which a backend is still out, or None."""
        brk = self.engine.breaks.on(self.backend(name), self.now)
        return None if brk is None else brk.remaining(self.now)

    def call(
        self,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        method: str = "POST",
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
        client: Client = ANYBODY,
        own_token: bool = False,
        unproven: bool = False,
        choose: Callable[[Sequence[Backend]], Sequence[Backend] | GatewayError] | None = None,
        gone_at: int | None = None,
        claims: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        **members: Any,
    ) -> Trace:
        """Lead a call to its end. ``gone_at``: the client hangs up at the effect of this number, from 0."""
        document = {"model": DEPLOYMENT, "messages": [], **members} if body is None else body
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        call = self.make_call(
            f"call at {self.now}",
            client,
            method=method,
            path=path,
            headers=headers,
            own_token=own_token,
            unproven=unproven,
            consult=choose is not None,
            claims=claims,
        )
        trace = Trace(call)
        run = self.engine.run(call, content_type, raw, self.now)
        result: Result | None = None
        behaviour: Behaviour = OK
        while True:
            try:
                effect = next(run) if result is None else run.send(result)
            except StopIteration:
                break
            trace.effects.append((self.now, effect))
            if gone_at == len(trace.effects) - 1 and not isinstance(effect, _NOT_WAITED_FOR):
                trace.gone = True
                self.now += 0.01
                result = ClientGone(self.now)
                continue
            match effect:
                case Send():
                    backend = effect.attempt.backend
                    if not effect.attempt.resent and self.engine.breaks.on(backend, self.now):
                        trace.breaks_at_send.append(backend.name)
                    behaviour = self._next(backend)
                    if isinstance(behaviour, Block):
                        if call.may_fall_back(behaviour.refusal):
                            result = self._block(behaviour)
                            continue
                        behaviour = behaviour.answer
                    result = self._send(effect, behaviour)
                case Drain():
                    assert isinstance(behaviour, Answer)
                    result = Drained(self.now, behaviour.body)
                case Renew():
                    self.now += 0.2
                    result = Renewed(self.now, is_new=self.renews)
                case Choose():
                    assert choose is not None
                    said = choose(effect.candidates)
                    refused = isinstance(said, GatewayError)
                    result = Chosen(self.now, () if refused else said, said if refused else None)
                case Deliver():
                    assert isinstance(behaviour, Answer)
                    self.now += behaviour.takes
                    result = Ended(
                        self.now,
                        behaviour.complete,
                        reason="" if behaviour.complete else "broke off its stream",
                        failed=behaviour.failed,
                        usage=behaviour.usage,
                        model=behaviour.model,
                        response_id=behaviour.response_id,
                        seconds=behaviour.seconds,
                        state=behaviour.state,
                    )
                case ParseBody():
                    self.now += self.parsing_takes
                    try:
                        assert effect.coding is None
                        body = parse_body(effect.target, effect.content_type, effect.raw)
                        result = Parsed(self.now, body)
                    except GatewayError as error:
                        result = Refused(self.now, error)
                case WaitUntil():
                    assert effect.at > self.now, "a wait is for something"
                    self.now = effect.at
                    if self.while_waiting:
                        self.while_waiting.pop(0)()
                    result = Done(self.now)
                case WaitInQueue():
                    self._stand_in_line(call, effect)
                    result = Done(self.now)
                case _:
                    result = self.at_once(effect)
                    trace.gone = trace.gone or isinstance(result, ClientGone)
        trace.check(self.config)
        return trace

    def _stand_in_line(self, call: Call, effect: WaitInQueue) -> None:
        """Let time pass until the call is released, or its time is over. Nobody else is there."""
        scheduler = self.engine.scheduler
        while call.id not in {request.call_id for request in scheduler.serve_waiting(self.now)}:
            if self.now >= effect.until:
                break
            self.now = min(max(scheduler.look_again, self.now + 0.001), effect.until)
            if self.while_waiting:
                self.while_waiting.pop(0)()

    def _next(self, backend: Backend) -> Behaviour:
        script = self.scripts.get(backend.name) or self.scripts.get(backend.endpoint.name) or [OK]
        return script.pop(0) if len(script) > 1 else script[0]

    def _block(self, block: Block) -> Result:
        self.now += block.after
        told = Ended(self.now, complete=True, usage=block.usage) if block.status == 200 else None
        kind = FailureKind.STATUS if told is None else FailureKind.REFUSED_IN_STREAM
        return Failed(
            self.now,
            kind,
            f"{block.status} {block.refusal}",
            status=block.status,
            headers=_headers({}),
            body=b"{}",
            refusal=block.refusal,
            answer=told,
        )

    def _send(self, effect: Send, behaviour: Behaviour) -> Result:
        match behaviour:
            case Answer():
                self.now += behaviour.after
                return Answered(self.now, behaviour.status, _headers(behaviour.headers))
            case Refuse():
                self.now += behaviour.after
                kind = FailureKind.REFUSED_IN_STREAM
                headers = _headers(behaviour.headers)
                reason = f"refused in its stream: {behaviour.status}"
                return Failed(
                    self.now, kind, reason, status=behaviour.status, headers=headers, body=b"data: {}\n\n"
                )
            case Hang():
                self.now += effect.timeouts.first_byte
                seconds = effect.timeouts.first_byte
                return Failed(self.now, FailureKind.TIMEOUT, f"no answer within {seconds:.3g} s")
            case Fail():
                self.now += behaviour.after
                reused = behaviour.reused and not effect.fresh
                reason = behaviour.reason or behaviour.kind.value
                return Failed(self.now, behaviour.kind, reason, reused, fault=behaviour.fault)


def world(*backends: str | tuple[str, Mapping[str, Any]], **parts: Any) -> World:
    """Make a world of one pool; see `config`."""
    return World(config(*backends, **parts))


_NOT_WAITED_FOR = Announce | Return | Reject | CountTokens | CountDelivered | Reserve | Book | Settle | Cancel
"""Effects that are carried out whether or not the client is still there."""


class Draws(Random):
    """Randomness that is written down."""

    def __init__(self, numbers: Iterable[float]) -> None:
        super().__init__(0)
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)


def _headers(headers: Mapping[str, str]) -> Headers:
    return Headers([(name.encode(), value.encode()) for name, value in headers.items()])
