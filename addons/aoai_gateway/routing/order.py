"""In which order the backends of a pool are tried, and why one of them is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from aoai_gateway.routing.capacity import MOST_EXPECTED
from aoai_gateway.routing.demand import DEMAND_SECONDS, STEADY_SECONDS, Left

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping
    from collections.abc import Set as AbstractSet

    from aoai_gateway.config.endpoints import Strategy
    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.breaker import Breaks
    from aoai_gateway.routing.capacity import Capacities, Capacity
    from aoai_gateway.routing.demand import ClientShares, Demands


FLEX = "flex"
STANDARD_ONLY = frozenset({FLEX, "priority"})
"""Service tiers that only standard deployments have."""


class Cause(StrEnum):
    """Why a backend is not tried."""

    ELSEWHERE = "elsewhere"
    """The call refers to state that another endpoint holds."""
    STREAMS_ONLY = "streams only"
    """It was drawn not to take this call, which is no stream."""
    TOO_LARGE = "too large"
    """The call is larger than its whole limit."""
    TIER = "service tier"
    """Provisioned throughput does not have the service tier that the call asks for."""
    CLASS = "class"
    """It is not for calls of this priority class."""
    BREAK = "break"
    HALF_OPEN = "half open"
    """Its break is over, and another call is trying whether it is well again."""
    FULL = "full"
    """Its capacity, as far as it is known, leaves no room for the call."""
    KEPT_FREE = "kept free"
    """There is room, but it is left to higher classes, to clients of its class that have had less, or to
    smaller calls of its client."""
    FAILED = "failed"
    """It has failed this call."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A backend that is not tried, and why. ``seconds``: when it will be again; None if it never will."""

    backend: Backend
    reason: str
    seconds: float | None
    cause: Cause = Cause.BREAK


@dataclass(slots=True)
class Order:
    """The backends to try, best first, and the ones left out. Never changed, and made for each call."""

    candidates: tuple[Backend, ...]
    skipped: tuple[Skip, ...]

    @property
    def soonest(self) -> float | None:
        """Seconds until one that is left out is to be had; None: none ever will be. For a later call."""
        return min((skip.seconds for skip in self.skipped if skip.seconds is not None), default=None)

    def opens(self, tried: Collection[BackendKey]) -> float | None:
        """Seconds until the same call may be sent to one of those left out; None: there is none to wait for.

        It may be sooner, when calls end that have room elsewhere.
        """
        waits = (s.seconds for s in self.skipped if s.seconds is not None and s.backend.key not in tried)
        return min(waits, default=None)

    def broken_for(self, tried: Collection[BackendKey]) -> float:
        """Seconds for which breaks alone keep all of them from that call, even if capacity comes free."""
        waits = (
            s.seconds if s.cause is Cause.BREAK else 0.0
            for s in self.skipped
            if s.seconds is not None and s.backend.key not in tried
        )
        return min(waits, default=math.inf)


