"""The workbench's editor: any JSON can be opened in it, and what a person expects of an editor is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from playwright.sync_api import Browser, BrowserContext, expect
from playwright.sync_api import Page as Tab

from tests.browser.served import tab_of, workbench
from tests.workbench.serving import Page
from tests.workbench.test_calls import call

CHAT, RESPONSES, CLAUDE = "/openai/v1/chat/completions", "/openai/v1/responses", "/anthropic/v1/messages"
ANYTHING: list[Any] = [None, 7, True, "text", [], [[["nested"]]], {}, {"type": 7}, {"role": 5, "content": 5}]
TOOLS: list[Any] = [None, 7, [1], {}, {"type": "function", "function": None},
                    {"type": "function", "function": {"name": "no_parameters"}}]  # fmt: skip
THOUGHTS: list[Any] = [
    {"type": "thinking", "thinking": "The order was sent.", "signature": "s"},
    {"type": "redacted_thinking", "data": "QUJD"},
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "4711"}},
    {"type": "text", "text": "It was sent on Friday."},
]
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": (CHAT, {"messages": ANYTHING}),
    "contents": (CHAT, {"messages": [{"role": "user", "content": each} for each in ANYTHING]}),
    "parts": (CHAT, {"messages": [{"role": "user", "content": ANYTHING}]}),
    "tool calls": (CHAT, {"messages": [
        {"role": "assistant", "content": None, "tool_calls": each}
        for each in ("text", 7, [None, 7, {"function": None}, {"function": {"name": None, "arguments": {}}}])
    ]}),
    "tools": (CHAT, {"messages": [], "tools": TOOLS}),
    "tools that are no list": (CHAT, {"messages": "text", "tools": "text"}),
    "items": (RESPONSES, {"instructions": 7, "input": [
        *ANYTHING, {"type": "mystery", "deep": [[[1]]]}, {"type": "reasoning", "summary": None},
        {"type": "function_call", "call_id": 7, "name": None, "arguments": {"a": 1}},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]},
        {"type": "item_reference", "id": "m"},
    ]}),
    "blocks": (CLAUDE, {"max_tokens": 5, "system": [None, 7], "tools": TOOLS, "messages": [
        {"role": "assistant", "content": THOUGHTS},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": 7, "content": ANYTHING}]},
        {"role": "user", "content": ANYTHING},
    ]}),
    "parameters": (CHAT, {"messages": [], "temperature": "hot", "stream": "yes", "stop": None, "n": [[1]]}),
}  # fmt: skip
"""Requests that no server takes, or that few have seen."""


def made(name: str) -> HTTPFlow:
    path, body = ODD[name]
    flow = call("", gateway_client="Bot")
    flow.request.path, flow.request.content = path, json.dumps({"model": "gpt-4o", **body}).encode()
    flow.comment = name
    return flow


def replayed() -> list[HTTPFlow]:
    """Make a call whose first attempt failed, and that attempt."""
    timeline = [
        {"backend": "gpt-4o-a@a", "status": 429, "reason": "429", "started": 0, "ended": 4},
        {"backend": "gpt-4o-b@b", "status": 200, "reason": None, "started": 4, "answered": 8},
    ]
    flow = call("Where is it?", gateway_call="c1", gateway_duration_ms=9, gateway_timeline=timeline)
    failed = call("Where is it?", gateway_call="c1", gateway_attempt=1, gateway_backend="gpt-4o-a@a")
    flow.comment = "replayed"
    return [flow, failed]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    plain = call("Where is {{order}}?", gateway_client="Bot")
    plain.comment = "plain"
    flows = [*map(made, ODD), plain, *replayed()]
    with workbench(flows, tmp_path_factory.mktemp("sets")) as found:
        yield found


@pytest.fixture
def tab(context: BrowserContext, bench: Page) -> Iterator[Tab]:
    with tab_of(context, bench) as page:
        yield page


def address(bench: Page, comment: str) -> str:
    flow = next(each for each in bench.bench.calls if each.comment == comment)
    return f"{bench.url}/workbench#/call/{flow.id}"


@pytest.mark.parametrize("name", ODD)
def test_any_request_is_read_and_edited_and_is_sent_as_it_came(tab: Tab, bench: Page, name: str) -> None:
    tab.goto(address(bench, name))
    expect(tab.locator(".conversation")).to_be_visible()
    with tab.expect_request("**/api/count") as counted:
        tab.keyboard.press("e")
        expect(tab.locator(".run-bar")).to_be_visible()
    _, body = ODD[name]
    assert counted.value.post_data_json["body"] == {"model": "gpt-4o", **body}
    expect(tab.locator(".changes summary")).to_have_text("Nothing is changed yet")


def test_what_a_model_thought_is_told_from_what_it_said(tab: Tab, bench: Page) -> None:
    tab.goto(address(bench, "blocks"))
    message = tab.locator(".message.role-assistant").first
    expect(message.locator("details.reasoning summary")).to_have_text("thinking")
    expect(message).to_contain_text("redacted thinking")
    expect(message.locator(".tool-name")).to_contain_text("calls web_search")
    expect(message).not_to_contain_text("QUJD")


def test_a_prompt_is_counted_before_it_is_sent_and_its_changes_are_told(tab: Tab, bench: Page) -> None:
    tab.goto(f"{address(bench, 'plain')}/edit")
    takes, changes = tab.locator(".takes"), tab.locator(".changes summary")
    expect(takes).to_contain_text("tokens")
    before = takes.inner_text()
    tab.locator(".message-box textarea").first.fill("Where in the world is {{order}} by now?")
    expect(changes).to_have_text("Changes to the call (1)")
    expect(takes).not_to_have_text(before)
    tab.get_by_label("Duplicate message 1").click()
    expect(changes).to_have_text("Changes to the call (2)")
    changes.click()
    expect(tab.locator(".changes li").first.locator("ins").first).to_have_text(" in the world")
    expect(tab.locator(".changes li").nth(1).locator("code")).to_have_text("$.messages[1]")


def test_a_draft_is_there_when_the_page_is_loaded_again_until_it_is_begun_anew(tab: Tab, bench: Page) -> None:
    tab.goto(f"{address(bench, 'plain')}/edit")
    tab.locator(".message-box textarea").first.fill("Edited\n\nby hand {{order}}")
    tab.locator('[data-variable="order"]').fill("4711")
    tab.reload()
    expect(tab.locator(".message-box textarea").first).to_have_value("Edited\n\nby hand {{order}}")
    expect(tab.locator('[data-variable="order"]')).to_have_value("4711")
    tab.get_by_role("button", name="Start again").click()
    expect(tab.locator(".message-box textarea").first).to_have_value("Where is {{order}}?")
    tab.reload()
    expect(tab.locator(".message-box textarea").first).to_have_value("Where is {{order}}?")


def test_a_draft_is_kept_from_its_first_edit_on_and_no_longer_when_it_is_too_large(
    tab: Tab, bench: Page
) -> None:
    kept = "Object.keys(sessionStorage).filter((name) => name.startsWith('workbench-draft-')).length"
    with tab.expect_request("**/api/count"):
        tab.goto(f"{address(bench, 'plain')}/edit")
    box = tab.locator(".message-box textarea").first
    assert tab.evaluate(kept) == 0
    box.fill("Edited {{order}}")
    assert tab.evaluate(kept) == 1
    box.fill("x" * 500_001)
    assert tab.evaluate(kept) == 0
    tab.reload()
    expect(box).to_have_value("Where is {{order}}?")


def test_what_is_too_large_to_be_counted_is_not_sent_for_that(tab: Tab, bench: Page) -> None:
    asked = list[str]()
    tab.on(
        "request", lambda request: asked.append(request.post_data or "") if "/count" in request.url else None
    )
    tab.goto(f"{address(bench, 'plain')}/edit")
    takes, box = tab.locator(".takes"), tab.locator(".message-box textarea").first
    expect(takes).to_contain_text("tokens")
    box.fill("x" * 300_000)
    expect(takes).to_have_text("")
    box.fill("short again")
    expect(takes).to_contain_text("tokens")
    assert max(map(len, asked)) < 300_000


def test_a_number_that_is_out_of_date_is_no_longer_asked_for(tab: Tab, bench: Page) -> None:
    ended = list[str]()
    tab.on("requestfailed", lambda request: ended.append(request.failure or ""))
    tab.route("**/api/count", lambda _: None)  # it is never answered
    with tab.expect_request("**/api/count"):
        tab.goto(f"{address(bench, 'plain')}/edit")
    with tab.expect_event("requestfailed"):
        tab.locator(".message-box textarea").first.fill("Edited")
    assert ended == ["net::ERR_ABORTED"]


def test_a_browser_that_forbids_storage_shows_the_editor_all_the_same(browser: Browser, bench: Page) -> None:
    forbidden = """for (const name of ["sessionStorage", "localStorage"]) {
      const get = () => { throw new DOMException("forbidden", "SecurityError"); };
      Object.defineProperty(window, name, { get });
    }"""
    with browser.new_context() as context:
        context.add_init_script(forbidden)
        with tab_of(context, bench) as tab:
            tab.goto(f"{address(bench, 'plain')}/edit")
            tab.locator(".message-box textarea").first.fill("Edited {{order}}")
            expect(tab.locator(".takes")).to_contain_text("tokens")
            tab.get_by_label("your name").fill("Ada")


def test_a_schema_for_answers_begins_with_one_that_is_valid(tab: Tab, bench: Page) -> None:
    tab.goto(f"{address(bench, 'plain')}/edit")
    tab.get_by_label("Add a parameter").select_option("response_format")
    begun = json.loads(tab.locator('[data-parameter="response_format"] textarea').input_value())
    assert begun["json_schema"]["schema"]["additionalProperties"] is False
    assert tab.locator("[data-problem]").count() == 0


def test_the_time_axis_leads_to_the_attempt_that_failed(tab: Tab, bench: Page) -> None:
    tab.goto(address(bench, "replayed"))
    tab.locator(".timeline").get_by_role("button", name="gpt-4o-a@a").click()
    expect(tab.locator(".attempt[data-attempt='1']")).to_have_attribute("open", "")
    expect(tab.locator(".attempt summary")).to_be_focused()
    assert tab.locator(".timeline button").count() == 1, "the one that was answered has nothing more to show"
