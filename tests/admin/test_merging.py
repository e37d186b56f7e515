"""Several workers' answers as one; their counters only grow, also when workers end or are killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.admin.merging import Exposition, WorkersMetrics, leave, merged, merged_status


def document(**about: Any) -> dict[str, Any]:
    return {
        "gateway": {"status": "ready", "config_errors": [], "state": "shared", "in_flight": 1} | about,
        "backends": [{"name": "ptu@sweden", "headroom": 0.5, "in_flight": 2, "recent": {"attempts": [1, 2]}}],
        "clients": [{"name": "Ann", "quotas": [{"used": 7}], "recent": None}],
        "deployments": [{"name": "gpt-4o", "line": {"classes": [{"priority": "low", "waiting": 2}]}}],
        "traffic": {"answers": [0, 3], "p95_ms": [None, 20.0], "failed_attempts": {"status": [0, 1]}},
        "by_hand": {"switched_off": [], "actions": [{"time": "2026-01-01T00:00:01Z", "text": "a"}]},
    }


def test_counts_are_added_and_shared_figures_are_taken_once() -> None:
    other = document(in_flight=4)
    other["clients"][0]["recent"] = {"calls": [2]}
    other["traffic"] |= {"p95_ms": [7.0, 9.0], "failed_attempts": {"timeout": [2, 2]}}
    merged = merged_status([document(), other])
    assert merged["gateway"]["in_flight"] == 5
    assert merged["backends"] == [
        {"name": "ptu@sweden", "headroom": 0.5, "in_flight": 4, "recent": {"attempts": [2, 4]}}
    ]
    assert merged["clients"] == [{"name": "Ann", "quotas": [{"used": 7}], "recent": {"calls": [2]}}]
    assert merged["deployments"][0]["line"]["classes"] == [{"priority": "low", "waiting": 4}]
    assert merged["traffic"]["answers"] == [0, 6]
    assert merged["traffic"]["p95_ms"] == [7.0, 20.0]
    assert merged["traffic"]["failed_attempts"] == {"status": [0, 1], "timeout": [2, 2]}


def test_what_is_wrong_at_one_is_told() -> None:
    merged = merged_status([document(), document(config_errors=["x"], state="degraded since 2026")])
    assert merged["gateway"]["config_errors"] == ["x"]
    assert merged["gateway"]["state"] == "degraded since 2026"
    assert merged_status([document(status="draining"), document()])["gateway"]["status"] == "ready"


def test_trouble_of_any_worker_is_told_once() -> None:
    lost = {"kind": "sink", "text": "records are lost"}
    empty = {"kind": "pool_empty", "text": "gpt has no backend"}
    one, other = document(status="degraded", trouble=[lost]), document(trouble=[lost, empty])
    merged = merged_status([one, other, document()])
    assert (merged["gateway"]["status"], merged["gateway"]["trouble"]) == ("degraded", [lost, empty])


def test_an_action_that_all_took_is_told_once() -> None:
    later = document()
    later["by_hand"]["actions"].insert(0, {"time": "2026-01-01T00:02:00Z", "text": "b"})
    actions = merged_status([document(), later])["by_hand"]["actions"]
    assert [action["text"] for action in actions] == ["b", "a"]


def test_what_processes_take_is_added_and_when_they_began_is_not() -> None:
    one = """\
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 100
# TYPE process_open_fds gauge
process_open_fds 7
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1000
"""
    other = one.replace("1000", "2000")
    found = merged(map(Exposition.parse, (one, other))).samples
    assert found["process_resident_memory_bytes"] == {"process_resident_memory_bytes": 200}
    assert found["process_open_fds"] == {"process_open_fds": 14}
    assert found["process_start_time_seconds"] == {"process_start_time_seconds": 2000}


def test_metrics() -> None:
    one = """\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{client="a b}"} 2.0
# HELP headroom Free share.
# TYPE headroom gauge
headroom{backend="x"} 0.25
# HELP calls_in_flight Calls under way.
# TYPE calls_in_flight gauge
calls_in_flight 3.0
"""
    other = one.replace("2.0", "3.0").replace("0.25", "0.5") + 'calls_in_flight{of="new"} 1.0\n'
    assert (
        merged(map(Exposition.parse, (one, other))).text()
        == """\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{client="a b}"} 5
# HELP headroom Free share.
# TYPE headroom gauge
headroom{backend="x"} 0.5
# HELP calls_in_flight Calls under way.
# TYPE calls_in_flight gauge
calls_in_flight 6
calls_in_flight{of="new"} 1
"""
    )


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
