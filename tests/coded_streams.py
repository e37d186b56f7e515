"""Streams in a content coding, as servers send them that flush after each event."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

import brotli

from aoai_gateway.wire.content_coding import zstd_module

type Encoder = Callable[[Iterable[bytes]], Iterator[bytes]]


def _zlib(bits: int) -> Encoder:
    def encode(parts: Iterable[bytes]) -> Iterator[bytes]:
        encoder = zlib.compressobj(wbits=bits)
        for part in parts:
            yield encoder.compress(part) + encoder.flush(zlib.Z_SYNC_FLUSH)
        yield encoder.flush()

    return encode


def _members(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        encoder = zlib.compressobj(wbits=31)
        yield encoder.compress(part) + encoder.flush()


def _brotli(parts: Iterable[bytes]) -> Iterator[bytes]:
    encoder = brotli.Compressor(quality=4)
    for part in parts:
        yield encoder.process(part) + encoder.flush()
    yield encoder.finish()


def _zstd(parts: Iterable[bytes]) -> Iterator[bytes]:
    module = zstd_module()
    if module.__name__ == "zstandard":
        encoder = module.ZstdCompressor().compressobj()
        for part in parts:
            yield encoder.compress(part) + encoder.flush(module.COMPRESSOBJ_FLUSH_BLOCK)
        yield encoder.flush()
        return
    encoder = module.ZstdCompressor()
    for part in parts:
        yield encoder.compress(part, encoder.FLUSH_BLOCK)
    yield encoder.flush()


CODINGS: dict[str, tuple[str, Encoder]] = {
    "gzip": ("gzip", _zlib(31)),
    "gzip of several members": ("x-gzip", _members),
    "deflate": ("deflate", _zlib(15)),
    "deflate without a header": ("Deflate", _zlib(-15)),
    "brotli": ("br", _brotli),
    "zstd": ("zstd", _zstd),
}
"""The name of a coding, and what encodes parts: each as it is flushed, and what ends them."""
