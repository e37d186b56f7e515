"""All calls that wait for a provisioned backend of unknown size, when it comes free."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_simulator.limits import PtuLimits
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Traffic, traffic

SIZE = 60_000
CLASSES = ({"name": "critical", "wait": {"seconds": 60}}, {"name": "batch", "wait": {"seconds": 60}})


def herd(full: float, stream: Any, classes: int, apart: float) -> Traffic:
    """Let 120 calls wait for a backend that others have filled; ``full``: for so many seconds."""
    azure = {"ptu@a": Deployment(PtuLimits(SIZE))}
    here = traffic("ptu@a", azure=azure, classes=CLASSES[-classes:])
    azure["ptu@a"].fill(full, here.now)
    here.come(0, "batch", prompt=500, most=500, completion=400)
    for n in range(120):
        name = CLASSES[n % 2]["name"] if classes == 2 else "batch"
        streams = n % 2 == 0 if stream is None else stream
        here.come(0.1 + n * apart, name, prompt=500, most=500, completion=400, stream=streams)
    return here.run()


@pytest.mark.parametrize(
    ("full", "stream", "classes", "apart"),
    [(0.0, True, 1, 0.02), (10.0, None, 2, 0.02), (10.0, False, 2, 0.0), (3.0, False, 2, 0.0)],
    ids=["streams", "streams and whole ones of two classes", "at once", "at once, soon free"],
)
def test_hardly_any_is_refused_and_the_size_is_learned(
    full: float, stream: Any, classes: int, apart: float
) -> None:
    here = herd(full, stream, classes, apart)
    assert here.azure.refusals <= 10
    (capacity,) = here.engine.scheduler.capacities._capacities.values()
    assert capacity.limits(here.now)[0] == pytest.approx(SIZE, rel=0.02)
    answered = sum(caller.ok for caller in here.callers)
    assert answered >= 45, "of some 60 for which there is room in so much time"
    here.check_nothing_is_left()


def test_calls_that_are_refused_together_are_no_part_of_what_was_taken() -> None:
    azure = {"ptu@a": Deployment(PtuLimits(SIZE))}
    here = traffic("ptu@a", azure=azure, classes=CLASSES[-1:])
    azure["ptu@a"].fill(10, here.now)
    for _ in range(60):
        here.come(0, "batch", prompt=500, most=500)
    here.run()
    assert here.azure.refusals <= 60 + 8, "all of them at the first contact, and hardly any again"
    (capacity,) = here.engine.scheduler.capacities._capacities.values()
    assert capacity.limits(here.now)[0] == pytest.approx(SIZE, rel=0.02)
