"""Who is given a backend, who waits for one, and that nothing is kept of who is gone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mitmproxy.http import Headers

from aoai_gateway.config.priorities import BreakLengths, PriorityClass
from aoai_gateway.engine.scheduler import Scheduler
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.routing.breaker import Break, FailedCall
from aoai_gateway.routing.order import Cause, Order, RoutingRequest
from aoai_gateway.wire.hints import RateLimits
from tests.engine_driver import DEPLOYMENT, config
from tests.examples import examples

LENGTHS = BreakLengths(10, 0.2, 60)
CLASSES = {
    "critical": PriorityClass("critical", 0, LENGTHS, 10, 5),
    "standard": PriorityClass("standard", 1, LENGTHS, 10, 5, leave_free=0.2, minimum_share=0.1),
    "batch": PriorityClass("batch", 2, LENGTHS, 10, 5, leave_free=0.5, minimum_share=0.1),
}
LIMIT = 1_000
POOL = (
    RoutingTable(
        config(("one@a", {"tokens_per_minute": LIMIT}), ("two@b", {"tokens_per_minute": LIMIT}))
    ).pool(DEPLOYMENT)
    or ()
)
ONE, TWO = POOL


def request(ident: str, cls: str = "critical", tokens: int = 600, **but: Any) -> RoutingRequest:
    return RoutingRequest(
        **{
            "call_id": ident,
            "client": "team",
            "cls": CLASSES[cls],
            "pool": POOL,
            "deployment": DEPLOYMENT,
            "queue_name": DEPLOYMENT,
            "tokens": tokens,
            "limited": True,
            **but,
        }
    )


def told(remaining: int | None = None) -> Headers:
    """An answer's headers."""
    if remaining is None:
        return Headers()
    return Headers(
        [
            (b"x-ratelimit-limit-tokens", str(LIMIT).encode()),
            (b"x-ratelimit-remaining-tokens", str(remaining).encode()),
        ]
    )


def claimed(here: Scheduler, now: float, *requests: RoutingRequest) -> list[str | None]:
    """Let calls look and claim, one after the other; where each was sent."""
    found: list[str | None] = []
    for each in requests:
        candidates = here.candidates(each, now).candidates
        found.append(candidates[0].name if candidates and here.acquire(each, candidates[0], now) else None)
    return found


def full() -> tuple[Scheduler, list[RoutingRequest]]:
    """Both backends have no room for another call of 600 tokens."""
    here, requests = Scheduler(), [request("x"), request("y")]
    assert claimed(here, 0, *requests) == ["one@a", "two@b"]
    return here, requests


def join(here: Scheduler, *requests: RoutingRequest, shares: dict[str, float] | None = None) -> None:
    for each in requests:
        assert here.join(each, shares or {}, max_length=100)


def released(here: Scheduler, now: float) -> list[str]:
    return [each.call_id for each in here.serve_waiting(now)]


def test_what_is_claimed_counts_for_the_next_one() -> None:
    here = Scheduler()
    assert claimed(here, 0, request("1"), request("2"), request("3")) == ["one@a", "two@b", None]
    assert {skip.cause for skip in here.candidates(request("4"), 0).skipped} == {Cause.FULL}


def test_looking_changes_nothing() -> None:
    here = Scheduler()
    for n in range(10):
        assert here.candidates(request(str(n)), 0).candidates == POOL


def test_what_has_ended_without_being_served_makes_room_at_once() -> None:
    here, (first, _) = full()
    here.ended(first, 0, 1)
    assert first.backend is None
    assert claimed(here, 1, request("3")) == ["one@a"]


def test_what_has_ended_in_an_unknown_way_counts_on() -> None:
    here, (first, _) = full()
    here.close(first, 1)
    assert claimed(here, 2, request("3")) == [None]


def test_demand_is_spread_by_the_part_of_the_next_minute_in_which_backends_are_open() -> None:
    def parts(**hints: Any) -> list[int]:
        here = Scheduler()
        for scope, hint in (("a", "one"), hints.get("one")), (("b", "two"), hints.get("two")):
            if hint is not None:
                lacks_room = hints.get("lacks_room", True)
                here.breaks.open_for(
                    FailedCall(scope, 0, hint, "429", "0", lacks_room=lacks_room), {"critical": LENGTHS}
                )
        each = request("1")
        here.expect(each, 0)
        assert each.expected is not None
        return [each.expected[0].get(backend.key, 0) for backend in POOL]

    assert parts() == [300, 300]
    assert parts(one=30) == [200, 400], "the one that is only full has room again in half a minute"
    assert parts(one=30, lacks_room=False) == [0, 600], "the one that has failed may fail again"
    assert parts(one=60, two=60) == [300, 300], "to some backend they will go"


