"""Bodies of HTTP/1 messages, from either side, with a bound on all that is not content.

The readers of h11, which mitmproxy uses, wait for the end of a chunk's line and of the trailers for as long
as more comes, and keep it all. And they give each chunk on its own; a read full of tiny ones would hold the
event loop for the thousands of events that follow from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from h11._readers import ChunkedReader

if TYPE_CHECKING:
    from h11._receivebuffer import ReceiveBuffer
    from mitmproxy.proxy.layers.http._http1 import TBodyReader

MAX_LINE = 16 * 1024
"""Bytes of a chunk's line with its extensions, or of all trailers, that may wait for their end."""


class BodyReader:
    """Reads a body; drops trailers, which a recipient may always do (RFC 9110 §6.5.1)."""

    def __init__(self, reader: TBodyReader) -> None:
        self._reader = reader
        self._after: h11.EndOfMessage | h11.ProtocolError | None = None
        """What follows on the content that was given last."""

    def __call__(self, buffer: ReceiveBuffer) -> h11.Event | None:
        """Return all content that is there, or the body's end. Raises h11.ProtocolError."""
        after, self._after = self._after, None
        if after is None:
            content = bytearray()
            after = self._read(buffer, content)
            if content:
                self._after = after
                return h11.Data(data=bytes(content))
        if isinstance(after, h11.ProtocolError):
            raise after
        return after

    @property
    def is_between_chunks(self) -> bool:
        """Whether the body comes in chunks, and one of them may begin with the next byte."""
        reader = self._reader
        # As h11's reader has it; one that says it otherwise is never between chunks.
        return (
            isinstance(reader, ChunkedReader)
            and self._after is None
            and getattr(reader, "_bytes_in_chunk", 1) == 0
            and not getattr(reader, "_bytes_to_discard", b"?")
            and not getattr(reader, "_reading_trailer", True)
        )

    def read_eof(self) -> h11.Event | None:
        """Return what it means that the connection ended here. Raises h11.ProtocolError."""
        return self._reader.read_eof()

    def _read(self, buffer: ReceiveBuffer, content: bytearray) -> h11.EndOfMessage | h11.ProtocolError | None:
        """Move content out of the buffer; gives what follows on it."""
        try:
            while (event := self._reader(buffer)) is not None:
                if not isinstance(event, h11.Data):
                    return h11.EndOfMessage()
                content += event.data
        except h11.ProtocolError as error:
            return error
        if len(buffer) > MAX_LINE:
            return h11.RemoteProtocolError("a chunk's line, or the trailers, do not end")
        return None
