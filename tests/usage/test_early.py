"""What is written of requests that never became calls: all of them, and not a line for each of a flood."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.usage import early
from aoai_gateway.usage.early import EarlyAnswer, EarlyAnswers
from aoai_gateway.usage.record import FIELDS, usage_record
from aoai_gateway.wire import errors
from aoai_gateway.wire.credential_errors import unauthorized
from tests.engine_driver import world

WRONG_KEY = EarlyAnswer.refused(unauthorized(), None, "10.0.0.3")
NOT_BUILT = EarlyAnswer.refused(errors.not_built("files"), "Team 1", "10.0.0.4")


class Book:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.answers = EarlyAnswers(self.records.append, unix_offset=lambda: 1_700_000_000.0)

    @property
    def counts(self) -> list[tuple[str | None, int]]:
        return [(each["error"], each["count"]) for each in self.records]


@pytest.fixture
def book() -> Book:
    return Book()


def test_the_first_of_a_kind_is_written_at_once(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    book.answers.note(WRONG_KEY, 0.0)
    book.answers.note(NOT_BUILT, 1.0)
    assert book.counts == [("401", 1), ("not_built", 1)]
    refusal = book.records[1]
    assert tuple(refusal) == tuple(FIELDS)
    assert refusal["time"] == "2023-11-14T22:13:21.000Z"
    assert (refusal["client"], refusal["address"], refusal["status"]) == ("Team 1", "10.0.0.4", 501)
    assert refusal["outcome"] == "rejected"
    assert [record.getMessage() for record in caplog.records] == [
        "Refused: 401 no key that is known, from 10.0.0.3.",
        "Refused: 501 not_built, client Team 1, from 10.0.0.4.",
    ]


def test_what_was_asked_for_is_said_where_that_is_the_cause(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    hint = errors.not_found("/openai/v2/chat", "")
    for path in (
        "/openai/v2/chat?api-key=hunter2",
        "/openai/v2/chat",
        "/x\r\nERROR made up",
        "/" + "x" * 500,
    ):
        book.answers.note(EarlyAnswer.refused(hint, "Team 1", None, path), 0.0)
    book.answers.note(EarlyAnswer.refused(errors.body_too_large(5), "Team 1", None, "/openai/v1/files"), 0.0)
    book.answers.note(EarlyAnswer.refused(unauthorized(), None, None, "/made/up"), 0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "Refused: 404 no path of Azure OpenAI's ('/openai/v2/chat'), client Team 1.",
        "Refused: 404 no path of Azure OpenAI's ('/x?ERROR made up'), client Team 1.",
        f"Refused: 404 no path of Azure OpenAI's ('/{'x' * 79}…'), client Team 1.",
        "Refused: 413 request_too_large, client Team 1.",
        "Refused: 401 no key that is known.",
    ]


def test_a_flood_is_a_count(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1_000):
        book.answers.note(WRONG_KEY, number / 100)
    assert book.counts == [("401", 1)]
    book.answers.look(59.9)
    assert len(book.records) == 1
    book.answers.look(60.0)
    assert book.counts == [("401", 1), ("401", 999)]
    assert [record.getMessage() for record in caplog.records][1:] == [
        "Refused 999 more within a minute: 401 no key that is known, from 10.0.0.3."
    ]


def test_none_is_lost_when_the_next_comes_late_or_the_process_ends(book: Book) -> None:
    for now in (0.0, 1.0, 100.0, 101.0, 102.0):
        book.answers.note(WRONG_KEY, now)
    assert book.counts == [("401", 1), ("401", 1), ("401", 1)]
    book.answers.close()
    book.answers.close()
    assert sum(count for _, count in book.counts) == 5


def test_kinds_are_bounded_and_the_count_stays_exact(
    book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(early, "MOST_KINDS", 10)
    for number in range(500):
        book.answers.note(EarlyAnswer.refused(unauthorized(), None, f"10.0.{number // 250}.{number}"), 0)
    book.answers.close()
    assert len(book.records) == 12
    assert sum(count for _, count in book.counts) == 500
    assert book.records[-1]["address"] is None
    assert len(caplog.records) == 12


def test_paths_that_a_client_makes_up_are_bounded_and_its_name_stays(
    book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(early, "MOST_KINDS", 10)
    for number in range(500):
        book.answers.note(EarlyAnswer.refused(errors.not_found("/", ""), "Team 1", "::1", f"/{number}"), 0)
    book.answers.close()
    assert len(caplog.records) == 7
    assert caplog.records[-1].getMessage() == (
        "Refused 494 more within a minute: 404 no path of Azure OpenAI's, client Team 1, from ::1."
    )
    assert {record["client"] for record in book.records} == {"Team 1"}
    assert sum(count for _, count in book.counts) == 500


def test_an_answer_that_is_no_refusal_is_not_logged(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    book.answers.note(EarlyAnswer(200, client="Team 1", operation="models"), 0.0)
    assert book.records[0]["operation"] == "models"
    assert not caplog.records


def test_a_bug_is_an_error() -> None:
    assert EarlyAnswer.refused(errors.internal(), None, None).outcome.value == "error"


def test_a_call_counts_once_and_has_the_same_fields() -> None:
    record = usage_record(world("a").call().call)
    assert tuple(record) == tuple(FIELDS)
    assert record["count"] == 1
