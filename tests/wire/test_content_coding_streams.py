"""Codings of streams are undone as the streams come, within their bounds."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from itertools import repeat

import pytest

from aoai_gateway.wire import content_coding
from aoai_gateway.wire.content_coding import FREE, PIECE, NotDecodedError, StreamDecoder
from tests.coded_streams import CODINGS

MIB = 1024 * 1024
EVENTS = [b'data: {"choices":[{"index":0,"delta":{"content":"word %d"}}]}\n\n' % n for n in range(300)]

NAMES = pytest.mark.parametrize("name", CODINGS)


def decoded(decoder: StreamDecoder, data: bytes) -> bytes:
    return b"".join(decoder.feed(data))


@NAMES
def test_what_was_flushed_is_there_at_once(name: str) -> None:
    coding, encode = CODINGS[name]
    decoder = StreamDecoder(coding)
    *parts, last = encode(EVENTS)
    if len(parts) < len(EVENTS):  # each member ends by itself
        parts.append(last)
        last = b""
    assert [decoded(decoder, part) for part in parts] == EVENTS
    assert decoded(decoder, last) == b""
    assert decoder.is_whole


@NAMES
def test_it_may_come_byte_by_byte(name: str) -> None:
    coding, encode = CODINGS[name]
    decoder, whole = StreamDecoder(coding), b"".join(encode(EVENTS))
    got = []
    for at in range(len(whole)):
        assert decoder.is_whole == (at == 0) or name == "gzip of several members"
        got.append(decoded(decoder, whole[at : at + 1]))
    assert b"".join(got) == b"".join(EVENTS)
    assert decoder.is_whole


@NAMES
def test_it_comes_in_small_pieces(name: str) -> None:
    coding, encode = CODINGS[name]
    text = random.Random(1).randbytes(200_000).hex().encode()
    pieces = list(StreamDecoder(coding).feed(b"".join(encode([text] * 3))))
    assert b"".join(pieces) == text * 3
    assert max(map(len, pieces)) <= 2 * PIECE


@NAMES
def test_half_of_it_is_not_whole(name: str) -> None:
    coding, encode = CODINGS[name]
    whole = b"".join(encode([b"".join(EVENTS)]))
    decoder = StreamDecoder(coding)
    decoded(decoder, whole[:-1])
    assert not decoder.is_whole


@NAMES
@pytest.mark.parametrize("wrong", [b"data: {}\n\n" * 50, b"\0" * 500, b"\xff" * 500])
def test_what_is_in_no_coding_is_told(name: str, wrong: bytes) -> None:
    decoder = StreamDecoder(CODINGS[name][0])
    with pytest.raises(NotDecodedError) as error:
        decoded(decoder, wrong)
    assert not error.value.too_large


@NAMES
def test_what_is_damaged_on_the_way_is_told(name: str) -> None:
    coding, encode = CODINGS[name]
    parts = list(encode(EVENTS))
    middle = len(parts) // 2
    parts[middle] = b"\xff" * 40 + parts[middle]
    decoder = StreamDecoder(coding)
    assert [decoded(decoder, part) for part in parts[:middle]] == EVENTS[:middle]
    with pytest.raises(NotDecodedError):
        decoded(decoder, b"".join(parts[middle:]))


@NAMES
def test_a_bomb_is_stopped_by_its_ratio(name: str) -> None:
    coding, encode = CODINGS[name]
    bomb = b"".join(encode([bytes(64 * MIB)]))
    sizes = map(len, StreamDecoder(coding).feed(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(NotDecodedError) as error:
            sum(sizes)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert error.value.too_large


@NAMES
def test_no_stream_of_events_is_taken_for_a_bomb(name: str) -> None:
    """The same event again and again, each flushed, unfolds the most."""
    coding, encode = CODINGS[name]
    decoder = StreamDecoder(coding)
    parts = encode(repeat(EVENTS[0], 30_000))
    size = sum(len(decoded(decoder, part)) for part in parts)
    assert size == 30_000 * len(EVENTS[0]) > FREE


@pytest.mark.parametrize("coding", ["", "identity", "compress", "gzip, br", "aes128gcm"])
def test_no_other_coding_is_known(coding: str) -> None:
    with pytest.raises(NotDecodedError) as error:
        StreamDecoder(coding)
    assert not error.value.too_large


@pytest.mark.parametrize("coding", ["deflate", "br"])
def test_nothing_may_follow(coding: str) -> None:
    (encode,) = {encode for name, encode in CODINGS.values() if name == coding}
    decoder = StreamDecoder(coding)
    assert decoded(decoder, b"".join(encode(EVENTS))) == b"".join(EVENTS)
    with pytest.raises(NotDecodedError):
        decoded(decoder, b"data: {}\n\n" * 10)


def test_each_empty_member_takes_a_turn() -> None:
    encoder = zlib.compressobj(wbits=31)
    empty = encoder.flush()
    pieces = list(StreamDecoder("gzip").feed(empty * 100))
    assert pieces == [b""] * 99


def test_zstd_that_wants_much_memory_is_refused() -> None:
    """A frame says how much its decoder has to keep (RFC 9659 §3)."""
    descriptor, window = 0x00, (27 - 10) << 3
    frame = b"\x28\xb5\x2f\xfd" + bytes([descriptor, window]) + b"\x01\x00\x00"
    with pytest.raises(NotDecodedError):
        decoded(StreamDecoder("zstd"), frame)


class Unbounded:
    """A decoder of brotli as it was before 1.2: its output has no bound."""

    def __init__(self) -> None:
        self._decoder = content_coding.brotli.Decompressor()
        self.longest = 0

    def process(self, data: bytes) -> bytes:
        self.longest = max(self.longest, len(data))
        return self._decoder.process(data)  # type: ignore[no-any-return]  # it has no stubs

    def is_finished(self) -> bool:
        return bool(self._decoder.is_finished())


def test_an_older_brotli_gets_little_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Unbounded()
    monkeypatch.setattr(content_coding._Brotli, "__init__", lambda self: setattr(self, "_decoder", old))
    decoder = StreamDecoder("br")
    whole = b"".join(CODINGS["brotli"][1](EVENTS))
    assert decoded(decoder, whole) == b"".join(EVENTS)
    assert decoder.is_whole
    assert old.longest <= 16


def test_the_other_module_for_zstd() -> None:
    zstandard = pytest.importorskip("zstandard")
    decoder = StreamDecoder("zstd")
    decoder._make = lambda: content_coding._Zstandard(zstandard)
    decoder._decoder = decoder._make()
    encode = CODINGS["zstd"][1]
    *parts, last = encode(EVENTS)
    assert [decoded(decoder, part) for part in parts] == EVENTS
    assert decoded(decoder, last + b"".join(encode([b"more"]))) == b"more"
    assert decoder.is_whole
    bomb = b"".join(encode([bytes(64 * MIB)]))
    with pytest.raises(NotDecodedError) as error:
        decoded(StreamDecoder("zstd"), bomb)
    assert error.value.too_large
