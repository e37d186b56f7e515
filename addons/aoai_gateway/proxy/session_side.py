"""One end of a session: its WebSocket, and as much of a message as has come from it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, TextMessage

from aoai_gateway.wire.backend_errors import status_of

MOST_PARTS = 65_536
"""Pieces in which one message may come."""

FRAME = 128 * 1024
"""Bytes of a message that go out in one frame."""

TURN_SECONDS = 0.005
"""The time for which a session reads what has come, before others have their turn."""

PREAMBLE = frozenset({"response.created", "response.queued", "response.in_progress", "codex.rate_limits"})
"""Events of a response that show nothing of what becomes of it."""

_READ = 65_536
"""Bytes of a message that is looked at."""


def pieces(content: bytes, *, text: bool) -> Iterator[TextMessage | BytesMessage]:
    """Yield a message in pieces, each for a frame of a size that nothing else has to wait for."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for start in range(0, len(content) or 1, FRAME):
        piece, last = content[start : start + FRAME], start + FRAME >= len(content)
        if text:
            yield TextMessage(decoder.decode(piece, last), message_finished=last)
        else:
            yield BytesMessage(piece, message_finished=last)


class Side:
    """One end of a session: its WebSocket, and as much of a message as has come from it."""

    def __init__(self, kind: ConnectionType, name: str) -> None:
        self.socket = Connection(kind)
        self.name = name
        self.parts: list[bytes] = []
        self.size = 0

    def take(self, data: str | bytes) -> None:
        """Take in a piece of a message."""
        piece = data.encode() if isinstance(data, str) else bytes(data)
        self.parts.append(piece)
        self.size += len(piece)

    def whole(self) -> bytes:
        """Return the message that is complete."""
        content = b"".join(self.parts)
        self.parts, self.size = [], 0
        return content


class Preamble(Side):
    """What a backend says of the first response of a session, until it says something of it.

    An error instead of that is as if it had come as the status that it stands for.
    """

    def __init__(self) -> None:
        super().__init__(ConnectionType.CLIENT, "backend")
        self.held: list[tuple[bytes, bool]] = []
        """The messages that have come, and whether each is text."""
        self.error: dict[str, Any] | None = None
        """The error that came instead of a response, with its ``status``."""
        self.closed: CloseConnection | None = None
        self.received = 0

    def feed(self, data: bytes) -> bool:
        """Take in what the backend has sent. Whether it has said what becomes of the response."""
        self.received += len(data)
        self.socket.receive_data(data)
        known = False
        for event in self.socket.events():
            if isinstance(event, Message):
                self.take(event.data)
                if event.message_finished:
                    content = self.whole()
                    self.held.append((content, isinstance(event, TextMessage)))
                    known = known or self._tells(content)
            elif isinstance(event, CloseConnection):
                self.closed, known = event, True
        return known

    def _tells(self, content: bytes) -> bool:
        try:
            message = json.loads(content) if len(content) <= _READ else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return True
        response = message.get("response")
        failed = response if isinstance(response, dict) else {}
        error = message.get("error") if message["type"] == "error" else failed.get("error")
        if message["type"] in ("error", "response.failed") and isinstance(error, dict):
            said = message.get("status")
            status = said if isinstance(said, int) else status_of(error)
            self.error = {**error, "status": status}
        return message["type"] not in PREAMBLE
