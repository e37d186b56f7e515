"""What one request may ask for, and what becomes of one that asks for more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.quota.request_limits import NO_LIMITS, Change, RequestLimits, apply
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target, parse_target

CHAT = parse_target("POST", "/openai/v1/chat/completions")
OLD_CHAT = parse_target("POST", "/openai/deployments/d/chat/completions?api-version=2024-06-01")
COMPLETIONS = parse_target("POST", "/openai/v1/completions")
EMBEDDINGS = parse_target("POST", "/openai/v1/embeddings")
RESPONSES = parse_target("POST", "/openai/v1/responses")


def body(target: Target = CHAT, **document: object) -> RequestBody:
    return parse_body(target, None, json.dumps(document).encode())


def clamped(limits: dict[str, int], target: Target = CHAT, **document: object) -> tuple[Change, ...]:
    return apply(RequestLimits(clamp=True, **limits), body(target, **document), None)


def refused(limits: dict[str, int], target: Target = CHAT, **document: object) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        apply(RequestLimits(**limits), body(target, **document), None)
    assert (caught.value.status, caught.value.code) == (400, "parameter_over_limit")
    return caught.value


def test_without_limits_nothing_is_touched() -> None:
    assert apply(NO_LIMITS, body(max_tokens=10**6, n=100), 10**9) == ()


@pytest.mark.parametrize(
    ("target", "key"),
    [
        (CHAT, "max_tokens"),
        (CHAT, "max_completion_tokens"),
        (OLD_CHAT, "max_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
    ],
)
def test_a_completion_that_is_too_long(target: Target, key: str) -> None:
    limits = {"max_tokens": 4096}
    assert clamped(limits, target, **{key: 8000}) == (Change(key, 8000, 4096),)
    error = refused(limits, target, **{key: 8000})
    assert (error.param, "8000" in error.message, "4096" in error.message) == (key, True, True)
    for fine in (0, 1, 4096):
        assert clamped(limits, target, **{key: fine}) == ()
        assert apply(RequestLimits(max_tokens=4096), body(target, **{key: fine}), None) == ()


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize(
    ("ceiling", "default", "given"), [(4096, 1024, 1024), (None, 1024, 1024), (4096, None, 4096)]
)
@pytest.mark.parametrize(
    ("target", "key"),
    [
        (CHAT, "max_completion_tokens"),
        (OLD_CHAT, "max_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
    ],
)
def test_a_request_that_names_no_bound_is_given_one(
    target: Target, key: str, ceiling: int | None, default: int | None, given: int, clamp: bool
) -> None:
    limits = RequestLimits(max_tokens=ceiling, default_max_tokens=default, clamp=clamp)
    for document in ({}, {key: None}):
        limited = apply(limits, body(target, **document), None)
        assert limited == (Change(key, None, given),)


def test_what_has_no_completion_is_given_no_bound() -> None:
    limits = {"max_tokens": 5, "default_max_tokens": 4, "n": 1, "best_of": 1}
    assert clamped(limits, EMBEDDINGS, max_tokens=9, n=9, best_of=9) == ()
    assert clamped({"n": 1, "best_of": 1}, RESPONSES, n=9, best_of=9) == ()


def test_too_many_answers() -> None:
    assert clamped({"n": 2}, n=5) == (Change("n", 5, 2),)
    assert clamped({"n": 2}, COMPLETIONS, n=5) == (Change("n", 5, 2),)
    assert clamped({"n": 2}, n=2) == clamped({"n": 2}) == ()
    error = refused({"n": 2}, n=5)
    assert error.param == "n"


def test_too_many_candidates() -> None:
    assert clamped({"best_of": 2}, COMPLETIONS, best_of=5) == (Change("best_of", 5, 2),)
    assert refused({"best_of": 2}, COMPLETIONS, best_of=5).param == "best_of"
    assert clamped({"best_of": 2}, best_of=5) == ()  # chat has none


def test_there_are_never_more_answers_than_candidates() -> None:
    assert clamped({"best_of": 1}, COMPLETIONS, best_of=5, n=3) == (
        Change("best_of", 5, 1),
        Change("n", 3, 1),
    )
    assert clamped({"best_of": 2, "n": 3}, COMPLETIONS, best_of=5, n=4) == (
        Change("best_of", 5, 2),
        Change("n", 4, 2),
    )
    assert clamped({"best_of": 2, "n": 2}, COMPLETIONS, best_of=5, n=2) == (Change("best_of", 5, 2),)


@pytest.mark.parametrize("clamp", [True, False])
def test_a_long_prompt_is_rejected_with_either_action(clamp: bool) -> None:
    limits = RequestLimits(prompt_tokens=100_000, clamp=clamp)
    for fine in (None, 0, 100_000):
        assert apply(limits, body(), fine) == ()
    with pytest.raises(GatewayError) as caught:
        apply(limits, body(), 100_001)
    assert (caught.value.status, caught.value.code) == (400, "parameter_over_limit")
    assert "100,001 tokens" in caught.value.message
    assert "100,000" in caught.value.message


counts = st.none() | st.integers(1, 9)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(max_size=5),
        "max_tokens": st.none() | st.integers(0, 20),
        "max_completion_tokens": st.none() | st.integers(0, 20),
        "max_output_tokens": st.none() | st.integers(0, 20),
        "n": counts,
        "best_of": counts,
        "metadata": st.just({"n": 99, "max_tokens": 99}),
    },
).flatmap(lambda document: st.permutations(list(document.items())).map(dict))
LIMITS = st.builds(
    RequestLimits,
    max_tokens=st.none() | st.integers(5, 15),
    default_max_tokens=st.none() | st.integers(1, 5),
    n=counts,
    best_of=counts,
    clamp=st.just(True),
)


@given(LIMITS, DOCUMENTS, st.sampled_from([CHAT, OLD_CHAT, COMPLETIONS, RESPONSES]))
def test_a_clamped_body_is_within_the_limits_and_otherwise_the_same(
    limits: RequestLimits, document: dict[str, Any], target: Target
) -> None:
    before = body(target, **document)
    limited = apply(limits, before, None)
    raw = before.edited(**{change.edits: change.given for change in limited})
    after = parse_body(target, None, raw)

    if limits.max_tokens is not None:
        assert after.max_tokens is not None
        assert after.max_tokens <= limits.max_tokens
    if limits.default_max_tokens is not None:
        assert after.max_tokens is not None
    assert after.n <= (limits.n or before.n)
    assert after.best_of <= (limits.best_of or before.best_of)
    assert after.n <= before.n
    assert after.best_of <= before.best_of
    if before.n <= before.best_of:
        assert after.n <= after.best_of

    # Nothing is changed that no note tells of, and nothing without need.
    told = {change.member for change in limited}
    bounds = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
    changed = {key for key in {*document, *after.parsed} if document.get(key) != after.parsed.get(key)}
    assert changed - bounds == told - bounds
    assert bool(changed & bounds) <= bool(told & bounds)
    assert (raw == before.raw) is not bool(changed)
    notes = [str(change) for change in limited]
    assert all(note.isascii() and note.isprintable() and "," not in note for note in notes)
    # Once clamped, it stays as it is.
    assert apply(limits, after, None) == ()


@given(LIMITS, DOCUMENTS, st.sampled_from([CHAT, COMPLETIONS, RESPONSES]))
def test_what_is_rejected_is_what_would_be_lowered(
    limits: RequestLimits, document: dict[str, Any], target: Target
) -> None:
    request = body(target, **document)
    lowered = [change for change in apply(limits, request, None) if change.asked is not None]
    strict = RequestLimits(
        limits.max_tokens, limits.default_max_tokens, limits.n, limits.best_of, limits.prompt_tokens
    )
    if lowered:
        with pytest.raises(GatewayError):
            apply(strict, request, None)
    else:
        assert apply(strict, request, None) == apply(limits, request, None)
