"""The properties of quotas, on memory and on a real Redis, and the two in lockstep."""

import itertools
from bisect import bisect_right
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aoai_gateway.quota.quotas import Budget, Decision, Limit, Quota, Reservation
from tests.examples import examples

EPOCH = 1_772_323_150.0  # 28 February 2026, 23:59:10 UTC: a day and a month end soon
EPSILON = 2e-6

ids = map(str, itertools.count())

checked = settings(
    max_examples=examples(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def call(tokens: int, *quotas: Quota, client: str = "team {1}", requests: int = 1) -> Reservation:
    return Reservation(next(ids), client, quotas, tokens, requests)


@dataclass
class Admitted:
    """What the oracle remembers of an admission: what counts for it at present."""

    reservation: Reservation
    stamp: float
    tokens: dict[str | None, int]
    requests: int = 1
    open: bool = True


@dataclass
class Oracle:
    """All admissions ever, looked at by brute force."""

    admissions: list[Admitted] = field(default_factory=list)

    def admit(self, reservation: Reservation, now: float) -> Admitted:
        tokens = {
            q.deployment: min(reservation.tokens, q.tokens_per_minute or reservation.tokens)
            for q in reservation.quotas
        }
        admitted = Admitted(reservation, now, tokens)
        self.admissions.append(admitted)
        return admitted

    def check_all_windows(self, quota: Quota) -> None:
        """In every window [s, s + 60) that starts with an admission (the fullest ones do)."""
        booked = [a for a in self.admissions if quota.deployment in a.tokens]
        stamps = [a.stamp for a in booked]
        for first, start in enumerate(stamps):
            # Times are whole microseconds to a store; half of one keeps float noise out.
            inside = booked[first : bisect_right(stamps, start + 60 - 5e-7)]
            if quota.tokens_per_minute is not None:
                assert sum(a.tokens[quota.deployment] for a in inside) <= quota.tokens_per_minute
            if quota.requests_per_minute is not None:
                assert sum(a.requests for a in inside) <= quota.requests_per_minute


per_minute = st.builds(
    lambda tpm, rpm: (tpm, rpm),
    st.one_of(st.none(), st.integers(1, 300)),
    st.one_of(st.none(), st.integers(1, 12)),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve"] * 6 + ["settle", "settle", "cancel", "overuse", "peek"]),
        st.sampled_from([0.0, 0.01, 0.05, 0.09, 0.3, 1.0, 4.0, 9.7, 31.0, 59.95, 60.0]),
        st.integers(0, 200),
        st.sampled_from(["gpt-4o", "o3"]),
    ),
    max_size=50,
)


@checked
@given(limits=st.tuples(per_minute, per_minute, per_minute), story=steps)
def test_no_window_is_ever_above_its_limit(bench, limits, story):
    bench.fresh()
    names = ("gpt-4o", "o3", None)
    quotas = {n: Quota(n, tpm, rpm) for n, (tpm, rpm) in zip(names, limits, strict=True)}
    oracle, now = Oracle(), EPOCH
    for action, pause, tokens, name in story:
        now += pause
        running = [a for a in oracle.admissions if a.open]
        if action in ("reserve", "peek"):
            reservation = call(tokens, quotas[name], quotas[None])
            decision = getattr(bench, action)(reservation, now)
            if action == "reserve" and decision.admitted:
                oracle.admit(reservation, now)
        elif running:
            done = running[tokens % len(running)]
            done.open = False
            if action == "cancel":
                bench.cancel(done.reservation, now)
                done.tokens, done.requests = dict.fromkeys(done.tokens, 0), 0
                continue
            used = tokens % (done.reservation.tokens + 1)
            if action == "overuse":  # what was not reserved is owed, and not held against the window
                used = done.reservation.tokens + tokens
            bench.settle(done.reservation, used, now)
            done.tokens = {n: min(used, reserved) for n, reserved in done.tokens.items()}
    for quota in quotas.values():
        oracle.check_all_windows(quota)


@checked
@given(
    limit=st.integers(1, 300),
    story=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 300), st.integers(0, 900)), max_size=30),
    asked=st.integers(1, 300),
)
def test_retry_after_is_exact(bench, limit, story, asked):
    bench.fresh()
    quota, now = Quota(None, limit, 20), EPOCH
    for pause, tokens, used in story:
        now += pause
        reservation = call(tokens, quota)
        if bench.reserve(reservation, now).admitted and used % 3:
            bench.settle(reservation, used, now + 0.001)
    now += 0.002
    decision = bench.peek(call(asked, quota), now)
    if decision.admitted:
        assert decision.retry_after == 0
        return
    wait = decision.retry_after
    assert wait > 0
    assert not bench.peek(call(asked, quota), now + wait - EPSILON).admitted
    assert bench.reserve(call(asked, quota), now + wait + EPSILON).admitted


