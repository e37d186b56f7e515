"""Patterns over names."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.config.patterns import is_pattern, matches, matches_any


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o", True),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o*", "my-gpt-4o", False),
        ("*mini", "gpt-4o-mini", True),
        ("*mini", "gpt-4o-mini-2", False),
        ("gpt-?o", "gpt-4o", True),
        ("gpt-?o", "gpt-o", False),
        ("gpt-?o", "gpt-41o", False),
        ("*4*mini*", "gpt-4o-mini-2", True),
        ("*4*mini*", "gpt-mini-4", False),
        ("a*b*b", "ab", False),
        ("a*b*b", "abb", True),
        ("*a?c*", "xabxabcx", True),
        ("**", "", True),
        ("*", "line\nbreak", True),
        ("?", "", False),
        ("[ab]*", "a", False),
        ("[ab]*", "[ab]c", True),
        ("gpt-3.5*", "gpt-3x5", False),
        ("GPT*", "gpt-4o", False),
    ],
)
def test_what_matches(pattern: str, name: str, does: bool):
    assert matches(pattern, name) is does


def test_one_of_several():
    assert matches_any(("a", "b*"), "bc")
    assert not matches_any(("a", "b*"), "c")
    assert not matches_any((), "c")


@given(st.text().filter(lambda text: not is_pattern(text)), st.text())
def test_a_name_matches_itself_only(name: str, other: str):
    assert matches(name, name)
    assert matches(name, other) is (name == other)


def obviously(pattern: str, name: str) -> bool:
    """The definition, letter by letter."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(obviously(pattern[1:], name[start:]) for start in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and obviously(pattern[1:], name[1:])


@given(st.text("ab*?", max_size=7), st.text("ab", max_size=7))
def test_as_by_definition(pattern: str, name: str):
    assert matches(pattern, name) is obviously(pattern, name)


def test_a_long_name_cannot_make_it_slow():
    start = time.thread_time()
    assert not matches("*a*a*a*a*a*a*a*a*b", "a" * 20_000)
    assert time.thread_time() - start < 1
