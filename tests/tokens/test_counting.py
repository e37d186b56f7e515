import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.tokens.counting import (
    ESTIMATE,
    EVENT_LOOP_BODY_BYTES,
    HIGHEST,
    LOWEST,
    Correction,
    Count,
    Counter,
    cost_hint,
)
from aoai_gateway.tokens.ranks import CL100K, O200K, Encodings
from tests.machine_speed import slowness

HELLO = {"messages": [{"role": "user", "content": "Hello there, how are you?"}]}


def test_before_the_encodings_are_there_it_estimates(encodings: Encodings) -> None:
    counter = Counter()
    assert counter.count_request("chat.completions", HELLO, "gpt-4o") == Count(3 + 1 + 9 + 3, False, ESTIMATE)
    counter.encodings = encodings
    assert counter.count_request("chat.completions", HELLO, "gpt-4o") == Count(3 + 1 + 7 + 3, True, O200K)


def test_another_encoding_is_nearer_than_bytes_but_not_exact(encodings: Encodings) -> None:
    counter = Counter(Encodings({CL100K: encodings.by_name[CL100K]}))
    counted = counter.count_request("chat.completions", HELLO, "gpt-4o")
    assert (counted.encoding, counted.exact) == (CL100K, False)
    assert counter.count_request("chat.completions", HELLO, "gpt-4").exact


@pytest.mark.parametrize(
    ("text", "model", "count"),
    [
        ("tiktoken is great!", "gpt-4o", Count(6, True, O200K)),
        ("tiktoken is great!", "gpt-4", Count(6, True, CL100K)),
        ("tiktoken is great!", "Grok-4", Count(6, False, O200K)),
        ("<|endoftext|>", "gpt-4o", Count(7, True, O200K)),
        ("", None, Count(0, True, O200K)),
    ],
)
def test_a_text_on_its_own(text: str, model: str | None, count: Count, counter: Counter) -> None:
    assert counter.count_text(text, model) == count


def test_nothing_of_a_prompt_is_kept_or_shown(counter: Counter) -> None:
    counter.count_request("chat.completions", {"messages": [{"role": "user", "content": "s3cret"}]}, "gpt-4o")
    assert "s3cret" not in repr(counter)
    assert vars(counter).keys() == {"encodings", "_scale"}


def test_small_bodies_are_for_the_event_loop() -> None:
    assert cost_hint(0)
    assert cost_hint(EVENT_LOOP_BODY_BYTES)
    assert not cost_hint(EVENT_LOOP_BODY_BYTES + 1)


LETTERS = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=16_000))
CHAT = "chat.completions"
SMALL_AND_HOSTILE = {
    "letters": (CHAT, {"messages": [{"role": "user", "content": LETTERS}]}),
    "blanks": (CHAT, {"messages": [{"role": "user", "content": " " * 16_000}]}),
    "surrogates": (CHAT, {"messages": [{"role": "user", "content": "\ud800" * 2_600}]}),
    "tiny texts": ("embeddings", {"input": ["a"] * 4_000}),
    "tiny parts": (CHAT, {"messages": [{"content": ["a"] * 4_000}]}),
    "empty messages": (CHAT, {"messages": [{}] * 5_000}),
    "properties": (
        CHAT,
        {"tools": [{"function": {"parameters": {"properties": {str(n): 1 for n in range(1_700)}}}}]},
    ),
}


@pytest.mark.parametrize("kind", SMALL_AND_HOSTILE)
def test_what_the_event_loop_counts_does_not_stall_it(kind: str, counter: Counter) -> None:
    operation_name, body = SMALL_AND_HOSTILE[kind]
    assert cost_hint(len(json.dumps(body, separators=(",", ":"))))
    took = []
    for _ in range(10):  # the fastest run is what counting costs; the others were interrupted
        before = time.thread_time()
        counter.count_request(operation_name, body, "gpt-4o")
        took.append(time.thread_time() - before)
    assert min(took) < 0.02 * slowness()


def estimated(tokens: int, encoding: str = ESTIMATE) -> Count:
    return Count(tokens, exact=False, encoding=encoding)


def test_at_first_nothing_is_corrected() -> None:
    assert Correction().tokens(estimated(1000)) == 1000


def test_it_approaches_what_usage_says() -> None:
    correction = Correction()
    errors = []
    for _ in range(60):
        correction = correction.learned(estimated(1000), 600)
        errors.append(correction.tokens(estimated(1000)) - 600)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == 360
    assert abs(errors[-1]) < 5


def test_one_odd_answer_moves_it_by_a_tenth_of_the_bound() -> None:
    assert Correction().learned(estimated(100), 10**9).tokens(estimated(100)) == 130
    assert Correction().learned(estimated(10**9), 100).tokens(estimated(1000)) == 925


def test_ways_of_counting_are_corrected_apart() -> None:
    correction = Correction().learned(estimated(1000), 500)
    assert correction.tokens(estimated(1000)) == 950
    assert correction.tokens(estimated(1000, "o200k_base")) == 1000


@pytest.mark.parametrize(
    ("count", "actual"),
    [
        (Count(1000, exact=True, encoding="o200k_base"), 500),
        (Count(1000, exact=False, encoding="o200k_base", partial=True), 50_000),
        (estimated(10), 500),
        (estimated(1000), 3),
        (estimated(0), 0),
        (estimated(1000), -5),
    ],
    ids=["exact", "partial", "tiny estimate", "tiny usage", "nothing", "nonsense"],
)
def test_what_teaches_nothing(count: Count, actual: int) -> None:
    correction = Correction({ESTIMATE: 0.7, "o200k_base": 1.1})
    assert correction.learned(count, actual) is correction


def test_an_exact_count_is_never_corrected() -> None:
    count = Count(1000, exact=True, encoding="o200k_base")
    assert Correction({"o200k_base": 2.0}).tokens(count) == 1000


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(-10, 10**12))))
def test_the_ratio_stays_within_its_bounds(answers: list[tuple[int, int]]) -> None:
    correction = Correction()
    for tokens, actual in answers:
        correction = correction.learned(estimated(tokens), actual)
    assert LOWEST * 1000 <= correction.tokens(estimated(1000)) <= HIGHEST * 1000
