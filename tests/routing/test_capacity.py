"""What is known of a backend's capacity, with the simulator's limiter as the truth, in virtual time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers

from aoai_gateway.routing.backends import Declared, RoutingTable
from aoai_gateway.routing.capacity import EXPECTED_SECONDS, Capacities, Capacity
from aoai_gateway.routing.recovery import REFUSES_WITHIN
from aoai_gateway.routing.windows import SlidingWindow
from aoai_gateway.wire.hints import RateLimits, read_rate_limits, retry_hint
from aoai_simulator import limits as truth
from tests.engine_driver import config

NOTHING = RateLimits()


# --- against the truth -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """A call: what it reserves, what it uses, and how long it takes."""

    estimate: int
    used: int
    seconds: float


@dataclass
class World:
    """One backend, other callers of it, and a caller with more to send than fits."""

    limits: truth.Limits
    capacity: Capacity | None
    """None: the caller asks the limiter itself, which is the most that is possible."""
    seed: int
    minutes: float = 4
    demand: float = 1.8
    tokens_per_minute: int = 60_000
    filled_for: float = 0.0
    others: float = 0.0
    error: float = 0.0
    """By how much, at most, the caller's estimate is off, as a share."""
    leave_free: float = 0.0
    sent: int = 0
    refused: int = 0
    served: int = 0
    others_served: int = 0
    now: float = 0.0
    queue: deque[Ask] = field(default_factory=deque)

    def run(self) -> World:
        self._random = Random(self.seed)
        self._state = self.limits.empty()
        if self.filled_for:
            self._state = truth.fill(self.limits, self._state, 0.0, self.filled_for)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()
        self._closed_until = self._woken = 0.0
        self._arrive(self.demand, self._ours)
        if self.others:
            self._arrive(self.others, self._theirs)
        while self._events and self._events[0][0] < self.minutes * 60:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._send()
        return self

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), event))

    def _wake(self, when: float) -> None:
        if self._woken <= self.now or when < self._woken:
            self._woken = when
            self._at(when, lambda: None)

    def _arrive(self, demand: float, arrives: Callable[[Ask], None]) -> None:
        rate = demand * self.tokens_per_minute / 60 / 1300
        when = 0.0
        # All is drawn now, so that it is the same in each run.
        while when < self.minutes * 60:
            when += self._random.expovariate(rate)
            prompt, most = self._random.randint(100, 1500), self._random.choice((256, 512, 1024))
            out = int(most * self._random.uniform(0.3, 1))
            ask = Ask(prompt + most, prompt + out, 0.3 + out / 100)
            self._at(when, lambda ask=ask: arrives(ask))

    def _admit(self, ask: Ask) -> truth.Decision:
        decision, self._state = truth.admit(self.limits, self._state, ask.estimate, self.now)
        return decision

    def _settle(self, ask: Ask, decision: truth.Decision) -> None:
        assert decision.reservation is not None
        self._state = truth.settle(self.limits, self._state, decision.reservation, ask.used, self.now)

    def _theirs(self, ask: Ask) -> None:
        decision = self._admit(ask)
        if decision.admitted:
            self.others_served += ask.used
            self._at(self.now + ask.seconds, lambda: self._settle(ask, decision))

    def _ours(self, ask: Ask) -> None:
        self.queue.append(ask)

    def _send(self) -> None:
        while self.queue and self.now >= self._closed_until:
            ask = self.queue[0]
            if self.capacity is None:
                if not truth.admit(self.limits, self._state, ask.estimate, self.now)[0].admitted:
                    self._wake(self.now + 0.05)
                    return
                self.queue.popleft()
                self._arrived("", ask, 0)
                continue
            estimate = round(ask.estimate * (1 + self.error * (self.sent % 5 - 2) / 2))
            wait = self.capacity.when(estimate, self.leave_free, self.now)
            assert wait is not None
            assert self.capacity.fits(estimate, self.leave_free, self.now) == (wait == 0)
            if wait:
                self._wake(self.now + wait)
                return
            self.queue.popleft()
            self.sent += 1
            name = str(self.sent)
            self.capacity.begin(name, estimate, self.now)
            delay = self._delay()
            self._at(self.now + delay, lambda n=name, a=ask, d=delay: self._arrived(n, a, d))

    def _delay(self) -> float:
        return 0.005 + 0.045 * (self.sent * 7 % 10) / 10

    def _arrived(self, name: str, ask: Ask, delay: float) -> None:
        decision = self._admit(ask)
        headers = Headers([(key.encode(), value.encode()) for key, value in decision.headers])
        told = read_rate_limits(headers)
        if not decision.admitted:
            self._at(self.now + delay, lambda: self._refused(name, told, retry_hint(headers, None, 0)))
            return
        self._at(self.now + 0.3, lambda: self._learned(name, told))
        self._at(self.now + ask.seconds, lambda: self._settle(ask, decision))
        self._at(self.now + ask.seconds + delay, lambda: self._ended(name, ask))

    def _refused(self, name: str, told: RateLimits, hint: float | None) -> None:
        self.refused += 1
        assert self.capacity is not None
        self.capacity.refused(name, told, hint, self.now)
        self._closed_until = max(self._closed_until, self.now + (hint or 1))
        self._wake(self._closed_until)

    def _learned(self, name: str, told: RateLimits) -> None:
        if self.capacity is not None:
            self.capacity.learn(name, told, self.now)

    def _ended(self, name: str, ask: Ask) -> None:
        self.served += ask.used
        if self.capacity is not None:
            self.capacity.end(name, ask.used, self.now)


