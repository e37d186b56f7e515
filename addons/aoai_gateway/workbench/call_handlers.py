"""The handlers that read calls, and hold them."""

from __future__ import annotations

import asyncio
import time

from tornado import iostream

from aoai_gateway.inspect import snippets
from aoai_gateway.inspect.client_replay import as_call
from aoai_gateway.inspect.picked_views import head_of
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.workbench import bodies, child, hold, page_requests
from aoai_gateway.workbench.calls import Feed
from aoai_gateway.workbench.documents import document
from aoai_gateway.workbench.handler import LARGEST_BODY, PAUSE, QUIET, Events, Handler
from aoai_gateway.workbench.page_requests import EditError
from aoai_gateway.workbench.prompts import body_in
from aoai_gateway.workbench.shape import as_json, part

ROWS_AT_ONCE = 200
MOST_SECONDS = 0.001
"""The time for which rows are made and written in one go: the event loop has calls to serve."""

CATCHING_UP = 0.01
"""Seconds between two batches of a page that is behind, for each open page: a tenth of the loop in all."""

MOST_PAGES = 20
"""Pages that are told of calls at a time."""


class SetupHandler(Handler):
    """What there is to choose from."""

    def get(self) -> None:
        """Send it."""
        self.answer(self.bench.setup())


class CallsHandler(Events):
    """The list, as it changes."""

    async def get(self) -> None:
        """Send all lines, and then what is new of them, until the page is closed."""
        calls = self.bench.calls
        if len(calls.feeds) >= MOST_PAGES:
            self.fail(503, f"{MOST_PAGES} pages are open already.")
            return
        feed = Feed(self.news)
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
        while not self.news.closed:
            changed, gone = feed.take(ROWS_AT_ONCE)
            rows = self._rows(changed, feed)
            if rows:
                await self.send_json("rows", b"[%s]" % b",".join(rows))
            if gone:
                await self.send("gone", gone)
            if not ready and not feed.changed:
                ready = True
                await self.send("ready", {})
            await asyncio.sleep(self._pause(feed) if ready else 0)
            if not feed.changed and not feed.gone and not await self.news.wait(QUIET):
                await self.send("quiet", {})

    def _pause(self, feed: Feed) -> float:
        """Return the seconds until the next batch: few while the page is behind, so that it catches up."""
        return min(PAUSE, CATCHING_UP * len(self.bench.calls.feeds)) if feed.changed else PAUSE

    def _rows(self, changed: list[str], feed: Feed) -> list[bytes]:
        """Write the lines of calls, as many as there is time for; the rest is told with the next ones."""
        rows: list[bytes] = []
        end = time.monotonic() + MOST_SECONDS
        for place, ident in enumerate(changed):
            if place and time.monotonic() > end:
                for later in changed[place:]:
                    feed.tell(later)
                break
            if (row := self.bench.row(ident)) is not None:
                rows.append(as_json(row))
        return rows


class CallHandler(Handler):
    """One call."""

    largest = LARGEST_BODY

    async def get(self, ident: str) -> None:
        """Send all of it."""
        flow, bench = self.flow(ident), self.bench
        found, shown = await document(flow, bench.calls.attempts_of(flow), bench.config, bench.counting)
        self.set_header("Content-Type", "application/json")
        self.finish(as_json(found | {"row": bench.row(ident)})[:-1] + b"," + shown + b"}")

    async def put(self, ident: str) -> None:
        """Give a held call another body."""
        flow = self.flow(ident)
        await hold.edit(flow, await child.by_size(len(self.body), body_in, self.body))
        self.answer({"done": "The call was edited. It is still held."})


class PartHandler(Handler):
    """A long string of a request, or an image or a sound of an answer, for which the page has a stand-in."""

    async def get(self, ident: str) -> None:
        """Send it: pictures and sounds as such, anything else as plain text."""
        flow = self.flow(ident)
        of_answer = self.get_query_argument("of", "request") == "answer"
        message = flow.response if of_answer else flow.request
        content_type = message.headers.get("content-type", "") if message is not None else ""
        pointer = self.get_query_argument("pointer")
        media, data = await bodies.read(part, (message,), pointer, content_type)
        self.set_header("Content-Type", media)
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.finish(data)


class CodeHandler(Handler):
    """A call as code."""

    async def get(self, ident: str) -> None:
        """Send it in a language: python, js or curl."""
        flow = self.flow(ident)
        call = as_call(flow)
        language, head = self.get_query_argument("language", "python"), head_of(flow, call)
        try:
            self.answer({"code": await bodies.read(snippets.code, (call.request,), language, head)})
        except GatewayError as error:
            raise EditError(error.message) from None


class SearchHandler(Handler):
    """Calls with a text in them."""

    async def get(self) -> None:
        """Send their ids."""
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
        client = page_requests.text(self.asked(), "client")
        config = self.bench.config
        if client and (config is None or config.client_named(client) is None):
            raise EditError(f"There is no client {client!r}.")
        hold.hold(client or None)
        self.answer({"held_client": hold.held()})
