"""Streams that come in a content coding, though none was asked for.

A stream is read as it passes: secrets are masked in it, names replaced, its usage counted; in a file, secrets
are masked. So it is decoded first, and goes to the client as text. What a part of it says may be many times
as long as the part. So it is taken in pieces, each in a turn of the event loop, as those of a plain stream
come.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mitmproxy.proxy.layers.http import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
)

from aoai_gateway.proxy.stream_events import State
from aoai_gateway.wire.content_coding import NotDecodedError, StreamDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mitmproxy import http
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http import HttpEvent

    from aoai_gateway.proxy.stream_context import StreamContext

MOST_WAITING = 1024 * 1024
"""Bytes of a stream, as it comes, that may wait for their turn."""

_EACH = 100
"""Bytes that each part counts for beside its own, since it takes memory, too."""


class Unfolding:
    """One stream that is decoded as it comes."""

    def __init__(self, coding: str) -> None:
        self._decoder = StreamDecoder(coding)
        self._waiting = 0
        self._is_flooded = False

    @classmethod
    def of(cls, response: http.Response) -> Unfolding | None:
        """Begin to decode a stream; its head says then that it is text. None: it is plain.

        Raises NotDecodedError, if its coding is not known.
        """
        coding = response.headers.get("content-encoding", "")
        if coding.lower() in ("", "identity"):
            return None
        unfolding = cls(coding)
        del response.headers["content-encoding"]
        if "content-length" in response.headers:
            del response.headers["content-length"]
            response.headers["transfer-encoding"] = "chunked"
        return unfolding

    @property
    def is_whole(self) -> bool:
        """Whether the coded form has come to its end."""
        return self._decoder.is_whole

    def waits(self, size: int) -> bool:
        """Note a part that has to wait for its turn. False: there is no room, which ends the stream."""
        self._waiting += size + _EACH
        self._is_flooded = self._is_flooded or self._waiting > MOST_WAITING
        return not self._is_flooded

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what a part of the stream says, a piece for each turn. Raises NotDecodedError."""
        self._waiting = max(0, self._waiting - len(data) - _EACH)
        for piece in self._decoder.feed(data):
            if self._is_flooded:
                raise NotDecodedError(too_large=True)
            yield piece

    def take(
        self,
        event: ResponseData | ResponseEndOfMessage,
        here: StreamContext,
        step: Callable[[HttpEvent], CommandGenerator[None]],
        abandon: Callable[[], CommandGenerator[None]],
    ) -> CommandGenerator[None]:
        """Take what a part of a coded stream says, or its end; one that is broken ends as if it were cut.

        ``step``: takes a step of the stream with an event; ``abandon``: closes the backend's connection.
        """
        if isinstance(event, ResponseEndOfMessage):
            yield from step(event if self.is_whole else _not_in_coding(here.id))
            return
        pieces = self.pieces(event.data)
        has_had_turn = True
        while here.state in (State.ATTEMPT, State.DELIVERING):
            try:
                piece = next(pieces, None)
            except NotDecodedError:
                yield from abandon()
                yield from step(_not_in_coding(here.id))
                return
            if piece is None:
                return
            if not has_had_turn:
                yield from here.wait_for(asyncio.sleep(0))
                if here.client_has_gone():
                    return
            has_had_turn = False
            if piece:
                yield from step(ResponseData(here.id, piece))


def _not_in_coding(stream_id: int) -> ResponseProtocolError:
    return ResponseProtocolError(stream_id, "not in its coding", ErrorCode.GENERIC_SERVER_ERROR)
