"""The calls that are sent, and when, with any answers; and prompts of the size that was asked for."""

from __future__ import annotations

import json
import math
from collections import Counter as Counts
from itertools import islice, pairwise
from random import Random
from statistics import mean
from typing import Any

import pytest

from aoai_gateway.benchmark.plan import (
    Consumer,
    Drawn,
    Prompts,
    Shape,
    Step,
    drawn_from,
    length,
    planned,
    replayed,
)
from aoai_gateway.tokens import Counter
from tests.encodings import encodings
from tests.usage.records import record

ANN, BOB = Consumer("Ann", "key-of-ann"), Consumer("Bob", "key-of-bob", share=3)
SMALL, LARGE = Shape(10, 20), Shape(1000, 2000)


def test_steady_calls_come_at_equal_distances_step_by_step() -> None:
    calls = list(planned([Step(60, 3), Step(120, 2)], [SMALL], [ANN], Random(1), arrivals="steady"))
    assert [call.at for call in calls] == [0, 1, 2, 3, 3.5, 4, 4.5]
    assert [call.step for call in calls] == [0, 0, 0, 1, 1, 1, 1]


def test_calls_by_chance_have_the_rate_in_the_mean_and_vary_as_much() -> None:
    calls = list(planned([Step(6000, 300)], [SMALL], [ANN], Random(1)))
    gaps = [b.at - a.at for a, b in pairwise(calls)]
    assert len(calls) == pytest.approx(30_000, rel=0.03)
    assert mean(gap**2 for gap in gaps) == pytest.approx(2 * mean(gaps) ** 2, rel=0.05)


def test_shapes_and_consumers_are_drawn_by_their_shares() -> None:
    calls = list(islice(planned([Step(60, math.inf)], [SMALL, LARGE], [ANN, BOB], Random(1)), 10_000))
    assert Counts(call.consumer.name for call in calls)["Bob"] == pytest.approx(7500, rel=0.05)
    assert Counts(call.shape for call in calls)[LARGE] == pytest.approx(5000, rel=0.05)


def test_sizes_and_times_are_those_of_the_records() -> None:
    records = [
        (103.0, record(client="Bob", input_tokens=7, output_tokens=5, max_tokens=3, streaming=True)),
        (100.0, record(client="Ann", input_tokens=9, output_tokens=4, max_tokens=None)),
        (101.0, record(operation="embeddings")),
        (102.0, record(input_tokens=None, output_tokens=None)),
    ]
    drawn = drawn_from(records)
    assert drawn == [Drawn(0.0, "Ann", Shape(9, 4, False)), Drawn(3.0, "Bob", Shape(7, 3, True))]
    calls = list(replayed(drawn, [ANN, BOB], Random(1), speed=2))
    assert [(call.at, call.consumer.name) for call in calls] == [(0.0, "Ann"), (1.5, "Bob")]
    step = length(drawn, 2)
    assert step.rate == 80
    assert all(call.at < step.seconds for call in calls)


def test_keys_are_not_shown() -> None:
    assert "key-of-ann" not in repr(ANN)


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter(encodings())


@pytest.mark.parametrize("deployment", ["gpt-4o", "gpt-35-turbo", "my-own-name"])
@pytest.mark.parametrize("size", [40, 500, 2000, 30_000])
@pytest.mark.parametrize("most", [None, 200])
def test_a_prompt_has_so_many_tokens(counter: Counter, deployment: str, size: int, most: int | None) -> None:
    prompts = Prompts(counter, deployment, Random(1))
    for stream in (True, False):
        body, said = prompts.body(Shape(size, most, stream))
        document = json.loads(body)
        counted = counter.count_request("chat.completions", document, deployment).tokens
        assert counted == said == size
        assert document.get("max_tokens") == most


def test_one_that_is_smaller_than_its_framing_has_nothing_else(counter: Counter) -> None:
    prompts = Prompts(counter, "gpt-4o", Random(1))
    body, said = prompts.body(Shape(1, 10))
    assert counter.count_request("chat.completions", json.loads(body), "gpt-4o").tokens == said < 40


def first(body: bytes) -> str:
    text: str = json.loads(body)["messages"][0]["content"]
    return text[:40]


def test_no_two_begin_alike_unless_that_is_wanted(counter: Counter) -> None:
    prompts = Prompts(counter, "gpt-4o", Random(1))
    assert len({first(prompts.body(Shape(500, 500))[0]) for _ in range(100)}) == 100
    prompts = Prompts(counter, "gpt-4o", Random(1), cached=True)
    assert len({first(prompts.body(Shape(500, 500))[0]) for _ in range(100)}) == 1


def test_members_and_usage(counter: Counter) -> None:
    members: dict[str, Any] = {"temperature": 0.5}
    told, silent = (Prompts(counter, "x", Random(1), members=members, usage=u) for u in (True, False))
    document = json.loads(told.body(Shape(50, 5))[0])
    assert document["temperature"] == 0.5
    assert document["stream_options"] == {"include_usage": True}
    assert "stream_options" not in json.loads(silent.body(Shape(50, 5))[0])


def test_without_encodings_it_is_about_right() -> None:
    body, said = Prompts(Counter(), "gpt-4o", Random(1)).body(Shape(500, 500))
    assert said == 500
    assert len(json.loads(body)["messages"][0]["content"].split()) > 400
