from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_simulator import limits
from aoai_simulator.limits import GRAIN, PaygLimits, PtuLimits, Window

START = 1000.0


def headers(decision: limits.Decision) -> dict[str, str]:
    return dict(decision.headers)


def run(bounds: limits.Limits, calls: list[tuple[float, int]]) -> list[tuple[float, int, limits.Decision]]:
    """Admit calls of (seconds after the last one, cost); returns (time, cost, decision) of each."""
    state, now, seen = bounds.empty(), START, []
    for wait, cost in calls:
        now += wait
        decision, state = limits.admit(bounds, state, cost, now)
        seen.append((now, cost, decision))
    return seen


CALLS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 2), st.floats(0, 70)).map(lambda wait: round(wait, 3)),
        st.integers(1, 1200),
    ),
    max_size=60,
)


# Pay as you go


@given(CALLS)
def test_no_minute_ever_holds_more_tokens_than_the_limit(calls: list[tuple[float, int]]) -> None:
    admitted = [(at, cost) for at, cost, seen in run(PaygLimits(1000, None), calls) if seen.admitted]
    for start, _ in admitted:
        assert sum(cost for at, cost in admitted if start <= at < start + 60) <= 1000


@given(st.lists(st.floats(0, 8).map(lambda wait: round(wait, 3)), max_size=60), st.booleans())
def test_no_ten_seconds_hold_more_requests_than_a_sixth_of_the_limit(waits: list[float], count: bool) -> None:
    bounds = PaygLimits(None, 20, refused_count=count)
    admitted = [at for at, _, seen in run(bounds, [(wait, 1) for wait in waits]) if seen.admitted]
    for start in admitted:
        assert sum(start <= at < start + 10 for at in admitted) <= 4


@given(CALLS)
def test_a_call_that_waits_for_its_hint_is_admitted_and_one_that_comes_sooner_is_not(
    calls: list[tuple[float, int]],
) -> None:
    bounds = PaygLimits(1000, None)
    state, now = bounds.empty(), START
    for wait, cost in calls:
        now += wait
        decision, state = limits.admit(bounds, state, cost, now)
        if not decision.admitted and decision.reason == "tokens":
            hint = decision.retry_after_seconds
            assert 0 < hint <= 60 + GRAIN + 1e-9
            assert limits.admit(bounds, state, cost, now + hint)[0].admitted
            assert (
                not limits.admit(bounds, state, cost, now + hint - 2 * GRAIN)[0].admitted or hint < 2 * GRAIN
            )


@given(CALLS)
def test_the_windows_remember_a_bounded_number_of_slices(calls: list[tuple[float, int]]) -> None:
    bounds = PaygLimits(10_000_000, 10_000_000)
    state, now = bounds.empty(), START
    for wait, cost in calls:
        now += wait
        _, state = limits.admit(bounds, state, cost, now)
        assert isinstance(state, limits.PaygState)
        for window in (state.tokens, state.requests):
            assert len(window.entries) <= window.seconds / GRAIN + 2
            assert window.total == sum(entry.amount for entry in window.entries) >= 0


@given(CALLS, st.integers(0, 1200))
def test_settling_gives_back_what_was_not_used_and_never_more(
    calls: list[tuple[float, int]], used: int
) -> None:
    bounds = PaygLimits(1000, None)
    state, now = bounds.empty(), START
    for wait, cost in calls:
        now += wait
        decision, state = limits.admit(bounds, state, cost, now)
        before = state
        if decision.reservation is not None:
            state = limits.settle(bounds, state, decision.reservation, used, now)
            assert isinstance(before, limits.PaygState)
            assert isinstance(state, limits.PaygState)
            assert before.tokens.total - state.tokens.total == max(0, cost - used)


def test_what_was_not_used_makes_room_at_once() -> None:
    bounds = PaygLimits(1000, None)
    first, state = limits.admit(bounds, bounds.empty(), 900, START)
    assert not limits.admit(bounds, state, 500, START + 1)[0].admitted
    assert first.reservation is not None
    state = limits.settle(bounds, state, first.reservation, 100, START + 1)
    assert limits.admit(bounds, state, 900, START + 1)[0].admitted


def test_unused_tokens_can_be_kept() -> None:
    bounds = PaygLimits(1000, None, unused_returned=False)
    first, state = limits.admit(bounds, bounds.empty(), 900, START)
    assert first.reservation is not None
    assert limits.settle(bounds, state, first.reservation, 100, START) == state