PAYG = truth.PaygLimits(60_000, 360)
LIMITS = {
    "payg": (PAYG, Declared(60_000)),
    "ptu": (truth.PtuLimits(60_000), Declared(60_000, provisioned=True)),
    "few requests": (truth.PaygLimits(60_000, 36), Declared(60_000, 36)),
    "nothing given back": (truth.PaygLimits(60_000, 360, unused_returned=False), Declared(60_000)),
    "undeclared": (PAYG, Declared()),
    "declared too much": (PAYG, Declared(100_000, 1_000)),
    "undeclared ptu": (truth.PtuLimits(60_000), Declared(provisioned=True)),
}


def refused_and_served(kind: str, **how: Any) -> tuple[float, float]:
    """Return the share of the calls sent that was refused, and what was served of the most possible."""
    limits, declared = LIMITS[kind]
    sent = refused = served = possible = 0
    for seed in range(3):
        most = World(limits, None, seed, **{**how, "error": 0.0}).run()
        world = World(limits, Capacity(declared), seed, **how).run()
        sent, refused = sent + world.sent, refused + world.refused
        # Who asks the limiter all the time takes from the others, too: what counts is what all are served.
        served += world.served + world.others_served
        possible += most.served + most.others_served
    return refused / sent, served / possible


@pytest.mark.parametrize("kind", [kind for kind in LIMITS if kind != "undeclared ptu"])
def test_who_asks_first_is_hardly_refused_and_hardly_wastes(kind: str) -> None:
    refused, served = refused_and_served(kind)
    assert refused <= 0.05
    assert served >= 0.95


@pytest.mark.parametrize("kind", ["payg", "ptu"])
def test_the_same_from_full_limits(kind: str) -> None:
    refused, served = refused_and_served(kind, filled_for=40)
    assert refused <= 0.05
    assert served >= 0.95


@pytest.mark.parametrize("kind", ["payg", "ptu"])
def test_the_same_with_estimates_that_are_off_by_a_tenth(kind: str) -> None:
    refused, served = refused_and_served(kind, error=0.1)
    assert refused <= 0.05
    assert served >= 0.95


@pytest.mark.parametrize("kind", ["payg", "ptu", "undeclared"])
def test_beside_others_who_take_a_third_unseen_it_is_refused_more_and_wastes_little(kind: str) -> None:
    """What they send next is unknown; what they sent, the next answer tells."""
    refused, served = refused_and_served(kind, others=0.33)
    assert refused <= 0.25
    assert served >= 0.9


