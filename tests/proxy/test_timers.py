"""Deadlines of streams on as few timers as possible."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.proxy.layer import StreamDeadlines


class Timers:
    """Starts the timers that are wanted, and lets them fire in order; none can be cancelled."""

    def __init__(self) -> None:
        self.deadlines = StreamDeadlines()
        self.now = 0.0
        self.started = 0
        self.told: list[tuple[str, float]] = []
        self._due: list[float] = []

    @property
    def under_way(self) -> int:
        return len(self._due)

    def start(self, at: float | None) -> None:
        if at is not None:
            self.started += 1
            heapq.heappush(self._due, at)

    def set(self, owner: str, at: float) -> None:
        self.start(self.deadlines.set(owner, at))

    def until(self, now: float) -> None:
        while self._due and self._due[0] <= now:
            self.now = max(self.now, heapq.heappop(self._due))
            expired, again = self.deadlines.fired(self.now)
            self.told += [(owner, self.now) for owner in expired]
            self.start(again)
        self.now = max(self.now, now)


def test_what_is_due_is_told_once() -> None:
    timers = Timers()
    timers.set("a", 10)
    timers.until(9.9)
    assert timers.told == []
    timers.until(100)
    assert timers.told == [("a", 10)]
    assert timers.under_way == 0


def test_what_was_cleared_is_not_told() -> None:
    timers = Timers()
    timers.set("a", 10)
    timers.deadlines.clear("a")
    timers.deadlines.clear("a")
    timers.until(100)
    assert timers.told == []


def test_a_deadline_can_be_moved_both_ways() -> None:
    timers = Timers()
    timers.set("later", 10)
    timers.set("later", 20)
    timers.set("sooner", 30)
    timers.set("sooner", 5)
    timers.until(100)
    assert timers.told == [("sooner", 5), ("later", 20)]


def test_a_stream_of_chunks_costs_no_timer_each() -> None:
    timers = Timers()
    for n in range(10_000):
        timers.until(n / 100)
        timers.set("idle", n / 100 + 120)
    assert timers.started == 1


def test_a_busy_connection_has_few_timers() -> None:
    timers = Timers()
    for n in range(10_000):
        timers.until(n / 10)
        timers.set("a call", n / 10 + 600)
        timers.deadlines.clear("a call")
        assert timers.under_way <= 2


def test_short_deadlines_do_not_pile_up_long_timers() -> None:
    timers = Timers()
    timers.set("long", 6_000)
    for n in range(1_000):
        timers.until(3.0 * n)
        timers.set("short", 3.0 * n + 2)
        assert timers.under_way <= 3


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 20)),
        max_size=30,
    )
)
def test_every_deadline_is_told_in_time_and_none_early(steps: list[tuple[str, int | None, int]]) -> None:
    timers, due, missed = Timers(), dict[str, float](), list[tuple[str, float]]()
    for owner, seconds, pause in steps:
        if seconds is None:
            timers.deadlines.clear(owner)
            due.pop(owner, None)
        else:
            due[owner] = timers.now + seconds
            timers.set(owner, due[owner])
        end = timers.now + pause
        timers.until(end)
        missed += sorted(((o, at) for o, at in due.items() if at <= end), key=lambda told: told[1])
        due = {o: at for o, at in due.items() if at > end}
        assert sorted(timers.told) == sorted(missed)
    assert timers.under_way <= len(steps)
