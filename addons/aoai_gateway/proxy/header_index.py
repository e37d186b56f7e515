"""Header fields without mitmproxy's price for looking at them.

Its ``Headers`` decode and compare all fields at each look-up, and its messages check the type of each of
their members when they are made; a gateway asks dozens of such questions per call. What is here reads the
fields once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mitmproxy import http

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

type Fields = Iterable[tuple[bytes, bytes]]

LENGTH = re.compile(rb"[0-9]{1,15}")
"""A field value that says a length."""


class HeaderIndex:
    """The values of a message's fields by name, as they are when it is made; of a repeated one, the first."""

    __slots__ = ("_values", "fields", "repeated")

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

    def get(self, name: str, /) -> str | None:
        """Return a field's value; ``name`` in lower case."""
        value = self._values.get(name.encode())
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def __contains__(self, name: bytes) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the names, in lower case."""
        return iter(self._values)

    @property
    def length(self) -> int | None:
        """The length that the fields say; None: they say none that counts."""
        value = self._values.get(b"content-length")
        if value is None or b"transfer-encoding" in self._values or b"content-length" in self.repeated:
            return None
        return int(value) if LENGTH.fullmatch(value) else None


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
