"""What higher classes and clients that have had less are expected to ask for, and how room is left for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.config.priorities import BreakLengths, PriorityClass
from aoai_gateway.routing import demand
from aoai_gateway.routing.backends import BackendKey, Declared
from aoai_gateway.routing.capacity import Capacity
from aoai_gateway.routing.demand import SAFETY, SHORTEST_SECONDS, ClientShares, Demands
from aoai_gateway.routing.windows import GRAIN, Others, SlidingWindow

HERE, THERE = BackendKey("sweden", "ptu"), BackendKey("france", "paygo")
CRITICAL, STANDARD, BATCH = (
    PriorityClass(name, rank, BreakLengths(1, 1, 1))
    for rank, name in enumerate(("critical", "standard", "batch"))
)
ABOVE_BATCH = ("critical", "standard")


def test_only_higher_classes_count_and_each_backend_for_itself() -> None:
    demands = Demands()
    demands.note(CRITICAL, {HERE: 600}, 0)
    demands.note(STANDARD, {HERE: 600, THERE: 300}, 0)
    for cls, key, tokens in (
        (CRITICAL, HERE, 0),
        (STANDARD, HERE, 600),
        (BATCH, HERE, 1200),
        (BATCH, THERE, 300),
    ):
        higher = ABOVE_BATCH[: cls.rank]
        assert demands.above(cls, higher, key, 60) == pytest.approx(SAFETY * tokens / 60)


def test_what_came_more_than_a_minute_ago_is_not_expected_again() -> None:
    demands = Demands()
    demands.note(CRITICAL, {HERE: 600}, 0)
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 59) > 0
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 62) == 0
    demands.note(CRITICAL, {HERE: 60}, 100)
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 100) == pytest.approx(SAFETY * 60 / SHORTEST_SECONDS)


def test_one_call_is_no_flood() -> None:
    demands = Demands()
    demands.note(CRITICAL, {HERE: 500}, 0)
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 0.01) == pytest.approx(SAFETY * 500 / SHORTEST_SECONDS)


@given(
    put=st.lists(st.tuples(st.floats(0, 59), st.integers(1, 400)), max_size=12),
    inflow=st.floats(0.1, 12),
    room=st.floats(0, 1000),
    others=st.floats(0, 500),
    fades=st.booleans(),
)
def test_from_then_on_there_is_room_and_not_before(
    put: list[tuple[float, int]], inflow: float, room: float, others: float, fades: bool
) -> None:
    window = SlidingWindow(60)
    for at, amount in sorted(put):
        window.add(amount, at)
    now = 59.5
    window.others = Others(others, 50, 80, fades=fades)
    wait = window.when_beside(room, inflow, now)

    def used(at: float) -> float:
        ages = [(math.floor(a / GRAIN) + 1) * GRAIN + 60.25 for a, _ in put]
        own = sum(amount for (_, amount), leaves in zip(put, ages, strict=True) if leaves > at)
        return own + window.others.at(at) + inflow * (at - now)

    times = [now + step * 0.03 for step in range(2000)]
    over = [at for at in times if used(at) > room + 1e-6]
    if wait == math.inf:
        assert used(now + 60) > room - 1e-6
    else:
        assert not [at for at in over if at > now + wait + 1e-6]
        assert wait == 0 or used(now + wait - 1e-3) > room - inflow * 0.01 - 20


def test_a_lower_class_leaves_what_higher_ones_will_need() -> None:
    capacity = Capacity(Declared(60_000))
    assert capacity.fits(50_000, 0, 0)
    # Four tenths of the limit are asked for by higher classes.
    assert capacity.when_beside(50_000, 0, 0, 400) != 0
    assert capacity.when_beside(30_000, 0, 0, 400) == 0
    capacity.begin("1", 30_000, 0)
    assert capacity.when_beside(10_000, 0, 1, 400) != 0
    assert capacity.fits(10_000, 0, 1)
    # What was put in leaves after a minute, and then there is room for both again.
    wait = capacity.when_beside(10_000, 0, 1, 400)
    assert 35 < wait < 61


def test_however_much_is_expected_a_part_is_left() -> None:
    capacity = Capacity(Declared(60_000))
    assert capacity.when_beside(10_000, 0, 0, 100_000) == 0
    assert capacity.when_beside(13_000, 0, 0, 100_000) != 0


def test_a_provisioned_backend_is_kept_open_for_a_few_seconds_of_them() -> None:
    capacity = Capacity(Declared(60_000, provisioned=True))
    capacity.begin("1", 56_000, 0)
    assert capacity.fits(1_000, 0, 0)
    # 600 tokens a second for 5 s are a twentieth of it, beside the usual margin of 3 %.
    assert capacity.when_beside(1_000, 0, 0, 600) == pytest.approx((56 / 60 - (0.97 - 0.05)) * 60, abs=0.01)


def test_what_a_call_reserved_and_did_not_use_is_not_expected_of_the_next() -> None:
    demands = Demands()
    parts = {HERE: 600, THERE: 300}
    demands.note(CRITICAL, parts, 0)
    demands.note(CRITICAL, parts, 10)
    demands.give_back(CRITICAL, parts, 0.9, 0)
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 60) == pytest.approx(SAFETY * 660 / 60)
    assert demands.above(BATCH, ABOVE_BATCH, THERE, 60) == pytest.approx(SAFETY * 330 / 60)
    demands.give_back(STANDARD, parts, 0.9, 0)
    assert demands.above(BATCH, ABOVE_BATCH, HERE, 60) == pytest.approx(SAFETY * 660 / 60)


def asked(*clients: str, weight: float = 1.0, tokens: int = 100, at: float = 0.0) -> ClientShares:
    shares = ClientShares()
    for client in clients:
        shares.asked("batch", client, weight, tokens, at)
    return shares


def left(shares: ClientShares, client: str, now: float, cls: str = "batch") -> float:
    found = shares.left(cls, client, now)
    return 0.0 if found is None else found.demand


def test_a_client_alone_leaves_nothing() -> None:
    shares = asked("a")
    shares.given("batch", "a", 1.0, 1_000, 0.0)
    assert left(shares, "a", 1.0) == 0
    assert left(shares, "unknown", 1.0) == 0
    assert left(shares, "a", 1.0, cls="unknown") == 0


def test_one_that_had_more_than_its_part_leaves_what_the_others_ask_for() -> None:
    shares = asked("a", "a", "b", "c")
    shares.given("batch", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == pytest.approx(0.5)
    assert left(shares, "b", 1.0) == 0
    for client in ("b", "c"):
        shares.given("batch", client, 1.0, 100, 1.0)
    assert left(shares, "a", 1.0) == 0, "now all have had as much"


def test_weights_count() -> None:
    shares = asked("a", weight=3.0)
    shares.asked("batch", "b", 1.0, 100, 0.0)
    shares.given("batch", "a", 3.0, 300, 0.0)
    shares.given("batch", "b", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == 0
    shares.given("batch", "b", 1.0, 1, 0.0)
    assert left(shares, "b", 1.0) > 0


def test_tokens_that_a_call_left_unused_do_not_count() -> None:
    shares = asked("a", "b")
    shares.given("batch", "b", 1.0, 100, 0.0)
    shares.given("batch", "a", 1.0, 500, 0.0)
    shares.give_back("batch", "a", 400, 0.0)
    assert left(shares, "a", 1.0) == 0


def test_classes_do_not_mix() -> None:
    shares = asked("a", "b")
    shares.asked("critical", "a", 1.0, 100, 0.0)
    shares.given("critical", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == 0


def test_after_a_minute_all_is_forgotten() -> None:
    shares = asked("a", "b")
    shares.given("batch", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 59.0) > 0
    assert left(shares, "a", 61.0) == 0
    shares.asked("batch", "a", 1.0, 100, 62.0)
    shares.given("batch", "a", 1.0, 100, 62.0)
    assert left(shares, "a", 62.0) == 0, "the other asks no more"


def test_a_client_whose_calls_have_waited_for_longer_still_leaves_room() -> None:
    shares = asked("crowd")
    shares.asked("batch", "few", 1.0, 100, 50.0)
    shares.given("batch", "crowd", 1.0, 500, 61.0)
    shares.given("batch", "few", 1.0, 100, 61.0)
    assert left(shares, "crowd", 62.0) == 1
    assert left(shares, "few", 62.0) == 0


def test_a_client_that_is_gone_has_no_part_beside_those_served_later() -> None:
    shares = asked("a", "b")
    shares.asked("batch", "c", 1.0, 100, 30.0)
    for client, tokens, at in (("b", 50, 40.0), ("c", 30, 40.0), ("c", 15, 59.0)):
        shares.given("batch", client, 1.0, tokens, at)
    assert left(shares, "c", 59.0) > 0, "more than a third, of three clients"
    assert left(shares, "c", 61.0) == 0, "less than half, of two"


def test_a_flood_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "MOST_CLIENTS", 3)
    shares = asked("a", "b", "c", "d")
    shares.given("batch", "d", 1.0, 90, 0.0)
    assert left(shares, "a", 1.0) == 0, "it was forgotten"
    assert left(shares, "d", 1.0) == pytest.approx(0.75)


def test_the_excess_says_how_many_times_its_part_a_client_had() -> None:
    shares = asked("a", "b", "c", "d")
    shares.given("batch", "a", 1.0, 300, 0.0)
    shares.given("batch", "b", 1.0, 100, 0.0)
    assert shares.excess("batch", "a", 1.0) == pytest.approx(3.0)
    assert shares.excess("batch", "b", 1.0) == shares.excess("batch", "c", 1.0) == 0
    shares.given("batch", "c", 3.0, 400, 0.0)
    assert shares.excess("batch", "c", 1.0) == 0, "a client of weight 3 has half of all, of 6 in all"


def sized(*sizes: int, client: str = "a", shares: ClientShares | None = None) -> ClientShares:
    shares = shares or ClientShares()
    for size in sizes:
        shares.asked("batch", client, 1.0, size, 0.0)
    return shares


def test_a_call_above_the_median_of_its_clients_recent_ones_is_large() -> None:
    shares = sized(100, 200, 300, 400, 500)
    assert [shares.is_large("batch", "a", size) for size in (100, 300, 301, 500)] == [
        False,
        False,
        True,
        True,
    ]
    assert not shares.is_large("batch", "b", 10_000), "of other clients nothing is known"
    assert not shares.is_large("critical", "a", 10_000)


def test_none_is_large_among_few_or_equal_ones() -> None:
    assert not sized(100, 200, 300, 400).is_large("batch", "a", 400)
    assert not sized(*[100] * 50).is_large("batch", "a", 100)


def test_what_counts_is_what_a_client_sent_last() -> None:
    shares = sized(*[100] * demand.RECENT, *[1_000] * demand.RECENT)
    assert not shares.is_large("batch", "a", 1_000)


def test_large_calls_leave_a_part_of_what_the_smaller_ones_of_their_client_ask_for() -> None:
    shares = sized(100, 100, 100, 300, 400)
    assert shares.smaller("batch", "a", 1.0) == pytest.approx(demand.SMALLER * 300 / 1_000)
    sized(*[1_000] * 3, client="b", shares=shares)
    assert shares.smaller("batch", "a", 1.0) == pytest.approx(demand.SMALLER * 300 / 4_000)
    assert shares.smaller("batch", "unknown", 1.0) == shares.smaller("unknown", "a", 1.0) == 0
    assert shares.smaller("batch", "a", 100.0) == 0, "when none of them has come for a minute"