@checked
@given(
    limits=st.tuples(per_minute, st.one_of(st.none(), st.integers(1, 900))),
    story=st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 300), st.sampled_from(["run", "settle", "overuse"])),
        max_size=30,
    ),
    asked=st.integers(1, 300),
)
def test_no_settlement_makes_room_before_the_soonest_time(bench, limits, story, asked):
    bench.fresh()
    (tpm, rpm), daily = limits
    quota, now, running = Quota(None, tpm, rpm, daily), EPOCH, []
    for pause, tokens, then in story:
        now += pause
        reservation = call(tokens, quota)
        if not bench.reserve(reservation, now).admitted:
            continue
        if then == "run":
            running.append(reservation)
        else:
            bench.settle(reservation, tokens * (3 if then == "overuse" else 1), now)
    refused = bench.peek(call(asked, quota), now)
    assert refused.soonest <= refused.retry_after
    assert running or refused.soonest == refused.retry_after
    for reservation in running:
        bench.cancel(reservation, now)
    assert bench.peek(call(asked, quota), now).retry_after >= refused.soonest


def test_a_lapsed_call_holds_no_room_that_it_could_give_back(bench):
    bench.fresh(lease=30)
    quota = Quota("gpt-4o", 1000)
    bench.reserve(call(900, quota), EPOCH)
    assert bench.peek(call(200, quota), EPOCH + 29).soonest == 0
    assert bench.peek(call(200, quota), EPOCH + 31).soonest == pytest.approx(29)


