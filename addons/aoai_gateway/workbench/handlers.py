"""The workbench's HTTP interface: the same in mitmweb and on the admin listener.

Paths are below ``/workbench``; bodies and answers are JSON, errors ``{"error": {"message"}}``.

======================================  =====================================================================
``GET /``, ``GET /NAME``                the page and its files; they hold no data
``GET /api/setup``                      deployments, backends, clients, …: what there is to choose from
``GET /api/calls``                      server-sent events: ``rows`` (lines, new and changed), ``gone`` (ids)
``GET /api/calls/ID``                   one call, as `documents.document` gives it
``GET /api/calls/ID/part?pointer=``     a long string of its request, whole: an image, a pasted book
``GET /api/calls/ID/code?language=``    the call as code
``GET /api/search?text=``               ids of the calls whose prompt or answer has the text in it
``POST /api/runs``                      run an edited prompt; answers ``{"run": id}``
``GET, DELETE /api/runs/ID``            server-sent events of a run: ``entries``; end it
``POST /api/hold``                      hold the calls of a client from now on, or none
``PUT /api/calls/ID``                   give a held call another body
``POST /api/calls/ID/release, drop``    let it go, or end it
``POST /api/check``                     check an answer against expectations
``GET /api/sets``, ``GET, PUT /api/sets/NAME``   the sets of cases
======================================  =====================================================================
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, override

from mitmproxy import exceptions
from tornado import iostream, web

from aoai_gateway.inspect.call_code import written
from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.rerun.case_set import SetError
from aoai_gateway.rerun.expectations import ExpectationError
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.workbench import hold, site
from aoai_gateway.workbench.bench import Judging
from aoai_gateway.workbench.calls import Feed
from aoai_gateway.workbench.child import ChildError
from aoai_gateway.workbench.documents import content_of, document
from aoai_gateway.workbench.edits import Edited, EditError
from aoai_gateway.workbench.shape import at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.http import HTTPFlow
    from tornado.routing import Rule

    from aoai_gateway.admin.guard import Refusal
    from aoai_gateway.workbench.access import Access
    from aoai_gateway.workbench.bench import Bench

logger = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024 * 1024
"""Of what a page sends: a prompt with its images."""

ROWS_AT_ONCE = 200
PAUSE = 0.1
"""Seconds between two batches of rows, however many calls there are."""

QUIET = 15.0
"""Seconds after which a stream says that it is still there."""

MOST_PAGES = 20
"""Pages that are told of calls at a time."""

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SOUNDS = ("audio/wav", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/webm")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,100};base64,", re.ASCII)

_WRONG = (EditError, SetError, ExpectationError, ChildError, exceptions.CommandError)
"""What is the user's mistake, or can be told to them."""


class NotFoundError(Exception):
    """There is no such call, run or set."""