def test_a_provisioned_backend_of_undeclared_size_wastes_nothing_but_is_refused_more() -> None:
    """How much of it a call takes is not known: only its answers tell how full it is."""
    refused, served = refused_and_served("undeclared ptu")
    assert refused <= 0.4
    assert served >= 0.95


@pytest.mark.parametrize(("kind", "share"), [("payg", 0.3), ("ptu", 0.3)])
def test_a_share_is_left_free(kind: str, share: float) -> None:
    limits, declared = LIMITS[kind]
    world = World(limits, Capacity(declared), 1, leave_free=share).run()
    assert world.refused == 0
    probe = Capacity(declared)
    assert probe.fits(1_000, share, 0)
    state = world._state
    decision, _ = truth.admit(limits, state, int(60_000 * share * 0.9), world.now)
    assert decision.admitted, "a call of a higher class, as large as nearly all of the share"


# --- rule by rule ------------------------------------------------------------------------------------


def test_nothing_known_means_that_there_may_be_room() -> None:
    capacity = Capacity()
    capacity.begin("1", 10**6, 0)
    assert capacity.headroom(0) is None
    assert capacity.fits(10**6, 0.5, 0)
    assert capacity.when(10**6, 0.5, 0) == 0


def test_what_is_under_way_counts_and_what_was_not_used_is_given_back() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 600, 0)
    assert capacity.headroom(0) == pytest.approx(0.4)
    assert not capacity.fits(500, 0, 1)
    assert capacity.when(500, 0, 1) == pytest.approx(59.375)
    capacity.end("1", 200, 2)
    assert capacity.headroom(2) == pytest.approx(0.8)
    assert capacity.fits(500, 0.3, 2)
    assert not capacity.fits(501, 0.3, 2)


def test_what_was_used_beyond_it_counts_where_a_limiter_counts_as_it_is_written() -> None:
    capacity = Capacity(Declared(1_000))
    for number, grows in enumerate((False, True)):
        capacity.begin(str(number), 100, 0)
        capacity.end(str(number), 300, 1, grows=grows)
    assert capacity.headroom(1) == pytest.approx(0.6)


def test_what_failed_is_given_back_whole_and_what_is_unknown_stays() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 600, 0)
    capacity.end("1", 0, 0)
    assert capacity.headroom(0) == 1
    capacity.begin("2", 600, 0)
    capacity.end("2", None, 0)
    capacity.end("2", 0, 0)
    assert capacity.headroom(0) == pytest.approx(0.4)


def test_a_call_above_the_whole_limit_never_fits_and_one_above_what_is_left_free_fits_alone() -> None:
    capacity = Capacity(Declared(1_000))
    assert capacity.when(1_001, 0, 0) is None
    assert not capacity.fits(1_001, 0, 0)
    assert capacity.fits(1_000, 0.5, 0)
    capacity.begin("1", 10, 0)
    assert not capacity.fits(1_000, 0.5, 0)


def test_a_limit_below_the_declared_one_counts_until_it_is_old() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 0, 0)
    capacity.learn("1", RateLimits(limit_tokens=500), 0)
    assert capacity.when(600, 0, 599) is None
    assert capacity.fits(600, 0, 600)


def test_others_fade_unless_they_are_heard_of_again() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 0, 0)
    capacity.learn("1", RateLimits(limit_tokens=1_000, remaining_tokens=200), 0)
    assert capacity.headroom(0) == pytest.approx(0.2)
    assert capacity.headroom(30) == pytest.approx(0.6)
    assert capacity.when(600, 0, 0) == pytest.approx(30)
    assert capacity.headroom(60) == 1


def test_a_backend_that_claims_more_room_than_there_can_be_is_not_believed() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 900, 0)
    capacity.learn("1", RateLimits(limit_tokens=1_000, remaining_tokens=1_000), 0)
    assert capacity.headroom(0) == pytest.approx(0.1)


def test_a_refusal_closes_for_as_long_as_it_says() -> None:
    capacity = Capacity(Declared(1_000))
    capacity.begin("1", 300, 0)
    capacity.refused("1", NOTHING, 7, 0)
    assert not capacity.fits(300, 0, 6.9)
    assert capacity.when(300, 0, 0) == pytest.approx(7)
    assert capacity.fits(300, 0, 7)


