"""The steps of a stream that is, or is about to be, a session of messages (a WebSocket).

A stream has these beside its own (:data:`~aoai_gateway.proxy.stream_events.STEPS` names them
``sessions.client`` and so on). What is said in a session is for
:class:`~aoai_gateway.proxy.session.MessageSession`, and before there is one for
:class:`~aoai_gateway.proxy.session_opening.SessionOpening`; here, what comes of it leads the stream on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.proxy.layers.http import HttpResponseHeadersHook, RequestData
from mitmproxy.proxy.layers.websocket import WebsocketEndHook
from wsproto.connection import ConnectionState

from aoai_gateway.engine.effects import ClientGone, Result
from aoai_gateway.proxy.downstream_response import Progress
from aoai_gateway.proxy.session import MessageSession
from aoai_gateway.proxy.session_opening import SessionOpening
from aoai_gateway.proxy.stream_context import Led, StreamPart
from aoai_gateway.proxy.stream_events import State
from aoai_gateway.wire.session_messages import message_too_large, session_expired, session_moved

if TYPE_CHECKING:
    from mitmproxy.proxy import events
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http import ResponseData
    from mitmproxy.proxy.layers.websocket import WebSocketMessageInjected

    from aoai_gateway.proxy.downstream_response import DownstreamResponse
    from aoai_gateway.proxy.engine_driver import EngineDriver
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.proxy.stream_events import GatewayLeaves
    from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
    from aoai_gateway.wire.targets import Target

MOST_AHEAD = 1024 * 1024
"""Bytes that a session's client may send ahead, beside one message, while the session waits for something."""

READ_COSTS = 512
"""Bytes that a read costs beside its content."""


