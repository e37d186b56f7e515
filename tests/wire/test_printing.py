"""Text from outside is one line that no terminal obeys."""

from __future__ import annotations

import pytest

from aoai_gateway.wire.printing import printable, printable_lines


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
