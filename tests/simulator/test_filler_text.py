from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoai_simulator import filler_text as words


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(words.split(text)) == text


@given(st.text(), st.integers(0, 300), st.integers())
def test_prose_has_as_many_pieces_as_asked_for_and_grows_at_its_end(
    text: str, length: int, seed: int
) -> None:
    source = words.digest(seed, text)
    pieces = words.prose(source, length)
    assert len(pieces) == length
    assert words.prose(source, length + 5)[:length] == pieces
    assert "".join(pieces) == "" or "".join(pieces)[0].isupper()


def test_another_seed_gives_another_text() -> None:
    assert words.prose(words.digest(1, "x"), 20) != words.prose(words.digest(2, "x"), 20)


@given(st.text())
def test_a_completion_has_a_natural_length(text: str) -> None:
    assert 16 <= words.natural_length(words.digest(0, text)) <= 47


def test_tokens_are_four_bytes_rounded_up() -> None:
    assert [words.estimate_tokens(text) for text in ("", "a", "four", "fives", "äöü", "日本")] == [
        0,
        1,
        1,
        2,
        2,
        2,
    ]
