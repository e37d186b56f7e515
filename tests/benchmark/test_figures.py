"""What calls came to."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.benchmark.figures import MOST_SAMPLES, Tally, Window
from tests.usage.records import attempt, record


def call(**values: Any) -> dict[str, Any]:
    usual = {"streaming": True, "waited_ms": 0.0, "first_token_ms": 200.0, "duration_ms": 1200.0}
    return record(**{**usual, "input_tokens": 100, "output_tokens": 11, **values})


def test_figures_of_calls() -> None:
    tally = Tally()
    tally.add(call())
    tally.add(call(duration_ms=2200.0, waited_ms=40.0, utilization=0.5))
    tally.add(call(status=429, error="shed", utilization=1.0))
    tally.add(call(outcome="client_gone"))
    tally.add(call(outcome="truncated", attempts=[attempt(reason="ClientPayloadError")]))
    tally.add(
        call(outcome="backends_out", status=None, error="no connection", attempts=[attempt(), attempt()])
    )
    found = tally.document(30)
    assert (found["calls"], found["completed"], found["throttled"], found["failures"]) == (6, 2, 1, 3)
    assert found["causes"] == {"shed": 1, "timeout": 1, "ClientPayloadError": 1, "no connection": 1}
    assert (found["rpm"], found["ctx_tpm"], found["gen_tpm"]) == (4, 400, 44)
    assert (found["ttft_avg"], found["e2e_avg"], found["e2e_max"]) == (0.2, 1.7, 2.2)
    assert (found["tbt_50th"], found["tbt_max"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (found["util_avg"], found["late_max"]) == (0.75, 0.04)


def test_an_answer_without_usage_counts_by_what_was_counted() -> None:
    tally = Tally()
    tally.add(call(input_tokens=None, output_tokens=None, prompt_tokens_counted=70, delivered_tokens=5))
    assert (tally.input_tokens, tally.output_tokens) == (70, 5)


def test_the_window_forgets() -> None:
    window = Window(10)
    for second in range(30):
        window.add(call(duration_ms=1000.0 * second), second + 0.5)
    found = window.document(30)
    assert found["completed"] == 10
    assert found["rpm"] == 60
    assert found["e2e_max"] == 29


def test_before_the_window_is_full_rates_are_of_the_time_so_far() -> None:
    window = Window(60)
    window.add(call(), 0.5)
    assert window.document(10)["rpm"] == 6


def test_a_window_of_very_many_calls_is_thinned_and_its_counts_are_exact() -> None:
    window = Window(60)
    for _ in range(3 * MOST_SAMPLES):
        window.add(call(), 0.5)
    assert window.document(1)["completed"] == 3 * MOST_SAMPLES