def test_only_one_call_probes() -> None:
    here = Scheduler()
    here.breaks.open_for(FailedCall(("a", "one"), 0, 5, "429", "0"), {"critical": LENGTHS})
    first, second = request("1", tokens=10), request("2", tokens=10)
    assert claimed(here, 6, first, second) == ["one@a", "two@b"]
    assert not here.acquire(request("3"), ONE, 6)
    here.answered(first, told(), 7)
    assert claimed(here, 7, request("4", tokens=10)) == ["one@a"]


def test_no_call_is_released_without_room_and_the_time_of_the_next_room_is_returned() -> None:
    here, _ = full()
    join(here, request("3"))
    assert released(here, 1) == []
    assert any(len(queue) for _, queue in here.queues())
    assert 59 < here.look_again < 62
    assert released(here, here.look_again) == ["3"]
    assert not any(len(queue) for _, queue in here.queues())
    here.serve_waiting(here.look_again)
    assert here.look_again == math.inf


def test_a_break_that_ends_is_a_time_to_look_again() -> None:
    here = Scheduler()
    for scope in (("a", "one"), ("b", "two")):
        here.breaks.open(scope, Break(0, 3 if scope[0] == "a" else 7, "429", "0"))
    waits = request("1")
    join(here, waits)
    assert released(here, 1) == []
    assert here.look_again == 3
    assert released(here, 3) == ["1"]
    assert waits.backend is ONE


def test_the_line_is_served_in_its_order_as_far_as_there_is_room() -> None:
    here, running = full()
    join(here, request("b", "batch", 300), request("s", "standard", 300), request("c", "critical", 600))
    for each in running:
        here.ended(each, 0, 1)
    assert released(here, 1) == ["c", "s"], "half of a backend is not for the class of the last one"


def test_who_is_owed_a_place_need_leave_nothing_free() -> None:
    here = Scheduler()
    assert claimed(here, 0, request("x"), request("y")) == ["one@a", "two@b"]
    low = request("low", "batch", 300)
    join(here, low, shares={"batch": 0.5})
    assert released(here, 1) == []
    join(here, request("c1", tokens=50), request("c2", tokens=50), shares={"batch": 0.5})
    assert released(here, 1) == ["c1", "c2", "low"]


def test_a_line_has_a_length_for_each_class() -> None:
    here, _ = full()
    assert here.join(request("1"), {}, max_length=1)
    assert not here.join(request("2"), {}, max_length=1)
    assert here.join(request("3", "batch"), {}, max_length=1)
    assert [each.call_id for each in here.waiting(DEPLOYMENT)] == ["1", "3"]


def test_a_waiting_call_comes_before_newcomers_to_its_queue_and_to_others_for_the_same_backends() -> None:
    here, _ = full()
    assert here.is_free(request("2"))
    join(here, request("1", "standard"))
    assert not here.is_free(request("2", "standard"))
    assert not here.is_free(request("2", "standard", queue_name="other"))
    assert not here.is_free(request("2", "batch", queue_name="other"))
    assert here.is_free(request("2", "critical", queue_name="other")), (
        "it comes before the waiting call anyway"
    )
    assert here.is_free(request("2", "standard", queue_name="other", pool=())), "it wants other backends"
    assert here.waiting("other") == []


def test_who_leaves_is_not_released() -> None:
    here, running = full()
    gone = request("1")
    join(here, gone, request("2"))
    here.leave(gone)
    here.leave(gone)
    here.ended(running[0], 0, 1)
    assert released(here, 1) == ["2"]


def test_a_refusal_makes_others_look_elsewhere_until_the_hint_is_over() -> None:
    here = Scheduler()
    refused = request("1", tokens=100)
    assert claimed(here, 0, refused) == ["one@a"]
    here.refused(refused, RateLimits(limit_tokens=LIMIT, remaining_tokens=0), 20.0, 1)
    here.ended(refused, 0, 1)
    assert claimed(here, 2, request("2", tokens=100)) == ["two@b"]
    assert claimed(here, 22, request("3", tokens=100)) == ["one@a"]


def test_calls_of_a_kind_are_looked_at_once_as_long_as_none_is_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, _ = full()
    for n in range(100):
        joined = request(f"call {n}", "critical" if n % 2 else "batch", 400 + n, client=f"client {n}")
        assert here.join(joined, {}, max_length=1_000)
    assert here.join(request("small", "batch", 200, client="small"), {}, max_length=1_000)
    looked: list[int] = []
    look = here.candidates

    def counted(each: RoutingRequest, now: float, *, has_deficit: bool = False) -> Order:
        looked.append(each.tokens)
        return look(each, now, has_deficit=has_deficit)

    monkeypatch.setattr(here, "candidates", counted)
    assert not here.serve_waiting(1)
    assert len(looked) <= 4, "the smallest of each class, and the one that is smaller than another"
    assert here.look_again < math.inf
    assert here.serve_waiting(61)


