"""The head of an answer, with the framing and the connection that its client understands.

A backend's framing says how it has sent the answer; each client needs its own. HTTP/1.0 knows no chunks, and
keeps a connection only if that was asked for and the length is known (RFC 9112 §6.1, §9.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.proxy import cors, heads
from aoai_gateway.proxy.request import HANDSHAKE

if TYPE_CHECKING:
    from mitmproxy import http

    from aoai_gateway.config.models import Cors

OURS_TO_SAY = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"})
"""Fields of an answer that concern its connection only; each connection has its own."""

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


class AnswerHead(NamedTuple):
    """An answer's head as it goes on the wire, and how its body does."""

    data: bytes
    chunked: bool
    length: int | None
    """Bytes that the body is to have; None: the head does not say so."""
    closes: bool
    """Whether the connection ends with the answer."""


def answer_head(request: http.Request, response: http.Response, pages: Cors, *, stays: bool) -> AnswerHead:
    """Make the head of a final answer.

    ``pages``: what is in force for pages of other origins; ``stays``: whether another request may follow.
    """
    version, status = request.data.http_version, response.data.status_code
    fields = response.data.headers.fields
    bodiless = request.data.method.upper() == b"HEAD" or status in (204, 304)
    length = heads.length_of(fields)
    chunked = not bodiless and length is None and version != b"HTTP/1.0"
    framed = bodiless or chunked or length is not None
    stays = stays and framed and heads.stays_open(version, request.data.headers.fields)
    closes = not (stays and heads.stays_open(b"HTTP/1.1", fields))
    unwanted = OURS_TO_SAY | heads.FRAMING if length is None or status == 204 else OURS_TO_SAY
    head = [f for f in fields if f[0].lower() not in unwanted]
    if pages.origins:
        head += cors.fields(pages, request, head)
    if chunked:
        head.append((b"transfer-encoding", b"chunked"))
    if closes:
        head.append((b"connection", b"close"))
    elif version == b"HTTP/1.0":
        head.append((b"connection", b"keep-alive"))
    first = b"HTTP/1.1 %d %s\r\n" % (status, response.data.reason)
    return AnswerHead(first + heads.lines(head), chunked, 0 if bodiless else length, closes)


def switching_head(response: http.Response) -> bytes:
    """Make the head that accepts a WebSocket's handshake: after it there is no HTTP (RFC 6455 §4.2.2)."""
    head = [f for f in response.data.headers.fields if f[0].lower() not in OURS_TO_SAY | heads.FRAMING]
    return _SWITCHING + heads.lines([*head, *HANDSHAKE])
