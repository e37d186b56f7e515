"""mitmweb's page, as a person sees and uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Locator, Page, Request, WebSocket, expect

from tests.browser.chromium import PATIENCE_MS
from tests.e2e.inspector import PASSWORD, Inspector

WINDOW = {"width": 1280, "height": 660}


class MitmwebPage:
    """One page that shows mitmweb."""

    def __init__(self, page: Page, web: Inspector) -> None:
        self.page = page
        self._messages: list[str] = []
        self._fetched: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", self._note)
        page.on("websocket", self._listen)
        self._url = f"http://127.0.0.1:{web.web_port}/"
        page.goto(f"{self._url}?token={PASSWORD}")
        self.search = page.get_by_placeholder("Search")
        self.intercept_box = page.get_by_placeholder("Intercept")
        expect(self.search).to_be_visible()

    def _note(self, request: Request) -> None:
        if request.method == "GET" and request.resource_type in ("fetch", "xhr"):
            self._fetched.add(request.url)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: self._messages.append(str(frame)))

    def read_all(self) -> str:
        """Return what the page was told, beside what it has fetched so far, and what is in it now."""
        # Chromium does not keep the bodies: they are fetched again.
        fetch = "url => fetch(url).then(answer => answer.text())"
        bodies = [self.page.evaluate(fetch, url) for url in sorted(self._fetched)]
        return "\n".join([*self._fetched, *self._messages, *bodies, self.page.content()])

    # --- flow list ---------------------------------------------------------------------------------------

    @property
    def rows(self) -> Locator:
        """The flows that are shown."""
        return self.page.locator(".flow-table tbody tr:has(td)")

    def row(self, *words: str) -> Locator:
        """Return the rows that have all these words in them."""
        found = self.rows
        for word in words:
            found = found.filter(has_text=word)
        return found

    @property
    def flows(self) -> int:
        """How many flows there are; rows that do not fit into the window are not in the page."""
        (count,) = re.findall(r"\d+ of (\d+) flows? selected", self.page.locator("footer").inner_text())
        return int(count)

    def expect_flows(self, count: int) -> None:
        """Wait until there are so many flows."""
        expect(self.page.locator("footer")).to_contain_text(re.compile(rf"of {count} flows? selected"))

    def filter(self, expression: str) -> None:
        """Search for flows; an expression that the page does not understand turns the box red."""
        self._type(self.search, expression)

    def intercept(self, expression: str) -> None:
        """Say what is to be held."""
        self._type(self.intercept_box, expression)
        if expression:
            expect(self.page.locator("footer")).to_contain_text(f"Intercept: {expression}")
        else:
            expect(self.page.locator("footer")).not_to_contain_text("Intercept")

    def _type(self, box: Locator, expression: str) -> None:
        self.tab("Flow List")
        box.fill(expression)
        expect(box.locator("xpath=..")).not_to_contain_class("has-error")
        box.press("Enter")
        expect(self.page.locator(".filter-input .popover")).to_have_count(0)

    def tab(self, name: str) -> None:
        """Open a tab of the menu at the top."""
        tab = self.page.locator("header nav").get_by_role("link", name=name, exact=True)
        tab.click()
        expect(tab).to_contain_class("active")

    # --- one flow ----------------------------------------------------------------------------------------

    def open(self, row: Locator, part: str) -> None:
        """Show a flow's Request, Response or Comment."""
        row.locator("td.col-status").click()
        expect(row).to_contain_class("selected")
        self.show(part)

    def show(self, part: str) -> None:
        """Show another part of the flow that is shown."""
        tab = self.page.locator(".flow-detail nav").get_by_role("link", name=part, exact=True)
        tab.click()
        expect(tab).to_contain_class("active")

    def close(self) -> None:
        """Show the list alone."""
        self.page.locator(".flow-detail .close-button").click()
        expect(self.page.locator(".flow-detail")).to_have_count(0)

    @property
    def view_name(self) -> Locator:
        """Which view of the content is shown."""
        return self.page.locator(".contentview .controls h5")

    @property
    def content(self) -> Locator:
        """What the view shows."""
        return self.page.locator(".contentview pre")

    def lines(self) -> list[str]:
        """Return the lines that the view shows."""
        # Since 12.3 mitmweb keeps a blank line open with a no-break space.
        lines = self.content.locator("> div").all_text_contents()
        return ["" if line == "\N{NO-BREAK SPACE}" else line for line in lines]

    def choose_view(self, name: str) -> None:
        """Choose a view of the content by the menu."""
        self.page.locator(".contentview .controls").get_by_text("View:").click()
        self.page.locator(".dropdown-menu").get_by_text(name, exact=True).click()
        chosen = self.page.locator(".contentview .controls").get_by_text("View:").locator("xpath=..")
        expect(chosen).to_contain_text(name)
        expect(self.view_name).not_to_be_empty()

    def press(self, button: str) -> None:
        """Press a button of the menu for flows."""
        self.tab("Flow")
        self.page.locator(".flow-menu").get_by_role("button", name=button).click()

    @contextmanager
    def editing(self) -> Iterator[Editor]:
        """Edit the content; what was done is kept at the end."""
        self.page.locator(".contentview .controls").get_by_role("button", name="Edit").click()
        yield Editor(self.page)
        self.page.locator(".contentview .controls").get_by_role("button", name="Done").click()
        expect(self.content).to_be_visible()

    # --- commands ----------------------------------------------------------------------------------------

    def command(self, line: str) -> None:
        """Give a command in the command bar."""
        box = self.page.get_by_placeholder("Enter command")
        if not box.is_visible():
            self.tab("Options")
            self.page.get_by_label("Display Command Bar").check()
        box.fill(line)
        box.press("Enter")
        expect(self.page.locator(".command-result")).to_contain_text(f"$ {line}")


class Editor:
    """The editor for a flow's content."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._text = page.locator(".contentview .cm-content")
        expect(self._text).not_to_be_empty()

    @property
    def text(self) -> str:
        """What is in it."""
        return "\n".join(self._text.locator(".cm-line").all_text_contents())

    def replace(self, old: str, new: str) -> None:
        """Write something else in the place of a text."""
        text = self.text
        assert text.count(old) == 1, text
        self._text.click()
        self._page.keyboard.press("Control+A")
        self._page.keyboard.insert_text(text.replace(old, new))
