"""What scarce capacity is good for: the goodput benchmark's run, and the one in which an endpoint dies.

The figures are those that the benchmark is to reach in real time; here they are reached, or missed, by the
engine alone, in the same way each time.
"""

from __future__ import annotations

import pytest

from aoai_gateway.engine.effects import Deliver
from tests.bench.goodput import HANG_SECONDS, HANG_SHARES, RESET_SECONDS, SHARES
from tests.engine.scenarios.goodput import Asked, Run, figures, run

pytestmark = pytest.mark.one_python

SECONDS = 120.0
HANGS = (SECONDS - HANG_SECONDS - RESET_SECONDS) / 2


@pytest.mark.parametrize("seed", [1])
def test_goodput_when_180_percent_of_the_capacity_are_asked_for(seed: int) -> None:
    ours = run(SHARES, SECONDS, seed, priorities=True)
    plain = run(SHARES, SECONDS, seed, priorities=False)
    said = figures([ours, plain])
    assert ours.success("critical") == 1, said
    assert ours.useful >= 0.97 * plain.useful, said
    assert ours.refusals_per_answer <= 0.05, said
    assert ours.success("standard") > ours.success("batch") > 0.1, said
    assert plain.success("critical") < 0.8, "or there is nothing to be won here: " + said


def streamed_at_the_hang(asked: Asked, dead: str) -> bool:
    """Whether its answer was on its way to the client when its endpoint hung: that cannot be repeated."""
    hangs = asked.traffic.begun + HANGS
    for caller in asked.requests:
        attempt = caller.call.attempt
        if attempt is None or attempt.backend.endpoint.name != dead:
            continue
        delivered = [at for at, effect in caller.trace.effects if isinstance(effect, Deliver)]
        ended = caller.call.ended or 0.0
        if delivered and delivered[0] < hangs < ended:
            return True
    return False


@pytest.mark.parametrize(("dead", "seed"), [("west", 1), ("west", 3), ("west", 6), ("east", 1)])
def test_an_endpoint_that_hangs_and_then_resets_costs_hardly_an_answer(dead: str, seed: int) -> None:
    found: Run = run(HANG_SHARES, SECONDS, seed, priorities=True, dead=dead)
    critical = [
        each for each in found.asked if each.ask.cls == "critical" and not streamed_at_the_hang(each, dead)
    ]
    lost = [each.ask for each in critical if each.answered_at is None]
    assert len(lost) <= 0.005 * len(critical), f"{lost}; {figures([found])}"
    assert len(found.traffic.azure.places[dead].sent_into) <= 10, figures([found])
    assert found.refusals_per_answer <= 0.05, figures([found])
