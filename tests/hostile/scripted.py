"""A backend that answers each request with the bytes it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"id":"fine"}'


class ScriptedBackend:
    """Listens on a port of loopback; ``answers`` are used up in order, then it answers `OK`."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.answers: list[bytes] = []
        self.drips: list[tuple[bytes, bytes, bytes]] = []
        """Heads and first parts of answers, and what then follows every 0.3 s until it is hung up on."""
        self.received: list[bytes] = []
        """Whole requests as they came."""
        self.closed = threading.Event()
        """Set when a client has closed a connection on which it was not answered."""
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        # The gateway may hang up in the middle of an answer.
        with connection, contextlib.suppress(OSError):
            while request := self._request(connection):
                self.received.append(request)
                if self.drips:
                    self._drip(connection, *self.drips.pop(0))
                    return
                answer = self.answers.pop(0) if self.answers else OK
                if not answer:
                    # It hangs until it is hung up on.
                    if not connection.recv(1):
                        self.closed.set()
                    return
                connection.sendall(answer)
                if b"close" in answer.lower() or b"content-length" not in answer.lower():
                    return

    def _drip(self, connection: socket.socket, head: bytes, first: bytes, more: bytes) -> None:
        connection.sendall(head + first)
        while True:
            time.sleep(0.3)
            connection.sendall(more)

    def _request(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                more = connection.recv(65536)
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(lengths[0].split(b":")[1]) if lengths else 0
        while len(body) < size:
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body