@web.stream_request_body
class _Handler(web.RequestHandler):
    """Headers, access, errors as JSON. The body is read only of a request that may change something."""

    changes = False

    def initialize(self, bench: Bench, access: Access) -> None:
        self.bench, self.access = bench, access
        self._body = bytearray()

    @override
    def set_default_headers(self) -> None:
        for name, value in site.HEADERS.items():
            self.set_header(name, value)

    @override
    def check_xsrf_cookie(self) -> None:
        """Pages of other origins are kept off by `access`."""

    @override
    def compute_etag(self) -> None:
        """Nothing here is to be kept."""

    @override
    def prepare(self) -> None:
        changes = self.request.method not in ("GET", "HEAD")
        refusal = self.access.may_change(self) if changes else self.access.may_see(self)
        if refusal is not None:
            self._refuse(refusal)
        elif changes:
            self.request.connection.set_max_body_size(LARGEST_BODY)  # type: ignore[union-attr]  # there is one

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Bearer realm="aoai-gateway"')
        self.fail(refusal.status, refusal.message)

    @override
    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    @override
    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, NotFoundError):
            self.fail(404, str(error))
        elif isinstance(error, _WRONG):
            self.fail(409, str(error))
        elif isinstance(error, GatewayError):
            self.fail(error.status, error.message)
        elif isinstance(error, _BadRequestError):
            self.fail(400, str(error))
        else:
            self.fail(status_code, f"{HTTPStatus(status_code).phrase}.")

    @override
    def log_exception(self, *args: Any) -> None:
        expected = (web.HTTPError, NotFoundError, GatewayError, _BadRequestError, iostream.StreamClosedError)
        if not isinstance(args[1], (*_WRONG, *expected)):
            logger.error("A bug in the workbench.", exc_info=args)

    def fail(self, status: int, message: str) -> None:
        self.set_status(status)
        self.answer({"error": {"message": message}})

    def answer(self, found: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(_json(found))

    def asked(self) -> dict[str, Any]:
        """Give the body. Raises _BadRequestError."""
        try:
            found = decode(bytes(self._body))
        except Unreadable as error:
            raise _BadRequestError(f"The request is not understood: {error}.") from None
        if not isinstance(found, dict):
            raise _BadRequestError("The request is not understood: it is no JSON object.")
        return found

    def flow(self, ident: str) -> HTTPFlow:
        """Give a call's flow. Raises NotFoundError."""
        flow = self.bench.calls.get(ident)
        if flow is None:
            raise NotFoundError("The call is no longer here: only so many are kept.")
        return flow


class _BadRequestError(Exception):
    pass


class PageHandler(_Handler):
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


class SetupHandler(_Handler):
    """What there is to choose from."""

    def get(self) -> None:
        """Give it."""
        self.answer(self.bench.setup())


class _Events(_Handler):
    """A stream of server-sent events (WHATWG HTML §9.2)."""

    def begin(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")

    async def send(self, event: str, data: Any) -> None:
        """Send an event; waits while the page is behind. Raises StreamClosedError."""
        self.write(f"event: {event}\ndata: ".encode() + _json(data) + b"\n\n")
        await self.flush()


class CallsHandler(_Events):
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
            rows = [row for ident in changed if (row := self.bench.row(ident)) is not None]
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

    @override
    def on_connection_close(self) -> None:
        """Nothing is left to do: the next flush fails."""


class CallHandler(_Handler):
    """One call."""

    async def get(self, ident: str) -> None:
        """Give all of it."""
        flow, bench = self.flow(ident), self.bench
        found = await document(flow, bench.calls.attempts_of(flow), bench.config, bench.gateway.counter)
        self.answer(found | {"row": bench.row(ident)})

    def put(self, ident: str) -> None:
        """Give a held call another body."""
        hold.edit(self.flow(ident), _object(self.asked(), "body"))
        self.answer({"done": "The call was edited. It is still held."})


class PartHandler(_Handler):
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
            return media, base64.b64decode(text[head.end() :], validate=False)
        except binascii.Error:
            pass
    return "text/plain; charset=utf-8", text.encode(errors="replace")


class CodeHandler(_Handler):
    """A call as code."""

    def get(self, ident: str) -> None:
        """Give it in a language: python, js or curl."""
        self.answer({"code": written(self.get_query_argument("language", "python"), self.flow(ident))})


class SearchHandler(_Handler):
    """Calls with a text in them."""

    async def get(self) -> None:
        """Give their ids."""
        self.answer({"ids": await self.bench.search(self.get_query_argument("text")[:1000])})


class HeldHandler(_Handler):
    """What becomes of a held call."""

    def post(self, ident: str, what: str) -> None:
        """Let it go, or end it."""
        flow = self.flow(ident)
        (hold.release if what == "release" else hold.drop)(flow)
        self.answer({"done": "The call was let go." if what == "release" else "The call was ended."})


class HoldHandler(_Handler):
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


class StartRunHandler(_Handler):
    """Runs of an edited prompt."""

    def post(self) -> None:
        """Start one."""
        asked = self.asked()
        origin = self.flow(str(asked["call"])) if asked.get("call") else None
        variables = asked.get("variables") or {}
        edited = Edited(
            operation=str(asked.get("operation", "")),
            body=_object(asked, "body"),
            client=str(asked.get("client", "")),
            run_by=str(asked.get("by", "")),
            origin=origin,
            variables={str(k): str(v) for k, v in variables.items()} if isinstance(variables, dict) else {},
        )
        places = asked.get("places")
        count = asked.get("count", 1)
        if not isinstance(places, list) or not isinstance(count, int) or isinstance(count, bool):
            raise _BadRequestError('"places" must be a list, and "count" a number.')
        setup = self.bench.gateway.in_force()
        run = self.bench.runs.start(edited, [str(place) for place in places], count, setup)
        self.answer({"run": run.ident, "entries": [entry.told(0) for entry in run.entries]})


class RunHandler(_Events):
    """A run as it goes on."""

    async def get(self, ident: str) -> None:
        """Send what is new, until all of its calls have ended."""
        run = self.bench.runs.get(ident)
        if run is None:
            raise NotFoundError("The run is no longer known.")
        self.begin()
        known = [0] * len(run.entries)
        try:
            while True:
                run.changed.clear()
                is_over = run.is_over
                told = [entry.told(since) for entry, since in zip(run.entries, known, strict=True)]
                known = [len(entry.text) for entry in run.entries]
                await self.send("entries", told)
                if is_over:
                    return
                try:
                    await asyncio.wait_for(run.changed.wait(), QUIET)
                except TimeoutError:
                    continue
                await asyncio.sleep(PAUSE / 2)
        except iostream.StreamClosedError:
            pass

    def delete(self, ident: str) -> None:
        """End what of it is still under way."""
        run = self.bench.runs.get(ident)
        if run is not None:
            run.cancel()
        self.answer({"done": "The run was ended."})


class CheckHandler(_Handler):
    """Whether an answer keeps to what is expected of it."""

    async def post(self) -> None:
        """Check a call."""
        asked = self.asked()
        expected = asked.get("expect")
        if not isinstance(expected, list) or not all(isinstance(each, dict) for each in expected):
            raise _BadRequestError('"expect" must be a list of objects.')
        judge = asked.get("judge")
        judging = Judging(
            str(asked.get("client", "")), str(asked.get("by", "")), judge if isinstance(judge, dict) else {}
        )
        flow = self.flow(str(asked.get("call", "")))
        self.answer({"results": await self.bench.check(flow, expected, judging)})


class SetsHandler(_Handler):
    """The sets in the folder."""

    async def get(self) -> None:
        """List them."""
        names = await asyncio.to_thread(self.bench.sets.names)
        self.answer({"folder": str(self.bench.sets.folder), "names": names})


class SetHandler(_Handler):
    """One set."""

    async def get(self, name: str) -> None:
        """Give it."""
        self.answer({"set": await asyncio.to_thread(self.bench.sets.read, name)})

    async def put(self, name: str) -> None:
        """Save it."""
        await asyncio.to_thread(self.bench.sets.write, name, _object(self.asked(), "set"))
        self.answer({"done": f"Saved as {self.bench.sets.folder / name}."})


def _object(asked: dict[str, Any], key: str) -> dict[str, Any]:
    found = asked.get(key)
    if not isinstance(found, dict):
        raise _BadRequestError(f'"{key}" must be an object.')
    return found


def _json(found: Any) -> bytes:
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    # What models and clients say may hold halves of surrogate pairs.
    return text.encode("utf-8", "replace")


def rules(bench: Bench, access: Access) -> Sequence[Rule | tuple[Any, ...]]:
    """Give the handlers, for a tornado application."""
    settings = {"bench": bench, "access": access}
    ident = r"([0-9a-f-]{1,64})"
    found = [
        (r"", PageHandler),
        (r"/", PageHandler),
        (r"/api/setup", SetupHandler),
        (r"/api/calls", CallsHandler),
        (rf"/api/calls/{ident}", CallHandler),
        (rf"/api/calls/{ident}/part", PartHandler),
        (rf"/api/calls/{ident}/code", CodeHandler),
        (rf"/api/calls/{ident}/(release|drop)", HeldHandler),
        (r"/api/search", SearchHandler),
        (r"/api/runs", StartRunHandler),
        (rf"/api/runs/{ident}", RunHandler),
        (r"/api/hold", HoldHandler),
        (r"/api/check", CheckHandler),
        (r"/api/sets", SetsHandler),
        (r"/api/sets/([^/]{1,80})", SetHandler),
        (r"/([a-z_/]{1,64}\.[a-z]{2,4})", PageHandler),
    ]
    return [(f"/workbench{path}", handler, settings) for path, handler in found]
