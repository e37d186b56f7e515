"""Values that no program should write: a row that has one is passed over, and never the end of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.foreign import forms
from aoai_gateway.analysis.foreign.form import Form
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from tests.analysis.foreign.test_azure import GATEWAY, LLM, OPENAI
from tests.analysis.foreign.test_litellm import SERVED

POWERPROXY: dict[str, Any] = {
    "request_start_minute": "2026-11-28 11:00",
    "request_start_minute_utc": "2026-11-28 10:00",
    "client": "Team 1",
    "is_streaming": "1",
    "prompt_tokens": "100",
    "completion_tokens": "20",
    "openai_processing_ms": "350.5",
    "openai_region": "Sweden Central",
}
LATER: dict[str, Any] = {
    "request_received_utc": "2026-11-28 10:00:07.250",
    "client": "Team 1",
    "is_streaming": "0",
    "prompt_tokens": "100",
    "completion_tokens": "20",
    "aoai_roundtrip_time_ms": "900",
    "aoai_region": "Sweden Central",
    "aoai_endpoint_name": "sweden",
}
TABLE: dict[str, Any] = {
    "Client": "Team 1",
    "RequestStartMinute": "2026-11-28 10:00",
    "IsStreaming": True,
    "PromptTokens": 100,
    "CompletionTokens": 20,
    "OpenAIProcessingMS": 350.5,
    "OpenAIRegion": "Sweden Central",
}
ROWS = (SERVED, POWERPROXY, LATER, TABLE, GATEWAY, LLM, OPENAI)

WRONG = (
    *("", "None", "\ud800", "https://[bad", "//[", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"),
    *("9" * 400, "nan", "-1", "1e400", "[" * 5_000, '{"a": 1}', '{"usage_object": [1]}', -1, 1e300, True),
    *(["x"], {"x": {}}, [], {}, None, {"user_api_key_alias": 1, "error_information": {"error_code": {}}}),
)


def test_each_form_is_among_the_rows() -> None:
    assert {form.name for row in ROWS if isinstance(form := forms.form_of(row), Form)} == {
        form.name for form in forms.FORMS
    }


def records_in(path: Path, *rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    path.write_text(json.dumps(rows))
    return [record for _, record in read([path], Selection(), Reading())]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: forms.form_of(row).name)
def test_no_value_ends_the_reading(row: Mapping[str, Any], tmp_path: Path) -> None:
    (whole,) = records_in(tmp_path / "right.json", row)
    for column in row:
        wrong = ({**row, column: value} for value in WRONG)
        *_, last = records_in(tmp_path / "wrong.json", *wrong, row)
        assert last == whole
