"""The log's lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
import re

from aoai_gateway.app.log_format import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord(
        "aoai_gateway.runtime.state_sync", logging.WARNING, __file__, 1, message, (), None
    )
    made.__dict__.update(extra)
    return made


def test_a_line_of_text_has_date_level_and_event() -> None:
    line = TextFormatter().format(record("a is out", event="backend.broken"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING backend\.broken: a is out", line)


def test_a_line_without_an_event_names_its_module() -> None:
    assert " runtime.state_sync: Redis is back" in TextFormatter().format(record("Redis is back"))


def test_a_line_of_json_has_the_details_as_members() -> None:
    said = record('odd "\n\ud800', event="attempt.failed", backend="a@b", client_name="Team 1", priority=None)
    line = JsonFormatter().format(said)
    assert "\n" not in line
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "event": "attempt.failed",
        "message": 'odd "\n\ud800',
        "backend": "a@b",
        "client": "Team 1",
    }


def test_the_address_in_a_message_of_mitmproxys_is_no_client() -> None:
    document = json.loads(JsonFormatter().format(record("client connect", client=("10.0.0.3", 51_234))))
    assert "client" not in document
    assert document["address"] == "10.0.0.3"
