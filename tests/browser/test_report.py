"""The usage report's page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from aoai_gateway.analysis.report_command import main
from tests.analysis.working_day import policy, working_day
from tests.browser.chromium import take_picture


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
