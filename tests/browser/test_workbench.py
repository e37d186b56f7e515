"""The workbench in a browser: a failing call is found, read, edited, run, compared, and kept as a case.

The pictures of the tutorial are taken on the way, see `chromium.SCREENSHOTS`.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from websockets.sync.client import connect

from tests.browser.chromium import PATIENCE_MS, SCREENSHOTS, take_picture
from tests.browser.conversations import GET_ORDER, SYSTEM
from tests.e2e.conftest import node_folder
from tests.e2e.inspector import PASSWORD, Inspector, inspecting
from tests.e2e.processes import Answer, Simulator, eventually
from tests.e2e.settings import CLIENT_KEY, POOLS, SPEC

REPORTS_KEY = "reports-key-4c1d80a2"
CLIENTS = [{"name": "Support bot", "key": CLIENT_KEY}, {"name": "Reports", "key": REPORTS_KEY}]
PRICES = {"gpt-4o": {"input": 2.5, "output": 10}, "gpt-4o-mini": {"input": 0.15, "output": 0.6}}
WINDOW = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
MANY = 1_000 if os.environ.get(SCREENSHOTS) else 300
"""Calls among which one is looked for; the tutorial shows a thousand."""
LATE = "say:Your order 4711 left our warehouse on Friday.\n\nIt will arrive on Tuesday."

HOSTILE = (
    "say:<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>\n\n"
    "[a link](javascript:document.title='run') ![a picture](https://evil.example/p.png)\n\n"
    "<svg onload=\"document.title='run'\"></svg> \u202eright to left\u202c zero\u200bwidth \x1b[31mred\x1b[0m"
)


class Bench:
    """The workbench in a window, the gateway behind it, and clients that call meanwhile."""

    def __init__(self, web: Inspector, simulator: Simulator, folder: Path, context: BrowserContext) -> None:
        self.web, self.simulator, self.folder = web, simulator, folder
        self._pool = ThreadPoolExecutor(8)
        self.requested: list[str] = []
        self.problems: list[str] = []
        self.page = self.open(context)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web.web_port}/workbench"

    def open(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.goto(f"{self.url}?token={PASSWORD}")
        expect(page.locator("body")).to_have_attribute("data-ready", "true")
        return page

    def ask(self, text: str, *, key: str = CLIENT_KEY, model: str = "gpt-4o", **more: Any) -> Answer:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **more}
        return self.web.request("POST", "/openai/v1/chat/completions", key=key, json_body=body, seconds=60)

    def transcribe(self, sound: bytes) -> Answer:
        """Have a sound transcribed, which is sent as a form."""
        part = "--b\r\ncontent-disposition: form-data; name="
        file = f'{part}"file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        fields = f'{part}"model"\r\n\r\nwhisper\r\n{file}'
        return self.web.request(
            "POST",
            "/openai/v1/audio/transcriptions",
            key=CLIENT_KEY,
            headers={"content-type": "multipart/form-data; boundary=b"},
            body=fields.encode() + sound + b"\r\n--b--\r\n",
        )

    def speak(self, text: str) -> None:
        """Say something in a realtime session, and hear the answer."""
        url = f"ws://127.0.0.1:{self.web.port}/openai/v1/realtime?model=gpt-realtime"
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        settings = {"type": "realtime", "instructions": SYSTEM, "output_modalities": ["text"]}
        with connect(url, additional_headers={"api-key": CLIENT_KEY}, proxy=None) as session:

            def hear(kind: str) -> None:
                while json.loads(session.recv(timeout=30))["type"] != kind:
                    pass

            session.send(json.dumps({"type": "session.update", "session": settings}))
            hear("session.updated")  # or it might come between the messages
            session.send(json.dumps({"type": "conversation.item.create", "item": item}))
            session.send(json.dumps({"type": "response.create"}))
            hear("response.done")

    def meanwhile(self, call: Callable[[], Answer]) -> Future[Answer]:
        return self._pool.submit(call)

    def many(self, count: int) -> None:
        """Have clients make so many calls."""

        def one(number: int) -> Answer:
            text = f"say:{number} parcels were sent this morning, {number % 7} of them abroad."
            return self.ask(text, key=REPORTS_KEY, model="gpt-4o-mini")

        assert {answer.status for answer in self._pool.map(one, range(count))} == {200}

    # --- what a person does --------------------------------------------------------------------------------

    @property
    def rows(self) -> Locator:
        return self.page.locator("#list .row")

    def filter(self, text: str) -> None:
        self.page.locator("#filter").fill(text)

    def open_call(self, row: Locator) -> None:
        row.click()
        expect(self.page.locator(".conversation")).to_be_visible()

    def card(self, place: str) -> Locator:
        return self.page.locator(f'.card[data-place="{place}"]')

    def run(self, *places: str) -> None:
        """Run the draft on these places and no other, and wait for all answers."""
        expect(self.page.locator(".run-bar")).to_be_visible()
        for box in self.page.locator(".run-bar .places input").all():
            box.set_checked(box.get_attribute("value") in places)
        with self.page.expect_response("**/api/runs"):
            self.page.locator('[data-action="run"]').click()
        for place in places:
            expect(self.card(place).locator('[data-action="keep"]').first).to_be_visible()

    def hold(self, client: str) -> None:
        """Hold the calls of a client, or of none ("nothing"), and wait until that is in force."""
        self.page.get_by_label("Hold the calls of a client").select_option(client)
        wanted = client != "nothing"
        eventually(
            lambda: bool(self.web.api("GET", "/options").json()["intercept"]["value"]) == wanted, "holding"
        )

    def close_note(self) -> None:
        """Close what is said at the top, if there is something."""
        if self.page.get_by_label("Close this note").count():
            self.page.get_by_label("Close this note").click()

    def press(self, action: str) -> None:
        self.page.locator(f'[data-action="{action}"]').first.click()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, home: Path, browser: Browser) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("workbench")
    spec = copy.deepcopy(SPEC)
    spec["sweden"]["deployments"]["gpt-4o-ptu"].update(first_token_seconds=0.2, tokens_per_second=200)
    more = {"whisper": "whisper", "gpt-realtime": "gpt-realtime"}
    spec["sweden"]["deployments"] |= {name: {"model": model} for name, model in more.items()}
    pools = {**POOLS, "sweden": {**POOLS["sweden"], **{name: [name] for name in more}}}
    context = browser.new_context(viewport=WINDOW, permissions=["clipboard-read", "clipboard-write"])  # type: ignore[arg-type]
    with inspecting(folder, home, spec=spec, pools=pools, clients=CLIENTS, prices=PRICES) as (web, simulator):
        yield Bench(web, simulator, folder, context)
    context.close()


@pytest.fixture(autouse=True)
def at_rest(bench: Bench) -> Iterator[None]:
    """Nothing is held or filtered; and nothing has gone wrong or elsewhere when it is over."""
    bench.simulator.reset()
    bench.page.set_viewport_size(WINDOW)  # type: ignore[arg-type]
    bench.page.goto(f"{bench.url}#/")
    bench.filter("")
    yield
    assert bench.problems == []
    assert {url for url in bench.requested if not url.startswith((bench.url, "blob:"))} == set()
    assert bench.page.title() == "Workbench"


@pytest.mark.timeout(900)  # each step waits for a browser and for simulated models
def test_a_failing_call_becomes_a_case_that_passes(bench: Bench, tmp_path: Path) -> None:
    page = bench.page
    bench.many(MANY)
    bench.simulator.fault("content_filter", endpoint="sweden", deployment="gpt-4o-ptu")
    assert bench.ask(LATE, stream=False, tools=[GET_ORDER], temperature=0.2).status == 400
    expect(page.locator(".list-status")).to_contain_text(f"{MANY + 1:,} calls")
    assert bench.rows.count() < 60, "only the rows that are seen are in the page"

    # Find it among hundreds: by what happened, by its client, by a word of the prompt.
    page.locator('[data-kind="failed"]').click()
    expect(bench.rows).to_have_count(1)
    bench.rows.locator(".term").first.click()
    expect(page.locator("#filter")).to_have_value('is:failed client:"Support bot"')
    bench.filter("warehouse on friday")
    expect(bench.rows).to_have_count(1)
    take_picture(page, "workbench-list")

    # Read it.
    bench.open_call(bench.rows.first)
    expect(page.locator(".facts")).to_contain_text("400")
    expect(page.locator(".message.role-system")).to_contain_text("You are the support assistant")
    expect(page.locator('[aria-label="Story"]')).to_contain_text("gpt-4o-ptu@sweden")
    take_picture(page, "workbench-call")

    # Edit two messages with real line breaks, and use a variable.
    page.keyboard.press("e")
    boxes = page.locator(".message-box textarea")
    expect(boxes.first).to_have_value(SYSTEM)
    boxes.nth(0).fill("You are the support assistant of {{shop}}.\n\nBe brief:\n- one sentence\n- no more")
    boxes.nth(1).fill("say:Your order 4711 left our warehouse on Monday.\n\nIt arrives at {{shop}} today.")
    page.locator('[data-variable="shop"]').fill("Contoso Outdoor")
    page.get_by_label("your name").fill("Ada")
    page.locator(".call-head").scroll_into_view_if_needed()
    take_picture(page, "workbench-edit")

    # Run it on three deployments.
    bench.run("gpt-4o", "gpt-4o-mini", "gpt-4o-france@france")
    sent = bench.simulator.requests()[-3:]
    assert {each["deployment"] for each in sent} == {"gpt-4o-ptu", "gpt-4o-mini", "gpt-4o-france"}
    for place in ("gpt-4o", "gpt-4o-mini", "gpt-4o-france@france"):
        expect(bench.card(place).locator(".streaming")).to_contain_text(
            "It arrives at Contoso Outdoor today."
        )
    page.locator(".results").scroll_into_view_if_needed()
    take_picture(page, "workbench-run")
    bench.card("gpt-4o").locator('[data-action="keep"]').click()
    expect(bench.card("gpt-4o")).to_contain_class("kept")

    # Another prompt: what has become different?
    boxes.nth(1).fill("say:Your order 4711 left our warehouse on Tuesday.\n\nIt arrives at {{shop}} soon.")
    page.get_by_label("times each").fill("2")
    bench.run("gpt-4o")
    expect(page.locator(".variance")).to_contain_text("2 answers of")
    page.get_by_label("times each").fill("1")
    bench.run("gpt-4o", "gpt-4o-mini")
    bench.press("differences")
    differences = bench.card("gpt-4o-mini").locator(".streaming")
    expect(differences.locator("del")).to_have_text(["Monday", "today"])
    expect(differences.locator("ins")).to_have_text(["Tuesday", "soon"])
    page.locator(".results").scroll_into_view_if_needed()
    take_picture(page, "workbench-compare")
    bench.press("differences")
    bench.card("gpt-4o-mini").locator('[data-action="keep"]').click()
    expect(bench.card("gpt-4o-mini")).to_contain_class("kept")

    # Keep it as a case, and run the set.
    bench.card("gpt-4o-mini").locator('[data-action="save-case"]').click()
    dialog = page.locator("#dialog")
    dialog.get_by_label("name of the case").fill("Late order")
    dialog.locator(".expectation textarea").fill("Tuesday")
    take_picture(page, "workbench-case")
    dialog.locator('[data-action="confirm"]').click()
    expect(dialog).to_be_hidden()
    saved = (bench.folder / "prompt-sets" / "cases.yaml").read_text()
    assert "- no more" in saved.splitlines()[saved.splitlines().index("        Be brief:") + 2]
    assert "shop: Contoso Outdoor" in saved
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Sets").click()
    page.get_by_role("link", name="cases.yaml").click()
    page.locator('.places input[value="gpt-4o"]').check()
    page.locator('.places input[value="gpt-4o-mini"]').check()
    bench.press("run-set")
    expect(page.locator(".set-table .passed")).to_have_count(2)
    expect(page.locator(".set-table tfoot")).to_contain_text("1 of 1 passed, cost 0.0")
    bench.close_note()
    take_picture(page, "workbench-set")

    # Copy the Python, and run it for real.
    page.locator(".set-table .passed").first.click()
    page.locator('[data-copy="python"]').click()
    expect(page.locator("#note")).to_contain_text("copied")
    code = page.evaluate("() => navigator.clipboard.readText()")
    script = tmp_path / "copied.py"
    script.write_text(code.replace(re.findall(r'base_url="([^"]+)"', code)[0], f"{bench.web.url}/openai/v1/"))
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "AOAI_GATEWAY_KEY": CLIENT_KEY},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "left our warehouse on Tuesday." in done.stdout


def test_calls_appear_as_they_are_made_and_threads_fold(bench: Bench) -> None:
    bench.ask("say:first of a thread")
    bench.filter("first of a thread")
    expect(bench.rows).to_have_count(1)
    bench.ask("say:first of a thread")
    expect(bench.rows.locator(".fold")).to_have_text("▸ 2")
    bench.rows.locator(".fold").click()
    expect(bench.rows).to_have_count(2)


def silence(seconds: float) -> bytes:
    """Make a sound without any in it."""
    written = io.BytesIO()
    with wave.open(written, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(round(16_000 * seconds)))
    return written.getvalue()


def test_a_session_reads_as_a_conversation(bench: Bench) -> None:
    page = bench.page
    said = "Your order 4711 left <b>our</b> warehouse on Friday."
    bench.speak(f"say:{said}")
    bench.filter("operation:realtime")
    bench.open_call(bench.rows.first)
    expect(page.locator(".message.role-user")).to_contain_text(
        "say:Your order 4711 left <b>our</b> warehouse"
    )
    expect(page.locator(".message.role-assistant")).to_have_count(1)
    expect(page.locator(".message.role-assistant")).to_contain_text(
        "Your order 4711 left <b>our</b> warehouse"
    )
    expect(page.locator('[data-action="edit"]')).to_have_count(0)
    page.locator("details.events").first.click()
    expect(page.locator("details.events").first).to_contain_text("response.output_item.added")
    page.locator("details.events").first.locator("summary").first.click()
    bench.close_note()
    take_picture(page, "workbench-session")
    page.keyboard.press("e")
    expect(page.locator("#detail .problem")).to_contain_text("no prompt that could be edited")


def test_a_form_and_its_sound_are_shown(bench: Bench) -> None:
    page = bench.page
    assert bench.transcribe(silence(0.5)).status == 200
    bench.filter("operation:audio.transcriptions")
    bench.open_call(bench.rows.first)
    sound = page.locator('.message[aria-label="file"] audio')
    expect(sound).to_be_visible()
    page.wait_for_function("() => document.querySelector('audio').duration === 0.5")
    expect(page.locator(".message.role-assistant")).to_contain_text("This is a simulated transcript.")


def test_a_held_call_of_any_kind_is_let_go(bench: Bench) -> None:
    bench.hold("Support bot")
    answer = bench.meanwhile(lambda: bench.transcribe(silence(0.1)))
    bench.filter("is:held")
    expect(bench.rows).to_have_count(1)
    bench.open_call(bench.rows.first)
    bench.press("release")
    assert answer.result(100).status == 200
    bench.hold("nothing")


def test_what_prompts_say_is_shown_and_runs_nothing(bench: Bench) -> None:
    page = bench.page
    bench.ask(HOSTILE)
    bench.filter("right to left")
    bench.open_call(bench.rows.first)
    shown = page.locator(".message.role-user .text")
    expect(shown).to_contain_text("<script>document.title='run'</script>")
    expect(shown).to_contain_text("javascript:document.title='run'")
    expect(shown.locator(".hidden-character")).to_have_text(["U+202E", "U+202C", "U+200B", "ESC", "ESC"])
    assert page.locator("#detail :is(script, svg, iframe, img)").count() == 0
    assert page.locator("#detail a[href^='javascript']").count() == 0
    page.keyboard.press("e")
    # The simulator's answer of it, in the diff and in the cards.
    bench.run("gpt-4o", "gpt-4o-mini")
    bench.press("differences")
    expect(bench.card("gpt-4o-mini")).to_contain_text("<img src=x")


def test_a_prompt_of_twenty_megabytes_leaves_the_page_usable(bench: Bench) -> None:
    page = bench.page
    assert bench.ask("say:short " + "<b>x</b> " * 2_300_000, model="gpt-4o").status in (200, 400, 413)
    bench.filter("prompt of 2")
    bench.open_call(bench.rows.first)
    expect(page.locator(".stand-in .words")).to_contain_text("characters")
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".stand-in .text")).to_contain_text("<b>x</b>")
    bench.many(3)
    bench.filter("parcels were sent")
    expect(bench.rows.first).to_be_visible()


def test_a_held_call_is_edited_and_let_go(bench: Bench) -> None:
    page = bench.page
    bench.hold("Support bot")
    answer = bench.meanwhile(lambda: bench.ask("say:before it was held"))
    bench.filter("is:held")
    expect(bench.rows).to_have_count(1)
    bench.open_call(bench.rows.first)
    page.keyboard.press("e")
    page.locator(".message-box textarea").nth(1).fill("say:after it was held\nand edited")
    take_picture(page, "workbench-hold")
    bench.press("release-edited")
    assert b"after it was held\\nand edited" in answer.result(100).body
    bench.hold("nothing")


def test_what_is_not_valid_is_not_sent(bench: Bench) -> None:
    page = bench.page
    page.goto(f"{bench.url}#/new")
    page.locator(".message-box textarea").nth(1).fill("say:hello")
    page.get_by_label("Add a parameter").select_option("temperature")
    page.locator('[data-parameter="temperature"] input').fill("3")
    expect(page.locator('[data-parameter="temperature"]')).to_contain_text("not above 2")
    bench.press("run")
    expect(page.locator("#note")).to_contain_text("not valid")
    assert bench.simulator.requests() == []
    page.locator('[data-parameter="temperature"] input').fill("0.5")
    page.locator('[data-action="add-tool"]').click()
    bench.run("gpt-4o-mini")
    (sent,) = bench.simulator.requests()
    assert sent["deployment"] == "gpt-4o-mini"


def test_answers_in_json_are_compared_by_structure(bench: Bench) -> None:
    page = bench.page
    bench.ask('say:{"a": 1, "b": [1, 2]}')
    bench.filter("[1, 2]")
    bench.open_call(bench.rows.first)
    page.keyboard.press("e")
    bench.run("gpt-4o", "gpt-4o-mini")
    bench.press("differences")
    expect(bench.card("gpt-4o-mini")).to_contain_text("The same JSON value.")


def test_a_case_is_what_was_run_however_the_draft_is_edited_meanwhile(bench: Bench) -> None:
    page = bench.page
    bench.ask("say:the prompt that was run")
    bench.filter("prompt that was run")
    bench.open_call(bench.rows.first)
    page.keyboard.press("e")
    boxes = page.locator(".message-box textarea")
    boxes.nth(1).fill("say:the prompt that was run\nfor {{whom}}")
    page.locator('[data-variable="whom"]').fill("Ada")
    bench.run("gpt-4o")
    page.locator('[data-variable="whom"]').fill("Grace")
    boxes.nth(1).fill("say:another prompt")
    bench.card("gpt-4o").locator('[data-action="save-case"]').click()
    dialog = page.locator("#dialog")
    dialog.locator("select").first.select_option("a new file…")
    dialog.get_by_label("name of the file").fill("runs.yaml")
    dialog.locator(".expectation textarea").fill("Ada")
    dialog.locator('[data-action="confirm"]').click()
    expect(dialog).to_be_hidden()
    saved = (bench.folder / "prompt-sets" / "runs.yaml").read_text()
    assert "the prompt that was run" in saved
    assert "whom: Ada" in saved
    assert "another prompt" not in saved


def test_a_set_that_was_changed_meanwhile_is_not_overwritten(bench: Bench) -> None:
    page = bench.page
    folder = bench.folder / "prompt-sets"
    folder.mkdir(exist_ok=True)
    path = folder / "meanwhile.yaml"
    path.write_text("cases: [{name: one, body: {messages: []}}]\n")
    page.goto(f"{bench.url}#/sets/meanwhile.yaml")
    page.get_by_text("one", exact=True).last.click()
    page.locator(".panel input[type=text]").first.fill("edited here")
    path.write_text("cases: [{name: edited elsewhere, body: {messages: []}}]\n")
    bench.press("save-set")
    expect(page.locator("#note")).to_contain_text("was changed meanwhile")
    assert "edited elsewhere" in path.read_text()
    path.unlink()


def test_the_keyboard_is_enough(bench: Bench) -> None:
    page = bench.page
    bench.many(5)
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("parcels were sent")
    expect(bench.rows.nth(2)).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator(".conversation")).to_be_visible()
    first = page.url
    page.keyboard.press("j")
    expect(page.locator(".row[aria-selected=true]")).to_have_count(1)
    expect(page).not_to_have_url(first)
    page.keyboard.press("e")
    expect(page.locator(".message-box").first).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".card [data-action=keep]").first).to_be_visible()
    page.locator(".message-box textarea").last.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".conversation")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off(bench: Bench, scheme: Any) -> None:
    page = bench.page
    bench.ask(LATE, stream=True)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    wide = "() => document.documentElement.scrollWidth - innerWidth"
    bench.filter("warehouse on friday")
    assert page.evaluate(wide) <= 0
    bench.open_call(bench.rows.first)
    assert page.evaluate(wide) <= 0
    if scheme == "dark":
        take_picture(page, "workbench-phone")
    page.locator('[data-action="edit"]').click()
    bench.run("gpt-4o", "gpt-4o-mini")
    assert page.evaluate(wide) <= 0
    page.goto(f"{bench.url}#/sets")
    assert page.evaluate(wide) <= 0
    page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(bench: Bench, browser: Browser, scheme: Any) -> None:
    axe = (node_folder() / "node_modules" / "axe-core" / "axe.min.js").read_text()
    bench.ask(LATE, stream=True, tools=[GET_ORDER])
    # The page's own policy would keep the checker out.
    with browser.new_context(viewport=WINDOW, bypass_csp=True, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(f"{bench.url}?token={PASSWORD}")
        page.locator("#filter").fill("warehouse on friday")

        def check() -> None:
            page.evaluate(axe)
            found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
            serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
            assert serious == [], json.dumps(
                [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in serious],
                indent=1,
            )

        page.locator(".row").first.click()
        expect(page.locator(".conversation")).to_be_visible()
        check()
        page.locator('[data-action="edit"]').click()
        expect(page.locator(".message-box").first).to_be_visible()
        check()
        page.locator('[data-action="run"]').click()
        expect(page.locator(".card [data-action=keep]").first).to_be_visible()
        check()
        page.locator('[data-action="save-case"]').first.click()
        check()
        page.keyboard.press("Escape")
        page.goto(f"{bench.url}#/sets")
        expect(page.locator(".call-head")).to_be_visible()
        check()
