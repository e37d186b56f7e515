"""The order of a pool, and why a backend is left out."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.config.priorities import BreakLengths, PriorityClass
from aoai_gateway.routing.backends import Backend, BackendKey, RoutingTable
from aoai_gateway.routing.breaker import Break, Breaks, FailedCall
from aoai_gateway.routing.capacity import Capacities
from aoai_gateway.routing.demand import ClientShares, Demands
from aoai_gateway.routing.order import Cause, Order, RoutingRequest, draw_lots, draw_takers, opens, order
from aoai_gateway.wire.hints import RateLimits
from tests.engine_driver import DEPLOYMENT, config

TABLE = RoutingTable(config("ptu@a", "paygo@a", "b", "c"))
POOL = TABLE.pool(DEPLOYMENT) or ()
LENGTHS = BreakLengths(10, 0.2, 60)
ANY = PriorityClass("standard", 0, LENGTHS)


@dataclass
class State:
    breaks: Breaks
    capacities: Capacities
    demands: Demands
    client_shares: ClientShares
    doubtful: frozenset[str] = frozenset()
    """Endpoints."""

    def is_doubtful(self, backend: Backend, now: float) -> bool:
        return backend.endpoint.name in self.doubtful


def ordered(
    *,
    pool: tuple[Backend, ...] = POOL,
    breaks: Breaks | None = None,
    capacities: Capacities | None = None,
    demands: Demands | None = None,
    client_shares: ClientShares | None = None,
    doubtful: frozenset[str] = frozenset(),
    has_deficit: bool = False,
    now: float = 1.0,
    **but: Any,
) -> Order:
    request = RoutingRequest(
        **{"call_id": "1", "client": "team", "cls": ANY, "pool": pool, "deployment": DEPLOYMENT, **but}
    )
    state = State(
        breaks or Breaks(),
        capacities or Capacities(),
        demands or Demands(),
        client_shares or ClientShares(),
        doubtful,
    )
    return order(request, state, now, has_deficit=has_deficit)


def names(found: Order) -> list[str]:
    return [backend.name for backend in found.candidates]


def causes(found: Order) -> dict[str, Cause]:
    return {skip.backend.name: skip.cause for skip in found.skipped}


def test_as_written() -> None:
    assert names(ordered()) == ["ptu@a", "paygo@a", "b@b", "c@c"]
    assert ordered().skipped == ()
    assert ordered().soonest is None


def test_without_those_in_a_break() -> None:
    breaks = Breaks()
    breaks.open(("a", None), Break(0, 4, "401", "1"))
    found = ordered(breaks=breaks)
    assert names(found) == ["b@b", "c@c"]
    assert [(s.backend.name, s.reason, s.seconds, s.cause) for s in found.skipped] == [
        ("ptu@a", "401", 3, Cause.BREAK),
        ("paygo@a", "401", 3, Cause.BREAK),
    ]
    assert found.soonest == 3


def test_a_break_of_another_class_does_not_count() -> None:
    breaks = Breaks()
    breaks.open(("b", "b"), Break(0, 4, "429", "1", "batch"))
    assert names(ordered(breaks=breaks)) == ["ptu@a", "paygo@a", "b@b", "c@c"]


def test_without_those_that_another_call_is_trying() -> None:
    breaks = Breaks(probe_seconds=10)
    breaks.open_for(FailedCall(("b", "b"), 0, 2, "429", "other"), {"standard": LENGTHS})
    assert breaks.may_probe(POOL[2], "standard", "probe", 3)
    found = ordered(breaks=breaks, now=4)
    assert names(found) == ["ptu@a", "paygo@a", "c@c"]
    assert [(s.cause, s.seconds) for s in found.skipped] == [(Cause.HALF_OPEN, 9)]
    assert "b@b" in names(ordered(breaks=breaks, now=4, call_id="probe"))


def test_without_those_that_failed_it() -> None:
    found = ordered(tried={POOL[0].key})
    assert names(found) == ["paygo@a", "b@b", "c@c"]
    assert [skip.seconds for skip in found.skipped] == [0]


def test_only_at_home() -> None:
    found = ordered(home="b")
    assert names(found) == ["b@b"]
    assert {skip.seconds for skip in found.skipped} == {None}


def test_only_those_that_take_it() -> None:
    assert names(ordered(takes={POOL[3].key})) == ["c@c"]


def test_only_those_that_are_large_enough() -> None:
    assert names(ordered(too_small={b.key for b in POOL if b.name != "b@b"})) == ["b@b"]


def test_what_never_ends_is_told_before_what_does() -> None:
    breaks = Breaks()
    breaks.open(("b", "b"), Break(0, 4, "429", "1"))
    found = ordered(breaks=breaks, too_small={BackendKey("b", "b")})
    assert found.skipped[0].seconds is None


@given(st.data())
def test_every_backend_is_either_a_candidate_or_skipped(data: st.DataObject) -> None:
    some = st.sets(st.sampled_from([b.key for b in POOL]))
    breaks = Breaks()
    for key in data.draw(some):
        breaks.open(tuple(key), Break(0, 5, "429", "1"))
    found = ordered(
        breaks=breaks,
        tried=data.draw(some),
        takes=data.draw(st.one_of(st.none(), some)),
        home=data.draw(st.sampled_from([None, "a", "b"])),
        too_small=data.draw(some),
    )
    kept, left = list(found.candidates), [skip.backend for skip in found.skipped]
    assert sorted(b.name for b in kept + left) == sorted(b.name for b in POOL)
    assert kept == [b for b in POOL if b in kept], "in the order written"


# --- classes and capacity ----------------------------------------------------------------------------

SCARCE = (
    RoutingTable(
        config(
            ("ptu@a", {"tokens_per_minute": 1_000, "provisioned": True}),
            ("paygo@a", {"tokens_per_minute": 1_000}),
            ("b", {"tokens_per_minute": 2_000}),
        )
    ).pool(DEPLOYMENT)
    or ()
)


def used(**tokens: int) -> Capacities:
    """Capacities with so much under way at the standins of these names."""
    capacities = Capacities()
    for backend in SCARCE:
        if backend.key.standin in tokens:
            capacities.of(backend, DEPLOYMENT).begin("other", tokens[backend.key.standin], 0.0)
    return capacities


def scarce(capacities: Capacities | None = None, **but: Any) -> Order:
    return ordered(capacities=capacities, **{"pool": SCARCE, "limited": True, "tokens": 100, **but})


def test_a_class_uses_only_what_it_may() -> None:
    kept_off = PriorityClass("low", 1, LENGTHS, may_use_provisioned=False)
    stays = PriorityClass("low", 1, LENGTHS, may_spill=False)
    assert names(scarce(cls=kept_off)) == ["paygo@a", "b@b"]
    assert names(scarce(cls=stays)) == ["ptu@a"]
    assert set(causes(scarce(cls=stays)).values()) == {Cause.CLASS}
    assert scarce(cls=stays, home="b").soonest is None, "it will never be had"


def test_without_those_that_are_full() -> None:
    found = scarce(used(ptu=1_000, paygo=950))
    assert names(found) == ["b@b"]
    assert causes(found) == {"ptu@a": Cause.FULL, "paygo@a": Cause.FULL}
    ptu, paygo = (skip.seconds or 0 for skip in found.skipped)
    assert 0 < ptu < 2, "it drains"
    assert 58 < paygo < 61, "it slides"


def test_a_class_that_may_wait_goes_by_steps_to_a_backend_of_unknown_size_and_another_one_does_not() -> None:
    capacities, (backend, *_) = Capacities(), POOL
    capacity = capacities.of(backend, DEPLOYMENT)
    capacity.begin("refused", 100, 0.0)
    capacity.refused("refused", RateLimits(), 0.5, 0.0)
    capacity.begin("first", 100, 0.9)
    waits = PriorityClass("waits", 0, LENGTHS, wait_seconds=5, wait_length=100)

    def found(cls: PriorityClass) -> Order:
        return ordered(pool=(backend,), capacities=capacities, limited=True, tokens=100, cls=cls)

    assert causes(found(waits)) == {backend.name: Cause.FULL}
    assert found(waits).soonest == pytest.approx(0.4)
    assert names(found(ANY)) == [backend.name], "it would be refused here instead of there"


def test_what_is_free_is_kept_for_higher_classes() -> None:
    low = PriorityClass("low", 1, LENGTHS, leave_free=0.3)
    capacities = used(paygo=700)
    assert causes(scarce(capacities, cls=low)) == {"paygo@a": Cause.KEPT_FREE}
    assert names(scarce(capacities)) == ["ptu@a", "paygo@a", "b@b"]
    assert "paygo@a" in names(scarce(capacities, cls=low, has_deficit=True)), "it is has_deficit"


def test_what_higher_classes_are_about_to_need_is_kept_for_them() -> None:
    low = PriorityClass("low", 1, LENGTHS)
    demands = Demands()
    for at in range(60):
        demands.note(ANY, {SCARCE[1].key: 12}, float(at))
    but: dict[str, Any] = {"cls": low, "higher": ("standard",), "demands": demands, "now": 60.0}
    found = scarce(**but, tokens=600)
    assert causes(found) == {"paygo@a": Cause.KEPT_FREE}
    assert "paygo@a" in names(scarce(**but, tokens=600, has_deficit=True))
    assert "paygo@a" in names(scarce(**but, tokens=50))
    assert "paygo@a" in names(scarce(**{**but, "higher": ()}, tokens=600)), "whose class is no more"


def test_a_client_that_had_more_than_its_share_leaves_room_to_the_others_of_its_class() -> None:
    demands, shares = Demands(), ClientShares()
    for at in range(60):
        demands.note(ANY, {SCARCE[1].key: 15}, float(at))
        for client in ("team", "other"):
            shares.asked(ANY.name, client, 1.0, 8, float(at))
    but: dict[str, Any] = {"demands": demands, "client_shares": shares, "now": 60.0, "tokens": 600}
    assert "paygo@a" in names(scarce(**but))
    shares.given(ANY.name, "team", 1.0, 100, 59.0)
    found = scarce(**but)
    assert causes(found) == {"paygo@a": Cause.KEPT_FREE}
    assert "clients of its class" in found.skipped[0].reason
    assert found.soonest is not None
    assert 0 < found.soonest <= 60
    assert "paygo@a" in names(scarce(**but, client="other"))
    assert "paygo@a" in names(scarce(**but, has_deficit=True))


def test_a_large_call_leaves_room_to_smaller_ones_of_its_client() -> None:
    low, key = PriorityClass("low", 1, LENGTHS), SCARCE[1].key
    demands, shares = Demands(), ClientShares()
    for at in range(60):
        for size in (100, 500):
            demands.note(low, {key: size // 20}, float(at))
            shares.asked(low.name, "team", 1.0, size, float(at))
    but: dict[str, Any] = {"cls": low, "demands": demands, "client_shares": shares, "now": 60.0}
    found = scarce(**but, tokens=900)
    assert causes(found) == {"paygo@a": Cause.KEPT_FREE}
    assert found.skipped[0].reason == "the room that it has is left to smaller calls of its client"
    assert found.soonest is not None
    assert 0 < found.soonest <= 60
    assert "paygo@a" in names(scarce(**but, tokens=100))
    assert "paygo@a" in names(scarce(**but, tokens=900, client="other")), "which has asked for no smaller one"
    assert "paygo@a" in names(scarce(**but, tokens=900, has_deficit=True))
    highest = PriorityClass("low", 0, LENGTHS)
    assert "paygo@a" in names(scarce(**{**but, "cls": highest}, tokens=900))


def test_a_burst_is_not_taken_for_the_begin_of_a_steady_flow_of_smaller_calls() -> None:
    low, key = PriorityClass("low", 1, LENGTHS), SCARCE[1].key
    demands, shares = Demands(), ClientShares()
    for size in (100, 100, 100, 100, 300):
        demands.note(low, {key: size}, 60.0)
        shares.asked(low.name, "team", 1.0, size, 60.0)
    but: dict[str, Any] = {"cls": low, "demands": demands, "client_shares": shares, "now": 60.0}
    assert "paygo@a" in names(scarce(**but, tokens=300))


def test_backends_of_an_endpoint_whose_life_is_doubtful_come_last() -> None:
    assert names(ordered(doubtful=frozenset("a"))) == ["b@b", "c@c", "ptu@a", "paygo@a"]
    assert names(ordered(doubtful=frozenset("abc"))) == names(ordered())
    assert names(ordered(pool=POOL[:2], doubtful=frozenset("a"))) == ["ptu@a", "paygo@a"]


def test_it_is_not_kept_longer_than_what_they_asked_for_is_remembered() -> None:
    low = PriorityClass("low", 1, LENGTHS)
    backend, demands = SCARCE[1], Demands()
    demands.note(ANY, {backend.key: 9_000}, 0.0)
    but: dict[str, Any] = {"pool": (backend,), "cls": low, "higher": ("standard",), "demands": demands}
    found = scarce(tokens=600, now=20.0, **but)
    assert causes(found) == {"paygo@a": Cause.KEPT_FREE}
    assert found.soonest is not None
    assert 0 < found.soonest <= 41, "a caller is told when, and a queue looks again"
    assert names(scarce(tokens=600, now=20.0 + found.soonest, **but)) == ["paygo@a"]


@given(st.data())
def test_a_queue_learns_when_a_call_may_be_sent_as_far_as_it_is_soon_enough(data: st.DataObject) -> None:
    tokens, keys = st.integers(0, 1_500), [backend.key for backend in SCARCE]
    capacities, breaks, demands, shares = Capacities(), Breaks(), Demands(), ClientShares()
    low = PriorityClass("low", 1, LENGTHS, leave_free=data.draw(st.sampled_from([0.0, 0.3])))
    for number, backend in enumerate(SCARCE):
        capacities.of(backend, DEPLOYMENT).begin(str(number), data.draw(tokens), data.draw(st.floats(0, 20)))
        demands.note(ANY, {backend.key: data.draw(tokens)}, 20.0)
        demands.note(low, {backend.key: data.draw(tokens)}, 20.0)
    for client in ("team", "other"):
        for size in data.draw(st.lists(tokens, min_size=1, max_size=6)):
            shares.asked(low.name, client, 1.0, size, 20.0)
        shares.given(low.name, client, 1.0, data.draw(tokens), 20.0)
    for key in data.draw(st.sets(st.sampled_from(keys))):
        breaks.open(tuple(key), Break(0, data.draw(st.floats(21, 60)), "429", "1"))
    request = RoutingRequest(
        "1",
        "team",
        data.draw(st.sampled_from([ANY, low])),
        SCARCE,
        DEPLOYMENT,
        tokens=data.draw(tokens),
        higher=("standard",),
        limited=data.draw(st.booleans()),
        tried=data.draw(st.sets(st.sampled_from(keys), max_size=2)),
        too_small=data.draw(st.sets(st.sampled_from(keys), max_size=2)),
    )
    now, before = 25.0, data.draw(st.one_of(st.just(math.inf), st.floats(25, 90)))
    state, has_deficit = State(breaks, capacities, demands, shares), data.draw(st.booleans())
    found = order(request, state, now, has_deficit=has_deficit)
    wait = 0.0 if found.candidates else found.opens(request.tried)
    told = opens(request, state, now, has_deficit=has_deficit, before=before)
    if wait is None or told is None:
        assert told is wait is None
    elif now + wait < before:
        assert told == wait
    else:
        assert now + told >= before


def test_what_is_larger_than_the_whole_limit_never_fits() -> None:
    found = scarce(tokens=1_500)
    assert names(found) == ["ptu@a", "b@b"]
    assert causes(found) == {"paygo@a": Cause.TOO_LARGE}
    assert found.skipped[0].seconds is None


def test_without_classes_the_room_is_not_looked_at() -> None:
    assert names(scarce(used(ptu=5_000, paygo=5_000, b=5_000), limited=False)) == ["ptu@a", "paygo@a", "b@b"]


def test_when_it_opens_and_for_how_long_only_breaks_are_in_the_way() -> None:
    breaks = Breaks()
    for standin, until in (("ptu", 30), ("paygo", 11)):
        breaks.open(("a", standin), Break(0, until, "429", "1"))
    found = scarce(used(b=2_000), breaks=breaks)
    assert names(found) == []
    assert found.opens(()) == found.soonest == 10
    assert found.opens({SCARCE[1].key}) == 29
    assert found.broken_for(()) == 0, "room may come free at any time"
    assert found.broken_for({SCARCE[2].key}) == 10
    assert found.broken_for({backend.key for backend in SCARCE}) == math.inf
    assert found.opens({backend.key for backend in SCARCE}) is None


# --- strategies --------------------------------------------------------------------------------------


def test_weighted_is_by_lot_as_often_as_the_weights_say() -> None:
    pool = RoutingTable(config(("x@a", {"weight": 1}), ("y@b", {"weight": 3}), ("z@c", {"weight": 6}))).pool(
        DEPLOYMENT
    )
    assert pool is not None
    dice = Random(1)
    firsts, seconds_after_z = Counter[str](), Counter[str]()
    for _ in range(4_000):
        found = names(ordered(pool=pool, strategy="weighted", lots=draw_lots(pool, dice.random)))
        firsts[found[0]] += 1
        if found[0] == "z@c":
            seconds_after_z[found[1]] += 1
    assert {name: count / 4_000 for name, count in firsts.items()} == pytest.approx(
        {"x@a": 0.1, "y@b": 0.3, "z@c": 0.6}, abs=0.03
    )
    assert seconds_after_z["y@b"] / seconds_after_z.total() == pytest.approx(0.75, abs=0.04)


def test_most_headroom_is_by_what_is_free_and_as_written_where_that_is_equal() -> None:
    assert names(scarce(strategy="most_headroom")) == ["ptu@a", "paygo@a", "b@b"]
    found = scarce(used(ptu=500, paygo=100, b=800), strategy="most_headroom")
    assert names(found) == ["paygo@a", "b@b", "ptu@a"]


def test_a_backend_of_which_nothing_is_known_may_be_empty() -> None:
    pool = (SCARCE[0], POOL[2])
    found = ordered(pool=pool, capacities=used(ptu=500), strategy="most_headroom", limited=True, tokens=1)
    assert names(found) == ["b@b", "ptu@a"]


# --- non_streaming_fraction --------------------------------------------------------------------------


def fractions(*numbers: float) -> tuple[Backend, ...]:
    written = [(f"s{n}@e{n}", {"non_streaming_fraction": f}) for n, f in enumerate(numbers)]
    return RoutingTable(config(*written)).backends


def never() -> float:
    raise AssertionError("nothing is to be drawn")


def test_nothing_is_drawn_where_nothing_can_come_of_it() -> None:
    assert draw_takers(fractions(1, 1), draw=never) is None


@pytest.mark.parametrize(
    ("draws", "takers"), [((0.1, 0.1), {0, 1, 2}), ((0.9, 0.1), {1, 2}), ((0.9, 0.9), {2})]
)
def test_every_backend_draws_for_itself(draws: tuple[float, ...], takers: set[int]) -> None:
    numbers = iter(draws)
    drawn = draw_takers(fractions(0.5, 0.5, 1), draw=lambda: next(numbers))
    assert drawn == {BackendKey(f"e{n}", f"s{n}") for n in takers}


def test_a_fraction_of_zero_takes_none_even_at_the_lowest_draw() -> None:
    assert draw_takers(fractions(0, 1), draw=lambda: 0.0) == {BackendKey("e1", "s1")}


def test_the_last_in_line_takes_what_reaches_it() -> None:
    """Those after it may have been switched off by hand."""

    assert draw_takers(fractions(1, 0.5), draw=never) is None
    drawn = draw_takers(fractions(0.2, 0), draw=lambda: 0.9)
    assert drawn == {BackendKey("e1", "s1")}
