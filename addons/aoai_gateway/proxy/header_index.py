"""Header fields without mitmproxy's price for looking at them.

Its ``Headers`` decode and compare all fields at each look-up, and its messages check the type of each of
their members when they are made; a gateway asks dozens of such questions per call. What is here reads the
fields once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import http

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

type Fields = Iterable[tuple[bytes, bytes]]


class HeaderIndex:
    """The values of a message's fields by name, as they are when it is made; of a repeated one, the first."""

    __slots__ = ("_values", "repeated")

    def __init__(self, fields: Fields) -> None:
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
        """Give a field's value; ``name`` in lower case."""
        value = self._values.get(name.encode())
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def __contains__(self, name: bytes) -> bool:
        return name in self._values


def set_fields(message: http.Message, unwanted: Container[bytes], added: Fields) -> None:
    """Take out the fields with unwanted names (in lower case), and add others at the end, in one go."""
    headers = message.data.headers
    kept = tuple(f for f in headers.fields if f[0].lower() not in unwanted)
    headers.fields = kept + tuple(added)


def make_request(
    *, host: str, port: int, method: bytes, scheme: bytes, path: bytes, fields: Fields, now: float
) -> http.Request:
    """Make a request whose members are known to have the right types, without having them checked."""
    request = http.Request.__new__(http.Request)
    data = http.RequestData.__new__(http.RequestData)
    headers = http.Headers()
    headers.fields = tuple(fields)
    vars(data).update(
        http_version=b"HTTP/1.1",
        headers=headers,
        content=None,
        trailers=None,
        timestamp_start=now,
        timestamp_end=None,
        host=host,
        port=port,
        method=method,
        scheme=scheme,
        authority=b"",
        path=path,
    )
    request.data = data
    return request
