"""The usage report's page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from aoai_gateway.analysis.report_command import main
from tests.analysis.working_day import policy, working_day
from tests.browser.chromium import take_picture
from tests.usage.records import record


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_read_without_scrolling_sideways(browser: Browser, tmp_path: Path, scheme: str) -> None:
    records, out = tmp_path / "usage.jsonl", tmp_path / "report.html"
    records.write_text("".join(json.dumps(each) + "\n" for each in working_day()))
    options = ["--config", "x.yaml", "--format", "html", "-o", str(out)]
    assert main([str(records), *options], lambda path: policy()) == 0
    page = browser.new_page(viewport={"width": 1160, "height": 1190}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(out.as_uri())
    expect(page.get_by_role("heading", name="Usage report")).to_be_visible()
    expect(page.locator("svg")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if scheme == "light":
        take_picture(page, "report")
    page.close()


NAMES = ("n" * 300, "<script>alert(1)</script>", "مرحبا", "日本語クライアント" * 9, "a\u202eb", "Search")


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_names_of_any_length_leave_the_figures_in_sight(browser: Browser, tmp_path: Path, width: int) -> None:
    records, out = tmp_path / "usage.jsonl", tmp_path / "report.html"
    records.write_text("".join(json.dumps(record(client=each)) + "\n" for each in NAMES))
    assert main([str(records), "--format", "html", "-o", str(out)], lambda path: policy()) == 0
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(out.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    head = page.get_by_role("columnheader", name="tokens/min", exact=True).bounding_box()
    assert head is not None
    assert head["x"] + head["width"] <= width or width == 360, "the need is outside of the page"
    first = page.get_by_role("columnheader", name="client", exact=True).first.bounding_box()
    assert first is not None
    assert first["width"] <= width / 2
    page.close()


def test_on_a_phone_charts_keep_their_size_and_only_they_move_sideways(
    browser: Browser, tmp_path: Path
) -> None:
    records, out = tmp_path / "usage.jsonl", tmp_path / "report.html"
    records.write_text("".join(json.dumps(each) + "\n" for each in working_day()))
    assert main([str(records), "--format", "html", "-o", str(out)], lambda path: policy()) == 0
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(out.as_uri())
    chart = page.locator("svg").first
    box = chart.bounding_box()
    assert box is not None
    assert box["width"] >= 640, "its text would be too small to read"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
