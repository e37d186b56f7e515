"""Answers that are not read: a scraper that hangs must not pile up connections and unread answers.

An answer that fits into the system's buffers has been sent as far as this process can tell; its connection is
idle, and closed as such. This is for larger answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, override

from tornado import web
from tornado.http1connection import HTTP1Connection

if TYPE_CHECKING:
    from asyncio import Future

UNREAD_SECONDS = 60.0
"""For how long an answer may take until its last byte is handed to the system."""


class ReadInTimeHandler(web.RequestHandler):
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
