"""What the overload benchmark takes for granted: its workloads, and its ideal queues."""

from __future__ import annotations

import pytest

from tests.bench.goodput import CAPACITY, TOKENS_PER_SECOND
from tests.bench.workloads import (
    SURGE_SECONDS,
    WORKLOADS,
    Job,
    deadline_first,
    jobs,
    newest_first,
    served_in_order,
    without_the_largest,
)


def job(number: int, at: float = 0.0, patience: float = 30.0, cls: str = "batch", size: int = 1_000) -> Job:
    return Job(number, cls, cls, at, patience, size, 101, stream=False)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_calls_by_time(name: str) -> None:
    work = WORKLOADS[name](60.0, 1)
    assert work == WORKLOADS[name](60.0, 1) != WORKLOADS[name](60.0, 2)
    assert [each.at for each in work] == sorted(each.at for each in work)
    assert len({each.number for each in work}) == len(work)


def test_lasting_overload_asks_for_almost_twice_the_capacity() -> None:
    asked = sum(sum(each.cost for each in jobs(120, seed)) for seed in range(5)) / 5
    assert 1.7 <= asked / (120 * TOKENS_PER_SECOND) <= 1.9


def test_a_surge_is_three_times_the_capacity_and_the_rest_is_light() -> None:
    works = [WORKLOADS["surge"](120, seed) for seed in range(8)]
    begins, ends = 60 - SURGE_SECONDS / 2, 60 + SURGE_SECONDS / 2
    inside = sum(each.cost for work in works for each in work if begins <= each.at < ends)
    outside = sum(each.cost for work in works for each in work) - inside
    assert 2.4 <= inside / (8 * SURGE_SECONDS * TOKENS_PER_SECOND) <= 3.6
    assert 0.6 <= outside / (8 * (120 - SURGE_SECONDS) * TOKENS_PER_SECOND) <= 0.8


@pytest.mark.parametrize("order", [newest_first, deadline_first])
@pytest.mark.parametrize("knows", [True, False])
def test_what_fits_is_all_answered(order, knows: bool) -> None:
    work = [job(number, at=float(number)) for number in range(20)]
    assert served_in_order(work, order, knows_deadlines=knows, exhausted={}) == set(range(20))


def test_nothing_is_answered_while_all_is_exhausted() -> None:
    work = [job(1, patience=5.0)]
    full = dict.fromkeys(CAPACITY, 30.0)
    assert served_in_order(work, newest_first, knows_deadlines=True, exhausted=full) == set()


def test_critical_calls_come_first_then_the_order_decides() -> None:
    # Room for one of them at a time: each takes a whole window, and patience is half of it.
    size = min(CAPACITY.values()) - 200
    work = [job(1, patience=31, size=size), job(2, 0.01, 30, size=size), job(3, 0.02, 29, "critical", size)]
    full = {name: 5.0 if name == ("west", "paygo") else 600.0 for name in CAPACITY}
    assert served_in_order(work, newest_first, knows_deadlines=True, exhausted=full) == {3}
    batch = [each for each in work if each.cls == "batch"]
    assert served_in_order(batch, newest_first, knows_deadlines=True, exhausted=full) == {2}
    assert served_in_order(batch, deadline_first, knows_deadlines=True, exhausted=full) == {2}
    slower = [job(1, patience=25, size=size), batch[1]]
    assert served_in_order(slower, deadline_first, knows_deadlines=True, exhausted=full) == {1}


def test_the_largest_batch_calls_are_left_out_and_no_critical_one() -> None:
    work = [job(number, size=100 * number) for number in range(1, 11)]
    work.append(job(11, cls="critical", size=5_000))
    assert [each.number for each in without_the_largest(work, 0.6)] == [1, 2, 3, 4, 5, 6, 11]
    assert without_the_largest(work, 1.0) == work
    assert [each.number for each in without_the_largest(work, 0.0)] == [11]