def test_a_refusal_that_is_heard_of_late_closes_no_backend_of_which_a_later_answer_has_told_room() -> None:
    """That of another process: in the meantime, a call of this one was sent, and answered."""
    capacity = Capacity(Declared(1_000))
    capacity.begin("theirs", 300, 1)
    capacity.begin("ours", 300, 2)
    capacity.learn("ours", RateLimits(limit_tokens=1_000, remaining_tokens=600), 2.5)
    capacity.refused("theirs", NOTHING, 20, 1.5)
    assert capacity.fits(300, 0, 3)
    capacity.begin("another", 100, 3)
    capacity.refused("another", NOTHING, 20, 3.1)
    assert not capacity.fits(300, 0, 4), "a refusal since then counts"
    assert capacity.told_at < 0, "and what was told before it is void"


def test_used_up_requests_close_for_a_window_at_most() -> None:
    capacity = Capacity(Declared(requests_per_minute=60))
    capacity.begin("1", 5, 0)
    capacity.refused("1", RateLimits(remaining_requests=0), 30, 0)
    assert capacity.headroom(0) == 0
    assert capacity.when(5, 0, 0) == pytest.approx(10)


def test_requests_count_in_windows_of_ten_seconds_refused_ones_too() -> None:
    capacity = Capacity(Declared(requests_per_minute=12))
    for name in ("1", "2"):
        capacity.begin(name, 5, 0)
        capacity.end(name, 0, 0)
    assert not capacity.fits(5, 0, 0)
    assert capacity.when(5, 0, 0) == pytest.approx(10.375)
    few = Capacity(Declared(requests_per_minute=1))
    few.begin("1", 5, 0)
    assert few.when(5, 0, 0) == pytest.approx(60.375)
    assert Capacity(Declared(requests_per_minute=1)).fits(5, 0.9, 0), "one call is always among them"


def test_a_provisioned_backend_takes_a_call_while_it_is_not_full() -> None:
    capacity = Capacity(Declared(600, provisioned=True))
    capacity.begin("1", 900, 0)
    assert capacity.headroom(0) == 0
    assert capacity.when(10, 0, 0) == pytest.approx(31.8)
    assert capacity.when(10, 0.5, 0) == pytest.approx(61.8)
    assert capacity.fits(10_000, 0, 32)
    capacity.end("1", 300, 32)
    assert capacity.headroom(32) == 1


def test_utilisation_is_believed_upwards_at_once_and_downwards_by_half() -> None:
    capacity = Capacity(Declared(600, provisioned=True))
    capacity.begin("1", 60, 0)
    capacity.learn("1", RateLimits(utilization=0.9), 0)
    assert capacity.headroom(0) == pytest.approx(0.1)
    capacity.begin("2", 0, 0)
    capacity.learn("2", RateLimits(utilization=0.1), 0)
    assert capacity.headroom(0) == pytest.approx(0.5)
    assert capacity.headroom(12) == pytest.approx(0.7)


def test_a_provisioned_backend_of_unknown_size_is_as_full_as_it_says_for_a_minute() -> None:
    capacity = Capacity(Declared(provisioned=True))
    assert capacity.headroom(0) is None
    capacity.begin("1", 50, 0)
    capacity.refused("1", NOTHING, 6, 0)
    assert capacity.when(5, 0, 0) == pytest.approx(9.6)
    assert capacity.headroom(30) == pytest.approx(0.4)
    assert capacity.headroom(60) is None


def test_a_call_whose_end_is_never_reported_is_forgotten() -> None:
    capacity = Capacity(Declared(1_000))
    for n in range(100):
        capacity.begin(str(n), 1, n * 100.0)
    assert len(capacity._bookings) <= 37
    capacity.learn("0", RateLimits(limit_tokens=1_000, remaining_tokens=0), 10_000)
    assert capacity.headroom(10_000) == pytest.approx(1)


