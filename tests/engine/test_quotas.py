"""Calls and their clients' quotas, in virtual time: booked, waited for, lessened, settled, taken back."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from mitmproxy.http import Headers

from aoai_gateway.config.models import Client, Priority
from aoai_gateway.engine.call import Notice, Outcome
from aoai_gateway.engine.effects import (
    Answered,
    Cancel,
    Choose,
    CountTokens,
    Ended,
    Reject,
    Reserve,
    Send,
    Settle,
    WaitUntil,
)
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.tokens.models import UNKNOWN_MOST
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import CHAT, DEPLOYMENT, DROP, Answer, Hang, Trace, World, config, throttled, world


def client(**policy: Any) -> Client:
    return Client(name="team", key="key-of-team", **policy)


def booked(trace: Trace) -> list[int]:
    """Tokens of each booking that was asked for."""
    return [effect.reservation.tokens for _, effect in trace.effects if isinstance(effect, Reserve)]


def hold(there: World, tokens: int, limit: int = 1000) -> Reservation:
    """Reserve part of the team's quota for another call, which runs on."""
    other = Reservation(f"other at {there.now}", "team", (Quota(None, limit),), tokens)
    assert there.counters.reserve(other, there.now + there.unix_offset).admitted
    return other


def spend_all(there: World, team: Client) -> None:
    """Use up the team's quota, in tokens, requests or money."""
    quota = Quota(None, team.max_tokens_per_minute, team.max_requests_per_minute, team.max_tokens_per_day)
    other = Reservation("all of it", "team", (quota,), 1000, 1)
    assert there.counters.reserve(other, there.now + there.unix_offset).admitted
    there.counters.settle(other, 1000, there.now + there.unix_offset)


def spend(there: World, tokens: int, requests: int = 1, limit: int = 1000) -> None:
    """Use up part of the team's quota in another call."""
    other = Reservation(f"other at {there.now}", "team", (Quota(None, limit),), tokens, requests)
    assert there.counters.reserve(other, there.now + there.unix_offset).admitted
    there.counters.settle(other, tokens, there.now + there.unix_offset)


USED = Answer(usage=Usage(100, 20, 120))


def test_what_was_booked_is_replaced_by_what_was_used():
    there = world("a").script(a=USED)
    trace = there.call(client=client(max_tokens_per_minute=1000), max_tokens=500)
    assert booked(trace)[0] > 500
    assert isinstance(trace.effects[-1][1], Settle)
    assert trace.call.charged_tokens == 120
    assert there.counters.open_reservations == 0
    again = there.call(client=client(max_tokens_per_minute=1000), max_tokens=850)
    assert dict(again.call.quota_headers)["x-ratelimit-remaining-tokens"] == str(
        1000 - 120 - booked(again)[0]
    )


def test_the_time_that_counting_takes_is_a_part_of_a_refused_calls():
    there, team = world("a"), client(max_tokens_per_minute=1000)
    hold(there, 900)
    call = there.make_call("slow", team)
    body = b'{"model": "gpt", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500}'
    steps = there.engine.run(call, "application/json", body, there.now)
    effect = next(steps)
    while not isinstance(effect, Reject):
        if isinstance(effect, CountTokens):
            there.now += 3.0
        effect = steps.send(there.at_once(effect))
    with pytest.raises(StopIteration):
        steps.send(there.at_once(effect))
    assert (call.outcome, call.ended) == (Outcome.REJECTED, call.started + 3.0)


def test_a_call_that_no_backend_has_taken_costs_nothing():
    there = world("a", "b").script(a=throttled(), b=throttled())
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=1)
    trace = there.call(client=team, max_tokens=900)
    assert isinstance(trace.effects[-1][1], Cancel)
    assert trace.call.charged_tokens == 0
    there.now += 61  # the breaks end; the window would too, so the request is counted at its own time
    there.script(a=USED, b=USED)
    assert there.call(client=team, max_tokens=900).call.outcome is Outcome.OK
    assert there.counters.open_reservations == 0


@pytest.mark.parametrize("failing", [DROP, Answer(500), Answer(400), Answer(404)])
def test_a_request_counts_once_it_is_sent_and_gives_its_tokens_back_if_it_fails(failing):
    there = world("a", "b").script(a=[failing, USED], b=[failing, USED])
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=2)
    trace = there.call(client=team, max_tokens=900)
    assert isinstance(trace.effects[-1][1], Settle)
    assert trace.call.charged_tokens == 0
    there.now += 30  # breaks end
    there.script(a=USED, b=USED)
    assert there.call(client=team, max_tokens=900).call.outcome is Outcome.OK
    assert there.call(client=team).error.code == "quota_exceeded", "two requests were made"
    assert there.counters.open_reservations == 0