@checked
@given(limit=st.integers(1, 300), tokens=st.integers(0, 1000), used=st.integers(0, 3000))
def test_a_lone_client_is_never_refused(bench, limit, tokens, used):
    bench.fresh()
    quota, now = Quota("gpt-4o", limit, 1, 10 * limit), EPOCH
    first = call(tokens, quota, Quota(None, limit * 2))
    assert bench.reserve(first, now).admitted
    bench.settle(first, used, now + 1)
    # Whatever it used is paid at its rate, and then it is served again.
    paid = now + 60 * (1 + used // limit) + 60 + 86_400
    assert bench.reserve(call(tokens, quota, Quota(None, limit * 2)), paid).admitted


@checked
@given(
    outcomes=st.lists(
        st.tuples(st.sampled_from(["settle", "cancel", "crash"]), st.integers(0, 80)), max_size=30
    )
)
def test_nothing_leaks(bench, outcomes):
    """After any mix of ends, and of crashes, the whole minute and the rest of the day are free."""
    bench.fresh(lease=30)
    quota, now, spent = Quota("gpt-4o", 4000, 100, 100_000, 500_000), EPOCH + 3600, 0
    for outcome, used in outcomes:
        reservation = call(100, quota)
        assert bench.reserve(reservation, now).admitted
        if outcome == "settle":
            bench.settle(reservation, used, now + 1)
            bench.settle(reservation, used, now + 1)
            spent += used
        elif outcome == "cancel":
            bench.cancel(reservation, now + 1)
            bench.cancel(reservation, now + 1)
            bench.settle(reservation, used, now + 1)
    at_once = bench.peek(call(0, quota), now + 2)
    crashed = sum(outcome == "crash" for outcome, _ in outcomes)
    assert [s.limit - s.remaining for s in at_once.standings] == [
        spent + 100 * crashed,
        sum(outcome != "cancel" for outcome, _ in outcomes),
        spent + 100 * crashed,
        spent + 100 * crashed,
    ]
    later = bench.peek(call(0, quota), now + 61)
    assert [s.limit - s.remaining for s in later.standings] == [0, 0, spent, spent]


@checked
@given(
    limits=st.tuples(per_minute, per_minute),
    calendar=st.tuples(
        st.one_of(st.none(), st.integers(0, 2000)), st.one_of(st.none(), st.integers(0, 5000))
    ),
    lease=st.sampled_from([20.0, 90.0, 3600.0]),
    story=st.lists(
        st.tuples(
            st.sampled_from(["reserve"] * 6 + ["settle", "overuse", "cancel", "peek", "renew"]),
            st.sampled_from([0.0, 0.01, 0.04, 0.0999, 0.1, 0.7, 7.3, 40.0, 60.0, 500.0, -0.03, -30.0]),
            st.integers(0, 400),
        ),
        max_size=60,
    ),
)
def test_memory_and_redis_decide_alike(memory_bench, redis_bench, limits, calendar, lease, story):
    """Every figure of every decision, also with a clock that is set back."""
    both = (memory_bench, redis_bench)
    for bench in both:
        bench.fresh(lease)
    (tpm, rpm), (all_tpm, all_rpm) = limits
    quotas = (Quota("gpt-4o", tpm, rpm, *calendar), Quota(None, all_tpm, all_rpm, calendar[1]))
    now, made = EPOCH, []
    for action, pause, tokens in story:
        now += pause
        if action in ("reserve", "peek"):
            reservation = call(tokens, *quotas)
            answers = [getattr(bench, action)(reservation, now) for bench in both]
            assert answers[0] == answers[1]
            made.append(reservation)
        elif made and action == "renew":
            for bench in both:
                bench.renew(made[tokens % len(made) :], now)
        elif made:
            reservation = made[tokens % len(made)]
            for bench in both:
                if action == "cancel":
                    bench.cancel(reservation, now)
                else:
                    bench.settle(reservation, tokens * (4 if action == "overuse" else 1), now)


def test_an_excess_of_several_limits_is_paid_in_full(bench):
    bench.fresh()
    quota = Quota(None, 100)
    big = call(5000, quota)
    assert bench.reserve(big, EPOCH).admitted  # capped: alone in the window it is let in
    bench.settle(big, 450, EPOCH + 10)
    refused = bench.reserve(call(50, quota), EPOCH + 10)
    # 450 tokens at 100 a minute: the last 50 leave the window after the fifth minute.
    assert refused.retry_after == pytest.approx(4 * 60 - 10)
    assert bench.peek(call(51, quota), EPOCH + 10).retry_after == pytest.approx(5 * 60 - 10)
    assert not bench.peek(call(50, quota), EPOCH + 240 - EPSILON).admitted
    assert bench.reserve(call(50, quota), EPOCH + 240).admitted


def test_debt_uses_free_room_first(bench):
    bench.fresh()
    quota = Quota(None, 100)
    small = call(10, quota)
    bench.reserve(small, EPOCH)
    bench.settle(small, 40, EPOCH + 5)
    decision = bench.reserve(call(60, quota), EPOCH + 5)
    assert decision.admitted
    tightest = decision.tightest(tokens=True)
    assert tightest is not None
    assert tightest.remaining == 0


def test_all_or_nothing(bench):
    bench.fresh()
    team, total = Quota("gpt-4o", 100, None), Quota(None, 50, 5)
    assert bench.reserve(call(50, team, total), EPOCH).admitted
    refused = bench.reserve(call(40, team, total), EPOCH + 1)
    assert refused.refused_by is not None
    assert (refused.refused_by.deployment, refused.refused_by.kind) == (None, Limit.TOKENS_PER_MINUTE)
    assert [s.remaining for s in refused.standings] == [50, 0, 4]
    assert refused.retry_after == 59


def test_the_limit_that_takes_longest_is_named(bench):
    bench.fresh()
    quota = Quota("gpt-4o", 100, tokens_per_day=90)
    assert bench.reserve(call(60, quota), EPOCH).admitted
    refused = bench.reserve(call(50, quota), EPOCH + 1)
    assert refused.refused_by is not None
    assert refused.refused_by.kind is Limit.TOKENS_PER_MINUTE
    assert bench.reserve(call(30, quota), EPOCH + 1).admitted
    refused = bench.reserve(call(50, quota), EPOCH - 3600)
    assert refused.refused_by is not None
    assert refused.refused_by.kind is Limit.TOKENS_PER_DAY


def test_a_zero_limit_admits_nothing_for_ever(bench):
    bench.fresh()
    refused = bench.reserve(call(0, Quota("gpt-4o", 0, 10)), EPOCH)
    assert not refused.admitted
    assert refused.retry_after == float("inf")


def test_calendar_budgets_follow_utc(bench):
    bench.fresh()
    quota = Quota(None, tokens_per_day=100, tokens_per_month=150)
    before = call(80, quota)
    assert bench.reserve(before, EPOCH).admitted
    refused = bench.reserve(call(40, quota), EPOCH + 10)
    assert refused.retry_after == pytest.approx(40)
    # The call ends after midnight: it counts where it began, and only its excess counts today.
    bench.settle(before, 90, EPOCH + 60)
    decision = bench.peek(call(0, quota), EPOCH + 60)
    assert [s.remaining for s in decision.standings] == [90, 140]
    assert [s.reset for s in decision.standings] == pytest.approx([86_390, 31 * 86_400 - 10])


@checked
@given(now=st.floats(0, 7_258_118_400))
def test_both_know_the_calendar(memory_bench, redis_bench, now):
    """Days and months from 1970 to 2200, in Python's datetime and in Lua."""
    reservation = call(10, Quota(None, None, None, 100, 100))
    answers = []
    for bench in (memory_bench, redis_bench):
        bench.fresh()
        answers.append(bench.reserve(reservation, now))
        answers.append(bench.peek(reservation, now + answers[-1].standings[0].reset))
    assert answers[:2] == answers[2:]


def test_a_late_settlement_after_the_lease_is_counted(bench):
    bench.fresh(lease=30)
    quota = Quota(None, 1000, tokens_per_month=5000)
    slow = call(400, quota)
    bench.reserve(slow, EPOCH)
    assert [s.remaining for s in bench.peek(call(0, quota), EPOCH + 31).standings] == [600, 4600 + 400]
    bench.settle(slow, 300, EPOCH + 32)
    assert [s.remaining for s in bench.peek(call(0, quota), EPOCH + 32).standings] == [700, 4700]


def test_a_renewed_lease_holds(bench):
    bench.fresh(lease=30)
    quota = Quota(None, tokens_per_day=500)
    slow = call(400, quota)
    day = EPOCH + 3600
    bench.reserve(slow, day)
    for minute in range(1, 9):
        bench.renew([slow], day + 20 * minute)
    assert not bench.peek(call(200, quota), day + 170).admitted
    assert bench.peek(call(200, quota), day + 191).admitted


def test_admissions_within_a_tenth_of_a_second_age_together(bench):
    bench.fresh()
    quota = Quota(None, 100)
    for pause, tokens in ((0, 10), (0.099, 20), (0.1, 30)):
        assert bench.reserve(call(tokens, quota), EPOCH + pause).admitted
    left = [bench.peek(call(0, quota), EPOCH + 60 + pause) for pause in (0, 0.0985, 0.099, 0.1)]
    assert [each.tightest(tokens=True).remaining for each in left] == [40, 40, 70, 100]


def test_one_id_is_booked_once(bench):
    bench.fresh()
    quota = Quota(None, 100)
    one = call(60, quota)
    assert bench.reserve(one, EPOCH).admitted
    again = bench.reserve(one, EPOCH)
    assert again.admitted
    assert again.standings[0].remaining == 40


def test_a_clock_set_back_blocks_no_client_for_longer_than_a_minute(bench):
    bench.fresh()
    quota = Quota(None, 100)
    assert bench.reserve(call(100, quota), EPOCH).admitted
    back = EPOCH - 7200
    assert bench.reserve(call(10, quota), back).retry_after == 60
    assert bench.reserve(call(100, quota), back + 60).admitted


def test_headers_show_the_tightest_limits(bench):
    bench.fresh()
    decision = bench.reserve(call(30, Quota("gpt-4o", 1000, 60), Quota(None, 500, 90)), EPOCH)
    assert decision.headers() == (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "60"),
        ("x-ratelimit-limit-tokens", "500"),
        ("x-ratelimit-remaining-tokens", "470"),
        ("x-ratelimit-reset-tokens", "60"),
    )
    assert Decision(admitted=True, standings=()).headers() == ()


