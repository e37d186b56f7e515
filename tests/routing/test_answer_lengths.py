"""How long a client's answers are, of what they may be."""

from __future__ import annotations

import pytest

from aoai_gateway.routing import answer_lengths
from aoai_gateway.routing.answer_lengths import AnswerLengths
from aoai_gateway.routing.speed import SAMPLES_NEEDED


def taught(*parts: float, client: str = "team") -> AnswerLengths:
    here = AnswerLengths()
    for part in parts:
        here.learn(client, "gpt", part)
    return here


def test_at_first_an_answer_may_be_as_long_as_its_bound() -> None:
    assert taught(*[0.1] * (SAMPLES_NEEDED - 1)).likely("team", "gpt", 1000) == 1000
    assert taught(*[0.1] * SAMPLES_NEEDED).likely("team", "gpt", 1000) == 100


def test_the_longest_counts_and_not_the_usual_one() -> None:
    assert taught(*[0.1] * 20, 0.5, 0.1).likely("team", "gpt", 1000) == pytest.approx(490)


def test_what_nothing_bounds_is_not_foretold() -> None:
    assert taught(*[0.1] * 10).likely("team", "gpt", None) is None


def test_clients_and_deployments_are_apart() -> None:
    here = taught(*[0.1] * 10)
    for _ in range(SAMPLES_NEEDED):
        here.learn("other", "gpt", 0.5)
    assert here.likely("team", "gpt", 1000) == 100
    assert here.likely("other", "gpt", 1000) == 500
    assert here.likely("team", "mini", 1000) == 1000


def test_of_an_unknown_client_the_others_tell() -> None:
    here = taught(0.1, 0.1, 0.4, client="a")
    here.learn("b", "gpt", 0.1)
    here.learn("c", "gpt", 0.1)
    assert here.likely("new", "gpt", 1000) == pytest.approx(385, abs=1)


def test_an_answer_that_was_cut_off_is_longer_than_that_and_never_shorter() -> None:
    here = taught(*[0.1] * 10)
    here.cut_off("team", "gpt", 0.6)
    assert here.likely("team", "gpt", 1000) == 600
    here.cut_off("team", "gpt", 0.2)
    assert here.likely("team", "gpt", 1000) == 600


def test_hang_ups_alone_teach_nothing() -> None:
    here = AnswerLengths()
    for _ in range(10):
        here.cut_off("team", "gpt", 0.1)
    assert here.likely("team", "gpt", 1000) == 1000


def test_an_answer_beyond_its_bound_is_as_long_as_that() -> None:
    assert taught(*[1.3] * 10).likely("team", "gpt", 1000) == 1000


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_lengths, "MOST_CLIENTS", 10)
    here = AnswerLengths()
    for number in range(100):
        here.learn(f"client {number}", "gpt", 0.5)
    assert len(here._parts) == 10
