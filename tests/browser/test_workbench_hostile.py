"""All that others write is shown as text in the workbench, wherever it stands, and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from playwright.sync_api import BrowserContext, expect
from playwright.sync_api import Page as Tab

from tests.browser.served import tab_of, workbench
from tests.workbench.serving import Page
from tests.workbench.test_calls import call

RUN = "document.title='run'"
TRICKS = {
    "html": f'<img src=x onerror="{RUN}"><script>{RUN}</script><iframe srcdoc="<b onclick={RUN}>"></iframe>',
    "svg": f'<svg onload="{RUN}"><a href="javascript:{RUN}"><text>x</text></a></svg><math><mi//xlink:href=x>',
    "markdown": f"[a](javascript:{RUN}) [b](JaVaScRiPt:{RUN}) [c](data:text/html,<script>{RUN}</script>) "
    f"![d](https://evil.example/p.png) <javascript:{RUN}> [e]: javascript:{RUN}\n\n[x][e] **<b>**",
    "breakout": f"</textarea></pre></script><script>{RUN}</script>\"'><img src=x onerror={RUN}>",
    "ansi": "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07 \x1b[2J\x9b1m",
    "direction": "\u202eevil\u202c \u2066isolate\u2069 \u200fmark شكرا עברית \u061c",
    "hidden": "zero\u200bwidth\u200cjoin\u2060er\ufeffbom soft\u00adhyphen tag\U000e0041 \u2028a\u2029b",
    "template": "${alert(1)} {{7*7}} <%= 7 %> #{7} __proto__ constructor",
    "broken": "\ud83d lone \udc00 \x00 null \ufffe",
}
HIDDEN_IN = {
    "ansi": ["ESC"],
    "direction": ["U+202E", "U+202C", "U+2066"],
    "hidden": ["U+200B", "U+2060", "U+E0041"],
}


def hostile(trick: str) -> HTTPFlow:
    """Make a call with a text in every place where others write one."""
    flow = call("", gateway_client=trick, gateway_deployment=trick, gateway_backend=f"{trick}@{trick}")
    tool = {"name": trick, "description": trick, "parameters": {"type": "object", "properties": {trick: {}}}}
    called = {
        "id": trick,
        "type": "function",
        "function": {"name": trick, "arguments": json.dumps({trick: trick})},
    }
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": trick},
        {
            "role": trick,
            "name": trick,
            "content": [{"type": "text", "text": trick}, {"type": trick, trick: trick}],
        },
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": trick}}]},
        {"role": "assistant", "content": trick, "tool_calls": [called], "refusal": trick},
        {"role": "tool", "tool_call_id": trick, "content": trick},
        {
            "role": "user",
            "content": "T\n```T\nT\n```\n| T |\n|---|\n| T |\n- T\n> T".replace("T", trick),
        },
    ]
    body = {
        "model": trick,
        "messages": messages,
        "tools": [{"type": "function", "function": tool}],
        "user": trick,
        "metadata": {trick: trick},
    }
    flow.request.content = json.dumps(body).encode()
    assert flow.response is not None
    flow.response.status_code = 400
    filtered = {trick: {"filtered": True, "severity": trick}}
    choice = {
        "index": 0,
        "finish_reason": trick,
        "content_filter_results": filtered,
        "message": {
            "role": "assistant",
            "content": trick,
            "reasoning_content": trick,
            "tool_calls": [called],
        },
    }
    flow.response.content = json.dumps({"model": trick, "id": trick, "choices": [choice]}).encode()
    flow.comment = trick
    flow.metadata.update(
        gateway_error=trick, gateway_degraded=trick, gateway_clamped=trick, gateway_run_by=trick,
        gateway_story=[f"  1 ms  {trick}", trick], gateway_conversation=trick, gateway_attempts=2,
        gateway_call=trick, gateway_outcome=trick, gateway_asked=trick,
        gateway_timeline=[{"backend": trick, "status": 429, "reason": trick, "began_ms": 0, "ended_ms": 5}],
    )  # fmt: skip
    return flow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("sets")
    text = TRICKS["breakout"]
    case = {
        "name": text,
        "body": {"messages": [{"role": "user", "content": text}]},
        "variables": {"a": text},
        "expect": [{"contains": text}],
    }
    (folder / "hostile.yaml").write_text(json.dumps({"name": text, "cases": [case]}))

    with workbench(map(hostile, TRICKS.values()), folder) as found:
        yield found


@pytest.fixture
def tab(context: BrowserContext, bench: Page) -> Iterator[Tab]:
    with tab_of(context, bench) as page:
        yield page


def nothing_but_ours(page: Tab) -> None:
    """Only elements that the page makes are there, and no link leads out of it."""
    strange = "script:not([src]), svg, math, iframe, object, embed, img:not([src^='blob:'])"
    assert page.locator(f"body :is({strange})").count() == 0
    links = page.evaluate("() => [...document.links].map((each) => each.getAttribute('href'))")
    assert [link for link in links if not link.startswith(("#", "http://", "https://", "mailto:"))] == []
    handlers = """() => [...document.querySelectorAll("*")]
      .flatMap((each) => each.getAttributeNames()).filter((name) => name.startsWith("on"))"""
    assert page.evaluate(handlers) == []


@pytest.mark.parametrize("name", TRICKS)
def test_a_text_is_shown_wherever_it_stands(tab: Tab, bench: Page, name: str) -> None:
    flow = next(each for each in bench.bench.calls if each.comment == TRICKS[name])
    nothing_but_ours(tab)
    tab.goto(f"{bench.url}/workbench#/call/{flow.id}")
    expect(tab.locator(".conversation .message").first).to_be_visible()
    tab.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
    nothing_but_ours(tab)
    if name in ("html", "svg", "breakout"):
        shown = tab.locator(".message.role-system .text").inner_text()
        assert "".join(shown.split()) == "".join(TRICKS[name].split())
    for code in HIDDEN_IN.get(name, []):
        expect(tab.locator(".message.role-system .hidden-character", has_text=code).first).to_be_visible()
    tab.keyboard.press("e")
    expect(tab.locator(".message-box").first).to_be_visible()
    nothing_but_ours(tab)
    boxed = tab.locator(".message-box textarea").first.input_value()
    # Halves of surrogate pairs do not come over the wire.
    assert boxed == TRICKS[name].encode(errors="replace").decode()
    # What it says does not overlay other things: text of another direction stays in its place.
    assert tab.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


def test_names_in_a_set_are_text(tab: Tab, bench: Page) -> None:
    tab.goto(f"{bench.url}/workbench#/sets/hostile.yaml")
    expect(tab.locator(".call-head h2")).to_have_text(TRICKS["breakout"])
    tab.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
    nothing_but_ours(tab)


def test_an_answer_of_twenty_megabytes_is_shown(tab: Tab, bench: Page) -> None:
    flow = call("tell me everything", gateway_client="Bot")
    assert flow.response is not None
    text = "<b>word</b> &amp; " * 1_200_000
    answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": text}}]}
    flow.response.content = json.dumps(answer).encode()
    flow.comment = "large"
    loop = bench.loop
    loop.call_soon_threadsafe(bench.bench.calls.response, flow)
    tab.locator("#filter").fill("tell me everything")
    expect(tab.locator("#list .row")).to_have_count(1)
    tab.locator("#list .row").click()
    expect(tab.locator(".conversation")).to_contain_text("<b>word</b> &amp;")
    nothing_but_ours(tab)
    tab.locator("#filter").fill("")
    expect(tab.locator("#list .row").nth(3)).to_be_visible()


def test_a_call_of_ten_thousand_messages_is_read_and_edited(tab: Tab, bench: Page) -> None:
    flow = call("", gateway_client="Bot")
    messages = [{"role": "user" if n % 2 else "assistant", "content": f"message {n}"} for n in range(10_000)]
    flow.request.content = json.dumps({"model": "gpt-4o", "messages": messages}).encode()
    bench.loop.call_soon_threadsafe(bench.bench.calls.response, flow)
    tab.goto(f"{bench.url}/workbench#/call/{flow.id}")
    expect(tab.locator(".conversation")).to_contain_text("message 9999")
    tab.keyboard.press("e")
    expect(tab.locator(".message-box").last).to_be_visible()
    assert tab.locator(".message-box textarea").last.input_value() == "message 9999"
    assert tab.locator(".message-box").count() == 100
    tab.locator('[data-action="show-earlier"]').click()
    expect(tab.locator(".message-box")).to_have_count(200)
    assert tab.locator(".message-box textarea").first.input_value() == "message 9800"
    tab.get_by_label("Remove message 10000").click()
    assert tab.locator(".message-box textarea").last.input_value() == "message 9998"
