"""The vocabulary of quotas, and what the counting does beyond what all stores share."""

import math

import pytest

from aoai_gateway.quota.counters import LAPSED_KEPT, Counters
from aoai_gateway.quota.quotas import Decision, Limit, Quota, Reservation, Standing

NOW = 1_772_323_150.0  # 28 February 2026, 23:59:10 UTC


def standing(**changes: object) -> Standing:
    values: dict[str, object] = {
        "deployment": "gpt-4o", "kind": Limit.TOKENS_PER_MINUTE, "limit": 100,
        "remaining": 10, "wait": 0.0, "reset": 5.0, "soonest": 0.0,
    }  # fmt: skip
    return Standing(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", list(Limit))
def test_a_negative_limit_is_an_error_that_names_it(field):
    with pytest.raises(ValueError, match=field):
        Quota("gpt-4o", **{field: -1})


def test_a_deployment_is_named_once():
    with pytest.raises(ValueError, match="once"):
        Reservation("a", "team", (Quota("gpt-4o", 1), Quota("gpt-4o", 2)), 1)
    with pytest.raises(ValueError, match="-1 tokens"):
        Reservation("a", "team", (), -1)
    with pytest.raises(ValueError, match="-1 tokens"):
        Counters().settle(Reservation("a", "team", (), 1), -1, NOW)


def test_retry_after_is_that_of_the_last_limit_to_make_room():
    slow = standing(kind=Limit.REQUESTS_PER_MINUTE, wait=7.5)
    decision = Decision(admitted=False, standings=(standing(wait=3.25), slow, standing(wait=0.0)))
    assert decision.retry_after == 7.5
    assert decision.refused_by is slow


def test_headers_round_the_reset_up_and_leave_out_what_is_not_limited():
    decision = Decision(True, (standing(reset=0.2), standing(remaining=3, reset=59.001, limit=50)))
    assert decision.headers() == (
        ("x-ratelimit-limit-tokens", "50"),
        ("x-ratelimit-remaining-tokens", "3"),
        ("x-ratelimit-reset-tokens", "60"),
    )


def test_headers_of_a_zero_limit_have_no_reset():
    decision = Decision(False, (standing(limit=0, remaining=0, wait=math.inf, reset=math.inf),))
    assert decision.headers() == (
        ("x-ratelimit-limit-tokens", "0"),
        ("x-ratelimit-remaining-tokens", "0"),
    )


def test_without_quotas_everything_is_admitted():
    decision = Counters().reserve(Reservation("a", "team", (), 10**9), NOW)
    assert decision == Decision(admitted=True, standings=())


def test_idle_accounts_are_forgotten_and_nothing_else():
    counters = Counters(lease=600)
    quota, daily = (Quota("gpt-4o", 100),), (Quota("o3", None, None, 1000),)
    for name in range(50):
        counters.reserve(Reservation(str(name), f"passer-by {name}", quota, 10), NOW)
        counters.settle(Reservation(str(name), f"passer-by {name}", quota, 10), 10, NOW)
    spender = Reservation("spender", "team", daily, 10)
    counters.reserve(spender, NOW)
    counters.settle(spender, 10, NOW)
    counters.reserve(Reservation("runs", "team", quota, 10), NOW)
    counters.forget_idle(NOW + 30)
    assert len(counters._accounts) == 52
    counters.forget_idle(NOW + 61)
    assert set(counters._accounts) == {("team", "o3"), ("team", "gpt-4o")}
    counters.forget_idle(NOW + 86_400 + 32 * 86_400)
    assert not counters._accounts


def test_idle_counters_are_looked_at_in_turn_so_many_at_once():
    counters = Counters()
    for number in range(10):
        quota = Quota(f"user/{number}", 1000)
        call = Reservation(f"call {number}", "team", (quota,), 100)
        assert counters.reserve(call, NOW).admitted
        if number % 5:
            counters.settle(call, 50, NOW)
    left = []
    for _ in range(4):
        counters.forget_idle(NOW + 100, 3)
        left.append(len(counters._accounts))
    assert left == [8, 6, 3, 2], "those that running calls hold stay"
    counters.forget_idle(NOW + 100)
    assert len(counters._accounts) == 2


def test_lapsed_reservations_are_forgotten_in_the_end():
    counters = Counters(lease=10)
    quota = (Quota(None, 1000, None, 10_000),)
    for name in range(20):
        counters.reserve(Reservation(str(name), "team", quota, 10), NOW)
    counters.peek(Reservation("look", "team", quota, 0), NOW + 11)
    assert counters.open_reservations == 0
    assert len(counters._lapsed) == 20
    counters.peek(Reservation("look", "team", quota, 0), NOW + 11 + LAPSED_KEPT)
    assert not counters._lapsed


def test_lowering_a_limit_refuses_until_there_is_room_and_raising_it_helps_at_once():
    counters = Counters()
    counters.reserve(Reservation("a", "team", (Quota(None, 100),), 80), NOW)
    lowered = counters.reserve(Reservation("b", "team", (Quota(None, 50),), 1), NOW + 1)
    assert (lowered.admitted, lowered.retry_after) == (False, 59)
    assert lowered.standings[0].remaining == 0
    assert counters.reserve(Reservation("c", "team", (Quota(None, 500),), 400), NOW + 1).admitted