@dataclass(slots=True, eq=False)
class RoutingRequest:
    """The needs of one call, by which a pool's backends are judged."""

    call_id: str
    client: str
    cls: PriorityClass
    pool: Pool
    deployment: str
    """The virtual deployment, or the requested name at an endpoint without any."""
    queue_name: str = ""
    """The name of its queue: the virtual deployment, if it is one."""
    tokens: int = 0
    """The tokens that a backend's limiter will count for it: its prompt, and the bound of its completion."""
    grows: bool = False
    """Whether the limiter counts the completion as it is written. Then its tokens are a likely figure."""
    size: int = 0
    """Bytes of its body, which is held while it waits."""
    arrived: float = 0.0
    weight: float = 1.0
    """Its client's."""
    strategy: Strategy = "ordered"
    takes: Collection[BackendKey] | None = None
    """The backends that take it by their ``non_streaming_fraction``; None: all do."""
    lots: Mapping[BackendKey, float] = field(default_factory=dict)
    """For the strategy weighted: the smaller, the earlier."""
    home: str | None = None
    """The endpoint that holds the state which it refers to: no other can serve it."""
    higher: tuple[str, ...] = ()
    """The classes above its own."""
    limited: bool = False
    """Whether it goes only where there is known to be room."""
    tried: set[BackendKey] = field(default_factory=set)
    """The backends that have failed it, and are not asked again."""
    too_small: AbstractSet[BackendKey] = frozenset()
    """The backends whose whole limit is below its tokens."""
    expected: tuple[Mapping[BackendKey, int], float] | None = None
    """The tokens that lower classes leave free for others like it, by backend, and since when."""
    given: float = 0.0
    """When it was given a backend last."""
    backend: Backend | None = None
    """The one that it has been given, until its attempt there has ended."""
    capacity: Capacity | None = None
    """Of that one."""
    pushed_out: bool = False
    """Whether it lost its place in a full queue to the call of a client that has fewer."""
    skipped: tuple[Skip, ...] = ()
    """Those that were passed over then."""

    operation: str = ""
    """Its operation, such as ``chat.completions``."""
    tier: str | None = None
    """The service tier that it asks for."""

    _marks: tuple[str, ...] | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks of breaks that hold for a part of the calls: see `Break.only`."""
        if self._marks is None:
            self._marks = (
                f"client {self.client}",
                f"operation {self.operation}",
                self.own_operation,
                f"service tier {self.tier}",
            )
        return self._marks

    @property
    def own_operation(self) -> str:
        """The mark of breaks that hold for its operation, asked for by its client."""
        return f"operation {self.operation} of client {self.client}"

    @property
    def kind(self) -> Hashable:
        """The key of requests that differ in size only: without a backend for one, larger ones get none."""
        takes = None if self.takes is None else frozenset(self.takes)
        failed = frozenset(self.tried), frozenset(self.too_small)
        return (
            self.cls,
            self.higher,
            self.limited,
            self.pool,
            self.deployment,
            self.home,
            self.tier,
            takes,
            failed,
        )


class RoutingState(Protocol):
    """The state of backends, and of the calls for them, by which backends are chosen: a scheduler's."""

    breaks: Breaks
    capacities: Capacities
    demands: Demands
    client_shares: ClientShares

    def is_doubtful(self, backend: Backend, now: float) -> bool:
        """Whether others are better for now, since its endpoint is silent."""
        ...


def order(request: RoutingRequest, state: RoutingState, now: float, *, has_deficit: bool = False) -> Order:
    """Order a pool for one call.

    ``has_deficit``: its class need not leave anything to higher ones, nor its client to others.
    """
    candidates: list[Backend] = []
    skipped: list[Skip] = []
    has_failures = bool(request.tried or state.breaks.by_scope or state.breaks.probes.half_open)
    left = state.client_shares.left(request.cls.name, request.client, now) if request.limited else None
    for backend in request.pool:
        skip = _never(request, backend)
        if skip is None and has_failures:
            skip = _after_failure(request, backend, now, state.breaks)
        if skip is None and request.limited:
            skip = _without_room(request, backend, now, state, left, has_deficit=has_deficit)
        if skip is None:
            candidates.append(backend)
        else:
            skipped.append(skip)
    if request.strategy == "weighted":
        candidates.sort(key=lambda backend: request.lots.get(backend.key, math.inf))
    elif request.strategy == "most_headroom" and len(candidates) > 1:
        candidates.sort(key=lambda backend: -_headroom(request, backend, now, state.capacities))
    if len(candidates) > 1:
        doubtful = [backend for backend in candidates if state.is_doubtful(backend, now)]
        if doubtful:
            candidates = [backend for backend in candidates if backend not in doubtful] + doubtful
    return Order(tuple(candidates), tuple(skipped))


def opens(
    request: RoutingRequest,
    state: RoutingState,
    now: float,
    *,
    has_deficit: bool = False,
    before: float = math.inf,
) -> float | None:
    """Return the seconds until a call may be sent to one of its backends; None: there is none to wait for.

    0 says that there may be one now: `order` decides. A queue asks this of many calls, to find the first one;
    so what comes no sooner than the time ``before`` is not computed exactly.
    """
    soonest: float | None = None
    left: Left | None = None
    is_left_known = not request.limited
    breaks = state.breaks
    has_failures = bool(request.tried or breaks.by_scope or breaks.probes.half_open)
    for backend in request.pool:
        if backend.key in request.tried or _never(request, backend) is not None:
            continue
        skip = _after_failure(request, backend, now, breaks) if has_failures else None
        if skip is not None:
            wait = skip.seconds
        elif not request.limited:
            return 0.0
        else:
            capacity = state.capacities.of(backend, request.deployment)
            if breaks.is_unknown(backend, request.cls.name, now, capacity.told_at):
                return 0.0
            wait = capacity.when(request.tokens, 0.0 if has_deficit else _leaves_free(request), now)
            wait = None if wait is None else max(wait, _next_step(request, capacity, now))
            may_be_first = wait is not None and (soonest is None or wait < soonest) and now + wait < before
            if may_be_first and not has_deficit:
                if not is_left_known:
                    left = state.client_shares.left(request.cls.name, request.client, now)
                    is_left_known = True
                wait = _wait_beside(request, capacity, wait or 0.0, state, left, now)
        if wait == 0:
            return 0.0
        if wait is not None and (soonest is None or wait < soonest):
            soonest = wait
    return soonest


