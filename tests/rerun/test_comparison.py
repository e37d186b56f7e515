"""What counts as different, and how it is told."""

from __future__ import annotations

import time

import pytest

from aoai_gateway.rerun.answers import Answer
from aoai_gateway.rerun.comparison import Verdict, compare, compare_texts

GOOD = Answer(200, "It is Paris.", "stop", 3, 5)


def test_the_same_answer_is_the_same_at_any_cost() -> None:
    comparison = compare(GOOD, Answer(200, "It is Paris.", "stop", 4, 6))
    assert comparison.verdict is Verdict.SAME
    assert comparison.alike == 1
    assert comparison.changes == ()


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (Answer(200, "It is Rome.", "stop"), ("It is [-Paris.-] {+Rome.+}",)),
        (Answer(200, "It is Paris.", "length"), ("finish reason: stop → length",)),
    ],
)
def test_another_answer_is_different(now: Answer, changes: tuple[str, ...]) -> None:
    comparison = compare(GOOD, now)
    assert comparison.verdict is Verdict.DIFFERENT
    assert comparison.changes == changes


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (Answer(429, error="quota_exceeded: Wait."), "429 quota_exceeded: Wait."),
        (Answer(0, error="no connection: refused"), "no connection: refused"),
        (Answer(200, "It is", error="upstream_disconnected: Gone."), "upstream_disconnected: Gone."),
    ],
)
def test_no_answer_where_there_was_one_is_a_failure(now: Answer, change: str) -> None:
    comparison = compare(GOOD, now)
    assert comparison.verdict is Verdict.FAILED
    assert comparison.changes == (change,)


def test_a_refusal_that_was_one_before_is_the_same() -> None:
    then = Answer(400, error="content_filter: Request 1 was filtered.")
    assert compare(then, Answer(400, error="content_filter: Request 2 was filtered.")).verdict is Verdict.SAME
    other = compare(then, Answer(400, error="context_length_exceeded: Too long."))
    assert other.verdict is Verdict.DIFFERENT
    good = compare(then, GOOD)
    assert good.verdict is Verdict.DIFFERENT
    assert good.changes[0] == "status: 400 → 200"


def test_embeddings_may_differ_in_their_last_digits() -> None:
    then = Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.5),))
    assert compare(then, Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.5001),))).verdict is Verdict.SAME
    turned = compare(then, Answer(200, "1 of 2 dimensions", vectors=((1.0, 0.9),)))
    assert turned.verdict is Verdict.DIFFERENT
    assert "cosine" in turned.changes[0]


def test_a_difference_is_shown_amid_its_words() -> None:
    then = "one two three four five six seven eight nine ten eleven twelve"
    alike, lines = compare_texts(then, then.replace("seven", "SEVEN and a half"))
    assert lines == ["… two three four five six [-seven-] {+SEVEN and a half+} eight nine ten eleven twelve"]
    assert 0.8 < alike < 1
    assert compare_texts("a b", "a b c")[1] == ["a b {+c+}"]
    assert compare_texts("a b c", "b c")[1] == ["[-a-] b c"]


def test_white_space_counts() -> None:
    alike, lines = compare_texts("if x:\n  y", "if x:\n    y")
    assert alike < 1
    assert lines
    assert compare_texts("x\n", "x")[1] == ["x [-⏎-]"]


def test_what_is_long_is_shortened() -> None:
    _, lines = compare_texts("same " + "old " * 500, "same " + "new " * 500)
    assert len(lines) == 1
    assert len(lines[0]) < 400
    many = " ".join(f"word{n} here stays as it is" for n in range(50))
    _, lines = compare_texts(many, many.replace("word", "WORD"))
    assert len(lines) == 5
    assert lines[-1] == "and 46 more differences"


def test_long_answers_are_compared_in_a_moment() -> None:
    then = " ".join(f"w{n * 7919 % 1000}" for n in range(100_000))
    now = " ".join(f"w{n * 6101 % 1000}" for n in range(100_000))
    began = time.process_time()
    compare_texts(then, now)
    assert time.process_time() - began < 20
