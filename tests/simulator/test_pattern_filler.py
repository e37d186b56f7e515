"""Texts for regular expressions of peers, which may be made to take for ever."""

from __future__ import annotations

import time

import pytest

from aoai_simulator.pattern_filler import text_for


@pytest.mark.parametrize(
    "pattern", ["(?:){4000000000}", "(?:(?:){100000}){1000}", "(?:^){4000000000}", "((|)){99999999}"]
)
def test_repetitions_of_nothing_end(pattern: str) -> None:
    begun = time.process_time()
    text_for(pattern)
    assert time.process_time() - begun < 2


def test_repetitions_of_something_are_made() -> None:
    assert text_for("(?:ab){3}") == "ababab"