def test_a_call_whose_client_does_not_wait_for_the_answer_costs_what_it_could_take():
    there = world("a").script(a=USED)
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=3)
    sending = next(n for n, (_, e) in enumerate(there.call(client=team).effects) if isinstance(e, Send))
    trace = there.call(client=team, max_tokens=200, gone_at=sending)
    assert trace.call.charged_tokens == booked(trace)[0] > 200
    assert dict(there.call(client=team).call.quota_headers)["x-ratelimit-remaining-requests"] == "0"


def test_so_does_one_that_sets_itself_a_time_that_no_answer_can_keep():
    there = world("a").script(a=Hang())
    team = client(max_tokens_per_minute=1000)
    trace = there.call(client=team, max_tokens=200, headers={"x-stainless-read-timeout": "0.05"})
    assert trace.call.outcome is Outcome.BACKENDS_OUT
    assert trace.call.charged_tokens == booked(trace)[0] > 200


def test_a_call_with_an_unproven_token_holds_nothing_and_counts_when_it_is_accepted():
    there = world("a").script(a=USED)
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=3)
    trace = there.call(client=team, max_tokens=500, own_token=True, unproven=True)
    assert booked(trace) == [0, 0]
    assert trace.call.charged_tokens == 120
    headers = dict(there.call(client=team).call.quota_headers)
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert there.counters.open_reservations == 0


def test_a_call_whose_token_is_refused_counts_against_no_client():
    refused = Answer(401)
    there = world("a").script(a=refused)
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=1)
    for _ in range(3):
        trace = there.call(client=team, own_token=True, unproven=True)
        assert trace.call.status == 401
    assert there.script(a=USED).call(client=team).call.status == 200


def test_where_the_quota_is_overdrawn_an_unproven_token_is_refused_too():
    there = world("a").script(a=USED)
    team = client(max_tokens_per_minute=100)
    there.call(client=team)
    trace = there.call(client=team, own_token=True, unproven=True)
    assert trace.call.status == 429


def test_a_client_that_leaves_before_an_attempt_pays_nothing():
    there = world("a").script(a=USED)
    team = client(max_tokens_per_minute=1000, max_requests_per_minute=1)
    elsewhere = world("a").script(a=USED).call(client=team, choose=list).effects
    choosing = next(n for n, (_, effect) in enumerate(elsewhere) if isinstance(effect, Choose))
    trace = there.call(client=team, choose=list, gone_at=choosing)
    assert trace.gone
    assert not trace.sends
    assert there.call(client=team).call.outcome is Outcome.OK


class Together:
    """Calls that are under way at the same time, and end when the test says so."""

    def __init__(self, there: World, team: Client) -> None:
        self.there, self.team, self.count = there, team, 0
        self.running: list[tuple[Any, Any]] = []
        self.refused = self.charged = 0

    def begin(self, **members: Any) -> None:
        there = self.there
        self.count += 1
        call = there.make_call(f"call {self.count}", self.team)
        raw = json.dumps({"model": DEPLOYMENT, "messages": [], **members}).encode()
        run = there.engine.run(call, "application/json", raw, there.now)
        effect = next(run)
        while not isinstance(effect, Send | Reject):
            effect = run.send(there.at_once(effect))
        if isinstance(effect, Send):
            self.running.append((call, run))
        else:
            self.refused += 1

    def end(self, written: int) -> None:
        call, run = self.running.pop(0)
        there = self.there
        run.send(Answered(there.now, 200, Headers()))
        result: Any = Ended(there.now, True, usage=Usage(3, written, 3 + written))
        try:
            while True:
                result = there.at_once(run.send(result))
        except StopIteration:
            self.charged += call.charged_tokens


@pytest.mark.parametrize("limit", [1_000, 5_000, 20_000, 60_000, 200_000])
@pytest.mark.parametrize("seed", range(5))
def test_many_calls_without_a_bound_end_within_the_limit_and_one_call(limit: int, seed: int):
    random = Random(seed)
    there = world("a").script(a=USED)
    together = Together(there, client(max_tokens_per_minute=limit))
    for _ in range(300):
        if random.random() < 0.7 or not together.running:
            together.begin()
        else:
            together.end(random.choice([20, 700, UNKNOWN_MOST]))
    while together.running:
        together.end(UNKNOWN_MOST)
    assert together.refused
    assert together.charged <= limit + UNKNOWN_MOST + 3
    assert there.counters.open_reservations == 0


