"""Answers side by side."""

from __future__ import annotations

from aoai_gateway.inspect.compare import LONGEST_TEXT, WIDTH, Entry, side_by_side
from aoai_gateway.wire.printing import width_of

FIRST = Entry(
    "gpt-4o",
    "Hello! How can I help you today with whatever it is?\n\n- a\n- b",
    status=200,
    backend="ptu@sweden",
    attempts=1,
    first_content_ms=200,
    duration_ms=1200,
    input_tokens=9,
    output_tokens=40,
    cost=0.000423,
)
SECOND = Entry("gpt-4o-mini", "Hi " + "世界" * 40, status=200, backend="mini@sweden", output_tokens=12)


def test_figures_have_a_column_each() -> None:
    table = side_by_side([FIRST, SECOND]).partition("\n\n")[0]
    rows = {line[:12].strip(): line[14:] for line in table.splitlines() if "│" in line}
    cells = {name: [cell.strip() for cell in row.split("│")] for name, row in rows.items()}
    assert cells[""] == ["gpt-4o", "gpt-4o-mini"]
    assert cells["backend"] == ["ptu@sweden", "mini@sweden"]
    assert cells["first token"] == ["200 ms", "–"]
    assert cells["total"] == ["1,200 ms", "–"]
    assert cells["speed"] == ["40 tokens/s", "–"]
    assert cells["tokens out"] == ["40", "12"]
    assert cells["cost"] == ["0.000423", "–"]


def test_a_figure_that_no_answer_has_is_left_out() -> None:
    text = side_by_side([Entry("a", "x"), Entry("b", "y")])
    assert "cost" not in text
    assert "first token" not in text


def test_two_texts_are_beside_each_other_and_fit() -> None:
    text = side_by_side([FIRST, SECOND])
    assert any("Hello!" in line and "世界" in line for line in text.splitlines())
    assert max(map(width_of, text.splitlines())) <= WIDTH
    assert text.replace("\n", "").count("世") == 40


def test_many_texts_are_below_each_other() -> None:
    lines = side_by_side([FIRST, SECOND, FIRST, SECOND]).splitlines()
    assert sum(line.startswith("── gpt-4o") for line in lines) == 4


def test_figures_of_many_are_in_several_tables_that_fit() -> None:
    entries = [Entry(f"deployment-{n}", f"text {n}", status=200, backend="ptu@sweden") for n in range(6)]
    lines = side_by_side(entries).splitlines()
    assert [line.count("│") for line in lines if line.startswith("status")] == [3, 1]
    assert max(map(width_of, lines)) <= WIDTH + 40


def test_texts_that_are_the_same_are_shown_once() -> None:
    text = side_by_side([FIRST, FIRST])
    assert "All answers are the same:" in text
    assert text.count("Hello!") == 1


def test_nothing_to_compare() -> None:
    assert side_by_side([]) == ""
    assert "(no answer)" in side_by_side([Entry("a"), Entry("b", "x")])


def test_of_very_long_answers_the_begin_is_laid_out() -> None:
    long = "word " * LONGEST_TEXT
    text = side_by_side([Entry("a", text=long), Entry("b", text="short")])
    assert len(text) < 4 * LONGEST_TEXT
    assert "[500,000 characters; its" in " ".join(text.split())
    same = side_by_side([Entry("a", text=long), Entry("b", text=long)])
    assert len(same) < 2 * LONGEST_TEXT
