"""What people are shown of many consumers: the largest, and the sums of the others."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis import shown
from aoai_gateway.analysis.page import page
from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read
from aoai_gateway.analysis.report import report
from aoai_gateway.analysis.report_command import as_csv, main
from aoai_gateway.analysis.text import text
from aoai_gateway.config.models import Client, Config
from tests.engine_driver import config
from tests.usage.records import record

COUNT = 130


def crowd() -> list[dict[str, Any]]:
    """A call of each client, each larger than the one before; each third is refused, too."""
    found = []
    for number in range(COUNT):
        name = f"client {number}"
        sizes = {"input_tokens": 100 + number, "output_tokens": 10, "cost": 0.25}
        found.append(record(client=name, service_tier="flex", **sizes))
        refusal = {"status": 429, "outcome": "rejected", "error": "quota_exceeded", "attempts": []}
        quota = {"quota": "tokens_per_minute", "deployment": "gpt", "limit": 1, "asked": 2, "left": 0}
        if number % 3 == 0:
            found += [record(client=name, refused_by=quota, **refusal)] * (1 + (number == 3))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "usage.jsonl"
    found.write_text("".join(json.dumps(each) + "\n" for each in crowd()))
    return found


def of(path: Path, settings: Config | None = None) -> dict[str, Any]:
    reading = Reading()
    return report(read([path], Selection(), reading), reading, percentile=99, config=settings)


def test_rows_and_others_hold_together_what_all_hold(path: Path) -> None:
    made = of(path)
    for most in (1, 7, COUNT - 1):
        found = shown.consumers(made, most)
        assert [row["client"] for row in found.rows] == [row["client"] for row in made["consumers"][:most]]
        for name in ("requests", "refused", "input_tokens", "output_tokens", "cost", "tpm_average"):
            wanted = sum(row[name] for row in made["consumers"])
            assert sum(row[name] for row in found.all) == pytest.approx(wanted)
        assert found.others is not None
        assert found.others["client"] == f"{COUNT - most} more"
        assert found.others["duration_p95_ms"] is None, "a percentile is no sum"


@pytest.mark.parametrize("most", [0, COUNT, COUNT + 1])
def test_where_all_have_room_there_are_no_others(path: Path, most: int) -> None:
    made = of(path)
    assert list(shown.consumers(made, most).all) == made["consumers"]
    assert shown.left_out(made, most) == ""


def test_who_got_the_most_429s_comes_first(path: Path) -> None:
    found = shown.throttled(of(path), 2)
    assert (found.rows[0]["client"], found.rows[0]["refused"]) == ("client 3", 2)
    assert found.others is not None
    refused = len(range(0, COUNT, 3)) + 1
    assert found.others["refused"] == sum(found.others["by_cause"].values()) == refused - 3


def test_times_that_the_others_do_not_have_are_dashes(path: Path) -> None:
    (others,) = re.findall(r"^\d+ more .*tokens/min \d+$", text(of(path), 120, 2), re.MULTILINE)
    assert others.count("–") == 3, "the first 429, the last one, and the minutes"


def test_who_needs_more_than_it_has_is_among_the_first(path: Path) -> None:
    clients = (
        Client(name="client 1", key="key-1", max_tokens_per_minute=50),
        Client(name="client 129", key="key-129", max_tokens_per_minute=5000),
        # A need of requests counts as one of tokens does.
        Client(name="client 0", key="key-0", max_tokens_per_minute=5000, max_requests_per_minute=1),
    )
    made = of(path, config("a", clients=clients))
    names = [row["client"] for row in shown.needs(made, 3).rows]
    assert names == ["client 0", "client 1", "client 129"]
    said = text(made, 80, 3)
    assert re.search(r"^client 0 .* too little$", said, re.MULTILINE)


def test_a_tier_of_many_consumers_is_bounded_too(path: Path) -> None:
    found = shown.service_tiers(of(path), 10)
    assert len(found.rows) == 10
    assert found.others is not None
    assert found.others["requests"] == COUNT - 10


def test_page_and_terminal_are_bounded_and_csv_and_json_are_not(path: Path) -> None:
    made = of(path)
    sentence = f"50 of {COUNT} consumers have a line of their own"
    html, said = page(made), text(made, 80)
    assert sentence in html
    assert sentence in said
    assert html.count("<tr>") <= 5 * (shown.MOST + 2)
    assert len(said.splitlines()) <= 5 * (shown.MOST + 6)
    assert max(map(len, said.splitlines())) <= 80
    assert len(list(csv.DictReader(io.StringIO(as_csv(made))))) == COUNT
    assert len(json.loads(json.dumps(made))["consumers"]) == COUNT


@pytest.mark.parametrize(("top", "clients"), [("0", COUNT), ("12", 12)])
def test_how_many_rows_can_be_asked_for(
    path: Path, top: str, clients: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(path), "--top", top], None) == 0
    table = capsys.readouterr().out.split("\n\n")[1]
    assert len(re.findall("^client [0-9]", table, re.MULTILINE)) == clients
    assert (f"{COUNT - clients} more" in table) == (clients < COUNT)


@pytest.mark.parametrize("top", ["-1", "many", "1.5", "²"])
def test_what_is_no_number_of_rows(path: Path, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(path), f"--top={top}"], None)
    assert "no number of rows" in capsys.readouterr().err
