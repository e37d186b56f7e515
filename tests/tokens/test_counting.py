import json
import random
import time
from typing import Any

import pytest

from aoai_gateway.tokens.counting import (
    COMPLETIONS_DEFAULT_OUTPUT,
    ESTIMATE,
    EVENT_LOOP_BODY_BYTES,
    Count,
    Counter,
    cost_hint,
    output_bound,
)
from aoai_gateway.tokens.ranks import CL100K, O200K, Encodings

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
    assert vars(counter).keys() == {"encodings"}


CHAT, TEXT, RESPONSES = "chat.completions", "completions", "responses"


@pytest.mark.parametrize(
    ("operation_name", "body", "bound"),
    [
        (CHAT, {}, 1000),
        (CHAT, {"max_tokens": 50}, 50),
        (CHAT, {"max_completion_tokens": 60}, 60),
        (CHAT, {"max_completion_tokens": 60, "max_tokens": 50}, 60),
        (CHAT, {"max_tokens": None}, 1000),
        (CHAT, {"max_tokens": 50, "n": 3}, 150),
        (CHAT, {"n": 3}, 3000),
        (CHAT, {"max_output_tokens": 7}, 1000),
        (TEXT, {"prompt": "a"}, COMPLETIONS_DEFAULT_OUTPUT),
        (TEXT, {"prompt": "a", "max_tokens": 50, "best_of": 5, "n": 2}, 250),
        (RESPONSES, {"max_output_tokens": 80}, 80),
        (RESPONSES, {"max_output_tokens": 80, "n": 9}, 80),
        (RESPONSES, {"max_tokens": 5}, 1000),
        ("embeddings", {"input": "a", "max_tokens": 50}, 0),
        ("something new", {"max_tokens": 50}, 50),
    ],
)
def test_the_bound_of_an_answer(operation_name: str, body: dict[str, Any], bound: int) -> None:
    assert output_bound(body, operation_name, default=1000) == bound


def test_several_prompts_are_answered_each() -> None:
    assert output_bound({"max_tokens": 50, "n": 2}, TEXT, default=1000, prompts=3) == 300


@pytest.mark.parametrize("junk", [True, False, 0, -1, 1.5, float("nan"), "50", [50], {}, None])
def test_a_bound_that_is_none_is_left_to_the_default(junk: object) -> None:
    assert output_bound({"max_tokens": junk, "n": junk, "best_of": junk}, CHAT, default=1000) == 1000


def test_no_request_can_ask_for_more_than_counters_hold() -> None:
    assert output_bound({"max_tokens": 10**400, "n": 10**400}, CHAT, default=1000) == 2**31 - 1


def test_small_bodies_are_for_the_event_loop() -> None:
    assert cost_hint(0)
    assert cost_hint(EVENT_LOOP_BODY_BYTES)
    assert not cost_hint(EVENT_LOOP_BODY_BYTES + 1)


LETTERS = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=16_000))
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
    assert min(took) < 0.02
