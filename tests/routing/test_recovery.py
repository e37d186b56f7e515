"""Breaks by class, and what follows them: probes, back-off, and no class blocked for ever; slow starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.routing.breaker import Break, BreakLengths, Breaks, FailedCall
from aoai_gateway.routing.recovery import MOST_UNHEARD, REFUSES_WITHIN, WIDEST, SlowStart
from tests.engine_driver import config

PTU, PAYGO, OTHER = RoutingTable(config("ptu@a", "paygo@a", "other@b")).backends
SCOPE, ENDPOINT = ("a", "ptu"), ("a", None)
LENGTHS = {
    "critical": BreakLengths(default=10, floor=0.1, ceiling=20, multiplier=0.5),
    "standard": BreakLengths(default=10, floor=0.2, ceiling=60),
    "batch": BreakLengths(default=10, floor=1, ceiling=120, multiplier=2),
}
CLASSES = tuple(LENGTHS)


def failed(breaks: Breaks, now: float, *, call: str = "1", hint: float | None = 4, scope=SCOPE) -> dict:
    return breaks.open_for(FailedCall(scope, now, hint, "429", call), LENGTHS)


def unhinted(breaks: Breaks, now: float, *, call: str) -> dict:
    return failed(breaks, now, call=call, hint=None)


def lacks(breaks: Breaks, now: float, *, call: str) -> dict:
    return breaks.open_for(FailedCall(SCOPE, now, 4, "429", call, lacks_room=True), LENGTHS)


def lacking() -> Breaks:
    breaks = Breaks(probe_seconds=5)
    lacks(breaks, 0, call="1")
    return breaks


def broken(hint: float | None = 4) -> Breaks:
    breaks = Breaks(probe_seconds=5)
    failed(breaks, 0, hint=hint)
    return breaks


def test_one_failure_breaks_for_every_class_for_a_time_of_its_own() -> None:
    breaks = Breaks()
    assert failed(breaks, 100) == {"critical": 2, "standard": 4, "batch": 8}
    assert [breaks.on(PTU, 103, cls) is not None for cls in CLASSES] == [False, True, True]
    assert [breaks.when(PTU, cls, 101) for cls in CLASSES] == [1, 3, 7]
    assert breaks.on(PAYGO, 101, "batch") is None


def test_without_a_class_the_longest_counts() -> None:
    brk = broken().on(PTU, 1)
    assert brk is not None
    assert (brk.until, brk.cls, brk.reason) == (8, "batch", "429")


def test_a_break_without_a_class_is_for_every_class_and_has_no_half_open_state() -> None:
    breaks = Breaks()
    breaks.open(SCOPE, Break(0, 5, "in a break elsewhere", "shared"))
    assert all(breaks.on(PTU, 4, cls) for cls in CLASSES)
    assert all(breaks.may_probe(PTU, "batch", str(n), 5) for n in range(3))


def test_after_its_break_a_class_sends_one_probe_at_a_time() -> None:
    breaks = broken()
    assert not breaks.may_probe(PTU, "critical", "2", 1.9), "the break is not over"
    assert breaks.may_probe(PTU, "critical", "2", 2)
    assert breaks.may_probe(PTU, "critical", "2", 2), "who asks again is still the one"
    assert not breaks.may_probe(PTU, "critical", "3", 2)
    assert breaks.when(PTU, "critical", 2) == 5
    assert breaks.may_probe(PTU, "standard", "4", 4), "each class has probes of its own"


def test_success_ends_it_for_that_class_alone() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    breaks.probe_succeeded(PTU, "critical", "2")
    assert all(breaks.may_probe(PTU, "critical", str(n), 3) for n in range(5))
    assert not breaks.is_half_open(PTU, "critical")
    assert breaks.on(PTU, 3, "standard") is not None
    assert breaks.is_half_open(PTU, "standard")


def test_the_success_of_a_call_that_was_no_probe_says_nothing() -> None:
    breaks = broken()
    breaks.probe_succeeded(PTU, "critical", "from before")
    assert breaks.is_half_open(PTU, "critical")


def test_a_backend_that_names_its_time_is_believed() -> None:
    breaks, now = broken(), 0.0
    seen, reasons = [], []
    for n in range(2, 9):
        now += breaks.when(PTU, "critical", now)
        assert breaks.may_probe(PTU, "critical", str(n), now)
        seen.append(failed(breaks, now, call=str(n))["critical"])
        brk = breaks.on(PTU, now, "critical")
        assert brk is not None
        reasons.append(brk.reason)
    assert seen == [4, 4, 4, 4, 8, 16, 20], "no sooner than it said, until that was wrong five times in a row"
    assert reasons[3:5] == ["429", "429; the time that it names was too short 5 times in a row"]


def test_each_probe_that_fails_without_a_hint_doubles_the_break_up_to_the_ceiling() -> None:
    breaks, now, seen = broken(hint=None), 0.0, []
    for n in range(2, 8):
        now += breaks.when(PTU, "critical", now)
        assert breaks.may_probe(PTU, "critical", str(n), now)
        opened = unhinted(breaks, now, call=str(n))
        seen.append(opened["critical"])
        assert opened["batch"] == 20, "whose own probe has not failed"
    assert seen == [10, 20, 20, 20, 20, 20]
    now += 20
    assert breaks.may_probe(PTU, "critical", "ok", now)
    breaks.probe_succeeded(PTU, "critical", "ok")
    assert failed(breaks, now + 60, call="later")["critical"] == 2, "success makes a new beginning"


def test_calls_that_fail_together_count_once() -> None:
    breaks = broken()
    assert [failed(breaks, 0.1, call=str(n))["standard"] for n in range(2, 9)] == [4] * 7


def test_a_probe_that_vanishes_blocks_no_longer_than_its_lease() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    assert not breaks.may_probe(PTU, "critical", "3", 6.9)
    assert breaks.may_probe(PTU, "critical", "3", 7)
    assert unhinted(breaks, 8, call="2")["critical"] == 10, "and its failure, told late, is a probe's"


def test_a_probe_that_says_nothing_makes_way_at_once() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    breaks.probe_ended(PTU, "critical", "2")
    assert breaks.may_probe(PTU, "critical", "3", 2)
    assert breaks.is_half_open(PTU, "critical")


def test_withdrawing_takes_back_the_half_open_state_too() -> None:
    breaks = broken()
    breaks.withdraw(SCOPE, "1")
    assert all(breaks.may_probe(PTU, cls, f"{cls}{n}", 0.1) for cls in CLASSES for n in range(3))


def test_withdrawing_a_probes_failure_leaves_what_was_before() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    failed(breaks, 2, call="2")
    breaks.withdraw(SCOPE, "2")
    assert breaks.on(PTU, 2, "critical") is None
    assert breaks.may_probe(PTU, "critical", "3", 2)
    assert not breaks.may_probe(PTU, "critical", "4", 2), "it is still to be probed"
    assert unhinted(breaks, 3, call="3")["critical"] == 10, "as the first that fails"


def test_closing_ends_everything() -> None:
    breaks = broken()
    breaks.close(SCOPE)
    assert all(breaks.may_probe(PTU, "batch", str(n), 0.1) for n in range(3))


def test_an_endpoints_half_open_state_is_one_for_all_of_it() -> None:
    breaks = Breaks()
    failed(breaks, 0, scope=ENDPOINT)
    assert breaks.may_probe(PTU, "critical", "2", 2)
    assert not breaks.may_probe(PAYGO, "critical", "3", 2)
    assert breaks.may_probe(OTHER, "critical", "4", 2)
    breaks.probe_succeeded(PTU, "critical", "2")
    assert breaks.may_probe(PAYGO, "critical", "3", 2)


def test_a_standins_probe_that_finds_the_endpoint_out_is_over() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    failed(breaks, 2, call="2", scope=ENDPOINT)
    assert breaks.may_probe(PTU, "critical", "3", 4)
    breaks.probe_succeeded(PTU, "critical", "3")
    assert not breaks.is_half_open(PTU, "critical")


def test_it_needs_a_free_place_in_both_scopes_or_takes_none() -> None:
    breaks = broken()
    failed(breaks, 0, call="9", scope=ENDPOINT)
    assert breaks.may_probe(PAYGO, "critical", "2", 2)
    assert not breaks.may_probe(PTU, "critical", "3", 2)
    breaks.probe_succeeded(PAYGO, "critical", "2")
    assert breaks.may_probe(PTU, "critical", "4", 2)


def test_a_backend_that_fails_for_ever_keeps_nothing_of_the_past() -> None:
    breaks = Breaks(probe_seconds=1)
    for n in range(2_000):
        assert breaks.may_probe(PTU, "batch", str(n), n * 121.0) or n == 0
        failed(breaks, n * 121.0, call=str(n), hint=None)
    assert len(breaks.by_scope[SCOPE]) == 3
    for n in range(2_000):
        breaks.may_probe(PTU, "batch", f"gone{n}", 1e6 + n * 2)
    assert len(breaks.probes.half_open[SCOPE]["batch"].leases) < 310


def test_a_backend_that_lacked_room_lets_in_twice_as_many_each_time_it_refuses_none() -> None:
    breaks, now = lacking(), 4.0
    breaks.listen(lambda _scope: now)
    sent = []
    for _ in range(4):
        sent.append(sum(breaks.may_probe(PTU, "standard", f"{now}/{n}", now) for n in range(20)))
        assert breaks.when(PTU, "standard", now) == pytest.approx(REFUSES_WITHIN)
        now += REFUSES_WITHIN
    assert sent == [1, 2, 4, 8]
    breaks.probe_succeeded(PTU, "standard", "4.0/0")
    assert all(breaks.may_probe(PTU, "standard", f"all{n}", now) for n in range(100))


def test_one_refusal_ends_it_and_several_at_once_count_as_one() -> None:
    breaks, now = lacking(), 4.0
    for _ in range(3):
        for n in range(8):
            breaks.may_probe(PTU, "standard", f"{now}/{n}", now)
        now += REFUSES_WITHIN
    for n in range(4):
        assert lacks(breaks, now, call=f"5.0/{n}")["standard"] == 4
    now += 4
    assert [breaks.may_probe(PTU, "standard", f"again{n}", now) for n in range(3)] == [True, False, False]
    assert breaks.probes.half_open[SCOPE]["standard"].failures == 1


def test_a_backend_that_failed_otherwise_shows_nothing_by_its_silence() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 2)
    assert not breaks.may_probe(PTU, "critical", "3", 2 + 2 * REFUSES_WITHIN)
    assert breaks.may_probe(PTU, "critical", "3", 7)
    assert not breaks.may_probe(PTU, "critical", "4", 7.1), "a lease that has run out is no success"
    lacks(breaks, 7.2, call="3")
    breaks.open_for(FailedCall(SCOPE, 12, 4, "500", "5"), LENGTHS)
    assert breaks.may_probe(PTU, "critical", "6", 20)
    assert not breaks.may_probe(PTU, "critical", "7", 20 + 2 * REFUSES_WITHIN), "and so after it lacked room"


def test_only_the_first_call_after_a_break_is_let_in_with_any_known_room() -> None:
    breaks = lacking()
    assert breaks.is_unknown(PTU, "standard", 4)
    assert breaks.may_probe(PTU, "standard", "2", 4)
    assert breaks.is_unknown(PTU, "standard", 4.1)
    assert not breaks.is_unknown(PTU, "standard", 4 + REFUSES_WITHIN)
    assert breaks.is_half_open(PTU, "standard")
    assert not breaks.is_unknown(OTHER, "standard", 4)


def test_nor_is_one_where_an_answer_to_a_later_call_has_told_how_full_the_backend_is() -> None:
    breaks = lacking()
    assert breaks.is_unknown(PTU, "standard", 4, told_at=-1)
    assert not breaks.is_unknown(PTU, "standard", 4, told_at=2)
    assert broken().is_unknown(PTU, "standard", 4, told_at=2), "after another failure, room says nothing"


def test_where_a_break_is_ended_early_one_call_is_let_in_unless_an_answer_has_told_how_full_it_is() -> None:
    breaks = Breaks()
    breaks.open(tuple(PTU.key), Break(0, 10, "429", "1", "standard"))
    breaks.half_open(tuple(PTU.key))
    assert breaks.is_unknown(PTU, "standard", 1)
    assert not breaks.is_unknown(PTU, "standard", 1, told_at=0)


@pytest.mark.parametrize("breaks", [lacking(), broken()], ids=["lacked room", "failed"])
def test_the_first_calls_of_two_classes_go_one_after_the_other(breaks: Breaks) -> None:
    assert breaks.may_probe(PTU, "critical", "2", 8)
    assert breaks.when(PTU, "standard", 8.1) == pytest.approx(REFUSES_WITHIN - 0.1)
    assert breaks.may_probe(PTU, "standard", "3", 8 + REFUSES_WITHIN), "the first one was not refused"


@pytest.mark.parametrize("breaks", [lacking(), broken()], ids=["lacked room", "failed"])
def test_a_higher_class_does_not_wait_for_the_first_call_of_a_lower_one(breaks: Breaks) -> None:
    assert breaks.may_probe(PTU, "standard", "2", 8)
    assert breaks.may_probe(PTU, "critical", "3", 8.1)


def test_nor_when_it_was_well_again_before_the_last_failure() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 8)
    breaks.probe_succeeded(PTU, "critical", "2")
    failed(breaks, 9, call="4")
    assert breaks.may_probe(PTU, "standard", "5", 100)
    assert breaks.may_probe(PTU, "critical", "6", 100.1)


def test_a_class_does_not_wait_for_the_first_call_of_another_that_has_ended() -> None:
    breaks = broken()
    assert breaks.may_probe(PTU, "critical", "2", 8)
    breaks.probe_succeeded(PTU, "critical", "2")
    assert breaks.may_probe(PTU, "standard", "3", 8.1)


def slow_start(breaks: Breaks, seconds: float, *classes: str, since: float = 4.0) -> list[float]:
    """Return when calls are sent if one of each class asks every tenth of a second."""
    sent = []
    for tick in range(round(seconds * 10)):
        now = since + tick / 10
        for cls in classes:
            while breaks.may_probe(PTU, cls, f"{cls}{len(sent)}", now):
                sent.append(now)
    return sent


@pytest.mark.parametrize("classes", [("standard",), CLASSES])
def test_a_backend_that_says_nothing_is_sent_no_more_than_is_believed(classes: tuple[str, ...]) -> None:
    breaks = lacking()
    sent = slow_start(breaks, 4, *classes, since=8)
    assert MOST_UNHEARD <= len(sent) < MOST_UNHEARD + len(classes), "and a class's first one in any case"
    last = sent[-1]
    after = slow_start(breaks, 11, *classes, since=12)
    assert 2 * len(classes) <= len(after) <= 3 * len(classes), "then one of each class each lease"
    assert after[0] >= last + 3, "each since its own last one"


def test_of_one_class_the_next_is_sent_a_lease_after_the_last_one() -> None:
    breaks = lacking()
    last = slow_start(breaks, 4, "standard", since=8)[-1]
    assert breaks.when(PTU, "standard", 12) == pytest.approx(last + 5 - 12)
    after = slow_start(breaks, 11, "standard", since=last + 1)
    assert after == pytest.approx([last + 5, last + 10], abs=0.11)


def test_silent_probes_of_a_low_class_do_not_shut_out_the_highest() -> None:
    breaks = lacking()
    batch = slow_start(breaks, 4, "batch", since=8)
    assert len(batch) == MOST_UNHEARD
    assert breaks.may_probe(PTU, "critical", "first", 12), "its own first one always goes"
    assert not breaks.may_probe(PTU, "critical", "second", 12 + REFUSES_WITHIN)
    assert breaks.may_probe(PTU, "batch", "slow", batch[-1] + 5)
    assert breaks.when(PTU, "critical", batch[-1] + 5) == pytest.approx(12 - batch[-1]), "as if it were alone"
    assert breaks.may_probe(PTU, "critical", "second", 17)


def test_a_backend_that_is_heard_all_the_time_is_not_taken_for_a_silent_one() -> None:
    """Nothing asks again when something comes from it. So what it says within a moment is waited for."""
    breaks, now, sent = lacking(), 4.0, []
    breaks.listen(lambda _scope: now - 0.01)
    for _ in range(7):
        sent.append(sum(breaks.may_probe(PTU, "standard", f"{now}/{n}", now) for n in range(40)))
        assert breaks.when(PTU, "standard", now) == pytest.approx(REFUSES_WITHIN)
        now += REFUSES_WITHIN
    assert sent == [1, 2, 4, *[MOST_UNHEARD] * 4]


def test_after_a_moment_of_silence_a_lease_is_waited_for() -> None:
    breaks, heard = lacking(), -1.0
    breaks.listen(lambda _scope: heard)
    last = slow_start(breaks, 4, "standard", since=8)[-1]
    assert breaks.when(PTU, "standard", last + 0.1) == pytest.approx(REFUSES_WITHIN - 0.1)
    assert breaks.when(PTU, "standard", last + REFUSES_WITHIN) == pytest.approx(5 - REFUSES_WITHIN)
    heard = last + 0.2
    assert breaks.when(PTU, "standard", last + REFUSES_WITHIN) == 0


def test_any_word_of_a_backend_lets_more_in() -> None:
    breaks, heard = lacking(), -1.0
    breaks.listen(lambda scope: heard if scope == SCOPE else -1.0)
    assert len(slow_start(breaks, 4, "standard")) == MOST_UNHEARD
    heard = 9.0
    assert len(slow_start(breaks, 4, "standard", since=9)) == MOST_UNHEARD, "as many again"
    heard = 14.0
    breaks.probe_succeeded(PTU, "critical", "a call of before the break")
    assert breaks.when(PTU, "standard", 14) == 0
    breaks.probe_ended(PTU, "standard", "standard0")
    breaks.probe_succeeded(PTU, "standard", "standard1")
    assert len([n for n in range(100) if breaks.may_probe(PTU, "standard", f"all{n}", 14)]) == 100


def test_probes_that_end_without_a_word_are_not_with_it_any_more() -> None:
    breaks = lacking()
    assert len(slow_start(breaks, 4, "standard")) == MOST_UNHEARD
    assert not breaks.may_probe(PTU, "standard", "more", 8)
    breaks.probe_ended(PTU, "standard", "standard0")
    assert breaks.may_probe(PTU, "standard", "more", 8)
    assert not breaks.may_probe(PTU, "standard", "still more", 8)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "fail", "succeed", "end", "withdraw"]),
        st.sampled_from(CLASSES),
        st.sampled_from("12345"),
        st.sampled_from([PTU, PAYGO]),
        st.floats(0, 8),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 3))
def test_never_more_probes_than_allowed_and_never_blocked_for_ever(steps: list, limit: int) -> None:
    breaks, now = Breaks(limit, probe_seconds=5), 0.0
    for step, cls, call, backend, seconds in steps:
        now += seconds
        if step == "ask":
            due = breaks.when(backend, cls, now, call)
            assert breaks.may_probe(backend, cls, call, now) == (due == 0)
        elif step == "fail":
            opened = failed(breaks, now, call=call, scope=tuple(backend.key))
            assert all(LENGTHS[c].floor <= s <= LENGTHS[c].ceiling for c, s in opened.items())
            assert all(breaks.on(backend, now, c) for c in CLASSES)
        elif step == "succeed":
            breaks.probe_succeeded(backend, cls, call)
        elif step == "end":
            breaks.probe_ended(backend, cls, call)
        else:
            breaks.withdraw(tuple(backend.key), call)
        for classes in breaks.probes.half_open.values():
            assert all(len(p.running(now)) <= limit for p in classes.values())
    for n, cls in enumerate(CLASSES):
        assert all(breaks.may_probe(b, cls, "last", now + 200 + n * REFUSES_WITHIN) for b in (PTU, PAYGO))


def test_no_class_waits_longer_than_a_backend_that_lacks_room_says() -> None:
    breaks = Breaks()
    assert breaks.open_for(FailedCall(SCOPE, 0, 4, "429", "1", lacks_room=True), LENGTHS) == {
        "critical": 2,
        "standard": 4,
        "batch": 4,
    }
    assert all(brk.lacks_room for _, brk in breaks.all())
    assert breaks.open_for(FailedCall(SCOPE, 10, None, "429", "2", lacks_room=True), LENGTHS)["batch"] == 20


def refused(at: float = 0.0) -> SlowStart:
    slow = SlowStart()
    slow.refused(at)
    return slow


def send_all(slow: SlowStart, now: float, most: int = 1_000) -> int:
    """Send as many calls as may be sent at a time, and return how many."""
    sent = 0
    while sent < most and not slow.wait(now):
        slow.sent(now)
        sent += 1
    return sent


def test_without_a_refusal_all_may_go() -> None:
    slow = SlowStart()
    assert send_all(slow, 0.0, most=500) == 500


def test_each_step_has_twice_as_many_a_moment_after_the_last() -> None:
    slow, now, steps = refused(), 5.0, []
    for _ in range(4):
        steps.append(send_all(slow, now))
        assert slow.wait(now) == pytest.approx(REFUSES_WITHIN)
        now += REFUSES_WITHIN
    assert steps == [1, 2, 4, 8]


def test_an_answer_begins_the_next_step_at_once() -> None:
    slow = refused()
    assert send_all(slow, 5.0) == 1
    slow.answered(5.0)
    assert send_all(slow, 5.1) == 2


def test_an_answer_to_what_was_sent_before_the_refusal_shows_nothing() -> None:
    slow = refused(at=3.0)
    assert send_all(slow, 5.0) == 1
    slow.answered(2.0)
    assert slow.wait(5.1) == pytest.approx(REFUSES_WITHIN - 0.1)


def test_answers_do_not_widen_a_step_that_is_not_used_up() -> None:
    slow = refused()
    send_all(slow, 5.0)
    for _ in range(5):
        slow.answered(5.0)
    assert send_all(slow, 5.2) == 2, "as after the first of them"


def test_a_refusal_begins_anew() -> None:
    slow, now = refused(), 5.0
    for _ in range(3):
        send_all(slow, now)
        now += REFUSES_WITHIN
    slow.refused(now)
    assert send_all(slow, now) == 1


def test_it_ends_when_so_many_went_that_it_hardly_matters() -> None:
    slow, now, sent = refused(), 5.0, 0
    while sent < 4 * WIDEST:
        sent += send_all(slow, now, most=4 * WIDEST)
        now += REFUSES_WITHIN
    assert slow.wait(now) == 0
    assert now < 5 + 10 * REFUSES_WITHIN
