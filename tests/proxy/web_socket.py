"""A client and backends that speak WebSocket on the connections of a driven layer."""

from __future__ import annotations

import json
from typing import Any

from mitmproxy.proxy import events
from wsproto.connection import Connection as Socket
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Event, Message, TextMessage
from wsproto.utilities import generate_accept_token

from tests.proxy.layer_driver import Connection

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

HANDSHAKE = (
    "upgrade: websocket",
    "connection: keep-alive, Upgrade",
    "sec-websocket-version: 13",
    f"sec-websocket-key: {KEY.decode()}",
)


class Talk:
    """One session. Backends are named by host."""

    def __init__(self, here: Connection) -> None:
        self.here = here
        self.client = Socket(ConnectionType.CLIENT)
        self.backend = Socket(ConnectionType.SERVER)
        self._read = 0
        self.host = ""

    def ask(
        self,
        path: str = "/openai/v1/realtime?model=gpt",
        *fields: str,
        key: str | None = "key-of-anybody",
        handshake: tuple[str, ...] = HANDSHAKE,
    ) -> None:
        """Send the client's handshake."""
        shown = [f"api-key: {key}"] if key is not None else []
        lines = (f"GET {path} HTTP/1.1", "host: gw", *shown, *handshake, *fields)
        self.here.feed(events.DataReceived(self.here.client, "\r\n".join((*lines, "", "")).encode()))

    def accept(self, host: str, *fields: str) -> None:
        """Have a backend accept the handshake."""
        self.host = host
        lines = (
            "HTTP/1.1 101 Switching Protocols",
            "upgrade: websocket",
            "connection: upgrade",
            f"sec-websocket-accept: {generate_accept_token(KEY).decode()}",
            *fields,
        )
        self._read = len(self.here.sent[f"{host}.example"])
        self.here.answer(host, "\r\n".join((*lines, "", "")).encode())

    def head(self) -> str:
        """Return the head of what the client got, and forget it."""
        head, _, self.here.received = self.here.received.partition(b"\r\n\r\n")
        return head.decode()

    def say(self, **members: Any) -> None:
        """Have the client send a message."""
        self.send(TextMessage(json.dumps(members)))

    def send(self, event: Event) -> None:
        """Have the client send a frame."""
        self.feed(self.client.send(event))

    def feed(self, data: bytes) -> None:
        """Have the client send bytes."""
        self.here.feed(events.DataReceived(self.here.client, data))
        self.here.run_timers()

    def tell(self, **members: Any) -> None:
        """Have the backend send a message."""
        self.reply(TextMessage(json.dumps(members)))

    def reply(self, event: Event) -> None:
        """Have the backend send a frame."""
        self.here.answer(self.host, self.backend.send(event))

    def told(self) -> list[Any]:
        """Return what the client has got since the last look: messages decoded, and closes by their code."""
        data, self.here.received = self.here.received, b""
        return _taken(self.client, data)

    def heard(self) -> list[Any]:
        """Return what the backend has got since the last look."""
        sent = self.here.sent[f"{self.host}.example"]
        data, self._read = sent[self._read :], len(sent)
        return _taken(self.backend, data)


def _taken(socket: Socket, data: bytes) -> list[Any]:
    found: list[Any] = []
    text = ""
    if data:
        socket.receive_data(data)
    for event in socket.events():
        if isinstance(event, Message):
            text += event.data if isinstance(event.data, str) else event.data.decode()
            if event.message_finished:
                found.append(json.loads(text))
                text = ""
        elif isinstance(event, CloseConnection):
            found.append(int(event.code))
    return found
