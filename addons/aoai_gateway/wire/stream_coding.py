"""Content codings of streams (RFC 9110 §8.4.1), undone as the streams come.

Each part of a stream is decoded as far as it goes, so that events are there as soon as a backend has flushed
them. A decoder is asked for little at once, and what comes out of it must be in proportion to what went in:
a few kilobytes can be the coded form of gigabytes.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

import brotli  # type: ignore[import-untyped]  # it has no stubs

from aoai_gateway.wire.content_coding import NotDecodedError, zstd_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 16 * 1024
"""Bytes that are decoded at once; events that are that long in all are read in a millisecond or two."""

MOST_RATIO = 100
"""Bytes that a stream's byte may stand for, on average. Events that are flushed one by one reach 20."""

FREE = 1024 * 1024
"""Bytes to which no ratio applies."""

_WINDOW = 23
"""The logarithm of the most memory that zstd may want (RFC 9659 §3: 8 MB)."""

_SLICE = 16
"""Bytes that go at once into a decoder whose output has no bound; of zstd, they become 512 KB at most."""

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits


class _Decoder(Protocol):
    @property
    def is_at_end(self) -> bool: ...

    @property
    def unused(self) -> bytes:
        """What came after the end."""

    def decode(self, data: bytes) -> Iterator[bytes]: ...


class StreamDecoder:
    """Decodes one stream. ``coding``: its ``content-encoding``.

    Raises NotDecodedError, if that is not known.
    """

    def __init__(self, coding: str) -> None:
        make = _DECODERS.get(coding.strip().lower())
        if make is None:
            raise NotDecodedError(too_large=False)
        self._make = make
        self._decoder = make()
        self._taken = self._given = 0

    @property
    def is_whole(self) -> bool:
        """Whether what has come is all of something that is coded, or nothing at all."""
        return self._decoder.is_at_end or not self._taken

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what a part of the stream says, in pieces of about `PIECE` bytes, or of none.

        Raises NotDecodedError, if it is not in its coding or says too much.
        """
        self._taken += len(data)
        try:
            while data:
                for piece in self._decoder.decode(data):
                    self._given += len(piece)
                    if self._given > FREE + MOST_RATIO * self._taken:
                        raise NotDecodedError(too_large=True)
                    yield piece
                data = self._decoder.unused
                if data:  # another member of gzip, or frame of zstd
                    self._decoder = self._make()
                    yield b""
        except NotDecodedError:
            raise
        except Exception:  # each library has errors of its own
            raise NotDecodedError(too_large=False) from None


class _Inflating:
    def __init__(self, bits: int | None) -> None:
        self.is_at_end, self.unused = False, b""
        self._begin = b""
        self._inflater = None if bits is None else zlib.decompressobj(bits)

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.is_at_end:
            self.unused = data
            return
        if self._inflater is None:
            # Some servers send deflate without the header of zlib (RFC 9110 §8.4.1.2).
            data = self._begin = self._begin + data
            if len(data) < 2:
                return
            has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._inflater = zlib.decompressobj(_ZLIB if has_header else _RAW)
        while True:
            piece = self._inflater.decompress(data, PIECE)
            data = self._inflater.unconsumed_tail
            if piece:
                yield piece
            if self._inflater.eof:
                self.is_at_end, self.unused = True, self._inflater.unused_data
                return
            if not data and len(piece) < PIECE:
                return


class _Brotli:
    unused = b""

    def __init__(self) -> None:
        self._decoder: Any = brotli.Decompressor()

    @property
    def is_at_end(self) -> bool:
        return bool(self._decoder.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        if not hasattr(self._decoder, "can_accept_more_data"):  # before 1.2
            for start in range(0, len(data), _SLICE):
                yield self._decoder.process(data[start : start + _SLICE])
            return
        # It may say that it takes more, and have more to give.
        while piece := self._decoder.process(data, output_buffer_limit=PIECE):
            yield piece
            data = b""


class _Zstd:
    """By the module of Python's own library, or its backport."""

    def __init__(self, module: Any) -> None:
        options = {module.DecompressionParameter.window_log_max: _WINDOW}
        self._decoder = module.ZstdDecompressor(options=options)
        self.is_at_end, self.unused = False, b""

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.is_at_end:
            self.unused = data
            return
        while not self._decoder.eof and (piece := self._decoder.decompress(data, PIECE)):
            yield piece
            data = b""
        self.is_at_end = self._decoder.eof
        self.unused = self._decoder.unused_data if self.is_at_end else b""


class _Zstandard:
    """By the module that mitmproxy 12.2 brings."""

    def __init__(self, module: Any) -> None:
        self._decoder = module.ZstdDecompressor(max_window_size=1 << _WINDOW).decompressobj()
        self.is_at_end, self.unused = False, b""

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.is_at_end:
            self.unused = data
            return
        for start in range(0, len(data), _SLICE):
            yield self._decoder.decompress(data[start : start + _SLICE])
            if self._decoder.eof:
                self.is_at_end, self.unused = True, self._decoder.unused_data + data[start + _SLICE :]
                return


def _zstd() -> _Decoder:
    module = zstd_module()
    return _Zstandard(module) if module.__name__ == "zstandard" else _Zstd(module)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: _Inflating(_GZIP),
    "x-gzip": lambda: _Inflating(_GZIP),
    "deflate": lambda: _Inflating(None),
    "br": _Brotli,
    "zstd": _zstd,
}
