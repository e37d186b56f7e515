"""Heads of HTTP/1 messages: read in one way only, and written as their readers understand them.

A head that two parsers understand differently is how a request is smuggled past one of them, so a client's
must be exact: no folded lines, no blank before a colon, no control characters, one length. What a backend
sends is repaired where RFC 9112 says how a recipient may do that safely, since users would otherwise lose
a backend that works; what a repair could turn into another message is refused there, too.

A backend's framing says how it has sent an answer; each client needs its own. HTTP/1.0 knows no chunks, and
keeps a connection only if that was asked for and the length is known (RFC 9112 §6.1, §9.3).

mitmproxy's ``Headers`` decode and compare all fields at each look-up, and its messages check the type of each
of their members when they are made; a gateway asks dozens of such questions per call. A `HeaderIndex` reads
the fields once.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from mitmproxy import http
from mitmproxy.net.http.http1 import read_request_head

from aoai_gateway.proxy import cors

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from aoai_gateway.config.models import Cors

type Fields = Iterable[tuple[bytes, bytes]]

LENGTH = re.compile(rb"[0-9]{1,15}")
"""A field value that says a length."""


class HeaderIndex:
    """The values of a message's fields by name, as they are when it is made; of a repeated one, the first."""

    __slots__ = ("_values", "fields", "length", "repeated")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        """What it was made of."""
        self._values: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        """Names, in lower case, that occur more than once."""
        for name, value in fields:
            low = name.lower()
            if low in self._values:
                self.repeated.add(low)
            else:
                self._values[low] = value
        said = b"" if b"transfer-encoding" in self._values else self._values.get(b"content-length", b"")
        counts = LENGTH.fullmatch(said) and b"content-length" not in self.repeated
        self.length = int(said) if counts else None
        """The length that the fields say; None: they say none that counts."""

    def get(self, name: str, /) -> str | None:
        """Return a field's value; ``name`` in lower case."""
        value = self._values.get(name.encode())
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def __contains__(self, name: bytes) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the names, in lower case."""
        return iter(self._values)


NO_HEAD = HeaderIndex(())
"""Of a message that has not come yet."""


def set_fields(message: http.Message, unwanted: Container[bytes], added: Fields) -> None:
    """Take out the fields with unwanted names (in lower case), and add others at the end, in one go."""
    headers = message.data.headers
    headers.fields = (*[f for f in headers.fields if f[0].lower() not in unwanted], *added)


def make_request(
    *,
    method: bytes,
    path: bytes,
    fields: Fields,
    now: float,
    version: bytes = b"HTTP/1.1",
    scheme: bytes = b"",
    host: str = "",
    port: int = 0,
) -> http.Request:
    """Make a request whose members are known to have the right types, without having them checked."""
    request = http.Request.__new__(http.Request)
    data = request.data = http.RequestData.__new__(http.RequestData)
    _set(data, version, fields, now)
    data.host, data.port, data.authority = host, port, b""
    data.method, data.scheme, data.path = method, scheme, path
    return request


def make_response(*, version: bytes, status: int, reason: bytes, fields: Fields, now: float) -> http.Response:
    """Make a response, likewise."""
    response = http.Response.__new__(http.Response)
    data = response.data = http.ResponseData.__new__(http.ResponseData)
    _set(data, version, fields, now)
    data.status_code, data.reason = status, reason
    return response


def _set(data: http.MessageData, version: bytes, fields: Fields, now: float) -> None:
    headers = http.Headers.__new__(http.Headers)
    headers.fields = tuple(fields)
    data.http_version, data.headers = version, headers
    data.content = data.trailers = data.timestamp_end = None
    data.timestamp_start = now


CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no field value may hold (RFC 9110 §5.5). Others could take a bare CR for the end of a line."""

NOT_IN_TARGET = re.compile(rb"[^!-~]")
"""What no request target may hold (RFC 3986 §2)."""

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""The fields that say where a message's body ends, in lower case."""

HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"})
"""Fields, beside those of the framing, that end with the connection on which they come (RFC 9110 §7.6.1)."""

OURS_TO_SAY = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"})
"""Fields of an answer that concern its connection only; each connection has its own."""

HANDSHAKE = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
"""Fields that ask for a WebSocket, and that accept one. No extension is asked for: messages are read, and one
that was compressed could be made to fill the memory."""

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z_-]*) ([!-~]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*)")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) +([1-9][0-9][0-9])(?: (.*))?", re.DOTALL)
_NAME = re.compile(_TOKEN)
_EXACT_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")

MAX_LINES = 512
"""Lines of a head, from either side. Each costs time on the event loop; a call has some twenty."""

UNTIL_CLOSED = -1
"""The size of a body that ends with its connection."""


def read_request(lines: Sequence[bytes]) -> tuple[http.Request, int | None]:
    """Read a client's head. Returns its request, and the size of the body in bytes; None: it is chunked.

    Raises ValueError for anything that is not exactly HTTP/1.0 or HTTP/1.1.
    """
    first, *others = lines
    request_line = _REQUEST_LINE.fullmatch(first)
    if request_line is None:
        raise ValueError("request line")
    method, target, version = request_line.groups()
    fields = []
    for line in others:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise ValueError("field line")
        fields.append((field[1], field[2].strip(b" \t")))
    lengths, codings = _framing(fields)
    if len(lengths) + len(codings) > 1:
        raise ValueError("more than one length")
    if lengths and not _EXACT_LENGTH.fullmatch(lengths[0]):
        raise ValueError("content-length")
    if codings and (codings[0].lower() != b"chunked" or version != b"HTTP/1.1"):
        raise ValueError("transfer-encoding")
    size = None if codings else int(lengths[0]) if lengths else 0
    if not target.startswith(b"/"):
        return read_request_head(list(lines)), size  # it names a host, which mitmproxy finds in it
    now = time.time()
    return make_request(method=method, path=target, version=version, fields=fields, now=now), size


