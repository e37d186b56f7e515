"""A session of messages: a WebSocket from its handshake to its close, between a client and a backend.

The backend has accepted the handshake, so nothing is replayed any more. Messages go from one side to the
other as they come, whole: those that other addons see and edit, and those in which the gateway replaces the
names of deployments. Each response is booked by itself (:mod:`~aoai_gateway.engine.session_quota`).

mitmproxy's own layer for WebSockets is not used. It puts no bound on a message, joins its parts in a time
that grows with their square, takes all that came at once before anything else has its turn, and tells a
client that a broken session had ended well. Its events and its display of messages are.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from mitmproxy.proxy import layers
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    HttpResponseHeadersHook,
    HttpResponseHook,
    RequestData,
    ResponseData,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.websocket import WebSocketData, WebSocketMessage
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.frame_protocol import Opcode
from wsproto.utilities import LocalProtocolError

from aoai_gateway.engine.effects import ClientGone, Ended, Result
from aoai_gateway.proxy.http1 import BROKEN_OFF
from aoai_gateway.proxy.session_meaning import Passed, SessionMeaning
from aoai_gateway.proxy.session_side import FRAME, MOST_PARTS, TURN_SECONDS, Preamble, Side, pieces
from aoai_gateway.wire import session_messages
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.masking import Screen, masked

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.engine.session_quota import SessionQuota
    from aoai_gateway.proxy.downstream_response import DownstreamResponse
    from aoai_gateway.proxy.engine_driver import EngineDriver
    from aoai_gateway.proxy.session_opening import SessionOpening
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt

MOST_KEPT, FIRST_KEPT = 32 * 1024 * 1024, 20
"""Bytes of messages that a flow keeps to be looked at, beside its first messages."""

LOOK_SECONDS = 300.0
"""How often a session is looked at in which nothing is due."""

IN_ORDER = (1000, 1001)
"""Close codes of a session that has ended well (RFC 6455 §7.4.1)."""

UNSPEAKABLE = (1005, 1006, 1015)
"""Close codes that stand for the lack of one, and are not to be sent."""


class MessageSession:
    """One session."""

    def __init__(
        self,
        here: StreamContext,
        attempt: UpstreamAttempt,
        response: DownstreamResponse,
        driver: EngineDriver,
        opening: SessionOpening | None = None,
    ) -> None:
        assert here.call is not None and here.call.attempt is not None
        self._here = here
        self._call = here.call
        self._attempt = attempt
        self._response = response
        self._driver = driver
        self._opening = opening
        preamble = attempt.received.preamble if attempt.received is not None else None
        self.client = Side(ConnectionType.SERVER, "client") if opening is None else opening.side
        self.backend: Side = Side(ConnectionType.CLIENT, "backend") if preamble is None else preamble
        self._is_of_responses = opening is not None and opening.with_status
        self._limits = here.call.setup.config.limits
        self._begun = self._heard = self._turn = here.now()
        self._kept = 0
        """Bytes of the messages on the flow."""
        self._leaving = False
        self._quota: SessionQuota
        self._meaning: SessionMeaning
        self.result: Result | None = None
        """How it has ended, once it has."""

    # --- begin and end ---------------------------------------------------------------------------------

    def begin(self) -> CommandGenerator[None]:
        """Accept the client's handshake."""
        here, response = self._here, self._here.flow.response
        assert response is not None
        quota = yield from self._driver.begin_session(asked=self._opening is not None)
        self._quota = quota
        self._meaning = SessionMeaning(here, self._driver, quota, of_responses=self._is_of_responses)
        self._response.accept(self._call)
        here.flow.websocket = WebSocketData()
        for hook in (HttpResponseHeadersHook, HttpResponseHook):
            yield from here.tell(hook)
        if self._opening is None:
            yield here.send(ResponseHeaders(here.id, response, False))
        yield from here.tell(layers.websocket.WebsocketStartHook)
        yield from self.watch()
        if self._opening is not None:
            yield from self._take_over(self._opening)
        if here.gateway.sessions_end and self.result is None:
            yield from self.leave(at_once=False)

    def _take_over(self, opening: SessionOpening) -> CommandGenerator[None]:
        """Go on with what has come before there was a session; the backend has the first message already."""
        session, backend = self._call.session, self.backend
        assert session is not None and opening.first is not None and isinstance(backend, Preamble)
        session.messages_in += 1
        yield from self._show(WebSocketMessage(Opcode.TEXT, True, opening.first, self._here.clock.time()))
        for side, messages in ((backend, backend.held), (self.client, opening.later)):
            for content, text in messages:
                if self.result is None:
                    yield from self._message(side, content, text=text)
            messages.clear()
        if backend.closed is not None and self.result is None:
            yield from self._closed(backend, backend.closed)
        if opening.waiting and self.result is None:
            yield from self.receive(self.client, bytes(opening.waiting))
            opening.waiting.clear()

    def watch(self) -> CommandGenerator[None]:
        """Look again when the session may have lasted, or been silent, for too long."""
        # mitmproxy closes a connection in which nothing happens for ten minutes; to look counts.
        soon = self._here.now() + LOOK_SECONDS
        yield from self._here.set_deadline(min(self._ends_at, self._silent_at, soon))

    @property
    def _ends_at(self) -> float:
        return self._begun + self._limits.session_seconds

    @property
    def _silent_at(self) -> float:
        return self._heard + self._limits.session_idle_seconds

    def overdue(self) -> CommandGenerator[None]:
        """End the session if it has lasted, or been silent, for too long."""
        now = self._here.now()
        if now >= self._ends_at:
            seconds = self._limits.session_seconds
            yield from self._end(
                session_messages.session_expired(f"The session has lasted for {seconds:,.0f} s.")
            )
        elif now >= self._silent_at:
            seconds = self._limits.session_idle_seconds
            yield from self._end(session_messages.session_expired(f"Nothing was said for {seconds:,.0f} s."))
        else:
            yield from self.watch()

    def leave(self, *, at_once: bool) -> CommandGenerator[None]:
        """End the session since the gateway ends: now, or when the response under way has come."""
        self._leaving = True
        if at_once or self._quota.is_idle:
            yield from self._end(session_messages.session_moved())

    def flooded(self) -> CommandGenerator[None]:
        """End the session: its client sends faster than its messages are taken."""
        yield from self._end(session_messages.message_too_large(self._limits.message_mb * 1024 * 1024))

    def client_gone(self) -> CommandGenerator[None]:
        """Take in that the client's connection has ended without a close."""
        yield from self._send(self.backend, CloseConnection(1001, ""))
        yield from self._over(1006, "", self.client)
        self.result = ClientGone(self._here.now(), self._ended(), self._here.layer.output.is_cut)

    def backend_gone(self) -> CommandGenerator[None]:
        """Take in that the backend's connection has ended without a close."""
        error = session_messages.session_disconnected()
        yield from self._tell(error)
        yield from self._send(self.client, CloseConnection(session_messages.close_code(error), error.code))
        yield from self._over(1006, "", self.backend)
        self.result = replace(self._ended(), complete=False, reason="broke off its session")

    def _end(self, error: GatewayError) -> CommandGenerator[None]:
        """End the session for a reason of the gateway's own, which the client is told."""
        if self.result is not None:
            return
        code = session_messages.close_code(error)
        yield from self._tell(error)
        yield from self._send(self.client, CloseConnection(code, error.code))
        yield from self._send(self.backend, CloseConnection(1000, ""))
        yield from self._over(code, error.code, None)
        self.result = replace(self._ended(), error=error)

    def _closed(self, side: Side, event: CloseConnection) -> CommandGenerator[None]:
        """One side has closed the session in good order: so does the other one."""
        code = 1000 if event.code in UNSPEAKABLE else event.code
        if side is self.backend and event.reason:
            reason = masked(event.reason.encode(), self._here.secrets).decode(errors="replace")
            event = CloseConnection(event.code, reason)
        for each in (self.client, self.backend):
            yield from self._send(each, CloseConnection(code, event.reason))
        yield from self._over(event.code, event.reason or "", side)
        self.result = self._ended()
        if side is self.backend and event.code not in IN_ORDER:
            reason = f"closed its session with {int(event.code)}"
            self.result = replace(self.result, complete=False, reason=reason)

    def _over(self, code: int, reason: str, side: Side | None) -> CommandGenerator[None]:
        """Close both connections, and note how it came to that. ``side``: which one did it; None: we."""
        here, session, data = self._here, self._call.session, self._here.flow.websocket
        assert session is not None and data is not None
        here.clear_deadline()
        session.close_code, session.closed_by = int(code), "gateway" if side is None else side.name
        data.closed_by_client = side is self.client
        data.close_code, data.close_reason = int(code), reason
        data.timestamp_end = here.clock.time()
        yield from self._attempt.abandon()
        # A client that has still something to say would not read the close if its connection were cut now.
        last_word = ErrorCode.PASSTHROUGH_CLOSE if side is self.client else BROKEN_OFF
        yield here.send(ResponseProtocolError(here.id, "the session is over", last_word))
        yield from self._driver.book(self._quota.end(here.now()))

    def _ended(self) -> Ended:
        session = self._call.session
        assert session is not None
        return Ended(
            self._here.now(),
            complete=True,
            first_content=self._call.first_content,
            usage=self._quota.usage,
            model=self._meaning.names.model,
            made=tuple(self._meaning.made),
            finish_reason=str(session.close_code) if session.close_code else None,
        )

    # --- what comes ------------------------------------------------------------------------------------

    def inject(self, message: WebSocketMessage) -> CommandGenerator[None]:
        """Take in a message that a user has made up for one of the sides."""
        side = self.client if message.from_client else self.backend
        yield from self._message(side, message.content, text=message.is_text, injected=True)

    def receive(self, side: Side, data: bytes) -> CommandGenerator[None]:
        """Take in what one of the sides has sent."""
        self._heard = self._turn = self._here.now()
        limit = self._limits.message_mb * 1024 * 1024
        side.socket.receive_data(data)
        for event in side.socket.events():
            if isinstance(event, BytesMessage) and side is self.client:
                yield from self._end(session_messages.message_not_text())
            elif isinstance(event, Message):
                side.take(event.data)
                if side.size > limit or len(side.parts) > MOST_PARTS:
                    yield from self._end(session_messages.message_too_large(limit))
                elif event.message_finished:
                    yield from self._message(side, side.whole(), text=isinstance(event, TextMessage))
            elif isinstance(event, Ping | Pong):
                payload = bytes(event.payload)
                if side is self.backend:
                    payload = masked(payload, self._here.secrets)
                yield from self._send(self._other(side), type(event)(payload))
            elif isinstance(event, CloseConnection):
                yield from self._closed(side, event)
            if self.result is not None:
                return
            yield from self._give_way()

    def _other(self, side: Side) -> Side:
        return self.backend if side is self.client else self.client

    def _message(
        self, side: Side, content: bytes, *, text: bool, injected: bool = False
    ) -> CommandGenerator[None]:
        """Pass a message on, after the addons that look at it have."""
        session, from_client = self._call.session, side is self.client
        assert session is not None
        is_ours = False
        """Whether it is not the client's business."""
        if from_client:
            session.messages_in += 1
        else:
            session.messages_out += 1
            content = yield from self._masked(content)
            told = (yield from self._meaning.told(content)) if text else Passed(content)
            yield from self._heed(told)
            if self.result is not None:
                return
            is_ours, content = told.content is None, told.content or content
        message = WebSocketMessage(
            Opcode.TEXT if text else Opcode.BINARY,
            from_client,
            content,
            self._here.clock.time(),
            injected=injected,
            dropped=is_ours,
        )
        yield from self._show(message)
        if self._here.is_killed():
            yield from self._end(session_messages.session_expired("The session was ended by hand."))
            return
        passed: bytes | None = None if message.dropped else message.content
        if from_client and passed is not None and text:
            asked = yield from self._meaning.asked(passed)
            yield from self._heed(asked)
            passed = asked.content
        if passed is not None and self.result is None:
            yield from self._pass_on(self._other(side), passed, text=text)
        if self._leaving and not from_client:
            yield from self.leave(at_once=False)

    def _heed(self, passed: Passed) -> CommandGenerator[None]:
        """Tell the client what stands against a message, and end the session if that is its end."""
        if passed.error is not None:
            yield from self._tell(passed.error)
        if passed.refusal is not None:
            yield from self._over_quota(passed.refusal, passed.response)

    def _show(self, message: WebSocketMessage) -> CommandGenerator[None]:
        """Let other addons see a message, where there are any."""
        heard, flow = self._here.gateway.heard.events, self._here.flow
        data = flow.websocket
        assert data is not None
        if not any(f"websocket_{event}" in heard for event in ("message", "end")):
            return
        data.messages.append(message)
        self._kept += len(message.content)
        gone = 0
        while self._kept > MOST_KEPT and len(data.messages) > FIRST_KEPT + 1:
            self._kept -= len(data.messages.pop(FIRST_KEPT).content)
            gone += 1
        if gone:
            already = flow.metadata.get("gateway_messages_gone", 0)
            flow.metadata["gateway_messages_gone"] = already + gone
        yield from self._here.tell(layers.websocket.WebsocketMessageHook)

    def _masked(self, content: bytes) -> CommandGenerator[bytes]:
        """Mask secrets in a backend's message; a large one in pieces, so that others have their turn."""
        if len(content) <= FRAME:
            return masked(content, self._here.secrets)
        screen = Screen(*self._here.secrets)
        pieces = []
        for start in range(0, len(content), FRAME):
            pieces.append(screen.feed(content[start : start + FRAME]))
            yield from self._give_way()
        return b"".join([*pieces, screen.finish()])

    def _give_way(self) -> CommandGenerator[None]:
        """Let others have their turn, if this session has had its own."""
        if self._here.now() - self._turn > TURN_SECONDS:
            yield from self._here.wait_for(asyncio.sleep(0))
            self._turn = self._here.now()

    def _over_quota(self, refusal: GatewayError, response: str | None) -> CommandGenerator[None]:
        """End the session, or only the response that does not fit the client's quota."""
        if not self._quota.pauses:
            yield from self._end(refusal)
            return
        yield from self._tell(refusal)
        if response is not None:
            yield from self._pass_on(self.backend, session_messages.cancel(response), text=True)

    # --- what goes out ---------------------------------------------------------------------------------

    def _tell(self, error: GatewayError) -> CommandGenerator[None]:
        """Tell the client of an error, in the words of its SDK."""
        text = session_messages.error_message(error, with_status=self._is_of_responses)
        yield from self._send(self.client, TextMessage(text))
        message = WebSocketMessage(Opcode.TEXT, False, text.encode(), self._here.clock.time(), injected=True)
        yield from self._show(message)

    def _pass_on(self, side: Side, content: bytes, *, text: bool) -> CommandGenerator[None]:
        """Send a message, in frames of a size that nothing else has to wait for."""
        yield from self._give_way()
        for piece in pieces(content, text=text):
            yield from self._send(side, piece)
            yield from self._give_way()

    def _send(self, side: Side, event: Event) -> CommandGenerator[None]:
        """Send a frame to a side, unless that has closed."""
        socket = side.socket
        closes = isinstance(event, CloseConnection)
        if socket.state is not ConnectionState.OPEN and not (
            closes and socket.state is ConnectionState.REMOTE_CLOSING
        ):
            return
        try:
            data = socket.send(event)
        except LocalProtocolError:
            return  # it closes just now
        if side is self.client:
            yield self._here.send(ResponseData(self._here.id, data))
        elif self._attempt.server is not None:
            yield SendHttp(RequestData(self._here.id, data), self._attempt.server)
