"""A backend that refuses a fetched credential is shown another one before it counts as broken."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.credentials import Identity
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.effects import Drain, Renew
from tests.engine_driver import KEY_REFUSED, OK, Answer, Trace, World, config

REFUSED = Answer(401)


def keyless(*backends: str, **parts: Any) -> World:
    made = config(*backends, **parts)
    identity = Identity(type="managed_identity")
    endpoints = tuple(e.but(key=None, auth=identity) for e in made.aoai.endpoints)
    return World(made.but(aoai=made.aoai.but(endpoints=endpoints)))


def renewals(trace: Trace) -> int:
    return sum(isinstance(effect, Renew) for _, effect in trace.effects)


@pytest.mark.parametrize("refusal", [REFUSED, KEY_REFUSED])
def test_the_call_is_sent_once_more_with_another_one(refusal: Answer) -> None:
    here = keyless("a", "b").script(a=[refusal, OK])
    trace = here.call()
    assert trace.sends == ["a@a", "a@a"]
    assert renewals(trace) == 1
    assert trace.call.status == 200
    (attempt,) = trace.call.attempts
    assert attempt.resent
    assert attempt.failure is None
    assert here.in_break("a") is None


def test_what_creates_state_is_sent_once_more_too() -> None:
    trace = keyless("a").script(a=[REFUSED, OK]).call(background=True, path="/openai/v1/responses", input="x")
    assert trace.sends == ["a@a", "a@a"]


def test_without_another_one_the_endpoint_is_in_a_break_and_the_next_one_serves() -> None:
    here = keyless("a", "b").script(a=KEY_REFUSED)
    here.renews = False
    trace = here.call()
    assert trace.sends == ["a@a", "b@b"]
    assert trace.call.status == 200
    assert here.in_break("a") is not None


def test_one_that_is_refused_again_is_not_renewed_again() -> None:
    here = keyless("a", "b").script(a=KEY_REFUSED)
    trace = here.call()
    assert trace.sends == ["a@a", "a@a", "b@b"]
    assert renewals(trace) == 1
    assert here.in_break("a") is not None
    assert len(trace.call.attempts) == 2


def test_when_all_endpoints_refuse_the_number_of_attempts_stays_bounded() -> None:
    here = keyless("a", "b", "c", "d", replay={"max_attempts": 3}).script(
        a=REFUSED, b=REFUSED, c=REFUSED, d=REFUSED
    )
    trace = here.call()
    assert len(trace.call.attempts) <= 3
    assert len(trace.sends) <= 6


def test_a_call_that_has_taken_its_time_is_not_held_up_by_it() -> None:
    slow = Answer(401, after=20.0)
    trace = keyless("a", "b", replay={"max_seconds": 10}).script(a=slow).call()
    assert renewals(trace) == 0


@pytest.mark.parametrize("status", [403, 429, 500])
def test_other_refusals_are_no_reason(status: int) -> None:
    assert renewals(keyless("a", "b").script(a=Answer(status)).call()) == 0


def test_a_written_key_and_a_clients_own_token_stay_as_they_are() -> None:
    here = World(config("a", "b")).script(a=REFUSED)
    assert renewals(here.call()) == 0
    own = keyless("a", "b").script(a=REFUSED).call(own_token=True)
    assert renewals(own) == 0
    assert own.call.status == 401


@pytest.mark.parametrize("kind", [Drain, Renew])
def test_a_client_that_leaves_meanwhile_ends_the_call(kind: type) -> None:
    whole = keyless("a", "b").script(a=[REFUSED, OK]).call()
    at = next(n for n, (_, effect) in enumerate(whole.effects) if isinstance(effect, kind))
    trace = keyless("a", "b").script(a=[REFUSED, OK]).call(gone_at=at)
    assert trace.call.outcome is Outcome.CLIENT_GONE
    assert trace.sends == ["a@a"]
