"""Codings are undone within a bound, for any size of the text."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import brotli
import pytest
from mitmproxy.net import encoding

from aoai_gateway.wire.content_coding import NotDecodedError, decode, readable

MIB = 1024 * 1024
TEXT = b'{"usage":{"total_tokens":5}}' * 100


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of several members": (
        "x-gzip",
        lambda data: b"".join(gzip.compress(data[start : start + MIB]) for start in range(0, len(data), MIB)),
    ),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("Deflate", raw_deflate),
    "brotli": ("br", brotli.compress),
    "zstd": ("zstd", encoding.encode_zstd),
}


@pytest.mark.parametrize("name", CODINGS)
def test_a_coding_is_undone(name: str) -> None:
    coding, encode = CODINGS[name]
    assert decode(encode(TEXT), coding, MIB) == TEXT
    assert decode(encode(TEXT), coding, len(TEXT)) == TEXT
    assert readable(encode(TEXT), coding) == TEXT


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("name", CODINGS)
def test_decoding_takes_about_twice_the_bound_at_most(name: str, size: int) -> None:
    coding, encode = CODINGS[name]
    coded = encode(bytes(size * MIB))
    tracemalloc.start()
    try:
        with suppress(NotDecodedError):
            decode(coded, coding, 8 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", CODINGS)
def test_a_bomb_takes_no_more_memory_than_its_bound(name: str) -> None:
    coding, encode = CODINGS[name]
    bomb = encode(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(NotDecodedError) as error:
            decode(bomb, coding, MIB)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert error.value.too_large
    assert readable(bomb, coding, MIB) == bomb


@pytest.mark.parametrize("name", CODINGS)
def test_half_a_body_is_not_decoded(name: str) -> None:
    coding, encode = CODINGS[name]
    for broken in (encode(TEXT)[:-9], b"no such thing", b""):
        with pytest.raises(NotDecodedError) as error:
            decode(broken, coding, MIB)
        assert not error.value.too_large
        assert readable(broken, coding) == broken


@pytest.mark.parametrize("coding", ["gzip, br", "rot13", "utf-8"])
def test_an_unknown_coding_is_left_alone(coding: str) -> None:
    with pytest.raises(NotDecodedError):
        decode(TEXT, coding, MIB)
    assert readable(TEXT, coding) == TEXT


@pytest.mark.parametrize("coding", [None, "", "identity", " Identity "])
def test_what_is_not_coded_stays_as_it_is(coding: str | None) -> None:
    assert decode(TEXT, coding, 1) == TEXT
    assert readable(None, coding) == b""


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_body_of_thousands_of_empty_members_is_left_alone(name: str) -> None:
    """Each would cost a copy of the rest: seconds for a megabyte."""
    coding, encode = CODINGS[name]
    many = encode(b"") * 20_000
    begun = time.process_time()
    assert readable(many, coding) == many
    assert time.process_time() - begun < 1
    with pytest.raises(NotDecodedError) as raised:
        decode(encode(b"{") + many + encode(b"}"), coding, MIB)
    assert not raised.value.broken, "a reader without a bound can read it"