def test_names_keep_it_over_a_reload_and_the_new_declaration_counts() -> None:
    capacities = Capacities()
    (before,) = RoutingTable(config(("a", {"tokens_per_minute": 1_000}))).backends
    (after,) = RoutingTable(config(("a", {"tokens_per_minute": 2_000}))).backends
    capacities.of(before, "gpt").begin("1", 500, 0)
    assert capacities.of(before, "gpt").headroom(0) == pytest.approx(0.5)
    assert capacities.of(after, "gpt").headroom(0) == pytest.approx(0.75)


def test_an_open_endpoint_has_one_for_each_deployment_and_made_up_names_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aoai_gateway.config.models import Aoai, Config, Endpoint

    monkeypatch.setattr("aoai_gateway.routing.capacity.MOST_BACKENDS", 10)
    endpoint = Endpoint(name="a", url="https://a.example", key="key-of-a")
    (backend,) = RoutingTable(Config(aoai=Aoai(endpoints=(endpoint,)))).backends
    capacities = Capacities()
    kept = capacities.of(backend, "gpt")
    for n in range(100):
        assert capacities.of(backend, f"made-up-{n}") is not kept
        assert capacities.of(backend, "gpt") is kept
    assert len(capacities._capacities) == 10


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "learn", "refused", "end"]),
        st.sampled_from("12345"),
        st.integers(0, 2_000),
        st.floats(0, 40),
        st.builds(
            RateLimits,
            limit_tokens=st.none() | st.integers(1, 2_000),
            remaining_tokens=st.none() | st.integers(-500, 3_000),
            limit_requests=st.none() | st.integers(1, 100),
            remaining_requests=st.none() | st.integers(-5, 100),
            utilization=st.none() | st.floats(0, 3),
        ),
    ),
    max_size=40,
)


@given(STEPS, st.booleans(), st.integers(1, 100), st.floats(0, 0.9))
def test_waiting_for_the_returned_time_is_enough_after_any_events(
    steps: list[Any], provisioned: bool, tokens: int, leave_free: float
) -> None:
    capacity, now = Capacity(Declared(1_000, 60, provisioned)), 0.0
    for what, name, amount, seconds, limits in steps:
        now += seconds
        if what == "begin":
            capacity.begin(name, amount, now)
        elif what == "learn":
            capacity.learn(name, limits, now)
        elif what == "refused":
            capacity.refused(name, limits, seconds or None, now)
        else:
            capacity.end(name, amount, now)
        headroom = capacity.headroom(now)
        assert headroom is None or 0 <= headroom <= 1
        wait = capacity.when(tokens, leave_free, now)
        assert capacity.fits(tokens, leave_free, now) == (wait == 0)
    wait = capacity.when(tokens, leave_free, now)
    if wait is not None:
        assert wait <= 3_600
        assert capacity.fits(tokens, leave_free, now + wait)
    assert capacity.fits(1, leave_free, now + 3_600)
    assert capacity._tokens.own(now + 3_600) == 0


def test_limits_as_declared_or_told() -> None:
    capacity = Capacity(Declared(1000, 60))
    assert capacity.limits(0.0) == (1000, 60)
    capacity.begin("call", 10, 0.0)
    capacity.learn("call", RateLimits(limit_tokens=800, limit_requests=90), 0.0)
    assert capacity.limits(1.0) == (800, 60)
    assert Capacity(Declared(1000, 60, provisioned=True)).limits(0.0) == (1000, None)
    assert Capacity().limits(0.0) == (None, None)


def test_looking_at_a_capacity_makes_none() -> None:
    (backend,) = RoutingTable(config("a")).backends
    capacities = Capacities()
    assert capacities.known(backend) is None
    made = capacities.of(backend, "gpt")
    assert capacities.known(backend) is made


def test_one_burst_of_a_higher_class_does_not_keep_a_provisioned_backend_empty() -> None:
    """It drains all the time: no more is kept open than that in a few seconds, for any expectation."""
    size = 60_000
    capacity = Capacity(Declared(tokens_per_minute=size, provisioned=True))
    capacity.begin("1", size, 0)
    wait, expecting = capacity.when(100, 0, 0), capacity.when_beside(100, 0, 0, 1e6)
    assert wait == pytest.approx(1.8, abs=0.1)
    assert wait < expecting <= wait + EXPECTED_SECONDS