class SessionSteps(StreamPart):
    """The part of a stream that is about its session."""

    def __init__(
        self, here: StreamContext, response: DownstreamResponse, driver: EngineDriver, stream: Led
    ) -> None:
        super().__init__(stream)
        self._here = here
        self._response = response
        self._driver = driver
        self._session: MessageSession | None = None
        self.opening: SessionOpening | None = None
        """Set where the client's first message says what is asked for …"""
        self._opened: Target | None = None
        """… and what its path says."""
        self.ahead = 0
        """Bytes that the client has sent and that were not looked at."""
        self.is_flooded = False
        """Whether these were too many."""

    @property
    def is_any(self) -> bool:
        """Whether the stream is a session, or is to become one."""
        return self._session is not None or self.opening is not None

    @property
    def has_begun(self) -> bool:
        """Whether messages go both ways."""
        return self._session is not None

    # --- what the client sends ahead -------------------------------------------------------------------

    def comes(self, event: RequestData) -> bool:
        """Count what the client has sent. Whether that is, for the first time, too much."""
        self.ahead += len(event.data) + READ_COSTS
        self.is_flooded = self.ahead > self._most_in_one_message + MOST_AHEAD
        return self.is_flooded

    def taken(self, event: RequestData) -> None:
        """Count what is looked at now."""
        self.ahead -= len(event.data) + READ_COSTS

    def forget_ahead(self) -> None:
        """Forget what was not looked at: it is gone."""
        self.ahead = 0

    def refuse_flood(self) -> CommandGenerator[None]:
        """Say so to a client that sends too much before there is a session; a backend may be far off."""
        if self._session is None and self.opening is not None:
            yield from self.opening.refuse(message_too_large(self._most_in_one_message))

    @property
    def _most_in_one_message(self) -> int:
        assert self._here.accepted is not None
        return self._here.accepted.setup.config.limits.message_mb * 1024 * 1024

    # --- the opening -----------------------------------------------------------------------------------

    def open(self, target: Target) -> CommandGenerator[None]:
        """Accept the handshake, and wait for the message that says what is asked for."""
        self.opening = SessionOpening(self._here, target.operation.opened_by)
        self._opened = target
        self._here.gateway.sessions.add(self._here.client.id)
        self._response.progress = Progress.WHOLE
        self._here.state = State.OPENING
        yield from self.opening.accept()
        if self._here.gateway.sessions_end:
            yield from self.opening_leave()

    def opening_data(self, event: RequestData) -> CommandGenerator[None]:
        """The client has sent something, perhaps its first message."""
        assert self.opening is not None and self._opened is not None
        is_open = yield from self.opening.receive(event)
        if self.opening.side.socket.state is not ConnectionState.OPEN:
            yield from self._stream.vanish()
        elif is_open:
            self._here.clear_deadline()
            self._driver.begin(self._opened, self.opening.first)
            yield from self._stream.advance(None)

    def opening_more(self, event: RequestData) -> CommandGenerator[None]:
        """The client has sent more, before a backend has answered its first message."""
        if self.opening is None:
            return
        yield from self.opening.receive(event)
        if self.opening.side.socket.state is not ConnectionState.OPEN:
            yield from self._stream.client_gone(event)

    def opening_overdue(self, _: events.Event) -> CommandGenerator[None]:
        """The client has not said what it wants."""
        assert self.opening is not None
        yield from self.opening.refuse(session_expired("Nothing was said."))
        yield from self._stream.vanish()

    def opening_leave(self, _: events.Event | None = None) -> CommandGenerator[None]:
        """The gateway ends, and the client has not said what it wants."""
        assert self.opening is not None
        yield from self.opening.refuse(session_moved())
        yield from self._stream.vanish()

    def end_opening(self) -> CommandGenerator[None]:
        """Answer the client's first message otherwise than by a session."""
        here, opening = self._here, self.opening
        assert here.call is not None and here.flow.response is not None and opening is not None
        self._response.mark(here.call)
        yield from here.tell(HttpResponseHeadersHook)
        yield from self._response.tell()
        yield from opening.answer(here.flow.response)
        yield from self._stream.vanish()

    # --- the session -----------------------------------------------------------------------------------

    def begin(self, attempt: UpstreamAttempt) -> CommandGenerator[Result | None]:
        """Begin the session that a backend has accepted. Returns the result if it has ended already."""
        here, received = self._here, attempt.received
        assert received is not None
        if here.client_has_gone():
            yield from attempt.abandon()
            return ClientGone(here.now())
        if received.preamble is not None and (rest := attempt.screened_rest()):
            # From here on each message is masked whole.
            received.preamble.feed(rest)
        self._session = MessageSession(here, attempt, self._response, self._driver, self.opening)
        here.gateway.sessions.add(here.client.id)
        yield from self._session.begin()
        self._here.state = State.SESSION
        return self._session.result

    def client(self, event: RequestData) -> CommandGenerator[None]:
        """The client has sent something."""
        yield from self._lead(self._messages.receive(self._messages.client, event.data))

    def backend(self, event: ResponseData) -> CommandGenerator[None]:
        """The backend has sent something."""
        yield from self._lead(self._messages.receive(self._messages.backend, event.data))

    def injected(self, event: WebSocketMessageInjected) -> CommandGenerator[None]:
        """A user has made a message up."""
        yield from self._lead(self._messages.inject(event.message))

    def client_gone(self, _: events.Event) -> CommandGenerator[None]:
        """The client's connection has ended, or it sends more than is taken."""
        messages = self._messages
        yield from self._lead(messages.flooded() if self.is_flooded else messages.client_gone())

    def backend_gone(self, _: events.Event) -> CommandGenerator[None]:
        """The backend's connection has ended."""
        yield from self._lead(self._messages.backend_gone())

    def overdue(self, _: events.Event) -> CommandGenerator[None]:
        """It is time to look how long the session has lasted, or been silent."""
        yield from self._lead(self._messages.overdue())

    def leave(self, event: GatewayLeaves) -> CommandGenerator[None]:
        """The gateway ends."""
        yield from self._lead(self._messages.leave(at_once=event.at_once))

    def tell_end(self) -> CommandGenerator[None]:
        """Let other addons see the session that has ended."""
        yield from self._here.tell(WebsocketEndHook)

    def count_out(self) -> None:
        """Have the gateway count the session no more."""
        if self.is_any:
            self._here.gateway.sessions.discard(self._here.client.id)

    @property
    def _messages(self) -> MessageSession:
        assert self._session is not None
        return self._session

    def _lead(self, step: CommandGenerator[None]) -> CommandGenerator[None]:
        """Take a step of the session, and go on with the engine if that was its end."""
        yield from step
        if self._messages.result is not None:
            yield from self._stream.advance(self._messages.result)
