"""Whoever logs: no secret, no prompt, nothing that a terminal obeys."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from aoai_gateway.runtime import log_records
from aoai_gateway.runtime.log_records import log_exception
from tests.engine_driver import config

PROMPT = "my secret prompt"


@pytest.fixture(autouse=True)
def safe() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    here = config("a")
    log_records.install(lambda: here)
    yield
    logging.setLogRecordFactory(before)


def test_a_message_is_masked_and_printable(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("anybody").error("it said %r\x1b[2J to %s", "key-of-anybody", "a%s")
    assert caplog.messages == ["it said '**************' [2J to a%s"]


def test_one_that_is_all_right_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("anybody").error("%d of\n%s", 1, "Büro")
    assert (caplog.records[0].msg, caplog.records[0].args) == ("%d of\n%s", (1, "Büro"))


def test_one_that_cannot_be_formatted_is_for_logging_to_tell() -> None:
    record = logging.getLogRecordFactory()("n", logging.ERROR, "p", 1, "%d", ("x",), None)
    assert record.args == ("x",)


@pytest.mark.parametrize("error", [KeyError(PROMPT), ValueError(f"{PROMPT!r}"), RuntimeError(PROMPT)])
def test_an_exception_is_told_without_what_it_quotes(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        try:
            raise error
        except Exception as cause:
            raise TypeError(PROMPT) from cause
    except TypeError as both:
        logging.getLogger("anybody").exception("It crashed.")
        log_exception("in a test.", both)
    assert PROMPT not in caplog.text
    assert caplog.text.count("TypeError") >= 2
    assert caplog.text.count(type(error).__name__) == 2
    assert "test_log_records.py" in caplog.text


def test_an_exception_about_the_machine_says_all(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise OSError(28, "No space left on device", "/x/key-of-anybody")
    except OSError:
        logging.getLogger("anybody").exception("It failed.")
    assert "No space left on device: '/x/**************'" in caplog.text


def test_it_is_installed_once() -> None:
    factory = logging.getLogRecordFactory()
    log_records.install(lambda: None)
    assert logging.getLogRecordFactory() is factory


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert log_records.told(first).count("Traceback") == 2