def _next_step(request: RoutingRequest, capacity: Capacity, now: float) -> float:
    """Seconds until a call may go to a backend of unknown size that has refused one.

    A class that may not wait sends no more at once than comes, and would be refused here instead of there.
    """
    return capacity.next_step(now) if request.cls.may_wait else 0.0


def able(request: RoutingRequest) -> Pool:
    """Return the backends that may serve a call at some time."""
    return tuple(backend for backend in request.pool if _never(request, backend) is None)


def _never(request: RoutingRequest, backend: Backend) -> Skip | None:
    """Return why a backend is never tried for the call."""
    if request.home is not None and backend.endpoint.name != request.home:
        return Skip(backend, f"the call refers to state held at {request.home}", None, Cause.ELSEWHERE)
    if request.takes is not None and backend.key not in request.takes:
        reason = "left to streaming calls (non_streaming_fraction)"
        return Skip(backend, reason, None, Cause.STREAMS_ONLY)
    if backend.key in request.too_small:
        return Skip(backend, "the call is larger than its whole limit", None, Cause.TOO_LARGE)
    if backend.provisioned and request.tier in STANDARD_ONLY and _has_standard(request):
        reason = f"provisioned throughput does not have the service tier {request.tier}"
        return Skip(backend, reason, None, Cause.TIER)
    cls = request.cls
    if not (cls.may_use_provisioned and cls.may_spill):
        beside_provisioned = any(each.provisioned for each in request.pool)
        if not cls.may_use(provisioned=backend.provisioned, beside_provisioned=beside_provisioned):
            return Skip(backend, f"not for the class {cls.name} (may_use)", None, Cause.CLASS)
    return None


def _after_failure(request: RoutingRequest, backend: Backend, now: float, breaks: Breaks) -> Skip | None:
    """Return why a backend is not tried after a failure, of this call or of others."""
    cls = request.cls.name
    brk = breaks.on(backend, now, cls, request.marks)
    if brk is not None:
        return Skip(backend, brk.reason, brk.remaining(now), Cause.BREAK)
    if backend.key in request.tried:
        return Skip(backend, "it has failed this call", 0.0, Cause.FAILED)
    wait = breaks.when(backend, cls, now, request.call_id, request.marks)
    if wait:
        reason = "half open after a break: another call is trying it"
        return Skip(backend, reason, wait, Cause.HALF_OPEN)
    return None


def _without_room(
    request: RoutingRequest,
    backend: Backend,
    now: float,
    state: RoutingState,
    left: Left | None,
    *,
    has_deficit: bool,
) -> Skip | None:
    """Return why a backend's capacity does not let the call in at this time.

    ``left``: what its client leaves to others of its class, if it has had more than its part;
    ``has_deficit``: as in `order`.
    """
    capacity = state.capacities.of(backend, request.deployment)
    if state.breaks.is_unknown(backend, request.cls.name, now, capacity.told_at):
        # A probe is to find out whether a refusal's figures for its capacity still hold.
        return None
    leave_free = 0.0 if has_deficit else _leaves_free(request)
    alone = capacity.when(request.tokens, leave_free, now)
    if alone is None:
        return Skip(backend, "the call is larger than its whole limit", None, Cause.TOO_LARGE)
    step = _next_step(request, capacity, now)
    wait = alone = max(alone, step)
    if not has_deficit:
        wait = _wait_beside(request, capacity, alone, state, left, now)
    if wait == 0:
        return None
    if not has_deficit and (
        not alone or (leave_free and not step and capacity.fits(request.tokens, 0.0, now))
    ):
        reason = f"the room that it has is left to {_kept_for(request, capacity, state, left, now)}"
        return Skip(backend, reason, wait, Cause.KEPT_FREE)
    return Skip(backend, "no room for the call within its limit", wait, Cause.FULL)


