"""What a run amounts to."""

from __future__ import annotations

from aoai_gateway.rerun.answers import Answer, compare
from aoai_gateway.rerun.calls import CapturedCall, Outcome
from aoai_gateway.rerun.report import Row, total_lines, totals

GOOD = Answer(200, "It is Paris.", "stop", 3, 5)


def row(now: Answer, seconds: float, number: int = 1) -> Row:
    then = Outcome(answer=GOOD, first_token=None, total=0.25)
    call = CapturedCall(
        "flow", "team", "chat.completions", "gpt-4o", False, "POST", "/", headers=(), body=b"", then=then
    )
    return Row(number, call, Outcome(answer=now, first_token=None, total=seconds), compare(GOOD, now))


def test_a_failed_call_counts_but_its_time_does_not() -> None:
    sums = totals([row(GOOD, 0.5), row(Answer(401, error="401: Access denied."), 0.001, 2)])
    assert (sums["calls"], sums["same"], sums["failed"]) == (2, 1, 1)
    assert sums["total_ms"] == {"then": 250, "now": 500}
    assert sums["input_tokens"] == {"then": 3, "now": 3}


def test_where_all_have_failed_no_time_is_told() -> None:
    assert total_lines([row(Answer(401, error="401: Access denied."), 0.001)]) == [
        "1 call: 0 same, 0 different, 1 failed"
    ]
