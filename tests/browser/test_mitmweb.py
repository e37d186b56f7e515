"""mitmweb in a browser: what a prompt engineer sees there, and does.

The pictures in docs/ are taken on the way, see `chromium.SCREENSHOTS`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import take_picture
from tests.browser.conversations import ANSWER, GET_ORDER, SUPPORT, asked
from tests.browser.mitmweb_page import WINDOW, Editor, MitmwebPage
from tests.e2e.inspector import Inspector, inspecting
from tests.e2e.processes import Simulator, eventually
from tests.e2e.settings import CLIENT_KEY, SPEC

REPORTS_KEY = "reports-key-4c1d80a2"
CLIENTS = [
    {"name": "Support bot", "key": CLIENT_KEY, "max_tokens_per_minute": 200_000},
    {"name": "Reports", "key": REPORTS_KEY, "deployments_allowed": "gpt-4o", "max_tokens_per_minute": 40},
]
POST = "chat/completions"

STORY = (
    ("", r"Support bot: gpt-4o → gpt-4o-ptu@sweden · \d+ tokens in, \d+ out · first token after [\d,.]+ m?s"),
    (
        "🔁",
        r"replayed after gpt-4o-ptu@sweden 429 RateLimitReached · "
        r"Support bot: gpt-4o → gpt-4o-paygo@sweden · .*",
    ),
    (
        "❌",
        r"attempt 1 failed: 429 RateLimitReached · "
        r"Support bot: gpt-4o → gpt-4o-ptu@sweden · break of \d+\.\d s",
    ),
    ("🚫", r"404 DeploymentNotFound · Support bot: gpt-5"),
    ("⚠", r"400.* · Support bot: gpt-4o → gpt-4o-paygo@sweden"),
    ("", r"Reports: gpt-4o → gpt-4o-paygo@sweden · \d+ tokens in, \d+ out"),
    ("🚦", r"429 .* · Reports: gpt-4o"),
    ("", r"Support bot: gpt-4o → gpt-4o-paygo@sweden · \d+ tokens in, \d+ out"),
)
"""Marker and comment of each flow in the list, in their order."""


class Desk:
    """mitmweb in a window, clients that call meanwhile, and what is behind."""

    def __init__(self, web: Inspector, simulator: Simulator, records: Path, page: MitmwebPage) -> None:
        self.web = web
        self.simulator = simulator
        self.page = page
        self._records = records
        self._pool = ThreadPoolExecutor(4)
        self.sdk = {
            key: openai.OpenAI(base_url=f"{web.url}/openai/v1/", api_key=key, max_retries=0, timeout=60)
            for key in (CLIENT_KEY, REPORTS_KEY)
        }

    def ask(
        self,
        messages: Any,
        *,
        key: str = CLIENT_KEY,
        model: str = "gpt-4o",
        stream: bool = False,
        **more: Any,
    ) -> str:
        """Make a call, and give the text of its answer."""
        completions = self.sdk[key].chat.completions
        answer: Any = completions.create(model=model, messages=messages, stream=stream, **more)
        if stream:
            return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)
        return answer.choices[0].message.content or ""

    def meanwhile(self, call: Callable[[], str]) -> Future[str]:
        """Have a client call while the person goes on."""
        return self._pool.submit(call)

    def records(self) -> list[dict[str, Any]]:
        """Return the usage records so far."""
        return [json.loads(line) for line in self._records.read_text().splitlines()]

    def command(self, name: str, *arguments: str) -> Any:
        """Give a command beside the page."""
        return self.web.api("POST", f"/commands/{name}", {"arguments": arguments}).json()["value"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, home: Path, browser: Browser) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("mitmweb")
    spec = copy.deepcopy(SPEC)
    # Else all of an answer would come in one chunk.
    spec["sweden"]["deployments"]["gpt-4o-ptu"].update(first_token_seconds=0.2, tokens_per_second=100)
    records = folder / "usage.jsonl"
    with inspecting(folder, home, spec=spec, clients=CLIENTS, usage_log=str(records)) as (web, simulator):
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]  # a plain dict will do
        yield Desk(web, simulator, records, MitmwebPage(page, web))


@pytest.fixture(scope="module", autouse=True)
def traffic(desk: Desk) -> None:
    """What the flow list begins with: see `STORY`."""
    text = desk.ask(SUPPORT, stream=True, tools=[GET_ORDER], temperature=0.2, max_tokens=400)
    assert text == ANSWER
    desk.simulator.fault("429", endpoint="sweden", deployment="gpt-4o-ptu")
    desk.ask(asked("say:Yes, we ship to Norway."))
    with pytest.raises(openai.NotFoundError):
        desk.ask(asked("Hello"), model="gpt-5")
    desk.simulator.fault("content_filter")
    with pytest.raises(openai.BadRequestError):
        desk.ask(asked("Hello"))
    desk.ask(asked("say:There were 214 tickets last month."), key=REPORTS_KEY)
    with pytest.raises(openai.RateLimitError):
        desk.ask(asked("And the month before?"), key=REPORTS_KEY)
    desk.ask(
        asked("Where is my order 4711?"),
        tools=[GET_ORDER],
        tool_choice={"type": "function", "function": {"name": "get_order"}},
    )
    expect(desk.page.rows).to_have_count(len(STORY))
    expect(desk.page.rows.last).to_contain_text("tokens in")


@pytest.fixture(autouse=True)
def at_rest(desk: Desk, traffic: None) -> Iterator[None]:
    """Leave the page as it was: the list alone, nothing held, nothing hidden."""
    desk.simulator.reset()
    yield
    if desk.page.page.locator(".flow-detail").count():
        desk.page.close()
    desk.page.filter("")
    if "Intercept" in desk.page.page.locator("footer").inner_text():
        desk.page.intercept("")
    desk.web.api("POST", "/flows/resume")


# --- the flow list -----------------------------------------------------------------------------------------


def test_the_flow_list_tells_the_story(desk: Desk) -> None:
    for row, (marker, comment) in zip(desk.page.rows.all(), STORY, strict=True):
        expect(row.locator(".marker")).to_have_text(marker)
        expect(row.locator(".col-comment")).to_have_text(re.compile(f"^(“.+” · )?{comment}$"))
    take_picture(desk.page.page, "flow-list", height=380)


def test_a_call_is_found_with_its_attempts(desk: Desk) -> None:
    page = desk.page
    page.open(page.row("replayed after"), "Response")
    call = page.page.locator(".headers .kv-row", has_text="x-gateway-call").locator(".kv-value").inner_text()
    page.close()
    page.filter(f'~meta "gateway_call: {call}"')
    expect(page.rows).to_have_count(2)
    expect(page.rows.locator(".marker")).to_have_text(["🔁", "❌"])
    expect(page.rows.locator(".col-status")).to_have_text(["200", "429"])
    page.filter("~meta gateway_reason:")
    expect(page.rows).to_have_count(1)
    page.filter('~meta "gateway_client: Reports" & ~comment 429')
    expect(page.rows).to_have_count(1)


def test_a_failed_attempt_can_be_looked_at(desk: Desk) -> None:
    page = desk.page
    page.open(page.row("attempt 1 failed"), "Response")
    expect(page.view_name).to_have_text("Completion")
    assert page.lines()[0].startswith("429 RateLimitReached")
    page.show("Request")
    expect(page.view_name).to_have_text("Prompt")
    page.show("Comment")
    expect(page.page.locator(".flow-detail section")).to_contain_text("break of")


# --- views -------------------------------------------------------------------------------------------------


def test_a_prompt_reads_like_a_script(desk: Desk) -> None:
    page = desk.page
    page.open(page.rows.first, "Request")
    expect(page.view_name).to_have_text("Prompt")
    lines = page.lines()
    text = "\n".join(lines)
    assert re.match(r"# Chat completion with gpt-4o · streamed · 5 messages · .*\d+ prompt tokens", lines[0])
    said = [re.match(r"# ── (\d) · (\w+) .*\d+ tokens ─+$", line) for line in lines]
    spoke = [(str(number), message["role"]) for number, message in enumerate(SUPPORT, 1)]
    assert [match.groups() for match in said if match] == spoke, text
    assert "    You are the support assistant of Contoso Outdoor.\n" in text
    assert "\n    \n    If an order is late" in text or "\n\n    If an order is late" in text
    (image,) = [line for line in lines if "!image 1" in line]
    assert "1024 × 1024" in image
    assert "get_order" in text
    assert "base64" not in text
    take_picture(page.page, "prompt")


def test_an_answer_reads_like_text(desk: Desk) -> None:
    page = desk.page
    page.open(page.rows.first, "Response")
    expect(page.view_name).to_have_text("Completion")
    lines = page.lines()
    assert re.match(
        r"stop · \d+ tokens in, \d+ out · first token after [\d,]+ ms · gaps between chunks ", lines[0]
    )
    assert "\n".join(lines).rstrip().endswith(ANSWER)
    take_picture(page.page, "completion")
    page.open(page.rows.last, "Response")
    expect(page.content).to_contain_text("get_order")
    page.open(page.row("DeploymentNotFound"), "Response")
    expect(page.content).to_contain_text("404 DeploymentNotFound")


def test_the_story_is_told(desk: Desk) -> None:
    page = desk.page
    page.open(page.row("replayed after"), "Response")
    page.choose_view("story")
    expect(page.view_name).to_have_text("Story")
    expect(page.content).to_contain_text("attempt 1 failed: 429 RateLimitReached; break of")
    expect(page.content).to_contain_text("end: ok, 2 attempts, status 200")
    take_picture(page.page, "story", height=540)
    page.choose_view("auto")


def test_a_call_is_shown_as_code(desk: Desk) -> None:
    page = desk.page
    page.open(page.rows.first, "Request")
    page.choose_view("code python")
    expect(page.content).to_contain_text('os.environ["AOAI_GATEWAY_KEY"]')
    assert "You are the support assistant of Contoso Outdoor." in "\n".join(page.lines())
    page.choose_view("auto")


# --- doing something ---------------------------------------------------------------------------------------


def test_a_flow_is_replayed_by_button_as_a_call_of_its_own(desk: Desk) -> None:
    page, before = desk.page, desk.records()
    page.open(page.row("replayed after"), "Request")
    page.press("Duplicate")
    page.expect_flows(len(STORY) + 1)
    page.open(page.rows.last, "Request")
    page.press("Replay")
    eventually(lambda: len(desk.records()) > len(before), "a call for the replay")
    (record,) = desk.records()[len(before) :]
    assert (record["client"], record["outcome"], record["status"]) == ("Support bot", "ok", 200)
    assert record["call"] not in {known["call"] for known in before}
    assert record["reserved_tokens"] > 0
    (sent,) = desk.simulator.requests()
    assert sent["deployment"] == record["standin"]
    replayed = page.page.locator(".flow-table tr.selected")
    expect(replayed.locator(".col-comment")).to_contain_text(
        f"Support bot: gpt-4o → {record['standin']}@sweden"
    )
    # The path's column has an icon for a replay; which one depends on mitmweb's version.
    expect(replayed.locator(".col-path").locator("i, svg").first).to_be_visible()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_edited_prompt_is_what_is_counted_and_sent(desk: Desk, stream: bool) -> None:
    page, before = desk.page, desk.records()
    page.intercept("~q & ~u chat")
    answer = desk.meanwhile(lambda: desk.ask(asked("say:Rome is the capital."), stream=stream))
    held = page.page.locator(".flow-table tr.intercepted")
    expect(held).to_have_count(1)
    page.open(held, "Request")
    assert desk.simulator.requests() == []
    text = "Oslo is the capital, and has been since 1814. " * 20
    with page.editing() as editor:
        editor.replace("Rome is the capital.", text if not stream else "Oslo is the capital.")
        if stream:
            take_picture(page.page, "edit", height=540)
    expect(page.content).to_contain_text("Oslo is the capital")
    page.press("Resume")
    assert answer.result(60).strip() == (text.strip() if not stream else "Oslo is the capital.")
    expect(held).to_have_count(0)
    eventually(lambda: len(desk.records()) > len(before), "a usage record")
    (record,) = desk.records()[len(before) :]
    plain = next(r for r in before if r["client"] == "Support bot" and r["outcome"] == "ok")
    assert record["streaming"] is stream
    if not stream:
        assert record["reserved_tokens"] - record["output_tokens"] > 200
        assert record["input_tokens"] > 200, plain
    show = page.page.locator(".flow-table tr.selected .col-comment")
    expect(show).to_contain_text(f"{record['input_tokens']} tokens in")


def test_a_prompt_is_edited_with_its_lines_and_a_mistake_changes_nothing(desk: Desk) -> None:
    page = desk.page
    page.open(page.row("replayed after").first, "Request")
    count = page.flows
    page.press("Duplicate")
    page.expect_flows(count + 1)
    page.open(page.rows.last, "Request")
    told: list[str] = []
    page.page.once("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
    controls = page.page.locator(".contentview .controls")
    controls.get_by_role("button", name="Edit").click()
    editor = Editor(page.page)
    before = editor.text
    assert "messages:\n" in before
    assert "\\n" not in before
    editor.replace("model: gpt-4o", "model: gpt-4o\ntemperature: .5")
    with page.page.expect_event("dialog"):
        controls.get_by_role("button", name="Done").click()
    assert re.fullmatch(r"Nothing was changed: line \d+: JSON has no number \.5: .*", told[0])
    # The editor stays open, with what was typed.
    editor.replace("temperature: .5", "temperature: 0.5")
    controls.get_by_role("button", name="Done").click()
    expect(page.content).to_contain_text("temperature: 0.5")


def test_a_commands_result_is_text(desk: Desk) -> None:
    page = desk.page
    page.open(page.row("replayed after").first, "Request")
    for command, says in (
        ("gateway.explain @focus", r"\n *[\d.]+ m?s .*\n"),
        ("gateway.snippet python @focus", r"\nfrom openai import OpenAI\n"),
        ("gateway.places", r"gpt-4o\ngpt-4o-mini\n"),
        ("gateway.snippet cobol @focus", "Invalid choice"),
    ):
        page.command(command)
        expect(page.page.locator(".command-result").last).to_contain_text(re.compile(says))
    page.page.get_by_label("Display Command Bar").uncheck()


def test_places_are_compared(desk: Desk) -> None:
    page = desk.page
    count = page.flows + 2
    for answer in (ANSWER, ANSWER.partition("\n")[0].replace(", two days late", "")):
        desk.ask(asked(f"say:{answer}"))
    page.expect_flows(count)
    page.command('gateway.compare "~bq say:Your & !~bq get_order & !~replay"')
    page.expect_flows(count + 3)
    page.page.get_by_label("Display Command Bar").uncheck()
    page.filter("~bq say:Your | ~comment comparison")
    expect(page.row("comparison")).to_have_count(1)
    page.open(page.row("comparison"), "Response")
    expect(page.view_name).to_have_text("Comparison")
    expect(page.content).to_contain_text("Your order 4711")
    take_picture(page.page, "compare", height=600)


# --- secrets -----------------------------------------------------------------------------------------------


def test_no_key_is_in_the_page_or_in_what_it_has_loaded(desk: Desk) -> None:
    page = desk.page
    for row in (page.rows.first, page.row("attempt 1 failed").first, page.row("🚦").first):
        page.open(row, "Request")
        page.choose_view("raw")
        expect(page.view_name).to_have_text("Raw")
        page.choose_view("auto")
        page.show("Response")
        expect(page.view_name).to_have_text("Completion")
    loaded = page.read_all()
    assert "Contoso Outdoor" in loaded
    assert "gpt-4o-ptu@sweden" in loaded
    for key in (CLIENT_KEY, REPORTS_KEY, *desk.simulator.keys.values()):
        assert key not in loaded
    assert '["content-type", ' in loaded.lower()
    for header in ("api-key", "authorization", "cookie", "set-cookie"):
        assert f'["{header}", ' not in loaded.lower()
