"""HTTP by hand, for requests that no client library would send."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.e2e.processes import Gateway


class Reply(NamedTuple):
    """One response as it came."""

    status: int
    headers: dict[str, str]
    """Names in lower case; values of a repeated one are joined by a comma."""
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The body's error, which must be in Azure OpenAI's shape and nothing else."""
        assert self.headers.get("content-type") == "application/json", self
        document = json.loads(self.body)
        assert set(document) == {"error"}, document
        assert set(document["error"]) == {"code", "message", "type", "param"}, document
        assert document["error"]["message"]
        return document["error"]  # type: ignore[no-any-return]


class Connection:
    """A connection to a gateway. Everything that comes is kept until it is read as a reply."""

    def __init__(self, gateway: Gateway, *, seconds: float = 90) -> None:
        self._seconds = seconds
        self._socket = socket.create_connection(("127.0.0.1", gateway.port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def has_more(self) -> bool:
        """Whether something has come that was not read, the connection's end included."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def reply(self, *, head_only: bool = False) -> Reply:
        """Read one response; ``head_only``: it answers a HEAD."""
        head = self._until(lambda: b"\r\n\r\n" in self._buffer, "the head of a response")
        raw, _, self._buffer = head.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            headers[name] = f"{headers[name]},{value.strip()}" if name in headers else value.strip()
        status = int(first.split(" ")[1])
        if head_only or status in (100, 204, 304):
            return Reply(status, headers, b"")
        if "chunked" in headers.get("transfer-encoding", ""):
            return Reply(status, headers, self._chunks())
        size = int(headers["content-length"])
        self._until(lambda: len(self._buffer) >= size, f"a body of {size} bytes")
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Reply(status, headers, body)

    def rest(self) -> bytes:
        """Read until the gateway closes the connection."""
        deadline = time.monotonic() + self._seconds
        while True:
            assert time.monotonic() < deadline, f"the connection is still open; it had {self._buffer!r}"
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                left, self._buffer = self._buffer, b""
                return left
            self._buffer += data

    def _chunks(self) -> bytes:
        body = b""
        while True:
            self._until(lambda: b"\r\n" in self._buffer, "a chunk")
            size = int(self._buffer.split(b"\r\n")[0], 16)
            start = self._buffer.index(b"\r\n") + 2
            self._until(lambda n=start + size + 2: len(self._buffer) >= n, "a whole chunk")  # type: ignore[misc]
            body += self._buffer[start : start + size]
            self._buffer = self._buffer[start + size + 2 :]
            if not size:
                return body

    def _until(self, there: Callable[[], bool], what: str) -> bytes:
        deadline = time.monotonic() + self._seconds
        while not there():
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            assert data, f"closed before {what}; there is {self._buffer!r}"
            self._buffer += data
        return self._buffer


def exchange(gateway: Gateway, data: bytes) -> Reply:
    """Send bytes on a connection of their own and read one response."""
    with Connection(gateway) as connection:
        connection.send(data)
        return connection.reply()


def head(first_line: str, *fields: str, host: str | None = "gateway.example") -> bytes:
    """Write a request head; ``host``: None leaves the field out."""
    lines = [first_line, *([f"Host: {host}"] if host is not None else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(path: str, body: bytes, *fields: str, key: str | None = None) -> bytes:
    """Write a whole POST."""
    credential = [f"api-key: {key}"] if key else []
    length = [] if any("transfer-encoding" in f.lower() for f in fields) else [f"Content-Length: {len(body)}"]
    typed = [] if any("content-type" in f.lower() for f in fields) else ["Content-Type: application/json"]
    return head(f"POST {path} HTTP/1.1", *credential, *typed, *length, *fields) + body