def test_accounts_of_end_users_and_of_money_are_counted_apart(bench):
    """Their names hold a slash, which the name of no virtual deployment does."""
    bench.fresh()
    client = Quota(None, requests_per_minute=3)
    ann, bob = (Quota(f"user/{name}", requests_per_minute=1) for name in "ab")
    answers = [bench.reserve(call(5, client, user), EPOCH).admitted for user in (ann, ann, bob)]
    assert answers == [True, False, True]
    budget = Quota("cost/", tokens_per_day=1_000_000)
    money = call(700_000, budget, requests=0)
    assert bench.reserve(money, EPOCH).admitted
    assert not bench.reserve(call(700_000, budget, requests=0), EPOCH).admitted
    bench.settle(money, 100_000, EPOCH + 1)
    left = bench.peek(call(0, budget, requests=0), EPOCH + 1)
    assert [standing.remaining for standing in left.standings] == [900_000]


def test_tokens_and_money_are_one_step(bench):
    bench.fresh()
    minute = Quota(None, tokens_per_minute=1000, requests_per_minute=5)
    budget = Budget("cost/", tokens_per_day=1_000_000, tokens_per_month=2_000_000)

    def both(tokens, cost):
        return Reservation(next(ids), "team {1}", (minute, budget), tokens, cost=cost)

    def left(now):
        return [standing.remaining for standing in bench.peek(both(0, 0), now).standings]

    first = both(400, 900_000)
    decision = bench.reserve(first, EPOCH)
    assert decision.admitted
    assert [standing.in_money for standing in decision.standings] == [False, False, True, True]
    assert left(EPOCH) == [600, 4, 100_000, 1_100_000]
    refused = bench.reserve(both(400, 200_000), EPOCH)
    assert refused.refused_by.in_money
    assert left(EPOCH) == [600, 4, 100_000, 1_100_000], "nothing of it was booked"
    assert not bench.reserve(both(700, 50_000), EPOCH).admitted
    assert left(EPOCH) == [600, 4, 100_000, 1_100_000]
    bench.settle(first, 100, EPOCH + 1, 250_000)
    assert left(EPOCH + 1) == [900, 4, 750_000, 1_750_000]
    second = both(100, 500_000)
    assert bench.reserve(second, EPOCH + 1).admitted
    bench.cancel(second, EPOCH + 1)
    assert left(EPOCH + 1) == [900, 4, 750_000, 1_750_000]
    third = both(100, 500_000)
    assert bench.reserve(third, EPOCH + 1).admitted
    bench.settle(third, 100, EPOCH + 2, 700_000)
    assert left(EPOCH + 2) == [800, 3, 50_000, 1_050_000], "what it cost beyond that counts, too"
