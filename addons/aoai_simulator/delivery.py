"""A response's bytes: head, chunks, compression."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from http import HTTPStatus

from aoai_simulator.limits import Headers

_REASONS = {status.value: status.phrase for status in HTTPStatus}


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """A status line and headers, names as they are given."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


def compressed(body: bytes) -> bytes:
    """A body with content-encoding gzip."""
    return gzip.compress(body, 1, mtime=0)


GZIP: Headers = (("content-encoding", "gzip"), ("vary", "accept-encoding"))


class BodyWriter:
    """Turns frames into what goes on the wire: compressed if wanted, chunked unless HTTP/1.0 reads it."""

    def __init__(self, *, compress: bool, chunked: bool) -> None:
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, 31) if compress else None
        self._chunked = chunked

    def write(self, frames: tuple[bytes, ...]) -> bytes:
        """The frames as one chunk."""
        data = b"".join(frames)
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return self._chunk(data)

    def end(self) -> bytes:
        """The end of a complete body."""
        rest = self._chunk(self._compressor.flush()) if self._compressor is not None else b""
        return rest + (b"0\r\n\r\n" if self._chunked else b"")

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked and data else data
