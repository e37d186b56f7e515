"""How many examples a property is tried with."""

from __future__ import annotations

from hypothesis import settings


def examples(full: int) -> int:
    """Return `full` under the profiles `full` and `random`, and its part under a smaller one."""
    return max(1, full * settings().max_examples // settings.get_profile("full").max_examples)