def length_of(fields: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Return the length that a message's fields say; None: they say none that counts."""
    lengths, codings = _framing(fields)
    if codings or len(lengths) != 1 or not LENGTH.fullmatch(lengths[0]):
        return None
    return int(lengths[0])


def request_head(request: http.Request) -> bytes:
    """Write the head of a request that goes to a backend."""
    data = request.data
    first = b"%s %s %s\r\n" % (data.method, data.path, data.http_version)
    return first + lines(data.headers.fields)


def lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write fields as the lines of a head, with the empty one after them."""
    return b"".join([b"%s: %s\r\n" % field for field in fields]) + b"\r\n"


def stays_open(version: bytes, fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the sender of a message wants its connection kept (RFC 9112 §9.3)."""
    options = connection_options(fields)
    return b"close" not in options and (version != b"HTTP/1.0" or b"keep-alive" in options)


def connection_options(fields: Sequence[tuple[bytes, bytes]]) -> set[bytes]:
    """Return what the Connection fields name, in lower case: options, and fields that end here."""
    options: set[bytes] = set()
    for name, value in fields:
        if name.lower() == b"connection":
            options.update([option.strip(b" \t").lower() for option in value.split(b",")])
    return options


class ResponseHead(NamedTuple):
    """A backend's head. ``size``: of its body, in bytes; None: chunked; -1: it ends with the connection."""

    response: http.Response
    size: int | None
    reusable: bool
    """Whether the connection may be used again after the body."""


def read_response(lines: Sequence[bytes], method: str) -> ResponseHead:
    """Read a backend's head. ``method``: the request's. Raises ValueError.

    - A folded line is joined by a blank, and a blank before a colon is taken out (RFC 9112 §5.1, §5.2).
    - Control characters in a value become blanks (RFC 9110 §5.5), but not in the fields that frame the body.
    - Equal lengths, repeated or in a list, are one length (RFC 9110 §8.6).
    - With both a length and a transfer coding, the coding counts, and the connection is not used again; nor
      is it with a coding in HTTP/1.0 (RFC 9112 §6.1, §6.3).
    """
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ValueError("status line")
    version, status, reason = status_line.groups()
    old = version == b"0"
    fields = _repaired(lines[1:])
    lengths, codings = _framing(fields)
    coding = b",".join(codings).lower().strip(b" \t")
    bodiless = method.upper() == "HEAD" or status[:1] == b"1" or status in (b"204", b"304")
    if coding not in (b"", b"identity", b"chunked"):
        raise ValueError("transfer-encoding")
    length = _one_length(lengths) if lengths and coding != b"chunked" else None
    fields = [f for f in fields if f[0].lower() not in FRAMING]
    if coding == b"chunked" and not bodiless:
        fields.append((b"transfer-encoding", b"chunked"))
    elif length is not None:
        fields.append((b"content-length", b"%d" % length))
    size = 0 if bodiless else None if coding == b"chunked" else UNTIL_CLOSED if length is None else length
    faulty = bool(codings) and (bool(lengths) or old)
    response = make_response(
        version=b"HTTP/1.0" if old else b"HTTP/1.1",
        status=int(status),
        reason=CONTROL.sub(b" ", reason or b""),
        fields=fields,
        now=time.time(),
    )
    reusable = size != UNTIL_CLOSED and not faulty and stays_open(response.data.http_version, fields)
    return ResponseHead(response, size, reusable)


def _repaired(lines: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if not fields:
                raise ValueError("folded first line")
            name, value = fields[-1]
            fields[-1] = (name, value + b" " + line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError("field line")
        fields.append((name, value.strip(b" \t")))
    return [
        (name, value if name.lower() in FRAMING else CONTROL.sub(b" ", value).strip(b" \t"))
        for name, value in fields
    ]


def _framing(fields: Sequence[tuple[bytes, bytes]]) -> tuple[list[bytes], list[bytes]]:
    lengths, codings = [], []
    for name, value in fields:
        low = name.lower()
        if low == b"content-length":
            lengths.append(value)
        elif low == b"transfer-encoding":
            codings.append(value)
    return lengths, codings


def _one_length(values: Sequence[bytes]) -> int:
    given = {value.strip(b" \t") for value in b",".join(values).split(b",")}
    if not all(LENGTH.fullmatch(value) for value in given):
        raise ValueError("content-length")
    sizes = {int(value) for value in given}
    if len(sizes) != 1:
        raise ValueError("different lengths")
    return sizes.pop()


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
    length = length_of(fields)
    chunked = not bodiless and length is None and version != b"HTTP/1.0"
    framed = bodiless or chunked or length is not None
    stays = stays and framed and stays_open(version, request.data.headers.fields)
    closes = not (stays and stays_open(b"HTTP/1.1", fields))
    unwanted = OURS_TO_SAY | FRAMING if length is None or status == 204 else OURS_TO_SAY
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
    return AnswerHead(first + lines(head), chunked, 0 if bodiless else length, closes)


def switching_head(response: http.Response) -> bytes:
    """Make the head that accepts a WebSocket's handshake: after it there is no HTTP (RFC 6455 §4.2.2)."""
    head = [f for f in response.data.headers.fields if f[0].lower() not in OURS_TO_SAY | FRAMING]
    return _SWITCHING + lines([*head, *HANDSHAKE])
