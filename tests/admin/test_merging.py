"""Documents of several workers as one."""

from __future__ import annotations

from typing import Any

from aoai_gateway.admin.merging import Exposition, merged, merged_status


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