@given(
    put=st.lists(st.tuples(st.floats(0, 59), st.integers(0, 400)), min_size=1, max_size=12),
    share=st.floats(0, 1),
)
def test_a_window_has_room_as_soon_as_enough_has_left_it(put: list[tuple[float, int]], share: float) -> None:
    window = SlidingWindow(60)
    for at, amount in sorted(put):
        window.add(amount, at)
    now, room = 59.5, share * window.own(59.5)
    wait = window.when(room, now)
    assert window.own(now + wait) <= room
    if wait:
        before = SlidingWindow(60)
        for at, amount in sorted(put):
            before.add(amount, at)
        assert before.own(now + wait - 1e-3) > room


# --- a provisioned backend of unknown size -----------------------------------------------------------


def test_after_a_refusal_a_backend_of_unknown_size_is_sent_a_few_calls_at_a_time() -> None:
    capacity = Capacity(Declared(provisioned=True))
    capacity.begin("refused", 1_000, 0)
    capacity.refused("refused", NOTHING, 6, 0)
    assert capacity.next_step(9.7) == 0
    capacity.begin("1", 1_000, 9.7)
    assert capacity.next_step(9.7) == pytest.approx(REFUSES_WITHIN)
    capacity.begin("2", 1_000, 10.2)
    assert capacity.next_step(10.2) == 0, "two at the second time"
    assert capacity.fits(1_000, 0, 9.7), "by its figures there is room"


def test_a_backend_of_declared_size_is_sent_what_fits() -> None:
    capacity = Capacity(Declared(60_000, provisioned=True))
    capacity.begin("refused", 1_000, 0)
    capacity.refused("refused", NOTHING, 6, 0)
    capacity.begin("1", 1_000, 9.7)
    assert capacity.next_step(9.7) == 0


def test_pay_as_you_go_without_headers_is_also_sent_a_few_at_a_time() -> None:
    capacity = Capacity()
    capacity.begin("refused", 1_000, 0)
    capacity.refused("refused", NOTHING, 6, 0)
    capacity.begin("1", 1_000, 6)
    assert capacity.next_step(6) == pytest.approx(REFUSES_WITHIN)
    capacity.learn("1", RateLimits(limit_tokens=100_000, remaining_tokens=90_000), 6.1)
    capacity.begin("2", 1_000, 6.2)
    capacity.begin("3", 1_000, 6.2)
    assert capacity.next_step(6.2) == 0, "its headers tell how large it is"


def test_the_tokens_of_refused_calls_teach_no_size() -> None:
    capacity = Capacity(Declared(provisioned=True))
    capacity.begin("first", 1_000, 0)
    capacity.learn("first", RateLimits(utilization=0.9), 0.1)
    for n in range(50):
        capacity.begin(str(n), 1_000, 6)
    capacity.begin("last", 1_000, 6)
    for n in range(50):
        capacity.refused(str(n), RateLimits(utilization=1.05), 3, 6.1)
    assert capacity.limits(6.1)[0] is None, "the last one may have been let in, or may be refused as well"
    # A bucket of 10,000 has drained a tenth of that, and has 1,000 more in it: of the last call.
    capacity.learn("last", RateLimits(utilization=0.9), 6.3)
    assert capacity.limits(6.3)[0] == pytest.approx(10_000)


def test_what_was_sent_before_the_size_was_known_counts_when_it_is() -> None:
    capacity = Capacity(Declared(provisioned=True))
    capacity.begin("first", 1_000, 0)
    capacity.learn("first", RateLimits(utilization=0.5), 0.1)
    capacity.begin("second", 1_000, 6)
    for n in range(4):
        capacity.begin(str(n), 1_000, 6.2)
    capacity.learn("second", RateLimits(utilization=0.5), 6.3)
    assert capacity.limits(6.3)[0] == 10_000
    assert capacity.headroom(6.3) == pytest.approx(1 - 0.5 - 0.4 + 0.3 / 60)
    for n in range(4):
        capacity.end(str(n), 0, 6.3)
    assert capacity.headroom(6.3) == pytest.approx(0.5 + 0.3 / 60)
