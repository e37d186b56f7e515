"""The opening of a session whose first message asks for something, as the body of a request does.

Such a client has its handshake accepted by the gateway itself: which deployment it wants, only its first
message says. That goes to the engine; until a backend has begun to answer it, everything can be replayed.
What the client says meanwhile waits.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.proxy.layers.http import RequestData, ResponseData, ResponseHeaders, ResponseProtocolError
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from aoai_gateway.proxy.heads import HeaderIndex
from aoai_gateway.proxy.http1 import BROKEN_OFF
from aoai_gateway.proxy.session_side import MOST_PARTS, TURN_SECONDS, Side
from aoai_gateway.wire import session_messages
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.secrets import PROTOCOLS, without_secret_protocols

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.stream_context import StreamContext

MOST_MALFORMED = 8
"""Messages that cannot be the first one; with the last of them the client is left."""


class SessionOpening:
    """One session, until it is one. ``opened_by``: the type of the first message."""

    def __init__(self, here: StreamContext, opened_by: str) -> None:
        assert here.accepted is not None
        self._here = here
        self._opened_by = opened_by
        self._limits = here.accepted.setup.config.limits
        self.side = Side(ConnectionType.SERVER, "client")
        self.first: bytes | None = None
        """The first message, once it has come."""
        self.later: list[tuple[bytes, bool]] = []
        """Messages that came with it, and whether each is text."""
        self._malformed = 0
        """How many messages have come that cannot be the first one."""
        self.waiting = bytearray()
        """What the client has sent since."""

    @property
    def with_status(self) -> bool:
        """Whether errors are told with the status that an answer would have had."""
        return self._opened_by == "response.create"

    def accept(self) -> CommandGenerator[None]:
        """Accept the client's handshake, and wait for its first message."""
        here, head = self._here, HeaderIndex(self._here.flow.request.data.headers.fields)
        key = (head.get("sec-websocket-key") or "").encode()
        response = http.Response.make(101)
        response.headers.clear()
        response.headers["sec-websocket-accept"] = generate_accept_token(key).decode()
        # A browser that offers subprotocols fails without one of them (RFC 6455 §4.1).
        first = without_secret_protocols(head.get(PROTOCOLS) or "").partition(",")[0].strip()
        if first:
            response.headers[PROTOCOLS] = first
        yield here.send(ResponseHeaders(here.id, response, False))
        yield from here.set_deadline(here.now() + self._limits.session_idle_seconds)

    def receive(self, event: RequestData) -> CommandGenerator[bool]:
        """Take in what the client has sent. Whether its first message is there."""
        limit = self._limits.message_mb * 1024 * 1024
        if self.first is not None:
            self.waiting += event.data
            if len(self.waiting) > limit:
                yield from self.refuse(session_messages.message_too_large(limit))
            return False
        turn = self._here.now()
        self.side.socket.receive_data(event.data)
        for each in self.side.socket.events():
            if self._here.now() - turn > TURN_SECONDS:
                yield from self._here.wait_for(asyncio.sleep(0))
                turn = self._here.now()
            if self.side.socket.state is not ConnectionState.OPEN and not isinstance(each, CloseConnection):
                return False  # it was refused meanwhile
            if isinstance(each, Ping):
                yield from self._send(each.response())
            elif isinstance(each, CloseConnection):
                yield from self.close(each.code)
                return False
            elif isinstance(each, BytesMessage):
                yield from self.refuse(session_messages.message_not_text())
                return False
            elif isinstance(each, Message):
                self.side.take(each.data)
                if self.side.size > limit or len(self.side.parts) > MOST_PARTS:
                    yield from self.refuse(session_messages.message_too_large(limit))
                    return False
                if each.message_finished:
                    yield from self._take(self.side.whole(), text=isinstance(each, TextMessage))
        return self.first is not None

    def _take(self, content: bytes, *, text: bool) -> CommandGenerator[None]:
        if self.first is not None:
            self.later.append((content, text))
            return
        # A large one is looked at where it is read. It is the first message that opens the session.
        begin = content[:1024] if text else b""
        if f'"{self._opened_by}"'.encode() in begin or (text and len(content) > len(begin)):
            self.first = content
            return
        error = session_messages.message_malformed(
            f"The first message must be of the type {self._opened_by}."
        )
        self._malformed += 1
        if self._malformed < MOST_MALFORMED:
            yield from self._tell(error)
        else:
            yield from self.refuse(error)

    def refuse(self, error: GatewayError) -> CommandGenerator[None]:
        """Tell the client why there is no session, and close it."""
        yield from self._tell(error)
        yield from self.close(session_messages.close_code(error))

    def answer(self, response: http.Response) -> CommandGenerator[None]:
        """Tell the client of the answer that its first message got instead of a session, and close it."""
        try:
            told = json.loads(response.raw_content or b"")
        except ValueError:
            told = {}
        error = told.get("error") if isinstance(told, dict) else None
        fields = error if isinstance(error, dict) else {}
        hints = ("retry-after", "retry-after-ms")
        headers = tuple(field for field in response.headers.items() if field[0].lower() in hints)
        status = response.status_code
        if status == 101 and isinstance(said := told.get("status"), int):
            status = said  # a backend's, within its session
        yield from self.refuse(
            GatewayError(
                status,
                str(fields.get("code") or status),
                str(fields.get("message") or "The session could not be opened."),
                type=str(fields.get("type") or "server_error"),
                param=fields.get("param") if isinstance(fields.get("param"), str) else None,
                headers=headers,
            )
        )

    def close(self, code: int | None) -> CommandGenerator[None]:
        """Close the client's connection."""
        here = self._here
        yield from self._send(CloseConnection(code or session_messages.POLICY_VIOLATION, ""))
        yield here.send(ResponseProtocolError(here.id, "there is no session", BROKEN_OFF))

    def _tell(self, error: GatewayError) -> CommandGenerator[None]:
        yield from self._send(
            TextMessage(session_messages.error_message(error, with_status=self.with_status))
        )

    def _send(self, event: Event) -> CommandGenerator[None]:
        if self.side.socket.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            data = self.side.socket.send(event)
            yield self._here.send(ResponseData(self._here.id, data))
