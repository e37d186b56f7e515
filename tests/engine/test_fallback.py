"""Fallback to another virtual deployment, by its cause: in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from aoai_gateway.config.models import Client, Config
from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.engine.call import Notice, Outcome
from aoai_gateway.engine.effects import (
    Book,
    Cancel,
    ClientGone,
    CountTokens,
    Deliver,
    Failed,
    Reserve,
    Return,
    Settle,
)
from aoai_gateway.inspect.decision_trace import Notes, follow, tell
from aoai_gateway.routing.backends import Backend
from aoai_gateway.usage.record import usage_record
from aoai_gateway.wire.backend_errors import Refusal
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import RESPONSES, Answer, Block, Trace, World, throttled

FILTER, LENGTH = Refusal.CONTENT_FILTER, Refusal.CONTEXT_LENGTH
USED = Answer(usage=Usage(100, 20, 120))
MISSING = Answer(404, body=b'{"error":{"code":"DeploymentNotFound","message":"does not exist"}}')


def world(**deployments: dict[str, str]) -> World:
    """Make a world: ``a={"content_filter": "b"}`` is a deployment with its fallback, served at ``on_a``."""
    endpoints = [
        {
            "name": f"on_{name}",
            "url": f"https://{name}.example",
            "key": "k",
            "virtual_deployments": [
                {"name": name, "standins": [{"name": f"s-{name}"}], "fallback": fallback or None}
            ],
        }
        for name, fallback in deployments.items()
    ]
    clients = [{"name": "anybody", "key": "key-of-anybody"}]
    return World(Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": clients}))


def call(there: World, deployment: str = "a", path: str | None = None, **more: Any) -> Trace:
    body = {"model": deployment, "messages": [], **more.pop("body", {})}
    return there.call(body, **({"path": path} if path else {}), **more)


def team(name: str = "team", **policy: Any) -> Client:
    """Make a client. What follows from its policy is kept by its name."""
    return Client(name=name, key="key-of-team", **policy)


def of(trace: Trace, *kinds: type) -> list[Any]:
    return [effect for _, effect in trace.effects if isinstance(effect, kinds)]


@pytest.mark.parametrize("cause", [FILTER, LENGTH])
def test_a_refused_prompt_goes_to_the_deployment_for_its_cause(cause: Refusal):
    there = world(a={cause.value: "b"}, b={}).script(on_a=Block(cause), on_b=USED)
    trace = call(there)
    assert trace.sends == ["s-a@on_a", "s-b@on_b"]
    assert isinstance(trace.final, Deliver)
    done = trace.call
    assert (done.asked, done.deployment) == ("a", "b")
    assert done.notices[Notice.FALLBACK] == f"{cause} a -> b"
    record = usage_record(done)
    assert record["fallback"] == f"{cause} a -> b"
    assert (record["asked_deployment"], record["deployment"], record["standin"]) == ("a", "b", "s-b")
    assert record["attempts"][0]["reason"] == f"400 {cause}"
    assert there.in_break("s-a@on_a") is None, "the backend is well"


def test_without_a_fallback_for_its_cause_a_refusal_is_the_clients():
    for fallbacks in ({}, {LENGTH.value: "b"}):
        there = world(a=fallbacks, b={}).script(on_a=Block(FILTER), on_b=USED)
        trace = call(there)
        assert trace.sends == ["s-a@on_a"]
        assert trace.call.status == 400
        assert Notice.FALLBACK not in trace.call.notices


def test_a_deployment_that_exists_nowhere_leads_to_the_one_for_that():
    there = world(a={"missing_model": "b"}, b={}).script(on_a=MISSING, on_b=USED)
    # The wire tells the standin's fault apart.
    trace = _missing(there)
    assert trace.sends == ["s-a@on_a", "s-b@on_b"]
    assert trace.call.notices[Notice.FALLBACK] == "missing_model a -> b"
    assert there.in_break("s-a@on_a") is None, "the next call finds out again"
    assert _missing(there).sends == ["s-a@on_a", "s-b@on_b"]


def _missing(there: World, **more: Any) -> Trace:
    send = there._send

    def with_fault(effect: Any, behaviour: Any) -> Any:
        result = send(effect, behaviour)
        if behaviour is MISSING:
            reason = "404 DeploymentNotFound"
            return Failed(
                result.now, FailureKind.STATUS, reason, fault=Fault.STANDIN, status=404, body=MISSING.body
            )
        return result

    there._send = with_fault  # type: ignore[method-assign]  # the driver's backends know no faults
    try:
        return call(there, **more)
    finally:
        there._send = send  # type: ignore[method-assign]  # as it was


def test_it_falls_on_from_there_but_never_back():
    chain = world(a={"content_filter": "b"}, b={"content_filter": "c"}, c={})
    trace = call(chain.script(on_a=Block(FILTER), on_b=Block(FILTER), on_c=USED))
    assert trace.sends == ["s-a@on_a", "s-b@on_b", "s-c@on_c"]
    assert trace.call.notices[Notice.FALLBACK] == "content_filter a -> b; content_filter b -> c"
    assert trace.call.asked == "a"
    # Such a configuration is refused; yet no call goes in circles.
    circle = world(a={"content_filter": "b"}, b={"content_filter": "a"})
    trace = call(circle.script(on_a=Block(FILTER), on_b=Block(FILTER)))
    assert trace.sends == ["s-a@on_a", "s-b@on_b"]
    assert trace.call.status == 400
    assert trace.call.fallback_refused == "content_filter b -> a: left_before"


def test_only_to_what_the_client_may_use():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    for name, policy in {
        "not_allowed": {"deployments_allowed": ["a"]},
        "no_backend": {"endpoints_allowed": ["on_a"]},
        "no_limit": {"max_tokens_per_minute": {"a": 100_000}},
    }.items():
        trace = call(there, client=team(name, **policy))
        assert trace.sends == ["s-a@on_a"], policy
        assert trace.call.status == 400
        assert usage_record(trace.call)["fallback_refused"] == f"content_filter a -> b: {name}"


def test_nothing_is_said_of_deployments_that_nothing_led_to():
    there = world(a={"content_filter": "b", "missing_model": "b"}, b={})
    barred = team("barred", deployments_allowed=["a"])
    for answer in (USED, Block(LENGTH), throttled()):
        trace = call(there.script(on_a=answer), client=barred)
        assert trace.sends == ["s-a@on_a"]
        assert usage_record(trace.call)["fallback_refused"] is None


def test_a_deployment_that_exists_nowhere_says_why_no_other_serves():
    there = world(a={"missing_model": "b"}, b={}).script(on_a=MISSING, on_b=USED)
    trace = _missing(there, client=team("barred", deployments_allowed=["a"]))
    assert trace.sends == ["s-a@on_a"]
    assert trace.call.fallback_refused == "missing_model a -> b: not_allowed"


def test_the_booking_is_for_the_new_deployment_and_the_request_counts_once():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    limits = {"a": 2_000, "b": 5_000, "total": 4_000}
    client = team(max_tokens_per_minute=limits, max_requests_per_minute=3)
    trace = call(there, client=client, body={"max_tokens": 1_500})
    first, second = (effect.reservation for effect in of(trace, Reserve))
    assert [quota.deployment for quota in first.quotas] == ["a", None]
    assert [quota.deployment for quota in second.quotas] == ["b", None]
    assert first.id != second.id
    assert [type(effect) for effect in of(trace, Cancel, Settle)] == [Cancel, Settle]
    assert trace.call.charged_tokens == 120
    assert there.counters.open_reservations == 0
    told = dict(trace.call.quota_headers)
    assert told["x-ratelimit-remaining-requests"] == "2", "one request of three"
    again = call(there, client=client, body={"max_tokens": 1_500})
    assert dict(again.call.quota_headers)["x-ratelimit-remaining-requests"] == "1"


def test_what_does_not_fit_its_quota_there_gets_the_first_answer_and_the_first_booking():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    policy = {"max_tokens_per_minute": {"a": 9_000, "b": 0}, "max_requests_per_minute": 1}
    trace = call(there, client=team(**policy), body={"max_tokens": 100})
    assert trace.sends == ["s-a@on_a"]
    assert isinstance(trace.final, Return)
    done = trace.call
    assert (done.status, done.deployment, done.asked) == (400, "a", "")
    assert Notice.FALLBACK not in done.notices
    assert usage_record(done)["fallback_refused"] == "content_filter a -> b: quota_exceeded"
    assert there.counters.open_reservations == 0
    assert call(there, client=team(**policy)).error.code == "quota_exceeded", "the request counted"


@pytest.mark.parametrize(("limit_there", "booked_there"), [(16_400, 16_280), (100_000, 16_387)])
def test_a_call_that_got_what_was_left_may_get_what_is_left_there(limit_there: int, booked_there: int):
    """Without a bound it may take more than is booked for it: one of a client at a time, itself."""
    there = world(a={"content_filter": "b"}, b={}).script(on_a=[USED, Block(FILTER)], on_b=USED)
    client = team(max_tokens_per_minute={"a": 16_400, "b": limit_there})
    for each in ("a", "b"):
        assert call(there, each, client=client).call.charged_tokens == 120
    trace = call(there, client=client)
    booked = [effect.reservation.tokens for effect in of(trace, Reserve)]
    assert (booked[1], booked[-1]) == (16_280, booked_there)
    assert (trace.call.deployment, trace.call.fallback_refused) == ("b", None)


def test_a_call_that_fits_where_it_fell_back_to_leaves_others_what_is_left():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=[USED, Block(FILTER), USED], on_b=USED)
    client = team(max_tokens_per_minute={"a": 16_400, "b": 100_000})
    assert call(there, client=client).call.charged_tokens == 120
    others: list[Trace] = []

    def choose(backends: Sequence[Backend]) -> Sequence[Backend]:
        if backends[0].name == "s-b@on_b":
            others.append(call(there, client=client))
        return backends

    trace = call(there, client=client, choose=choose)
    assert (trace.call.deployment, trace.call.status) == ("b", 200)
    (other,) = others
    assert other.call.status == 200


def test_it_neither_waits_nor_is_degraded_for_the_other_quota():
    there = world(a={"content_filter": "b"}, b={}, c={}).script(on_a=Block(FILTER), on_b=USED)
    limits = {"a": 9_000, "b": 0, "c": 9_000}
    for said in ({"action": "wait", "seconds": 20}, {"action": "degrade", "deployment": "c"}):
        client = team(said["action"], max_tokens_per_minute=limits, when_exceeded=said)
        trace = call(there, client=client)
        assert trace.sends == ["s-a@on_a"]
        assert trace.call.waited == 0


def test_a_budget_in_money_is_booked_at_the_new_price():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    prices = {"a": {"input": 1, "output": 1}, "b": {"input": 10, "output": 10}}
    there.adopt(Config.model_validate({**there.config.model_dump(exclude_unset=True), "prices": prices}))
    trace = call(there, client=team(max_cost_per_day=100), body={"max_tokens": 100})
    costs = [e.reservation.cost or 0 for e in of(trace, Reserve)]
    assert costs[1] == 10 * costs[0]
    assert usage_record(trace.call)["cost"] == pytest.approx(120 * 10 / 1e6)
    assert there.counters.open_reservations == 0


def test_a_blocked_answer_falls_back_and_is_told_whole_where_it_cannot():
    blocked = Block(FILTER, 200, usage=Usage(100, 5, 105))
    there = world(a={"content_filter": "b"}, b={}).script(on_a=blocked, on_b=USED)
    trace = call(there, client=team(max_tokens_per_minute=9_000), body={"max_tokens": 100})
    assert trace.sends == ["s-a@on_a", "s-b@on_b"]
    assert trace.call.charged_tokens == 120, "what the client got"
    other = team("other", max_tokens_per_minute={"a": 9_000, "b": 0})
    kept = call(there, client=other, body={"max_tokens": 100})
    assert kept.call.status == 200
    assert kept.call.usage == Usage(100, 5, 105)
    assert kept.call.charged_tokens == 105


def test_the_other_deployments_failure_is_the_answer():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=throttled())
    trace = call(there)
    assert trace.error.code == "all_backends_out"
    assert trace.call.notices[Notice.FALLBACK]


def test_what_a_call_refers_to_is_where_it_was_understood():
    there = world(a={"context_length": "b"}, b={}).script(on_a=Block(LENGTH), on_b=USED)
    trace = call(there, path=RESPONSES, body={"previous_response_id": "resp_1234567890"})
    assert trace.sends == ["s-a@on_a"]
    assert trace.call.status == 400
    assert trace.call.fallback_refused == "context_length a -> b: no_backend"


def test_a_client_that_leaves_while_it_falls_back_has_nothing_booked():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    whole = call(there, client=team(max_tokens_per_minute=90_000))
    for number, (_, effect) in enumerate(whole.effects):
        trace = call(there, client=team(max_tokens_per_minute=90_000), gone_at=number)
        if trace.gone:
            assert trace.call.outcome is Outcome.CLIENT_GONE, effect
        for left in there.engine.abandoned(trace.call):
            there.at_once(left)
        assert there.counters.open_reservations == 0, effect


def test_the_first_booking_is_made_anew_even_where_its_room_was_taken():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    client = team(max_tokens_per_minute={"a": 5_000, "b": 0}, max_requests_per_minute=1)
    at_once = there.at_once

    def with_another_call(effect: Any) -> Any:
        result = at_once(effect)
        if isinstance(effect, Cancel):
            other = replace(effect.reservation, id="another call")
            assert there.counters.reserve(other, there.now + there.unix_offset).admitted
        return result

    there.at_once = with_another_call  # type: ignore[method-assign]
    trace = call(there, client=client, body={"max_tokens": 100})
    assert isinstance(trace.final, Return)
    (again,) = of(trace, Book)
    assert again.reservation.id != of(trace, Cancel)[0].reservation.id
    assert [settled.reservation for settled in of(trace, Settle)] == [again.reservation]
    assert there.counters.open_reservations == 1, "the other call's"


@pytest.mark.parametrize(
    ("left_at", "hangs_up"),
    [(CountTokens, True), (Reserve, True), (Cancel, False), (CountTokens, False), (Reserve, False)],
)
def test_a_call_that_ends_while_it_is_admitted_elsewhere_has_counted(left_at: type, hangs_up: bool):
    there = world(a={"content_filter": "b"}, b={}).script(
        on_a=Block(FILTER, 200, usage=Usage(100, 5, 105)), on_b=USED
    )
    client = team(max_tokens_per_minute=90_000, max_requests_per_minute=3)
    at_once, run, seen, begun = there.at_once, there.engine.run, [], []

    def left(effect: Any) -> Any:
        seen.append(type(effect))
        if Cancel in seen and type(effect) is left_at and seen.count(left_at) == 1 + (left_at is not Cancel):
            if hangs_up:
                return ClientGone(there.now)
            if left_at is Cancel:
                at_once(effect)
            raise InterruptedError
        return at_once(effect)

    def known(asked: Any, *rest: Any) -> Any:
        begun.extend((asked, run(asked, *rest)))
        return begun[1]

    there.at_once, there.engine.run = left, known  # type: ignore[method-assign]
    with suppress(InterruptedError):
        call(there, client=client)
    asked, steps = begun
    steps.close()
    for effect in there.engine.abandoned(asked):
        at_once(effect)
    assert there.counters.open_reservations == 0
    there.at_once, there.engine.run = at_once, run  # type: ignore[method-assign]
    assert (asked.deployment, asked.charged_tokens) == ("a", 105), "what Azure bills"
    told = dict(call(there, client=client).call.quota_headers)
    assert told["x-ratelimit-remaining-requests"] == "1", "two requests of three"


def test_the_limits_of_both_deployments_hold():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    limits = {
        "action": "clamp",
        "deployments": {"a": {"max_tokens": 50}, "b": {"max_tokens": 80, "n": 1}},
    }
    trace = call(there, client=team(request_limits=limits), body={"max_tokens": 100, "n": 2})
    assert trace.call.edits == {"max_tokens": 50, "n": 1}


def story_of(there: World, **more: Any) -> str:
    notes = Notes()
    run = there.engine.run

    def followed(asked: Any, *rest: Any) -> Any:
        return follow(run(asked, *rest), asked, notes)

    there.engine.run = followed  # type: ignore[method-assign]  # an observer stands between
    return "\n".join(tell(call(there, **more).call, notes))


def test_the_story_tells_why_no_other_deployment_served():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    story = story_of(there, client=team(max_tokens_per_minute={"a": 9_000, "b": 0}))
    assert "no other deployment serves it: content_filter a -> b: quota_exceeded" in story


def test_the_story_tells_of_it():
    there = world(a={"content_filter": "b"}, b={}).script(on_a=Block(FILTER), on_b=USED)
    story = story_of(there)
    assert "attempt 1 failed: 400 content_filter; no break" in story
    assert "another deployment serves it: content_filter a -> b" in story