def test_queues_that_share_a_backend_are_served_by_class_and_then_by_age() -> None:
    here, _ = full()
    for at, (ident, queue_name, cls) in enumerate(
        [
            ("low", "x", "batch"),
            ("old", "y", "standard"),
            ("later", "x", "standard"),
            ("high", "y", "critical"),
        ]
    ):
        assert here.join(
            request(ident, cls, 200, queue_name=queue_name, arrived=at, client=ident), {}, max_length=9
        )
    assert [each.call_id for each in here.serve_waiting(61)] == ["high", "old", "later", "low"]


class AnyOrder(RuleBasedStateMachine):
    """Calls come, wait, are served and go in any order; in the end nothing of any is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Scheduler()
        self.now = 0.0
        self.requests: dict[str, RoutingRequest] = {}
        self.waiting: set[str] = set()
        self.count = 0

    def _some(self, data: st.DataObject, idents: Any) -> RoutingRequest:
        return self.requests[data.draw(st.sampled_from(sorted(idents)))]

    @rule(cls=st.sampled_from(sorted(CLASSES)), tokens=st.integers(1, 1_200), client=st.sampled_from("pq"))
    def come(self, cls: str, tokens: int, client: str) -> None:
        self.count += 1
        ident = f"{self.count:03}"
        self.requests[ident] = request(ident, cls, tokens, client=client, arrived=self.now)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        one = self._some(data, self.requests)
        if one.backend is None and one.call_id not in self.waiting:
            claimed(self.here, self.now, one)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        one = self._some(data, self.requests)
        shares = {"standard": 0.1, "batch": 0.1}
        if (
            one.backend is None
            and one.call_id not in self.waiting
            and self.here.join(one, shares, max_length=3)
        ):
            self.waiting.add(one.call_id)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = self._some(data, self.waiting)
        self.here.leave(one)
        self.waiting.discard(one.call_id)

    @rule(seconds=st.floats(0, 40))
    def serve_waiting(self, seconds: float) -> None:
        self.now += seconds
        for one in self.here.serve_waiting(self.now):
            assert one.call_id in self.waiting
            assert one.backend is not None
            assert self.here.breaks.on(one.backend, self.now, one.cls.name) is None
            self.waiting.discard(one.call_id)
        assert self.here.look_again > self.now or not self.waiting

    @precondition(lambda self: self.requests)
    @rule(
        data=st.data(),
        used=st.sampled_from([None, 0, 50]),
        how=st.sampled_from(["well", "refused", "failed"]),
    )
    def end(self, data: st.DataObject, used: int | None, how: str) -> None:
        one = self._some(data, self.requests)
        if one.backend is not None:
            remaining = data.draw(st.integers(0, LIMIT))
            limits = RateLimits(limit_tokens=LIMIT, remaining_tokens=remaining)
            if how == "well":
                self.here.answered(one, told(remaining), self.now)
            else:
                if how == "refused":
                    self.here.refused(one, limits, 5.0, self.now)
                lengths = dict.fromkeys(CLASSES, LENGTHS)
                self.here.breaks.open_for(
                    FailedCall(one.backend.key, self.now, 5.0, how, one.call_id), lengths
                )
            self.here.ended(one, used, self.now)
        assert one.backend is None

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        one = self._some(data, self.requests)
        self.here.close(one, self.now)
        self.here.close(one, self.now)
        self.waiting.discard(one.call_id)
        del self.requests[one.call_id]

    @invariant()
    def what_waits_has_nothing(self) -> None:
        waiting = {one.call_id for one in self.here.waiting(DEPLOYMENT)}
        assert waiting == self.waiting
        assert all(self.requests[ident].backend is None for ident in waiting)

    def teardown(self) -> None:
        for one in self.requests.values():
            self.here.close(one, self.now)
        assert not any(len(queue) for _, queue in self.here.queues())
        assert not self.here._in_flight
        for _, queue in self.here.queues():
            assert (len(queue), queue._total_in_flight) == (0, 0)
        for capacity in self.here.capacities._capacities.values():
            assert not capacity._bookings
        for classes in self.here.breaks.probes.half_open.values():
            assert not any(half_open.leases for half_open in classes.values())


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
