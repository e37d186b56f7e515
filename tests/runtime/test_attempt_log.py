"""Failed attempts in the log: the first of a kind at once, and of a storm one line a minute."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.log import MitmFormatter

from aoai_gateway.app.log_format import JsonFormatter
from aoai_gateway.config.models import Client
from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.runtime.attempt_log import STORM_SECONDS, AttemptLog
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, EMBEDDINGS
from tests.engine_driver import KEY_REFUSED, Answer, Fail, throttled, world


def failed(reason: str = "429", script: Answer | Fail | None = None) -> Any:
    call = world("a").script(a=script or throttled(retry_after="3")).call().call
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


@pytest.mark.parametrize("failure", [throttled(), KEY_REFUSED])
def test_a_client_of_any_name_is_no_address_to_mitmproxys_log(
    failure: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a record has as its ``client`` is an address to mitmproxy, which shows it before the message."""
    caplog.set_level(logging.INFO)
    client = Client(name="A", key="key-of-a")
    call = world("a", clients=(client,)).script(a=failure).call(client=client).call
    failed: Any = SimpleNamespace(attempt=call.attempts[0], call=call)
    AttemptLog().log(failed, 0.0)
    (record,) = caplog.records
    line = MitmFormatter(colorize=False).format(record)
    assert re.fullmatch(r"\[[0-9:.]+\] a(@a)? .*", line)
    assert json.loads(JsonFormatter().format(record))["client"] == "A"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (FailureKind.TIMEOUT, "no answer within {:.3g} s"),
        (FailureKind.TIMEOUT, "silent for {:.1f} s, to all calls"),
        (FailureKind.CONNECT, "no connection within {:.3g} s"),
    ],
)
def test_measured_seconds_do_not_make_a_storm_of_one_line_each(
    kind: FailureKind, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = AttemptLog()
    for n in range(100):
        log.log(failed(reason.format(3 + n / 10), Fail(kind)), 0.0)
    assert len(caplog.records) == 1
    log.log(failed("dropped the connection", Fail(FailureKind.DROPPED)), 0.0)
    assert len(caplog.records) == 2


def test_the_systems_words_are_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    attempt = failed("no TLS connection", Fail(FailureKind.TLS))
    attempt.attempt.detail = "certificate has expired"
    AttemptLog().log(attempt, 0.0)
    assert "no TLS connection (certificate has expired)" in caplog.text


def test_a_client_that_asks_the_wrong_model_is_no_error_of_the_operators(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = failed("400 OperationNotSupported")
    asked.attempt.fault = Fault.OPERATION
    AttemptLog().log(asked, 0.0)
    (record,) = caplog.records
    assert (record.levelname, record.event) == ("WARNING", "backend.wrong_model")  # type: ignore[attr-defined]
    assert record.getMessage() == (
        "a@a does not do chat.completions (400 OperationNotSupported), which the client anybody asks gpt "
        "for. If its other backends do, remove the standin 'a' in aoai.endpoints, at the endpoint 'a'; "
        "else the client means another model."
    )


def test_a_path_of_a_clients_own_hides_no_fault_of_the_configuration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer is the same, and so is the reason; whose fault it is differs."""
    log = AttemptLog()
    for of_client in (True, True, False, False):
        missing = failed("404 Resource not found")
        missing.attempt.fault, missing.attempt.of_client = Fault.PATH, of_client
        log.log(missing, 0.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_each_operation_that_an_endpoint_lacks_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    log = AttemptLog()
    for operation in (CHAT_COMPLETIONS, EMBEDDINGS, CHAT_COMPLETIONS):
        missing = failed("404 Resource not found")
        missing.attempt.fault = Fault.PATH
        missing.call.target = replace(missing.call.target, operation=operation)
        log.log(missing, 0.0)
    first, second = caplog.messages
    assert "if it should do chat.completions." in first
    assert "if it should do embeddings." in second
