"""How long a break lasts, and how long an attempt may take."""

from __future__ import annotations

from dataclasses import replace
from email.utils import formatdate

import pytest

from aoai_gateway.config.models import Aoai, Client, Config, Endpoint
from aoai_gateway.engine.call import Outcome
from aoai_gateway.routing.responsiveness import Liveness
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import (
    EMBEDDINGS,
    KEY_REFUSED,
    OK,
    Answer,
    Hang,
    Refuse,
    World,
    throttled,
    world,
)

# --- from a hint to a break --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 10),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "9"}, 9),
        ({"retry_after": "0.5"}, 0.5),
        ({"x_ratelimit_reset_tokens": "12", "x_ratelimit_remaining_tokens": "0"}, 12),
        ({"retry_after_ms": "1"}, 0.2),
        ({"retry_after": "86400"}, 60),
        ({"retry_after": "61"}, 60),
        ({"retry_after": "nonsense"}, 10),
        ({"retry_after": "-5"}, 10),
        ({"retry_after_ms": "0", "x_ratelimit_remaining_tokens": "0"}, 60),
        (
            {
                "retry_after_ms": "0",
                "x_ratelimit_remaining_tokens": "0",
                "x_ratelimit_renewalperiod_tokens": "10",
            },
            10,
        ),
    ],
)
def test_a_hint_becomes_a_break(headers: dict[str, str], seconds: float) -> None:
    here = world("a", "b").script(a=throttled(**headers))
    trace = here.call()
    assert trace.call.attempts[0].break_seconds == pytest.approx(seconds)


def test_a_date_is_a_hint() -> None:
    here = world("a", "b")
    at = here.now + here.unix_offset + 0.1 + 20
    here.script(a=throttled(retry_after=formatdate(at, usegmt=True)))
    trace = here.call()
    assert trace.call.attempts[0].break_seconds == pytest.approx(20, abs=1)


def test_a_refusal_in_a_stream_takes_the_hints_of_its_200() -> None:
    here = world("a", "b").script(a=Refuse(headers={"retry-after": "4"}))
    assert here.call(stream=True).call.attempts[0].break_seconds == 4


def test_our_key_refused_is_the_longest_break() -> None:
    here = world("a", "b").script(a=replace(KEY_REFUSED, headers={"retry-after": "1"}))
    assert here.call().call.attempts[0].break_seconds == 60


def test_the_lengths_are_configured() -> None:
    breaks = {"default_seconds": 3, "floor_seconds": 2, "ceiling_seconds": 5}
    lengths = []
    for hints in ({}, {"retry_after": "1"}, {"retry_after": "50"}):
        here = world("a", "b", breaks=breaks).script(a=throttled(**hints))
        lengths.append(here.call().call.attempts[0].break_seconds)
    assert lengths == [3, 2, 5]


# --- timeouts -----------------------------------------------------------------------------------------


def first_byte(here: World, **members: object) -> float:
    return here.call(**members).sent[0].timeouts.first_byte  # type: ignore[arg-type]


def test_an_answer_may_take_as_long_as_the_client_waits_streams_included() -> None:
    here = world("a", replay={"first_byte_seconds": 30, "idle_seconds": 7, "preamble_seconds": 3})
    assert first_byte(here, stream=True) == first_byte(here) == 600
    timeouts = here.call().sent[0].timeouts
    assert (timeouts.idle, timeouts.preamble, timeouts.connect) == (7, 3, 15)


def test_the_endpoints_read_time_out_counts_where_the_client_says_nothing() -> None:
    here = world("a", endpoint={"connections": {"timeouts": {"read": 90, "connect": 4}}})
    assert first_byte(here, stream=True) == first_byte(here) == 90
    assert first_byte(here, headers={"x-stainless-timeout": "100"}) == 100
    assert here.call().sent[0].timeouts.connect == 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-stainless-timeout": "45"}, 45),
        ({"x-stainless-read-timeout": "50", "x-stainless-timeout": "45"}, 50),
        ({"x-stainless-read-timeout": "5.0"}, 5),
        ({"x-stainless-read-timeout": "0.05"}, 1),
        ({"x-stainless-read-timeout": "NOT_GIVEN", "x-stainless-timeout": "45"}, 45),
        *(
            ({"x-stainless-timeout": odd}, 600)
            for odd in ("nan", "inf", "-3", "0", "1e9", "1e309", "1e3", "1_0")
        ),
        *(({"x-stainless-timeout": odd}, 600) for odd in ("9" * 400, "", " 5", "0x10", "86400")),
    ],
)
def test_the_clients_own_time_out_counts(headers: dict[str, str], seconds: float, stream: bool) -> None:
    assert first_byte(world("a"), headers=headers, stream=stream) == seconds


def learned(after: float, count: int = 5, tokens: int = 10, **members: object) -> World:
    there = Answer(after=after, takes=0, usage=Usage(10, tokens, 10 + tokens))
    here = world("a", "b").script(a=there)
    for _ in range(count):
        here.call(**members)  # type: ignore[arg-type]
    return here


def test_what_a_backend_has_shown_bounds_how_long_it_may_take() -> None:
    here = learned(after=20)
    # 4 times as long as the slowest, by the tokens that it may have.
    assert first_byte(here, max_tokens=10) == pytest.approx(80)
    assert first_byte(here, max_tokens=20) == pytest.approx(160)


def test_without_a_bound_on_the_completion_nothing_is_plausible() -> None:
    assert first_byte(learned(after=2)) == 600


def test_with_too_little_history_nothing_is_plausible() -> None:
    assert first_byte(learned(after=2, count=4), max_tokens=10) == 600


