"""Records as they come from a fleet: merged, packed, cut off, older, copied. The figures are recomputed."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.reading import Reading, Selection, moment
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.analysis.report_command import main
from tests.usage.records import record

NAMES = ("Search", "مرحبا", "日本語", "\x1b[31m", "x" * 500, "<b>", "", None)

LATER = ("cost", "policy", "refused_by", "spillover", "service_tier", "count", "user", "delivered_tokens")
"""Fields that records of older versions lack."""


def written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fleet(seed: int) -> list[dict[str, Any]]:
    """Calls around midnight at the end of a month, of two gateways, in any order."""
    dice = random.Random(seed)
    midnight = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    made = []
    for number in range(600):
        served = dice.random() < 0.85
        each = record(
            time=written(midnight + dice.uniform(-5_000, 5_000)),
            call=f"{dice.choice('ab')}-{number}",
            client=dice.choice(NAMES),
            status=200 if served else 429,
            outcome="ok" if served else "rejected",
            error=None if served else "quota_exceeded",
            input_tokens=dice.choice([0, 1, 700, 10**12]) if served else None,
            output_tokens=dice.choice([0, 3, 200]) if served else None,
            cost=dice.choice([None, 0.0, 0.25]) if served else None,
            duration_ms=dice.choice([0.0, 90.0, 7_200_000.0]),
        )
        made.append({k: v for k, v in each.items() if k not in LATER} if dice.random() < 0.2 else each)
    return made


def files_of(calls: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write each gateway's calls to a file: one packed, one with its last line cut off."""
    lines = {name: [json.dumps(c) for c in calls if c["call"].startswith(name)] for name in "ab"}
    packed, cut = folder / "a.jsonl.gz", folder / "b.jsonl"
    packed.write_bytes(gzip.compress("\n".join(lines["a"]).encode()))
    cut.write_text("\n".join(lines["b"]) + "\n" + lines["b"][0][:100])
    return [packed, cut]


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_fleet_equal_an_independent_computation(seed: int, tmp_path: Path) -> None:
    calls, reading = fleet(seed), Reading()
    made = report(read(files_of(calls, tmp_path), Selection(), reading), reading, percentile=99)
    assert (reading.read, reading.unreadable) == (600, 1)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in calls:
        groups[each["client"] or "(unknown)"].append(each)
    assert {row["client"]: row["requests"] for row in made["consumers"]} == {
        name: len(group) for name, group in groups.items()
    }
    minutes = sorted({each["time"][:16] for each in calls})
    begin, end = (datetime.fromisoformat(f"{each}:00+00:00") for each in (minutes[0], minutes[-1]))
    assert made["minutes"] == (end - begin).total_seconds() / 60 + 1
    for row in made["consumers"]:
        group, per_minute, requests = groups[row["client"]], Counter[str](), Counter[str]()
        for each in group:
            per_minute[each["time"][:16]] += (each["input_tokens"] or 0) + (each["output_tokens"] or 0)
            requests[each["time"][:16]] += 1
        served = [each for each in group if each["status"] == 200]
        costs = [each["cost"] for each in group if each.get("cost") is not None]
        assert row["input_tokens"] == sum(each["input_tokens"] for each in served)
        assert row["tpm_average"] == pytest.approx(sum(per_minute.values()) / made["minutes"], abs=0.06)
        assert row["tpm_peak"] == max(per_minute.values())
        assert row["rpm_p95"] == sorted(requests.values())[math.ceil(0.95 * len(requests)) - 1]
        assert row["refused"] == len(group) - len(served)
        assert row["cost"] == (pytest.approx(sum(costs)) if costs else None)
        durations = sorted(each["duration_ms"] for each in served)
        assert row["duration_p95_ms"] == durations[math.ceil(0.95 * len(durations)) - 1]


def test_a_call_over_midnight_belongs_to_the_day_in_which_it_began(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(json.dumps(record(time="2026-11-30T23:59:59.999Z", duration_ms=600_000.0)) + "\n")
    midnight = moment("2026-12-01", datetime.now(UTC))
    assert len([*read([path], Selection(until=midnight), Reading())]) == 1
    assert not [*read([path], Selection(since=midnight), Reading())]


def test_the_hour_that_comes_twice_when_summer_time_ends_is_two_hours(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    # 02:30 in Berlin, first in summer time and an hour later again: 00:30 and 01:30 in UTC.
    times = ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00")
    path.write_text("".join(json.dumps(record(time=each)) + "\n" for each in times))
    reading = Reading()
    made = report(read([path], Selection(), reading), reading, percentile=99)
    assert (made["from"], made["minutes"]) == ("2026-10-25T00:30:00Z", 61)
    assert made["consumers"][0]["rpm_peak"] == 1


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(json.dumps(record()) + "\n")
    reading = Reading()
    assert len([*read([path, path], Selection(), reading)]) == 1
    assert reading.remarks() == []


def test_a_copy_of_a_file_is_said_to_count_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, copy = Path("usage.jsonl"), Path("usage.jsonl.1.gz")
    lines = "".join(json.dumps(record(call=f"call-{n}")) + "\n" for n in range(3))
    path.write_text(lines)
    copy.write_bytes(gzip.compress(lines.encode()))
    assert main([str(path), str(copy)], None) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{copy} begins with the same call as {path}: calls that are in both count twice." in said
