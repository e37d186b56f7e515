"""Lasting overload by callers who say nothing, undeclared sizes: who is served, and what is wasted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.bench.goodput import TOKENS_PER_SECOND
from tests.bench.workloads import jobs
from tests.engine.scenarios.overload import Run, figures, run

pytestmark = pytest.mark.one_python

SECONDS = 120.0
UNLOADED_P95 = 6.2
"""Seconds of the longest critical answers but for 5 %, when no other call is in the way."""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_quota_goes_to_callers_who_are_still_there(seed: int) -> None:
    work = jobs(SECONDS, seed)
    ours, plain = run(work, SECONDS, seed), run(work, SECONDS, seed, priorities=False)
    said = f"{figures(ours)}; plain: {figures(plain)}"
    assert ours.success("critical") >= 0.995, said
    assert ours.p95("critical") <= 1.5 * UNLOADED_P95, said
    assert ours.useful >= 0.98 * plain.useful, said
    assert ours.success("batch") >= 0.47, said
    assert ours.for_gone_clients <= 0.05, said
    assert ours.refusals_per_answer(60) <= 0.1, said


@pytest.mark.parametrize(("told", "declared"), [(True, False), (False, True), (True, True)])
def test_what_callers_and_operators_tell_is_no_worse(told: bool, declared: bool) -> None:
    found = run(jobs(SECONDS, 1), SECONDS, 1, told=told, declared=declared)
    assert found.success("critical") >= 0.995, figures(found)
    assert found.success("batch") >= 0.43, figures(found)
    assert found.for_gone_clients <= 0.05, figures(found)
    if declared:
        assert found.refusals_per_answer() <= 0.05, figures(found)


def test_light_load_is_served_without_a_refusal() -> None:
    found = run(jobs(SECONDS, 1, load=0.35), SECONDS, 1, exhausted={})
    assert found.success("critical") == found.success("batch") == 1, figures(found)
    assert all(len(each.requests) == 1 for each in found.calls), "none was refused"


def test_a_client_that_sends_half_of_all_calls_does_not_starve_nineteen_others() -> None:
    shares = [_light_share(seed) for seed in (1, 2, 3)]
    assert min(shares) >= 0.9, shares


def _light_share(seed: int) -> float:
    """What the others' calls get, as a part of what a fair division would give them."""
    dice, work = random.Random(seed), []
    for job in jobs(SECONDS, seed):
        if job.cls == "batch":
            heavy = dice.random() < 0.5
            job = replace(job, client="heavy" if heavy else f"light-{dice.randrange(19)}")
        work.append(job)
    found: Run = run(work, SECONDS, seed)
    assert found.success("critical") >= 0.995, figures(found)
    capacity = TOKENS_PER_SECOND * SECONDS
    batch = found.useful * capacity - _served(found, lambda job: job.cls == "critical")
    light = _served(found, lambda job: job.client.startswith("light"))
    wanted = sum(job.cost for job in work if job.client.startswith("light"))
    return light / min(wanted, batch * 19 / 20)


def _served(found: Run, which) -> int:
    return sum(a.job.cost for a in found.calls if a.answered_at is not None and which(a.job))
