"""Text from outside is one line that no terminal obeys."""

from __future__ import annotations

import pytest

from aoai_gateway.wire.printing import cut, printable, printable_lines, width_of


@pytest.mark.parametrize(
    "odd", ["\x1b", "\x9b", "\r", "\x00", "\x7f", "\u202e", "\u2066", "\u2028", "\x08", "\ud800"]
)
def test_what_a_terminal_or_an_editor_obeys_is_gone(odd: str) -> None:
    assert printable(f"a{odd}b") == "a b"
    assert printable_lines(f"a{odd}b") == "a b"


def test_only_a_text_of_several_lines_keeps_them() -> None:
    assert printable("a\nb\tc") == "a b c"
    assert printable_lines("a\nb\tc") == "a\nb\tc"


def test_other_languages_stay() -> None:
    assert printable("Büro, 日本, 😀") == "Büro, 日本, 😀"


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("👩\u200d👧", 4), ("مرحبا", 5), ("", 0)]
)
def test_the_columns_of_a_terminal_that_a_text_takes(text: str, columns: int) -> None:
    assert width_of(text) == columns


@pytest.mark.parametrize(
    ("text", "width", "cut_text"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
    ],
)
def test_a_text_is_cut_to_columns(text: str, width: int, cut_text: str) -> None:
    assert cut(text, width) == cut_text
    assert width_of(cut(text, width)) <= width
