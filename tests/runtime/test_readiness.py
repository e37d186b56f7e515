"""Who polls is told before the port closes."""

from __future__ import annotations

import multiprocessing

import pytest

from aoai_gateway.runtime.readiness import ReadinessPolls


@pytest.mark.parametrize(
    ("asked", "polled"),
    [
        ([], False),
        ([0.0, 5.0], False),
        ([0.0, 0.1, 0.2, 0.3, 0.4], False),
        ([0.0, 5.0, 10.0], True),
        ([0.0, 1.0, 2.0, 3.0], True),
        ([0.1, 1.0, 2.05, 2.95], True),
        ([-100.0, -95.0, -90.0], False),
        ([-100.0, -95.0, 10.0], False),
    ],
)
def test_only_questions_again_and_again_are_a_poll(asked: list[float], polled: bool) -> None:
    polls = ReadinessPolls()
    for at in asked:
        polls.note(at)
    assert polls.goes_on(10.0) is polled


def test_questions_to_several_workers_are_one_poll() -> None:
    polls = ReadinessPolls.of_children()
    workers = multiprocessing.get_context("fork")
    for at in (0.0, 5.0, 9.0):
        assert not polls.goes_on(10.0)
        worker = workers.Process(target=polls.note, args=(at,))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
    assert polls.goes_on(10.0)
