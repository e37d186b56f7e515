"""The handlers that read calls, and hold them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from typing import Any, override

from tornado import iostream

from aoai_gateway.inspect.call_code import written
from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.workbench import hold, site
from aoai_gateway.workbench.calls import Feed
from aoai_gateway.workbench.documents import content_of, document
from aoai_gateway.workbench.edits import EditError
from aoai_gateway.workbench.handler import PAUSE, QUIET, Events, Handler, NotFoundError, member
from aoai_gateway.workbench.shape import at

ROWS_AT_ONCE = 200
MOST_SECONDS = 0.005
"""For which rows are made at a time: the event loop has calls to serve."""

MOST_PAGES = 20
"""Pages that are told of calls at a time."""

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOUNDS = ("audio/wav", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/webm")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,", re.ASCII)


class PageHandler(Handler):
    """The page's files hold no data, so they need no key."""

    @override
    def prepare(self) -> None:
        pass

    def get(self, name: str = "") -> None:
        """Give a file."""
        found = site.files().get(name or site.INDEX)
        if found is None:
            self.fail(404, "There is nothing here; the page is at /workbench.")
            return
        self.set_header("Content-Type", found[0])
        self.finish(found[1])


class SetupHandler(Handler):
    """What there is to choose from."""

    def get(self) -> None:
        """Give it."""
        self.answer(self.bench.setup())


class CallsHandler(Events):
    """The list, as it changes."""

    async def get(self) -> None:
        """Send all lines, and then what is new of them, until the page is closed."""
        calls = self.bench.calls
        if len(calls.feeds) >= MOST_PAGES:
            self.fail(503, f"{MOST_PAGES} pages are open already.")
            return
        feed = Feed()
        for flow in calls:
            feed.tell(flow.id)
        calls.feeds.add(feed)
        self.begin()
        try:
            await self._follow(feed)
        except iostream.StreamClosedError:
            pass
        finally:
            calls.feeds.discard(feed)

    async def _follow(self, feed: Feed) -> None:
        ready = False
        while True:
            changed, gone = feed.take(ROWS_AT_ONCE)
            rows = self._rows(changed, feed)
            if rows:
                await self.send("rows", rows)
            if gone:
                await self.send("gone", gone)
            if not ready and not feed.changed:
                ready = True
                await self.send("ready", {})
            await asyncio.sleep(PAUSE if ready else 0)
            if not feed.changed and not feed.gone and not await feed.wait(QUIET):
                await self.send("quiet", {})

    def _rows(self, changed: list[str], feed: Feed) -> list[dict[str, Any]]:
        """Make the lines of calls, as many as there is time for; the rest is told with the next ones."""
        rows: list[dict[str, Any]] = []
        end = time.monotonic() + MOST_SECONDS
        for place, ident in enumerate(changed):
            if place and time.monotonic() > end:
                for later in changed[place:]:
                    feed.tell(later)
                break
            if (row := self.bench.row(ident)) is not None:
                rows.append(row)
        return rows

    @override
    def on_connection_close(self) -> None:
        """Nothing is left to do: the next flush fails."""


class CallHandler(Handler):
    """One call."""

    async def get(self, ident: str) -> None:
        """Give all of it."""
        flow, bench = self.flow(ident), self.bench
        found = await document(flow, bench.calls.attempts_of(flow), bench.config, bench.gateway.counter)
        self.answer(found | {"row": bench.row(ident)})

    def put(self, ident: str) -> None:
        """Give a held call another body."""
        hold.edit(self.flow(ident), member(self.asked(), "body"))
        self.answer({"done": "The call was edited. It is still held."})


class PartHandler(Handler):
    """A long string of a request, for which the page has a stand-in."""

    async def get(self, ident: str) -> None:
        """Give it: pictures and sounds as such, anything else as plain text."""
        flow = self.flow(ident)
        media, data = await asyncio.to_thread(
            _part, content_of(flow.request), self.get_query_argument("pointer")
        )
        self.set_header("Content-Type", media)
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.finish(data)


def _part(body: bytes, pointer: str) -> tuple[str, bytes]:
    try:
        found = at(decode(body), pointer)
    except (KeyError, Unreadable, RecursionError):
        raise NotFoundError("There is no such part in the call.") from None
    text = found if isinstance(found, str) else json.dumps(found)
    head = _DATA_URL.match(text)
    media = (head[1] or "").lower() if head else ""
    if head and media in (*PICTURES, *SOUNDS):
        try:
            data = text[head.end() :]
            return media, base64.b64decode(data + "=" * (-len(data) % 4), validate=False)
        except binascii.Error:
            pass
    return "text/plain; charset=utf-8", text.encode(errors="replace")


class CodeHandler(Handler):
    """A call as code."""

    def get(self, ident: str) -> None:
        """Give it in a language: python, js or curl."""
        self.answer({"code": written(self.get_query_argument("language", "python"), self.flow(ident))})


class SearchHandler(Handler):
    """Calls with a text in them."""

    async def get(self) -> None:
        """Give their ids."""
        self.answer({"ids": await self.bench.search(self.get_query_argument("text")[:1000])})


class HeldHandler(Handler):
    """What becomes of a held call."""

    def post(self, ident: str, what: str) -> None:
        """Let it go, or end it."""
        flow = self.flow(ident)
        (hold.release if what == "release" else hold.drop)(flow)
        self.answer({"done": "The call was let go." if what == "release" else "The call was ended."})


class HoldHandler(Handler):
    """Whose calls are held."""

    def post(self) -> None:
        """Hold those of a client, or none."""
        if not hold.is_possible():
            raise EditError("This gateway was started without what holds calls.")
        client = self.asked().get("client")
        config = self.bench.config
        if client is not None and (config is None or config.client_named(str(client)) is None):
            raise EditError(f"There is no client {client!r}.")
        hold.hold(str(client) if client is not None else None)
        self.answer({"held_client": hold.held()})