def _kept_for(
    request: RoutingRequest, capacity: Capacity, state: RoutingState, left: Left | None, now: float
) -> str:
    """Name the calls to which a call leaves the room that there is."""
    kept_for = []
    if left is not None and state.demands.of(request.cls, capacity.key, now):
        kept_for.append("clients of its class that have had less")
    elif _leaves_free(request) or state.demands.above(request.cls, request.higher, capacity.key, now):
        kept_for.append("higher classes")
    if is_large(request, state):
        kept_for.append("smaller calls of its client")
    return " and to ".join(kept_for)


def is_large(request: RoutingRequest, state: RoutingState) -> bool:
    """Whether a call leaves room for smaller ones of its client. The highest class leaves none."""
    if not request.cls.rank:
        return False
    return state.client_shares.is_large(request.cls.name, request.client, request.tokens)


def _leaves_free(request: RoutingRequest) -> float:
    return request.cls.leave_free if request.cls.rank else 0.0


def _wait_beside(
    request: RoutingRequest,
    capacity: Capacity,
    alone: float,
    state: RoutingState,
    left: Left | None,
    now: float,
) -> float:
    """Return the seconds until it has room beside what it leaves to others. ``alone``: without them."""
    expected = to_others = 0.0
    most, demands = MOST_EXPECTED, state.demands
    if request.cls.rank:
        expected = demands.above(request.cls, request.higher, capacity.key, now)
    if is_large(request, state):
        part = state.client_shares.smaller(request.cls.name, request.client, now)
        # The rest of a burst that has room is not kept waiting.
        to_others = part * demands.of(request.cls, capacity.key, now, STEADY_SECONDS)
    if left is not None:
        to_others += left.demand * demands.of(request.cls, capacity.key, now)
    expected += to_others
    if left is not None:
        # The more it has had beyond its part, the less stays open to it: with twice its part, 2.5 %.
        most = 1 - (1 - MOST_EXPECTED) / left.excess**3
    if not expected:
        return alone
    wait = capacity.when_beside(request.tokens, _leaves_free(request), now, expected, most)
    if wait <= alone:
        return alone
    # Should they ask for less than expected, there is room earlier.
    earliest = max(alone, DEMAND_SECONDS) if to_others else alone
    if wait <= earliest:
        return wait
    forgotten = demands.forgotten_in(request.cls, request.higher, capacity.key, now)
    return min(wait, max(forgotten, earliest))


def _has_standard(request: RoutingRequest) -> bool:
    """Whether the call, which asks for a tier of standard deployments, may use one of its pool."""
    mine = (b for b in request.pool if request.home is None or b.endpoint.name == request.home)
    may_spill = request.cls.may_use(provisioned=False, beside_provisioned=True)
    return may_spill and any(not backend.provisioned for backend in mine)


def _headroom(request: RoutingRequest, backend: Backend, now: float, capacities: Capacities) -> float:
    headroom = capacities.of(backend, request.deployment).headroom(now)
    return 1.0 if headroom is None else headroom


def draw_takers(pool: Pool, draw: Callable[[], float]) -> frozenset[BackendKey] | None:
    """Draw, once per call, which backends take a non-streaming request; None means all of them.

    ``draw`` returns a number in [0, 1). The last backend takes every call that reaches it: it may be the last
    only because those after it have been switched off, or are not for this client.
    """
    if all(b.non_streaming_fraction >= 1 for b in pool[:-1]):
        return None
    return frozenset(
        b.key
        for b in pool
        if b is pool[-1] or b.non_streaming_fraction >= 1 or draw() < b.non_streaming_fraction
    )


def draw_lots(pool: Pool, draw: Callable[[], float]) -> dict[BackendKey, float]:
    """Draw a random order in which each backend comes first in proportion to its weight, of those left.

    Exponential variates with the weights as rates, as in weighted sampling without replacement (Efraimidis
    and Spirakis, 2006). ``draw`` gives a number in [0, 1).
    """
    return {
        backend.key: -math.log(1.0 - draw()) / (backend.standin.weight if backend.standin else 1.0)
        for backend in pool
    }