def test_it_only_ever_tightens() -> None:
    here = learned(after=100)
    assert first_byte(here, max_tokens=1000) == 600
    assert first_byte(here, max_tokens=1000, headers={"x-stainless-timeout": "45"}) == 45


def test_one_call_alone_is_never_given_up_before_the_configured_time() -> None:
    assert first_byte(learned(after=0.01), max_tokens=1) == 30
    assert first_byte(learned(after=0.01, stream=True), stream=True) == 30


def test_streams_and_other_answers_do_not_teach_each_other() -> None:
    assert first_byte(learned(after=2, stream=True), max_tokens=10) == 600
    assert first_byte(learned(after=2), max_tokens=10, stream=True) == 600


def test_a_larger_prompt_may_take_longer_in_proportion() -> None:
    here = learned(after=2)
    message = {"role": "user", "content": "word " * 16_000}
    assert first_byte(here, max_tokens=10, messages=[message]) > 4 * 2 * 15


def test_six_short_answers_do_not_cut_off_a_long_prompt() -> None:
    here = learned(after=0.5, count=6)
    here.script(a=Answer(after=60, takes=0))
    message = {"role": "user", "content": "word " * 80_000}
    trace = here.call(max_tokens=50, messages=[message])
    assert trace.sends == ["a@a"]
    assert trace.sent[0].timeouts.first_byte == 600
    assert here.in_break("a") is None


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "unheard of", 7])
def test_a_call_that_asks_the_model_to_think_is_waited_for(effort: object) -> None:
    here = learned(after=0.5, count=6, stream=True)
    assert first_byte(here, stream=True, reasoning_effort=effort) == 600
    assert first_byte(here, stream=True, reasoning_effort="minimal") == 30


def test_a_reasoning_model_that_is_silent_for_long_is_asked_once() -> None:
    here = learned(after=0.5, count=6, stream=True)
    here.script(a=Answer(after=40))
    trace = here.call(stream=True, reasoning_effort="high", headers={"x-stainless-read-timeout": "600"})
    assert trace.sends == ["a@a"]
    assert trace.call.outcome is Outcome.OK


def test_silence_tells_of_a_backend_that_has_shown_nothing_by_what_its_pool_has_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = learned(after=3, stream=True)
    here.script(a=throttled(), b=OK)
    within: list[float | None] = []
    monkeypatch.setattr(Liveness, "sent", lambda _liveness, _call, _now, seconds: within.append(seconds))
    assert here.call(stream=True).sends == ["a@a", "b@b"]
    assert within == [pytest.approx(3), pytest.approx(6)]


def test_a_backend_whose_model_was_seen_to_think_is_waited_for() -> None:
    thought = Usage(10, 300, 310, reasoning_tokens=250)
    here = world("a").script(a=Answer(after=3, takes=0, usage=thought))
    for _ in range(6):
        here.call(max_tokens=10)
    assert first_byte(here, max_tokens=10) == 600


def test_impatient_calls_with_huge_bounds_teach_nothing() -> None:
    here = learned(after=14, tokens=500)
    honest = first_byte(here, max_tokens=500)
    here.script(a=Hang(), b=Hang())
    for _ in range(30):
        here.call(max_tokens=2_147_483_647, headers={"x-stainless-read-timeout": "0.05"})
        here.now += 100
    here.script(a=OK)
    assert first_byte(here, max_tokens=500) >= honest


def test_an_embedding_is_bounded_by_other_embeddings() -> None:
    here = world("a").script(a=Answer(after=15, takes=0))
    for _ in range(5):
        here.call({"model": "gpt", "input": "x"}, path=EMBEDDINGS)
    trace = here.call({"model": "gpt", "input": "x"}, path=EMBEDDINGS)
    assert trace.sent[0].timeouts.first_byte == pytest.approx(60)


def test_other_answers_than_success_teach_nothing() -> None:
    here = world("a").script(a=Answer(400, after=0.01))
    for _ in range(10):
        here.call()
    assert first_byte(here, max_tokens=1) == 600


def test_a_backend_that_became_slow_is_given_more_time() -> None:
    # Were it not, every answer from now on would be cut off, and billed.
    here = learned(after=2)
    here.script(a=Hang(), b=OK)
    given = []
    for _ in range(4):
        given.append(first_byte(here, max_tokens=10))
        here.now += 100
    assert given == sorted(given)
    assert given[-1] > 2 * given[0]


def open_endpoint() -> World:
    return World(Config(aoai=Aoai(endpoints=(Endpoint(name="a", url="https://a.example", key="key-of-a"),))))


def test_deployments_of_an_open_endpoint_have_speeds_of_their_own() -> None:
    here = open_endpoint().script(a=Answer(after=0.1, takes=0))
    for _ in range(5):
        here.call(model="quick")
    assert first_byte(here, model="quick", max_tokens=1) == 30
    assert first_byte(here, model="thorough", max_tokens=1) == 600


def test_names_that_clients_make_up_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoai_gateway.engine.shared.MOST_BACKENDS", 3)
    monkeypatch.setattr("aoai_gateway.engine.estimates.MOST_DEPLOYMENTS", 3)
    here = open_endpoint().script(a=Answer(usage=Usage(10, 1, 11), model="gpt-4o"))
    team = Client(name="team", key="key-of-team", max_tokens_per_minute=1_000_000)
    for n in range(9):
        for name in (f"made-up-{n}", "in-use"):
            here.call(model=name, client=team, messages=[{"role": "user", "content": "What is remembered?"}])
    engine, estimates = here.engine, here.engine.settlement._estimates
    assert {name for _, name in engine.speeds} == {"in-use", "made-up-7", "made-up-8"}
    for kept in (estimates._corrections, estimates._models):
        assert len(kept) == 3
        assert kept.get("in-use") is not None
    assert len(engine.scheduler._livenesses) <= 3