def test_a_settlement_after_the_window_changes_nothing() -> None:
    bounds = PaygLimits(1000, None)
    first, state = limits.admit(bounds, bounds.empty(), 900, START)
    _, state = limits.admit(bounds, state, 300, START + 61)
    assert first.reservation is not None
    settled = limits.settle(bounds, state, first.reservation, 0, START + 61)
    assert isinstance(settled, limits.PaygState)
    assert settled.tokens.total == 300


@pytest.mark.parametrize(("count", "later"), [(True, False), (False, True)])
def test_refused_requests_count_as_the_documentation_says(count: bool, later: bool) -> None:
    bounds = PaygLimits(None, 6, refused_count=count)
    calls = [(0.0, 1), (9.0, 1), (2.0, 1)]
    seen = [decision.admitted for _, _, decision in run(bounds, calls)]
    assert seen == [True, False, later]


def test_a_call_larger_than_the_limit_is_sent_away_for_a_day() -> None:
    ((_, _, decision),) = run(PaygLimits(1000, None), [(0, 1001)])
    assert not decision.admitted
    assert decision.reason == "too-big"
    assert headers(decision)["retry-after"] == "86400"
    assert headers(decision)["retry-after-ms"] == "86400000"


def test_the_headers_of_a_capture_at_half_use() -> None:
    # Captured in August 2026: 1,500,000 tokens per minute, of which 754,601 are used.
    ((_, _, decision),) = run(PaygLimits(1_500_000, 9000), [(0, 754_601)])
    assert headers(decision) == {
        "x-ratelimit-limit-requests": "9000",
        "x-ratelimit-remaining-requests": "8999",
        "x-ratelimit-renewalperiod-requests": "10",
        "x-ratelimit-reset-requests": "0",
        "x-ratelimit-limit-tokens": "1500000",
        "x-ratelimit-remaining-tokens": "745399",
        "x-ratelimit-renewalperiod-tokens": "60",
        "x-ratelimit-reset-tokens": "30",
    }


def test_a_deployment_with_few_requests_has_a_window_of_a_minute() -> None:
    # Captured in August 2026 on a deployment with 5 requests per minute, of which one is used.
    ((_, _, decision),) = run(PaygLimits(None, 5), [(0, 1)])
    assert headers(decision)["x-ratelimit-remaining-requests"] == "4"
    assert headers(decision)["x-ratelimit-renewalperiod-requests"] == "60"
    assert headers(decision)["x-ratelimit-reset-requests"] == "12"


def test_a_refusal_says_which_limit_it_was() -> None:
    tokens = run(PaygLimits(1000, 600), [(0, 800), (0, 800)])[1][2]
    assert headers(tokens)["x-ratelimit-type"] == "Tokens"
    assert headers(tokens)["x-ratelimit-remaining-tokens"] == "0"
    requests = run(PaygLimits(1000, 6), [(0, 1), (0, 1)])[1][2]
    assert headers(requests)["x-ratelimit-type"] == "Requests"
    assert headers(requests)["x-ratelimit-remaining-requests"] == "0"


def test_without_limits_everything_is_admitted_without_headers() -> None:
    assert all(seen.admitted and not seen.headers for _, _, seen in run(PaygLimits(), [(0, 10**9)] * 50))


# Provisioned


@given(CALLS)
def test_a_bucket_is_never_above_full_by_more_than_the_last_call(calls: list[tuple[float, int]]) -> None:
    for _, cost, decision in run(PtuLimits(1000), calls):
        assert decision.utilisation is not None
        assert decision.utilisation >= 0
        if decision.admitted:
            assert decision.utilisation <= 1 + cost / 1000 + 1e-9
        else:
            assert decision.utilisation > 1


@given(CALLS)
def test_the_retry_hint_of_a_full_bucket_is_when_it_has_drained_to_100_percent(
    calls: list[tuple[float, int]],
) -> None:
    bounds = PtuLimits(1000)
    state, now = bounds.empty(), START
    for wait, cost in calls:
        now += wait
        decision, state = limits.admit(bounds, state, cost, now)
        if not decision.admitted:
            hint = decision.retry_after_seconds
            assert limits.admit(bounds, state, cost, now + hint)[0].admitted
            assert not limits.admit(bounds, state, cost, now + hint * 0.99)[0].admitted


