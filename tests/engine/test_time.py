"""How long a break lasts, and how long an attempt may take."""

from __future__ import annotations

from dataclasses import replace
from email.utils import formatdate

import pytest

from aoai_gateway.config.models import Aoai, Client, Config, Endpoint
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
    at = here.now + here.wall + 0.1 + 20
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


# --- deadlines ---------------------------------------------------------------------------------------


def first_byte(here: World, **members: object) -> float:
    return here.call(**members).sent[0].deadlines.first_byte  # type: ignore[arg-type]


def test_a_stream_begins_soon_and_anything_else_may_take_its_time() -> None:
    here = world("a", replay={"first_byte_seconds": 30, "idle_seconds": 7, "preamble_seconds": 3})
    assert first_byte(here, stream=True) == 30
    assert first_byte(here) == 600
    deadlines = here.call().sent[0].deadlines
    assert (deadlines.idle, deadlines.preamble, deadlines.connect) == (7, 3, 15)


def test_the_endpoints_read_time_out_counts_for_answers_that_do_not_stream() -> None:
    here = world("a", endpoint={"connections": {"timeouts": {"read": 90, "connect": 4}}})
    assert first_byte(here) == 90
    assert first_byte(here, stream=True) == 30
    assert here.call().sent[0].deadlines.connect == 4


@pytest.mark.parametrize(
    ("headers", "whole", "stream"),
    [
        ({"x-stainless-timeout": "45"}, 45, 30),
        ({"x-stainless-read-timeout": "50", "x-stainless-timeout": "45"}, 50, 30),
        ({"x-stainless-read-timeout": "5"}, 5, 5),
        ({"x-stainless-read-timeout": "NOT_GIVEN", "x-stainless-timeout": "45"}, 45, 30),
        ({"x-stainless-timeout": "nan"}, 600, 30),
        ({"x-stainless-timeout": "inf"}, 600, 30),
        ({"x-stainless-timeout": "-3"}, 600, 30),
        ({"x-stainless-timeout": "0"}, 600, 30),
        ({"x-stainless-timeout": "1e9"}, 600, 30),
    ],
)
def test_the_clients_own_time_out_counts(headers: dict[str, str], whole: float, stream: float) -> None:
    here = world("a")
    assert first_byte(here, headers=headers) == whole
    assert first_byte(here, headers=headers, stream=True) == stream


def learned(after: float, count: int = 5, **members: object) -> World:
    here = world("a", "b").script(a=Answer(after=after, takes=0))
    for _ in range(count):
        here.call(**members)  # type: ignore[arg-type]
    return here


def test_what_a_backend_has_shown_bounds_how_long_it_may_take() -> None:
    here = learned(after=2)
    # 4 times (2 s for any answer, and as long again for every token, of which none were told).
    assert first_byte(here, max_tokens=10) == pytest.approx(4 * (2 + 2 * 10))


def test_without_a_bound_on_the_completion_nothing_is_plausible() -> None:
    assert first_byte(learned(after=2)) == 600


def test_with_too_little_history_nothing_is_plausible() -> None:
    assert first_byte(learned(after=2, count=4), max_tokens=10) == 600


def test_it_only_ever_tightens() -> None:
    here = learned(after=100)
    assert first_byte(here, max_tokens=1000) == 600
    assert first_byte(here, max_tokens=1000, headers={"x-stainless-timeout": "45"}) == 45


def test_a_deadline_is_never_absurdly_short() -> None:
    assert first_byte(learned(after=0.01), max_tokens=1) == 10


def test_streams_neither_teach_nor_heed_it() -> None:
    here = learned(after=2, stream=True)
    assert first_byte(here, max_tokens=10) == 600
    assert first_byte(learned(after=2), max_tokens=10, stream=True) == 30


def test_an_embedding_is_bounded_by_other_embeddings() -> None:
    here = world("a").script(a=Answer(after=5, takes=0))
    for _ in range(5):
        here.call({"model": "gpt", "input": "x"}, path=EMBEDDINGS)
    trace = here.call({"model": "gpt", "input": "x"}, path=EMBEDDINGS)
    assert trace.sent[0].deadlines.first_byte == pytest.approx(20)


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
    assert first_byte(here, model="quick", max_tokens=1) == 10
    assert first_byte(here, model="thorough", max_tokens=1) == 600


def test_names_that_clients_make_up_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoai_gateway.attempts.MOST_BACKENDS", 3)
    monkeypatch.setattr("aoai_gateway.budgeting.MOST_DEPLOYMENTS", 3)
    here = open_endpoint().script(a=Answer(usage=Usage(10, 1, 11), model="gpt-4o"))
    team = Client(name="team", key="key-of-team", max_tokens_per_minute=1_000_000)
    for n in range(9):
        here.call(model=f"made-up-{n}", client=team)
        here.call(model="in-use", client=team)
    engine, budgets = here.engine, here.engine.budgets
    for kept in ({name for _, name in engine.speeds}, budgets._corrections, budgets._models):
        assert len(kept) == 3
        assert "in-use" in kept
    assert len(engine.dispatcher._pulses) <= 3
