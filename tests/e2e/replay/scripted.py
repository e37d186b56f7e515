"""A backend that answers byte for byte what a test has written down, whether that is HTTP or not."""

from __future__ import annotations

import socket
import threading
from collections import deque


class ScriptedBackend:
    """Listens on loopback; every request gets the next of the queued answers, the last one for good.

    It understands just enough of HTTP to know where a request with a content-length ends.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answers: deque[tuple[bytes, bool]] = deque()
        self.requests: list[bytes] = []
        """The requests so far, in order."""
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answers(self, data: bytes, *, close: bool = False) -> None:
        """Queue an answer; with ``close`` the connection ends after it."""
        self._answers.append((data, close))

    def answers_with(self, status: str, headers: str = "", body: bytes = b"{}") -> None:
        """Queue an HTTP answer; ``headers`` are lines, ``status`` is as in ``200 OK``."""
        lines = [f"HTTP/1.1 {status}", "content-type: application/json", *headers.splitlines()]
        head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
        self.answers(head.encode() + body)

    def reset(self) -> None:
        """Forget answers and requests."""
        self._answers.clear()
        self.requests.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as incoming:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = incoming.readline()
                    if not line:
                        return
                    head += line
                fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:-1])
                self.requests.append(head + incoming.read(int(fields.get(b"content-length", 0))))
                data, close = self._answers.popleft() if len(self._answers) > 1 else self._answers[0]
                connection.sendall(data)
                if close:
                    return
