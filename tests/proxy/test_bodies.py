"""Bodies of HTTP/1: everything in them that is not content has a bound."""

from __future__ import annotations

import h11
import pytest
from h11._receivebuffer import ReceiveBuffer
from mitmproxy.proxy.layers.http._http1 import make_body_reader

from aoai_gateway.proxy.bodies import MAX_LINE, BodyReader


class Chunked:
    """A chunked body that comes in reads."""

    def __init__(self) -> None:
        self.buffer = ReceiveBuffer()
        self.reader = BodyReader(make_body_reader(None))

    def read(self, data: bytes) -> list[bytes | None]:
        """Return the pieces that came of a read; None is the end."""
        self.buffer += data
        pieces: list[bytes | None] = []
        while (event := self.reader(self.buffer)) is not None:
            if not isinstance(event, h11.Data):
                return [*pieces, None]
            pieces.append(bytes(event.data))
        return pieces


def test_a_read_full_of_chunks_gives_one_piece() -> None:
    assert Chunked().read(b"1\r\na\r\n" * 1000 + b"0\r\n\r\n") == [b"a" * 1000, None]


def test_a_chunk_may_come_in_any_pieces() -> None:
    body = Chunked()
    data = b"3;of=x\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n"
    pieces = [piece for byte in data for piece in body.read(bytes([byte]))]
    assert pieces == [b"a", b"b", b"c", b"d", b"e", None]


@pytest.mark.parametrize("begin", [b"0", b"1;", b"0\r\nX: ", b"0\r\n", b"1\r\na\r\n"])
@pytest.mark.parametrize("more", [b"0" * 4096, b"a: b\r\n" * 700])
def test_a_line_or_section_without_end_is_refused(begin: bytes, more: bytes) -> None:
    body = Chunked()
    body.read(begin)
    refused = False
    for _ in range(8):
        try:
            body.read(more)
        except h11.ProtocolError:
            refused = True
            break
    assert refused
    assert len(body.buffer) <= MAX_LINE + len(more)


def test_content_before_a_malformed_chunk_is_given_first() -> None:
    body = Chunked()
    body.buffer += b"1\r\na\r\nnonsense\r\n"
    event = body.reader(body.buffer)
    assert isinstance(event, h11.Data)
    assert event.data == b"a"
    with pytest.raises(h11.ProtocolError):
        body.reader(body.buffer)


def test_the_end_of_the_connection_ends_a_body_without_length_only() -> None:
    assert isinstance(BodyReader(make_body_reader(-1)).read_eof(), h11.EndOfMessage)
    with pytest.raises(h11.ProtocolError):
        BodyReader(make_body_reader(None)).read_eof()
