"""Large and small calls of one client, of a class that leaves room for smaller calls."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from aoai_simulator.limits import PaygLimits
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Traffic, traffic

LIMIT = 100_000
SMALL, LARGE = (700, 300), (1_000, 59_000)
"""Tokens of the prompt, and of the completion at most."""


def burst(sizes: Iterable[tuple[int, int]], wait: float) -> Traffic:
    """Let calls of one client come to an idle backend; ``wait``: seconds, 0: they may not wait."""
    batch = {"name": "batch", "wait": {"seconds": wait}} if wait else {"name": "batch"}
    here = traffic(
        ("paygo@a", {"tokens_per_minute": LIMIT}),
        azure={"paygo@a": Deployment(PaygLimits(LIMIT))},
        classes=[{"name": "critical"}, batch],
    )
    for n, (prompt, most) in enumerate(sizes):
        here.come(n / 50, "batch", prompt=prompt, most=most, completion=min(most, 300))
    return here.run()


@pytest.mark.parametrize("wait", [0, 60])
def test_none_of_a_burst_that_takes_half_of_an_idle_backend_is_kept_waiting(wait: float) -> None:
    here = burst([SMALL, (1_100, 400)] * 20, wait)
    assert all(each.ok for each in here.callers)
    assert not any(each.stood for each in here.callers)
    here.check_nothing_is_left()


def test_small_calls_do_not_stand_behind_a_large_one_that_leaves_them_room() -> None:
    here = burst([*[SMALL] * 30, LARGE, *[SMALL] * 10], 60)
    large, *behind = here.callers[30:]
    assert large.stood, "with it and the calls that are likely to follow, the window would be full"
    assert max(each.call.queue_wait for each in behind) < 0.1
    assert large.ok, "when they have left the window"
    here.check_nothing_is_left()
