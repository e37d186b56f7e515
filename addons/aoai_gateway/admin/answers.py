"""Answers of the status page and the workbench: their headers, and an end for those that are not read.

A scraper that hangs must not pile up connections and unread answers. An answer that fits into the system's
buffers has been sent as far as this process can tell; its connection is idle, and closed as such. The time
limit here is for larger answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, override

from tornado import web
from tornado.http1connection import HTTP1Connection

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Mapping

UNREAD_SECONDS = 60.0
"""The time that an answer may take until its last byte is handed to the system."""


def headers(content_security_policy: str) -> dict[str, str]:
    """Return the headers of a page with this policy: no cache keeps it, and no other page frames it."""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": content_security_policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Server": "aoai-gateway",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


class AnswerHandler(web.RequestHandler):
    """The base of all handlers: their headers, and no entity tags, since no answer is to be kept."""

    default_headers: ClassVar[Mapping[str, str]] = {"Server": "aoai-gateway"}

    @override
    def set_default_headers(self) -> None:
        for name, value in self.default_headers.items():
            self.set_header(name, value)

    @override
    def compute_etag(self) -> None:
        """Return no tag."""


class ReadInTimeHandler(AnswerHandler):
    """Closes its connection if its answer is not read in time."""

    @override
    def finish(self, chunk: Any = None) -> Future[None]:
        sent = super().finish(chunk)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._give_up)
            sent.add_done_callback(lambda _: timer.cancel())
        return sent

    def _give_up(self) -> None:
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection):
            connection.close()