def test_a_call_without_a_bound_gets_what_is_left():
    there = world("a").script(a=USED)
    team = client(max_tokens_per_minute=20_000)
    assert booked(there.call(client=team)) == [UNKNOWN_MOST + 3]
    spend(there, 5_000, limit=20_000)
    first = there.call(client=team)
    assert booked(first) == [UNKNOWN_MOST + 3, 20_000 - 120 - 5_000]
    assert first.call.outcome is Outcome.OK


def test_a_bound_by_default_lets_many_run_at_once():
    limits = {"max_tokens": {"default": 500}}
    together = Together(
        world("a").script(a=USED), client(max_tokens_per_minute=10_000, request_limits=limits)
    )
    for _ in range(15):
        together.begin()
    assert not together.refused


@pytest.mark.parametrize("effect", range(8))
def test_whenever_the_client_hangs_up_nothing_stays_booked(effect):
    there = world("a", "b").script(a=throttled(), b=USED)
    team = client(max_tokens_per_minute=1000)
    there.call(client=team, max_tokens=100, gone_at=effect)
    assert there.counters.open_reservations == 0


WAITING = {"max_tokens_per_minute": 1000, "when_exceeded": {"action": "wait", "seconds": 70}}


def test_a_call_waits_exactly_until_it_fits():
    there = world("a").script(a=USED)
    spend(there, 900)
    begun = there.now
    there.now += 20
    trace = there.call(client=client(**WAITING), max_tokens=200)
    waits = [effect.at for _, effect in trace.effects if isinstance(effect, WaitUntil)]
    assert waits[-1] == pytest.approx(begun + 60)
    assert all(later - earlier == pytest.approx(1) for earlier, later in pairwise(waits))
    assert trace.call.waited == pytest.approx(40)
    assert trace.call.outcome is Outcome.OK
    assert trace.call.charged_tokens == 120


def test_a_wait_that_comes_to_nothing_says_how_long_it_was():
    there = world("a")
    spend(there, 900)
    there.now += 20
    # Another call is quicker when there is room again, after the fortieth second, and runs for long.
    there.while_waiting = [lambda: None] * 39 + [lambda: hold(there, 900)]
    trace = there.call(client=client(**WAITING), max_tokens=200)
    assert trace.error.status == 429
    assert trace.error.code == "quota_exceeded"
    assert "has waited for 70.0 s" in trace.error.message
    assert dict(trace.error.headers)["retry-after-ms"] == "30000"
    assert trace.call.outcome is Outcome.REJECTED
    assert trace.call.ended == pytest.approx(trace.call.started + 70)
    assert there.counters.open_reservations == 1


def test_a_call_is_not_held_longer_than_its_client_waits():
    there = world("a")
    hold(there, 900)
    trace = there.call(client=client(**WAITING), max_tokens=200, headers={"x-stainless-timeout": "100"})
    assert trace.error.code == "quota_exceeded"
    assert "has waited for 50.0 s" in trace.error.message
    assert there.now == pytest.approx(trace.call.started + 50)


PATIENT_FOR_100 = {"x-stainless-timeout": "100"}


@pytest.mark.parametrize(
    ("policy", "headers", "hint"),
    [
        pytest.param({"max_tokens_per_minute": 1000}, PATIENT_FOR_100, "60000", id="the minute"),
        pytest.param({"max_requests_per_minute": 1}, PATIENT_FOR_100, "60000", id="requests"),
        pytest.param({"max_tokens_per_day": 1000}, {}, None, id="the day"),
    ],
)
def test_a_call_that_cannot_fit_within_the_bound_is_answered_at_once(policy, headers, hint):
    there = world("a")
    team = client(**policy, when_exceeded={"action": "wait", "seconds": 70})
    spend_all(there, team)
    trace = there.call(client=team, max_tokens=200, headers=headers)
    assert trace.error.code == "quota_exceeded"
    assert "has waited" not in trace.error.message
    assert not any(isinstance(effect, WaitUntil) for _, effect in trace.effects)
    assert there.now == trace.call.started
    if hint is not None:
        assert dict(trace.error.headers)["retry-after-ms"] == hint


def test_what_running_calls_hold_is_too_little_to_wait_for():
    there = world("a")
    spend(there, 800)
    hold(there, 150)
    trace = there.call(client=client(**WAITING), max_tokens=300, headers=PATIENT_FOR_100)
    assert trace.error.code == "quota_exceeded"
    assert there.now == trace.call.started


def test_a_call_stops_waiting_when_the_call_that_held_the_room_has_used_it():
    there = world("a").script(a=USED)
    held = hold(there, 900)
    there.while_waiting = [lambda: None] * 4 + [
        lambda: there.counters.settle(held, 900, there.now + there.unix_offset)
    ]
    trace = there.call(client=client(**WAITING), max_tokens=200, headers=PATIENT_FOR_100)
    assert trace.error.code == "quota_exceeded"
    assert "has waited for 5.0 s" in trace.error.message


