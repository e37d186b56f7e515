"""What all handlers of the workbench have in common: access, bodies, errors, event streams; and the page.

The page's files keep to a policy in the browser: nothing from outside, and nothing that text can run. With
``require-trusted-types-for`` it refuses every assignment of a string as HTML or script, so that what prompts
say can only ever be shown.
"""

from __future__ import annotations

import asyncio
import logging
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from mitmproxy import exceptions
from tornado import iostream, web

from aoai_gateway.admin.answers import AnswerHandler, headers
from aoai_gateway.rerun.case_set import SetError
from aoai_gateway.rerun.expectations import ExpectationError
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.workbench import child, page_requests
from aoai_gateway.workbench.calls import News
from aoai_gateway.workbench.shape import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mitmproxy.http import HTTPFlow

    from aoai_gateway.admin.guard import Refusal
    from aoai_gateway.workbench.access import Access
    from aoai_gateway.workbench.bench import Bench

logger = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a page's request with a prompt and its images, or with a set of prompts."""

LARGEST_ASKED = 128 * 1024
"""The most bytes of any other body: it is decoded on the event loop."""

PAUSE = 0.1
"""Seconds between two batches for a page that has heard of everything."""

QUIET = 15.0
"""Seconds after which a stream says that it is still there."""

PATIENCE = 60.0
"""Seconds for which a page may be behind with reading; then its stream ends."""

_STATUSES: Mapping[type[Exception], int] = {
    page_requests.BadRequestError: 400,
    page_requests.NotFoundError: 404,
    page_requests.EditError: 409,
    child.ChildError: 409,
    page_requests.ConflictError: 409,
    SetError: 409,
    ExpectationError: 409,
    exceptions.CommandError: 409,
}
"""The answers to what is a mistake of the user's, or can be told to them."""

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = headers(CONTENT_SECURITY_POLICY)


@cache
def files() -> dict[str, tuple[str, bytes]]:
    """Return the page's files by name, each with its media type. They are small, and stay in memory."""
    return {
        path.relative_to(FOLDER).as_posix(): (f"{TYPES[path.suffix]}; charset=utf-8", path.read_bytes())
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in TYPES
    }


@web.stream_request_body
class Handler(AnswerHandler):
    """Headers, access, errors as JSON. The body is read only of a request that may change something."""

    default_headers = HEADERS
    largest = LARGEST_ASKED

    def initialize(self, bench: Bench, access: Access) -> None:
        """Take what the application was given for its handlers."""
        self.bench, self.access = bench, access
        self._body = bytearray()

    @override
    def check_xsrf_cookie(self) -> None:
        """Pages of other origins are kept off by `access`."""

    @override
    def prepare(self) -> None:
        changes = self.request.method not in ("GET", "HEAD")
        refusal = self.access.may_change(self) if changes else self.access.may_see(self)
        if refusal is not None:
            self._refuse(refusal)
        elif changes:
            self.request.connection.set_max_body_size(self.largest)  # type: ignore[union-attr]  # there is one

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
        status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), None)
        if isinstance(error, GatewayError):
            self.fail(error.status, error.message)
        elif status is not None:
            self.fail(status, str(error))
        else:
            self.fail(status_code, f"{HTTPStatus(status_code).phrase}.")

    @override
    def log_exception(self, *args: Any) -> None:
        if not isinstance(args[1], (*_STATUSES, web.HTTPError, GatewayError, iostream.StreamClosedError)):
            logger.error("A bug in the workbench.", exc_info=args)

    def fail(self, status: int, message: str) -> None:
        """Answer with an error."""
        self.set_status(status)
        self.answer({"error": {"message": message}})

    def answer(self, found: Any) -> None:
        """Answer with a document."""
        self.set_header("Content-Type", "application/json")
        self.finish(as_json(found))

    @property
    def body(self) -> bytes:
        """The body as it came."""
        return bytes(self._body)

    def asked(self) -> dict[str, Any]:
        """Return the body of one that is not large. Raises BadRequestError."""
        return page_requests.document(self.body)

    def flow(self, ident: str) -> HTTPFlow:
        """Return a call's flow. Raises NotFoundError."""
        flow = self.bench.calls.get(ident)
        if flow is None:
            raise page_requests.NotFoundError("The call is no longer here: only so many are kept.")
        return flow


class PageHandler(Handler):
    """The page's files hold no data, so they need no key."""

    @override
    def prepare(self) -> None:
        pass

    def get(self, name: str = "") -> None:
        """Send a file."""
        found = files().get(name or INDEX)
        if found is None:
            self.fail(404, "There is nothing here; the page is at /workbench.")
            return
        self.set_header("Content-Type", found[0])
        self.finish(found[1])


class Events(Handler):
    """A stream of server-sent events (WHATWG HTML §9.2)."""

    def initialize(self, bench: Bench, access: Access) -> None:
        """Take the same arguments, and make the news that wake the stream."""
        super().initialize(bench, access)
        self.news = News()

    def begin(self) -> None:
        """Say what follows."""
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")

    async def send(self, event: str, data: Any) -> None:
        """Send an event; waits while the page is behind. Raises StreamClosedError."""
        await self.send_json(event, as_json(data))

    async def send_json(self, event: str, written: bytes) -> None:
        """Send an event whose data are written already."""
        if self.news.closed:
            raise iostream.StreamClosedError
        self.write(b"event: %s\ndata: %s\n\n" % (event.encode(), written))
        try:
            await asyncio.wait_for(self.flush(), PATIENCE)
        except TimeoutError:
            self.detach().close()
            raise iostream.StreamClosedError from None

    @override
    def on_connection_close(self) -> None:
        self.news.close()
