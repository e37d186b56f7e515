"""Whatever backends do and clients ask: what holds for every call (`Trace.check`) and for many in a row."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.effects import Deliver
from aoai_gateway.wire.bodies import LARGE_BODY
from tests.engine_driver import (
    CHAT,
    RESPONSES,
    Answer,
    Behaviour,
    Fail,
    Hang,
    Refuse,
    World,
    config,
)
from tests.examples import examples

HINTS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"]
    ),
    st.sampled_from(["0", "1", "50", "3000", "86400", "-1", "junk"]),
    max_size=3,
)
STATUSES = st.sampled_from([200, 400, 401, 403, 404, 408, 429, 429, 500, 502, 503, 504, 529])
BEHAVIOURS: st.SearchStrategy[Behaviour] = st.one_of(
    st.builds(
        Answer,
        STATUSES,
        after=st.floats(0, 60),
        headers=HINTS,
        body=st.sampled_from([None, b"", b'{"error":{"code":"x"}}']),
        complete=st.booleans(),
        response_id=st.sampled_from([None, "resp_1", "resp_2"]),
    ),
    st.builds(
        Fail,
        st.sampled_from(
            [k for k in FailureKind if k not in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM)]
        ),
        after=st.floats(0, 60),
        reused=st.booleans(),
    ),
    st.builds(Refuse, headers=HINTS),
    st.just(Hang()),
)
NAMES = [f"{standin}@{endpoint}" for endpoint in "abc" for standin in ("ptu", "paygo")]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    backends = [
        (
            name,
            {
                "non_streaming_fraction": draw(st.sampled_from([0, 0.5, 1])),
                "tokens_per_minute": draw(st.sampled_from([None, None, 1_000])),
                "enabled": draw(st.sampled_from([True, True, True, False])),
            },
        )
        for name in names
    ]
    replay = {"max_attempts": draw(st.integers(1, 8)), "max_seconds": draw(st.sampled_from([1, 60, 1_000]))}
    here = World(config(*backends, replay=replay), random=Random(draw(st.integers(0, 100))))
    here.scripts = {name: draw(st.lists(BEHAVIOURS, min_size=1, max_size=4)) for name in names}
    return here


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "gpt", "input": "hi", "messages": []}
    body["stream"] = draw(st.booleans())
    if draw(st.sampled_from([False, False, True])):
        body["user"] = "x" * LARGE_BODY
    if draw(st.booleans()):
        body["max_completion_tokens"] = draw(st.sampled_from([10, 5_000]))
    path = draw(st.sampled_from([CHAT, RESPONSES]))
    if path == RESPONSES:
        body["background"] = draw(st.booleans())
        if draw(st.booleans()):
            body["previous_response_id"] = draw(st.sampled_from(["resp_1", "resp_2", "resp_3"]))
    choices = [None, lambda c: c, lambda c: c[::-1], lambda c: c[1:], lambda _: []]
    return {
        "body": body,
        "path": path,
        "gone_at": draw(st.sampled_from([None, None, None, 0, 1, 2, 3, 5])),
        "choose": draw(st.sampled_from(choices)),
        "own_token": draw(st.booleans()),
        "headers": draw(st.sampled_from([{}, {"x-stainless-timeout": "20"}])),
    }


@settings(max_examples=examples(200))
@given(worlds(), st.lists(calls(), min_size=1, max_size=6), st.floats(0, 100))
def test_every_call_ends_once_and_in_order(here: World, asked: list[dict[str, Any]], pause: float) -> None:
    for one in asked:
        # Every call is checked in here.
        trace = here.call(**one)
        call = trace.call
        if isinstance(trace.final, Deliver) and not trace.gone:
            assert call.outcome in (Outcome.OK, Outcome.TRUNCATED)
        if one["body"].get("background"):
            taken = [a for a in call.attempts if a.failure in (FailureKind.TIMEOUT, FailureKind.DROPPED)]
            assert not taken or taken == call.attempts[-1:], "never sent again when it may have been taken"
        for attempt in call.attempts:
            if attempt.break_seconds is not None:
                assert 0.2 <= attempt.break_seconds <= 60
        here.now += pause


@settings(max_examples=examples(100))
@given(worlds(), st.lists(calls(), max_size=6))
def test_everything_heals(here: World, asked: list[dict[str, Any]]) -> None:
    for one in asked:
        here.call(**one)
    here.scripts = {name: [Answer()] for name in here.scripts}
    here.now += 61
    pool = [b for b in here.setup.table.backends if b.standin and b.standin.tokens_per_minute is None]
    trace = here.call(stream=True)
    if pool:
        assert trace.call.outcome is Outcome.OK
        assert len(trace.sends) == 1


@settings(max_examples=examples(100))
@given(worlds(), calls())
def test_a_failure_that_repeats_leaves_no_break_of_its_kind(here: World, one: dict[str, Any]) -> None:
    here.scripts = {name: [Answer(500)] for name in here.scripts}
    one.update(gone_at=None, choose=None)
    trace = here.call(**one)
    if trace.call.status == 500:
        assert all(here.engine.breaks.on(b, here.now) is None for b in here.setup.table.backends)
