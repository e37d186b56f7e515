"""A short way for the chunks of a stream that has begun.

From the first content of a stream on, nothing is left to decide: its chunks are masked, read and passed on.
On the usual way each of them makes some forty steps through mitmproxy's layers and its event loop. A `Lane`
does the same in one call, for whole plain chunks only. All that means more (the last chunk, a chunk's
extension, half a chunk, the end of the connection) goes the usual way, and so does everything while a layer
waits for something. So the layers' own state never changes here: they go on as if the chunks had not been.

Backends speak TLS; then the chunks are read out of the connection's TLS layer, a record at a time. A record
that is not for the lane is left there, where the layer will read it.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from mitmproxy.connection import ConnectionState
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from mitmproxy.proxy.tunnel import TunnelState
from OpenSSL import SSL

from aoai_gateway.proxy.http1 import GatewayHttp1Server
from aoai_gateway.proxy.upstream import http1_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mitmproxy.connection import Client, Connection
    from mitmproxy.proxy.layer import Layer

    from aoai_gateway.proxy.delivery import Delivery
    from aoai_gateway.proxy.upstream import BackendHttp1Client

MOST_CHUNKS = 1_000
"""Chunks of one read that are taken; more of them are tiny, and have a better way."""

_MOST_RECORD = 64 * 1024
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n")


class Taken(NamedTuple):
    """What came of a read that a lane has taken."""

    sent: bytes
    """The bytes for the client's connection, framed."""
    left: bool = False
    """Whether the TLS layer has more, which the layers must read."""


class Lane:
    """The short way of one stream, as long as it is delivered."""

    def __init__(
        self,
        delivery: Delivery,
        backend: BackendHttp1Client,
        tls: ServerTLSLayer | None,
        is_delivering: Callable[[], bool],
    ) -> None:
        self._delivery = delivery
        self._backend = backend
        self._tls = tls
        self._is_delivering = is_delivering

    @classmethod
    def of(
        cls,
        connections: Mapping[Connection, Layer],
        backend: Connection | None,
        delivery: Delivery,
        is_delivering: Callable[[], bool],
    ) -> Lane | None:
        """Make the short way of a stream that comes on a backend's connection, if it can have one.

        ``connections``: the layers of all connections; ``is_delivering``: whether the stream can go on now.
        """
        layer = connections.get(backend) if backend is not None else None
        http1 = http1_of(layer) if layer is not None else None
        if http1 is None:
            return None
        return cls(delivery, http1, layer if isinstance(layer, ServerTLSLayer) else None, is_delivering)

    def take(self, data: bytes, client: Client, server: Layer | None) -> Taken | None:
        """Take a read of the backend's socket. None: the layers have to take it, and nothing was touched."""
        if not isinstance(server, GatewayHttp1Server) or not self._is_open(client):
            return None
        if self._tls is not None:
            return self._take_records(data, server)
        content = whole_chunks(data)
        return None if content is None else Taken(server.framed(self._delivery.take(content)))

    def _is_open(self, client: Client) -> bool:
        """Whether nothing is under way that a chunk could overtake."""
        return (
            self._is_delivering()
            and self._delivery.can_take
            and self._backend.is_between_chunks
            and bool(client.state & ConnectionState.CAN_WRITE)
            # The records that go to a client with TLS are made by its layer.
            and not client.tls
            and (self._tls is None or self._tls.tunnel_state is TunnelState.OPEN)
        )

    def _take_records(self, data: bytes, server: GatewayHttp1Server) -> Taken:
        assert self._tls is not None and self._tls.tls is not None
        tls = self._tls.tls
        sent: list[bytes] = []
        tls.bio_write(data)
        while True:
            try:
                record = tls.recv(_MOST_RECORD, socket.MSG_PEEK)
            except SSL.WantReadError:
                return Taken(b"".join(sent))
            except SSL.Error:
                return Taken(b"".join(sent), left=True)  # its layer gets the same, and knows what it means
            content = whole_chunks(record)
            if content is None:
                return Taken(b"".join(sent), left=True)
            tls.recv(len(record))
            sent.append(server.framed(self._delivery.take(content)))


def whole_chunks(data: bytes) -> bytes | None:
    """Return the content of chunks (RFC 9112 §7.1), if the data is nothing but whole and plain ones."""
    at, size = 0, len(data)
    parts: list[bytes] = []
    while at < size:
        head = _SIZE.match(data, at)
        if head is None or len(parts) >= MOST_CHUNKS:
            return None
        begin = head.end()
        end = begin + int(head[1], 16)
        if end == begin or data[end : end + 2] != b"\r\n":
            return None
        parts.append(data[begin:end])
        at = end + 2
    return b"".join(parts)
