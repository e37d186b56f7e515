"""What higher classes are expected to ask for, and how a window keeps room for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.config.priorities import BreakLengths, PriorityClass
from aoai_gateway.routing.backends import BackendKey, Declared
from aoai_gateway.routing.capacity import Capacity
from aoai_gateway.routing.demand import SAFETY, SHORTEST_SECONDS, Demands
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
