"""Prompts of the size that was asked for."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from aoai_gateway.benchmark.plan import Shape
from aoai_gateway.benchmark.prompts import Prompts
from aoai_gateway.tokens import Counter
from tests.encodings import encodings


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