def test_a_client_that_hangs_up_in_the_line_has_nothing_booked():
    there = world("a")
    spend(there, 900)
    waits = [n for n, (_, e) in enumerate(there.call(client=client(**WAITING), max_tokens=200).effects)
             if isinstance(e, WaitUntil)]  # fmt: skip
    there = world("a")
    spend(there, 900)
    trace = there.call(client=client(**WAITING), max_tokens=200, gone_at=waits[0])
    assert trace.call.outcome is Outcome.CLIENT_GONE
    assert trace.sends == []
    assert there.counters.open_reservations == 0


def test_every_bound_counts_with_every_answer():
    there = world("a").script(a=USED)
    trace = there.call(client=client(max_tokens_per_minute=10_000), max_tokens=100, n=3)
    one = there.call(client=client(max_tokens_per_minute=10_000), max_tokens=100)
    assert booked(trace)[0] - booked(one)[0] == 200


def test_an_answer_without_usage_costs_the_prompt_and_what_was_delivered():
    there = world("a")
    trace = there.call(client=client(max_tokens_per_minute=1000), max_tokens=900)
    assert 0 < trace.call.charged_tokens < 20


def test_degrading_lowers_the_bound_that_is_booked():
    there = world("a").script(a=USED)
    spend(there, 800)
    team = client(max_tokens_per_minute=1000, when_exceeded={"action": "degrade", "max_tokens": 50})
    trace = there.call(client=team, max_tokens=500)
    assert [tokens >= 500 for tokens in booked(trace)] == [True, False]
    assert trace.call.edits == {"max_tokens": 50}
    assert trace.call.notices[Notice.DEGRADED] == "max_tokens 500 -> 50"
    assert trace.call.outcome is Outcome.OK


def test_what_a_lesser_call_does_not_fit_into_either_is_refused():
    there = world("a")
    spend(there, 980)
    team = client(max_tokens_per_minute=1000, when_exceeded={"action": "degrade", "max_tokens": 50})
    trace = there.call(client=team, max_tokens=500)
    assert trace.error.code == "quota_exceeded"
    assert len(booked(trace)) == 2
    assert there.counters.open_reservations == 0


def test_a_client_without_limits_is_neither_counted_nor_booked():
    kinds = {type(effect).__name__ for _, effect in world("a").call(client=client(), path=CHAT).effects}
    assert not kinds & {"CountTokens", "Reserve", "Settle", "Cancel"}


def test_a_client_with_only_a_request_limit_is_not_counted():
    there = world("a").script(a=USED)
    trace = there.call(client=client(max_requests_per_minute={DEPLOYMENT: 5}))
    kinds = [type(effect).__name__ for _, effect in trace.effects]
    assert "CountTokens" not in kinds
    assert "Reserve" in kinds


def test_a_dry_run_books_what_fits_and_refuses_no_call():
    there = World(config("a")).script(a=USED)
    team = client(max_requests_per_minute=1, dry_run=True)
    told = []
    for _ in range(3):
        trace = there.call(client=team)
        told.append(trace.call.notices.get(Notice.DRY_RUN))
        assert trace.call.outcome is Outcome.OK
    assert told == [None, "over 1 requests per minute", "over 1 requests per minute"]
    assert there.counters.open_reservations == 0


def test_a_dry_run_says_that_a_quota_is_over():
    there = world("a").script(a=USED)
    spend(there, 900)
    team = client(max_tokens_per_minute=1000, dry_run=True, when_exceeded={"action": "wait", "seconds": 70})
    trace = there.call(client=team, max_tokens=200)
    assert trace.call.notices[Notice.DRY_RUN] == "over 1,000 tokens per minute"
    assert trace.call.waited == 0


@pytest.mark.parametrize(("asked", "served"), [("standard", "batch"), ("batch", "batch"), (None, "batch")])
def test_who_asks_for_less_than_it_may_is_degraded_further(asked: str | None, served: str) -> None:
    classes = tuple(Priority(name=name) for name in ("critical", "standard", "batch"))
    there = World(config("a", priorities=classes))
    team = client(
        max_tokens_per_minute=1000,
        priority="critical",
        when_exceeded={"action": "degrade", "priority": "batch"},
    )
    spend(there, 900)
    headers = {} if asked is None else {"x-gateway-priority": asked}
    trace = there.call(client=team, headers=headers, max_tokens=500)
    assert trace.sends == ["a@a"]
    assert trace.call.cls is not None
    assert trace.call.cls.name == served