@given(CALLS)
def test_a_bucket_lets_through_what_it_drains_plus_itself_plus_one_call(
    calls: list[tuple[float, int]],
) -> None:
    admitted = [(at, cost) for at, cost, seen in run(PtuLimits(1000), calls) if seen.admitted]
    if admitted:
        elapsed = admitted[-1][0] - START
        assert sum(cost for _, cost in admitted[:-1]) <= 1000 + elapsed * 1000 / 60 + 1200 + 1e-6


def test_a_bucket_is_corrected_both_ways_but_not_below_empty() -> None:
    bounds = PtuLimits(1000)
    decision, state = limits.admit(bounds, bounds.empty(), 500, START)
    assert decision.reservation is not None
    assert limits.utilisation(bounds, state, START) == pytest.approx(0.5)  # type: ignore[arg-type]
    more = limits.settle(bounds, state, decision.reservation, 700, START)
    assert limits.utilisation(bounds, more, START) == pytest.approx(0.7)  # type: ignore[arg-type]
    none = limits.settle(bounds, state, decision.reservation, 0, START + 30)
    assert limits.utilisation(bounds, none, START + 30) == 0  # type: ignore[arg-type]


def test_a_bucket_drains_with_time() -> None:
    bounds = PtuLimits(600)
    _, state = limits.admit(bounds, bounds.empty(), 600, START)
    assert limits.utilisation(bounds, state, START + 30) == pytest.approx(0.5)  # type: ignore[arg-type]
    assert limits.utilisation(bounds, state, START + 90) == 0  # type: ignore[arg-type]


def test_utilisation_is_a_percentage_with_its_sign_and_there_are_no_token_headers() -> None:
    seen = run(PtuLimits(1000), [(0, 893), (0, 200), (0, 1)])
    assert [headers(decision)["azure-openai-deployment-utilization"] for _, _, decision in seen] == [
        "89.3%",
        "109.3%",
        "109.3%",
    ]
    assert not any(name.startswith("x-ratelimit") for _, _, decision in seen for name in headers(decision))
    refused = seen[2][2]
    assert refused.reason == "utilisation"
    # 93 tokens too many drain at 1,000 per minute in 5.58 seconds.
    assert headers(refused)["retry-after-ms"] == "5580"
    assert headers(refused)["retry-after"] == "6"


# Both


@pytest.mark.parametrize("bounds", [PaygLimits(1000, 60), PaygLimits(None, 60), PtuLimits(1000)])
@pytest.mark.parametrize("seconds", [2.0, 30.0])
def test_a_filled_deployment_recovers_when_it_was_told_to(bounds: limits.Limits, seconds: float) -> None:
    state = limits.fill(bounds, bounds.empty(), START, seconds)
    lasts = min(seconds, 10) if isinstance(bounds, PaygLimits) and not bounds.tokens_per_minute else seconds
    assert not limits.admit(bounds, state, 10, START)[0].admitted
    assert not limits.admit(bounds, state, 10, START + lasts - 0.2)[0].admitted
    assert limits.admit(bounds, state, 10, START + lasts + 0.2)[0].admitted


def test_describe_shows_how_full_a_deployment_is() -> None:
    payg, ptu = PaygLimits(1000, 60), PtuLimits(1000)
    _, state = limits.admit(payg, payg.empty(), 300, START)
    assert limits.describe(payg, state, START) == {
        "tokens_per_minute": 1000,
        "tokens": 300,
        "requests_per_minute": 60,
        "requests": 1,
    }
    _, level = limits.admit(ptu, ptu.empty(), 300, START)
    assert limits.describe(ptu, level, START) == {"utilisation": 30.0}


@given(st.floats(0, 1e6))
def test_retry_headers_are_at_least_one_and_agree(seconds: float) -> None:
    hints = dict(limits.retry_headers(seconds))
    milliseconds = int(hints["retry-after-ms"])
    assert milliseconds >= max(1, seconds * 1000 - 1e-3)
    assert int(hints["retry-after"]) == math.ceil(milliseconds / 1000) >= 1


def test_a_window_says_when_there_is_never_room() -> None:
    assert Window(60).add(START, 5).seconds_until(20, 10, START) == math.inf
