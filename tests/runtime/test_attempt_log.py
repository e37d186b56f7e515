"""Failed attempts in the log: the first of a kind at once, and of a storm one line a minute."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from aoai_gateway.runtime.attempt_log import STORM_SECONDS, AttemptLog
from tests.engine_driver import throttled, world


def failed(reason: str = "429") -> Any:
    call = world("a").script(a=throttled(retry_after="3")).call().call
    call.attempts[0].reason = reason
    return SimpleNamespace(attempt=call.attempts[0], call=call)


def test_a_storm_is_a_line_a_minute_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = AttemptLog()
    for second in range(200):
        log.log(failed(), second * 0.1)
    assert len(caplog.records) == 1
    assert "client anybody" in caplog.text
    log.log(failed(), STORM_SECONDS)
    assert caplog.messages[1].endswith("; 199 more like it were not told")


def test_other_reasons_have_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = AttemptLog()
    for reason in ("429", "503", "429"):
        log.log(failed(reason), 0.0)
    assert len(caplog.records) == 2
    assert {record.event for record in caplog.records} == {"attempt.failed"}  # type: ignore[attr-defined]
