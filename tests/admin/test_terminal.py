"""The state in a terminal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from aoai_gateway.admin.controls import Controls
from aoai_gateway.admin.snapshot import snapshot
from aoai_gateway.admin.terminal import render, short, span
from aoai_gateway.config.models import Config
from aoai_gateway.runtime.gateway import Gateway
from tests.engine_driver import DEPLOYMENT, config


@pytest.fixture
def state(gateway_with: Callable[[Config], Gateway]) -> dict[str, Any]:
    limits = {"max_tokens_per_minute": 20_000, "max_cost_per_day": 12.5}
    gateway = gateway_with(
        config("a@one", "b@one", "c@two").but(
            clients=[
                {"name": "Team", "key": "k", **limits},
                {"name": "Other", "key": "k2", "not_after": "2020-01-01"},
            ],
            priorities=[{"name": "critical"}, {"name": "batch"}],
        )
    )
    controls = Controls(gateway)
    controls.open_break("a@one", 60, "maintenance")
    controls.switch("endpoint", "two", on=False)
    return asyncio.run(snapshot(gateway))


def test_a_backend_after_its_break_is_half_open(state: dict[str, Any]) -> None:
    backend = next(each for each in state["backends"] if each["name"] == "a@one")
    backend["status"] = "probation"
    backend["classes"] = [{"priority": "batch", "break": None, "on_probation": True}]
    assert " half open" in line_with(render(state, width=120, colour=False), "a@one")


def line_with(text: str, what: str) -> str:
    (line,) = [each for each in text.splitlines() if each.startswith(what)]
    return line


def test_what_it_says(state: dict[str, Any]) -> None:
    text = render(state, width=200, colour=False)
    assert "\x1b" not in text
    assert re.fullmatch(
        r"a@one +0 +0, 0 failed +not known +(60|59) s  by hand: maintenance, since \d\d:\d\d:\d\dZ",
        line_with(text, "a@one"),
    )
    assert re.fullmatch(r"b@one .* ok", line_with(text, "b@one"))
    assert re.fullmatch(r"c@two .* off  switched off by hand", line_with(text, "c@two"))
    assert re.fullmatch(rf"{DEPLOYMENT} +1 of 2 +0 +none", line_with(text, f"{DEPLOYMENT} "))
    assert "░░░░░░░░ 0 of 20k tokens/min" in line_with(text, "Team")
    assert "0 of 12.5 in money/day" in text
    assert "the key of the client Other has ended" in text
    assert line_with(text, "Other").endswith("no limits")
    assert "endpoint two was switched off" in text


def test_what_each_place_of_records_has_taken_and_lost_is_told(state: dict[str, Any]) -> None:
    assert "records to" not in render(state, width=120, colour=False), "there is none"
    state["sinks"] = [
        {"name": "/var/u\x1b.jsonl", "written": 12_340, "dropped": 0, "waiting": 3, "trouble": None},
        {"name": "otlp http://c", "written": 5, "dropped": 7, "waiting": 0, "trouble": None},
        {"name": "csv", "written": 0, "dropped": 9, "waiting": 0, "trouble": "No space left on device"},
    ]
    text = render(state, width=120, colour=False)
    assert re.fullmatch(r"/var/u .jsonl +12.3k +0 +3 +ok", line_with(text, "/var/u"))
    assert re.fullmatch(r"otlp http://c +5 +7 +0 +ok", line_with(text, "otlp"))
    assert line_with(text, "csv").endswith("No space left on device")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_too_long(state: dict[str, Any], width: int) -> None:
    for colour in (False, True):
        for line in render(state, width=width, colour=colour).splitlines():
            assert len(re.sub(r"\x1b\[\d*m", "", line)) <= width
            assert line.count("\x1b[") % 2 == 0, "what is coloured ends"


def test_colours_change_nothing_else(state: dict[str, Any]) -> None:
    coloured = render(state, width=100, colour=True)
    assert "\x1b[32mok\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == render(state, width=100, colour=False)


def test_no_name_moves_the_cursor(state: dict[str, Any]) -> None:
    state["clients"][0]["name"] = "a\x1b[2Jb\x9bc"
    state["by_hand"]["actions"][0]["text"] = "x\r\x1b]0;y\x07"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", render(state, width=200, colour=False))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (12_340, "12.3k"), (20_000, "20k"), (250_000, "250k"), (4e6, "4M")],
)
def test_counts(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0.24, "0.2 s"), (59.6, "60 s"), (600, "10 min"), (7300, "2 h"), (1e6, "12 d")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert span(seconds) == text
