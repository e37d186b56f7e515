"""Whatever a line of a log says: it is a record that can be counted, or it is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aoai_gateway.analysis.backtest import backtest
from aoai_gateway.analysis.reading import Reading, RecordsError, Selection
from aoai_gateway.analysis.record_check import checked, wrong_field
from aoai_gateway.analysis.recorded import recording_of
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.analysis.text import text
from aoai_gateway.usage.record import FIELDS
from tests.engine_driver import config
from tests.usage.records import attempt, record

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [10**400, 10**15, "429", 429, "ok", "client_gone", "9998-12-31T00:00:00Z", "\ud800", "gpt-4o"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
skips = st.fixed_dictionaries({}, optional=dict.fromkeys(("backend", "cause", "wait_ms"), values))
attempts = st.dictionaries(
    st.sampled_from(sorted(attempt())), values | st.lists(skips, max_size=2), max_size=2
)
changes = st.dictionaries(st.sampled_from(sorted(FIELDS)), values, max_size=3) | attempts.map(
    lambda changed: {"attempts": [attempt() | changed]}
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "usage.jsonl"


def counted(path: Path) -> Reading:
    """Make a report and a backtest of a file, as people would see them."""
    own = config("gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden")
    reading = Reading()
    made = report(read([path], Selection(), reading), reading, percentile=99, config=own)
    json.dumps(made)
    text(made, 80)
    recording = recording_of(read([path], Selection(), Reading()))
    json.dumps(backtest(recording, {"own": own}))
    return reading


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes)
@example({"input_tokens": 10**15, "output_tokens": 10**15, "cost": 1e15})
@example({"time": "9997-12-31T23:59:59Z"})
@example({"time": "1970-01-01T00:00:00"})
@example({"refused_by": {"quota": "tokens_per_minute"}, "status": 429})
@example({"attempts": [], "outcome": "ok"})
@example({"count": 10**15})
def test_a_record_with_any_value_is_counted_or_passed_over(path: Path, changed: dict[str, Any]) -> None:
    lines = [record(), record() | changed, record()]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    try:
        reading = counted(path)
    except RecordsError:
        # One of a later version is not guessed at, and ends the reading.
        assert "schema" in changed
        return
    assert reading.read + reading.unreadable == 3
    assert reading.unreadable <= 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(max_size=30).map(lambda rest: "{" + rest) | st.text(max_size=30), max_size=4))
@example(["{" * 100_000, "[" * 100_000, '{"time": ' + "[" * 100_000])
@example(['{"time": 1e999, "outcome": 1}', '{"schema": true}'])
def test_any_lines_are_passed_over(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    assert counted(path).read == 0


@given(changes)
@example({"input_tokens": 1.0})
@example({"max_tokens": True})
@example({"cost": 10**16})
@example({"duration_ms": 5})
@example({"spillover": {"from": "a", "more": [1]}})
def test_a_line_that_is_taken_at_once_has_no_wrong_field_and_reads_as_it_is(changed: dict[str, Any]) -> None:
    assert checked(json.dumps(record())) is not None
    line = json.dumps(record() | changed)
    found = checked(line)
    if found is not None:
        whole = json.loads(line)
        assert wrong_field(whole) is None
        alone = found.keys() - {"attempts", "policy", "refused_by"}
        assert {name: found[name] for name in alone} == {name: whole[name] for name in alone}


def test_a_line_that_is_nested_too_deep_is_not_taken_at_once() -> None:
    line = json.dumps(record())
    assert checked(f'{{"odd": {"[" * 100_000}{"]" * 100_000}, {line[1:]}') is None
