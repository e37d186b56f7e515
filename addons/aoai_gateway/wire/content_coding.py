"""Content codings (RFC 9110 §8.4.1), undone within a bound.

A few kilobytes can be the coded form of gigabytes, and a backend may send them. So nothing is decoded at
once: each decoder is asked for at most as much as the reader can use, and larger bodies are not decoded at
all. Bodies pass through the gateway coded as they came; only the parts that it reads are decoded here.

Each part of a stream is decoded as far as it goes, so that events are there as soon as a backend has flushed
them. What comes out must be in proportion to what went in.
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import brotli  # type: ignore[import-untyped]  # it has no stubs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_AT_ONCE = 256 * 1024
"""Bytes that are decoded on the event loop: about a millisecond."""

MOST_READ = 8 * 1024 * 1024
"""Bytes of an answer that is decoded, off the event loop, to be read; a text of a million words has less."""

MOST_MEMBERS = 16
"""Members of gzip, or frames of zstd, in one body. Each costs a copy of the rest; writers make one."""

_SLICE = 16
"""Bytes that go at once into a decoder whose output has no bound; of zstd, they become 512 KB at most."""

_AUTOMATIC, _GZIP, _ZLIB, _RAW = 47, 31, 15, -15
"""zlib's window bits: gzip or zlib by the header; one of these; no header."""

_GZIP_START = b"\x1f\x8b"


class NotDecodedError(ValueError):
    """A body cannot be decoded.

    ``too_large``: it could, but is larger than asked for; ``broken``: its coding is known, and it is not in
    it, or not all of it is there.
    """

    def __init__(self, *, too_large: bool = False, broken: bool = False) -> None:
        super().__init__("it is larger than can be read" if too_large else "it is not in its coding")
        self.too_large = too_large
        self.broken = broken


def decode(raw: bytes, coding: str | None, most: int) -> bytes:
    """Undo a ``content-encoding``; None and ``identity`` leave a body of any size as it is.

    Raises `NotDecodedError`, also for a coding that is not known. Takes little more memory than twice
    ``most``.
    """
    name = (coding or "identity").strip().lower()
    if name in ("identity", ""):
        return raw
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise NotDecodedError
    try:
        decoded = decoder(raw, most + 1)
    except NotDecodedError:
        raise
    except Exception:  # each library has errors of its own
        raise NotDecodedError(broken=True) from None
    if len(decoded) > most:
        raise NotDecodedError(too_large=True)
    return decoded


def readable(raw: bytes | None, coding: str | None, most: int = MOST_READ) -> bytes:
    """Return a body for reading: decoded, or as it came where it cannot be decoded within the bound."""
    try:
        return decode(raw or b"", coding, most)
    except NotDecodedError:
        return raw or b""


def _inflate(raw: bytes, most: int) -> bytes:
    """Decode gzip, of several members perhaps, or deflate, with a header or without."""
    found = bytearray()
    for _ in range(MOST_MEMBERS):
        inflater = zlib.decompressobj(_AUTOMATIC)
        try:
            found += inflater.decompress(raw, most - len(found))
        except zlib.error:
            if found:
                return bytes(found)  # what follows the last member is no other one
            inflater = zlib.decompressobj(_RAW)
            found += inflater.decompress(raw, most)
        raw = inflater.unused_data
        if len(found) >= most:
            return bytes(found)
        if not inflater.eof:
            raise EOFError
        if not raw.startswith(_GZIP_START):
            return bytes(found)
    raise NotDecodedError


def _unbrotli(raw: bytes, most: int) -> bytes:
    decoder, found = _Brotli(), bytearray()
    for piece in decoder.decode(raw, min(most, MOST_AT_ONCE)):
        found += piece
        if len(found) >= most:
            del found[most:]
            return bytes(found)
    if not decoder.is_at_end:
        raise EOFError
    return bytes(found)


def _unzstd(raw: bytes, most: int) -> bytes:
    zstd = zstd_module()
    if zstd.__name__ == "zstandard":
        with zstd.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
            found = bytearray(reader.read(most))
        if not found:
            raise EOFError
        return bytes(found)
    found = bytearray()
    for _ in range(MOST_MEMBERS):
        decoder = zstd.ZstdDecompressor()
        found += decoder.decompress(raw, most - len(found))
        if len(found) < most and not decoder.eof:
            raise EOFError
        raw = decoder.unused_data
        if not raw or len(found) >= most:
            return bytes(found)
    raise NotDecodedError


def zstd_module() -> Any:
    """Return the module that mitmproxy decodes with: it depends on the versions of Python and mitmproxy."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return import_module("zstandard")


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "x-gzip": _inflate,
    "deflate": _inflate,
    "deflateraw": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}


# --- streams ------------------------------------------------------------------------------------------

PIECE = 16 * 1024
"""Bytes that are decoded at once; events that are that long in all are read in a millisecond or two."""

MOST_RATIO = 100
"""Bytes that a stream's byte may stand for, on average. Events that are flushed one by one reach 20."""

FREE = 1024 * 1024
"""Bytes to which no ratio applies."""

_WINDOW = 23
"""The logarithm of the most memory that zstd may want (RFC 9659 §3: 8 MB)."""


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
        make = _STREAM_DECODERS.get(coding.strip().lower())
        if make is None:
            raise NotDecodedError
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
            raise NotDecodedError from None


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

    def decode(self, data: bytes, most: int = PIECE) -> Iterator[bytes]:
        if not hasattr(self._decoder, "can_accept_more_data"):  # before 1.2
            for start in range(0, len(data), _SLICE):
                yield self._decoder.process(data[start : start + _SLICE])
            return
        # It may say that it takes more, and have more to give.
        while piece := self._decoder.process(data, output_buffer_limit=most):
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


_STREAM_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: _Inflating(_GZIP),
    "x-gzip": lambda: _Inflating(_GZIP),
    "deflate": lambda: _Inflating(None),
    "br": _Brotli,
    "zstd": _zstd,
}
