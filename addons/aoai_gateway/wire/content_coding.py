"""Content codings (RFC 9110 §8.4.1), undone within a bound.

A few kilobytes can be the coded form of gigabytes, and a backend may send them. So nothing is decoded at
once: each decoder is asked for at most as much as the reader can use, and larger bodies are not decoded at
all. Bodies pass through the gateway coded as they came; only the parts that it reads are decoded here.
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import brotli  # type: ignore[import-untyped]  # it has no stubs

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_AT_ONCE = 256 * 1024
"""Bytes that are decoded on the event loop: about a millisecond."""

MOST_READ = 8 * 1024 * 1024
"""Bytes of an answer that is decoded, off the event loop, to be read; a text of a million words has less."""

MOST_MEMBERS = 16
"""Members of gzip, or frames of zstd, in one body. Each costs a copy of the rest; writers make one."""

_BROTLI_SLICE = 16
_AUTOMATIC, _RAW = 47, -15  # zlib's window bits: gzip or zlib by the header; no header
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

    Raises `NotDecodedError`, also for a coding that is not known. Takes no more memory than twice ``most``.
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
    decoder: Any = brotli.Decompressor()
    found = bytearray()
    if not hasattr(decoder, "can_accept_more_data"):  # before 1.2, a bound on what goes in has to do
        for start in range(0, len(raw), _BROTLI_SLICE):
            found += decoder.process(raw[start : start + _BROTLI_SLICE])
            if len(found) >= most:
                break
    else:
        found += decoder.process(raw, output_buffer_limit=most)
        while len(found) < most and not decoder.is_finished():
            more = decoder.process(b"", output_buffer_limit=most - len(found))
            if not more:
                break
            found += more
    if len(found) < most and not decoder.is_finished():
        raise EOFError
    return bytes(found[:most])


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
