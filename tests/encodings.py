"""The models' encodings, for the tests that need them and are not about how they are loaded."""

from __future__ import annotations

from functools import cache

from aoai_gateway.tokens import Encodings, load_encodings


@cache
def encodings() -> Encodings:
    """Build them once in a process: that takes half a second of a processor."""
    loaded = load_encodings(environ={})
    assert not loaded.problems, loaded.problems
    return loaded
