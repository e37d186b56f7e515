"""Counters of several workers only grow, also when workers end or are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoai_gateway.admin.ended_workers import WorkersMetrics, leave

TEXT = """\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{client="a"} %d
# HELP seconds Times.
# TYPE seconds histogram
seconds_bucket{le="+Inf"} %d
seconds_count %d
# HELP calls_in_flight Calls under way.
# TYPE calls_in_flight gauge
calls_in_flight 1
"""


def text(calls: int) -> str:
    return TEXT % (calls, calls, calls)


def figures(exposition: str) -> tuple[float, float, float]:
    """The calls, those in the histogram, and those in flight."""
    values = dict(line.rsplit(" ", 1) for line in exposition.splitlines() if not line.startswith("#"))
    return (
        float(values.get('calls_total{client="a"}', 0)),
        float(values.get("seconds_count", 0)),
        float(values.get("calls_in_flight", 0)),
    )


@pytest.fixture
def workers(tmp_path: Path) -> WorkersMetrics:
    return WorkersMetrics(tmp_path)


def test_what_a_killed_worker_told_last_still_counts(workers: WorkersMetrics) -> None:
    assert figures(workers.together({"1-10": text(5), "2-20": text(7)})) == (12, 12, 2)
    assert figures(workers.together({"2-20": text(8)})) == (13, 13, 1)
    assert figures(workers.together({"1-11": text(1), "2-20": text(8)})) == (14, 14, 2)


def test_a_worker_that_does_not_answer_has_not_lost_its_counts(workers: WorkersMetrics) -> None:
    workers.together({"1-10": text(5), "2-20": text(7)})
    assert figures(workers.together({"1-10": None, "2-20": text(7)})) == (12, 12, 1)
    assert figures(workers.together({"1-10": text(6), "2-20": text(7)})) == (13, 13, 2)


def test_a_worker_that_ends_leaves_its_last_counts(workers: WorkersMetrics, tmp_path: Path) -> None:
    workers.together({"worker-1-10.sock": text(5), "worker-2-20.sock": text(7)})
    leave(tmp_path / "worker-1-10.sock", text(9).encode())
    # Its socket may be there for a while yet, and may even answer.
    for answer in (text(9), None):
        found = workers.together({"worker-1-10.sock": answer, "worker-2-20.sock": text(7)})
        assert figures(found) == (16, 16, 1)
    assert figures(workers.together({"worker-2-20.sock": text(7)})) == (16, 16, 1)
    assert not list(tmp_path.glob("*.metrics"))


def test_the_process_that_adds_up_may_start_anew(workers: WorkersMetrics, tmp_path: Path) -> None:
    workers.together({"worker-1-10.sock": text(5), "worker-2-20.sock": text(7)})
    workers.together({"worker-2-20.sock": text(7)})
    leave(tmp_path / "worker-2-20.sock", text(8).encode())
    assert figures(WorkersMetrics(tmp_path).together({"worker-3-30.sock": text(1)})) == (14, 14, 1)


def test_counts_that_cannot_be_read_stop_nothing(workers: WorkersMetrics, tmp_path: Path) -> None:
    (tmp_path / "worker-1-10.metrics").mkdir()
    leave(tmp_path / "worker-2-20.sock", b"calls_total{ no number")
    assert figures(workers.together({"worker-3-30.sock": text(1)})) == (1, 1, 1)
