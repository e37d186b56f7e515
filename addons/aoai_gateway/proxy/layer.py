"""The HTTP layer of one client connection.

It differs from mitmproxy's in what replays need:

- Connections that failed or were closed are forgotten, or a refused connect would poison the client's
  keep-alive connection: mitmproxy keeps answering from the stored error.
- A connect has a deadline. It is kept here and not in the stream, which is paused while it waits.
- Events of an abandoned attempt (its connection's end, more of its body) arrive under the id of a stream
  that is already about its next attempt, and events carry no connection; but here it is still known which
  connection an event comes from.
- An exception in a stream fails closed, and one in a connection's own layer ends that connection: mitmproxy
  would leave the client waiting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from aoai_gateway.proxy.http1 import GatewayHttp1Server, Rest
from aoai_gateway.proxy.remains import take_apart
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.stream import GatewayStream
from aoai_gateway.proxy.stream_events import TIMER_SLACK, Connect, Crashed, DeadlinePassed, GatewayLeaves
from aoai_gateway.proxy.upstream import connection_layers
from aoai_gateway.runtime.connections import RESERVE_SECONDS
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.usage.early import EarlyAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mitmproxy.connection import Connection
    from mitmproxy.proxy.layer import CommandGenerator, Layer

    from aoai_gateway.proxy.delivery import Taken
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.wire.gateway_error import GatewayError

RESPONSE_EVENTS = (
    http_layers.ResponseHeaders,
    http_layers.ResponseData,
    http_layers.ResponseTrailers,
    http_layers.ResponseEndOfMessage,
    http_layers.ResponseProtocolError,
)

BEFORE_HTTP = Rest(-math.inf, unused=True)
"""The rest of a connection in which no HTTP has begun."""


class StreamDeadlines:
    """The time at which each stream of a connection has a step due, in seconds on any monotonic clock.

    mitmproxy's timers cannot be cancelled, and each is a task until it fires. One per request, for a time
    that hardly ever passes, would pile up thousands on a busy keep-alive connection. So a timer that is under
    way is reused for all deadlines after it: when it fires, the streams whose time has come are told, and the
    timer is set anew for the others.
    """

    def __init__(self) -> None:
        self._due: dict[Any, float] = {}
        self._timers: set[float] = set()
        """When the timers under way fire."""

    def set(self, owner: Any, at: float) -> float | None:
        """Set (or move) an owner's deadline. Returns the time for which a timer must be started, if any."""
        self._due[owner] = at
        return self._timer(at)

    def clear(self, owner: Any) -> None:
        """Forget an owner's deadline; its timer fires idly or is used for another."""
        self._due.pop(owner, None)

    def fired(self, now: float) -> tuple[list[Any], float | None]:
        """Return the owners whose time has come, and the time for which the next timer must be started."""
        self._timers = {at for at in self._timers if at > now}
        expired = [owner for owner, at in self._due.items() if at <= now]
        for owner in expired:
            del self._due[owner]
        return expired, self._timer(min(self._due.values(), default=math.inf))

    def _timer(self, at: float) -> float | None:
        if at == math.inf or (self._timers and min(self._timers) <= at):
            return None
        self._timers.add(at)
        return at


class GatewayLayer(HttpLayer):
    """The HTTP layer of a connection whose requests are for the gateway."""

    streams: dict[int, GatewayStream]  # type: ignore[assignment]  # narrower than HttpLayer's

    def __init__(self, context: Context, gateway: Gateway) -> None:
        super().__init__(context, HTTPMode.transparent)
        self._gateway = gateway
        self._deadlines = StreamDeadlines()
        self.clear_deadline: Callable[[Connect | DeadlinePassed], None] = self._deadlines.clear
        self.output = gateway.slow_readers.output(context.client.id)
        """What goes out to the client."""
        self._timers: set[commands.RequestWakeup] = set()
        self._source: Layer | None = None
        """The connection whose events are being processed; None: what happens is a stream's doing."""
        self._guarding = 0
        """How many streams' commands are being processed."""
        self._dead: list[Layer] = []
        """The layers of connections that were forgotten."""

    def __repr__(self) -> str:
        return f"GatewayLayer(conns: {len(self.connections)})"

    # --- events ----------------------------------------------------------------------------------------

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Handle an event; an exception ends the client's connection.

        What the event has sent over one connection goes out in one piece. A read often holds several chunks
        of a stream, and a head comes before its body. Each piece on its own would cost a system call, which
        is more than all the rest that is done with it.
        """
        # Nearly all that ever comes is data, which takes a shorter way.
        child = self.connections.get(event.connection) if type(event) is events.DataReceived else None
        said = self._handle_event(event) if child is None else self.event_to_child(child, event)
        connection: Connection | None = None
        pieces: list[bytes] = []
        try:
            for command in said:
                if isinstance(command, commands.SendData):
                    if command.connection is not connection:
                        if connection is not None:
                            yield self._piece(connection, pieces)
                        connection = command.connection
                    pieces.append(command.data)
                    continue
                if connection is not None:
                    yield self._piece(connection, pieces)
                    connection = None
                yield command
        except Exception as error:
            log_exception("in the HTTP layer; the client's connection was closed.", error)
            yield commands.CloseConnection(self.context.client)
            return
        if connection is not None:
            yield self._piece(connection, pieces)
        if self._dead:
            self._tidy()

    def _tidy(self) -> None:
        """Take apart what is left of connections that are gone. What goes wrong with that costs no call."""
        while self._dead:
            try:
                take_apart(self._dead.pop())
            except Exception as error:
                log_exception("where the rest of a connection is let go of; it stays in memory.", error)

    def _piece(self, connection: Connection, pieces: list[bytes]) -> commands.SendData:
        data = b"".join(pieces)
        pieces.clear()
        if connection is self.context.client:
            self.output.add(len(data))
        return commands.SendData(connection, data)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            client = self.context.client
            if client not in self.connections and client.alpn != b"h2":
                self._gateway.connections.speaks(client.id)
                limits = self._gateway.limits()
                if client.id in self._gateway.connections.reserve:
                    limits = limits.model_copy(update={"head_seconds": RESERVE_SECONDS})
                self.connections[client] = GatewayHttp1Server(
                    self.context.fork(),
                    limits,
                    self._refused,
                    self._gateway.cors,
                    lambda: self._gateway.leaving,
                    self._gateway.clock,
                    lambda: self._gateway.is_reset(client.id),
                )
            if client in self.connections:
                # mitmproxy would make one all the same, and leave it to the garbage collector.
                yield from self.event_to_child(self.connections[client], event)
            else:
                yield from super()._handle_event(event)
        elif isinstance(event, GatewayLeaves):
            for stream in list(self.streams.values()):
                yield from self.event_to_child(stream, event)
        elif isinstance(event, events.Wakeup) and event.command in self._timers:
            self._timers.discard(event.command)
            yield from self._timer_fired()
        elif isinstance(event, events.ConnectionClosed) and event.connection is self.context.client:
            yield from super()._handle_event(event)
            if event.connection.state is ConnectionState.CLOSED:
                self._gateway.slow_readers.closed(self.output)
        elif isinstance(event, events.ConnectionEvent):
            if event.connection in self.connections or event.connection == self.context.server:
                yield from super()._handle_event(event)
            # Else it is the end of a connection that was forgotten.
        elif not isinstance(event, events.CommandCompleted) or event.command in self.command_sources:
            yield from super()._handle_event(event)

    def _refused(self, error: GatewayError) -> None:
        """Write down what is no request."""
        self._gateway.answered_early(EarlyAnswer.refused(error, None, address_of(self.context.client)))

    def event_to_child(self, child: Layer, event: events.Event) -> CommandGenerator[None]:
        """Pass an event on, unless it belongs to an attempt that is over, and carry out what comes of it."""
        stream = child if isinstance(child, GatewayStream) else None
        source = self._source
        if stream is not None:
            if source is not None and isinstance(event, RESPONSE_EVENTS):
                upstream = stream.upstream
                if upstream is None or self.connections.get(upstream) is not source:
                    return
            if isinstance(event, http_layers.RequestProtocolError):
                stream.client_left()
            self._guarding += 1
        # A stream's own commands are no connection's events.
        self._source = child if stream is None else None
        try:
            for command in child.handle_event(event):
                if isinstance(command, commands.SendData):
                    yield command
                elif isinstance(command, http_layers.ReceiveHttp):
                    received = command.event
                    if isinstance(received, http_layers.RequestHeaders):
                        self.streams[received.stream_id] = self._new_stream(received.stream_id)
                    if (receiver := self.streams.get(received.stream_id)) is not None:  # it may be over
                        yield from self.event_to_child(receiver, received)
                elif isinstance(command, http_layers.SendHttp):
                    yield from self.event_to_child(self.connections[command.connection], command.event)
                elif isinstance(command, http_layers.DropStream):
                    self.streams.pop(command.stream_id, None)
                else:
                    yield from self._carry_out(child, command)
        except Exception as error:
            if isinstance(event, Crashed) or (stream is None and self._guarding):
                raise  # a stream has said this to the connection, and is to know
            if stream is not None:
                yield from self.event_to_child(stream, stream.crashed(error))
            else:
                yield from self._connection_crashed(child, error)
        finally:
            self._source = source
            if stream is not None:
                self._guarding -= 1

    def _carry_out(self, child: Layer, command: commands.Command) -> CommandGenerator[None]:
        """Carry out a rarer command, as mitmproxy's HTTP layer does."""
        waits = command.blocking or isinstance(command, commands.RequestWakeup)
        # The layer's own timers are no stream's, which must not stay since it was the one to set them.
        if waits and command not in self._timers:
            self.command_sources[command] = child
        if isinstance(command, Connect):
            yield from self.get_connection(command)
        elif isinstance(command, http_layers.RegisterHttpConnection):
            yield from self.register_connection(command)
        else:
            if isinstance(command, commands.OpenConnection):
                self.connections[command.connection] = child
            yield command

    def _connection_crashed(self, child: Layer, error: Exception) -> CommandGenerator[None]:
        """End a connection in whose layer there was an exception; its end then ends its streams."""
        log_exception("in a connection; it was closed.", error)
        for connection in [connection for connection, layer in self.connections.items() if layer is child]:
            yield commands.CloseConnection(connection)
            if connection in self.waiting_for_establishment:
                failed = http_layers.RegisterHttpConnection(connection, "an exception")
                yield from self.register_connection(failed)

    def _new_stream(self, stream_id: int) -> GatewayStream:
        """Begin a request."""
        # As `Context.fork`, which makes a server's connection, too, that no stream has a use for.
        context = Context.__new__(Context)
        vars(context).update(vars(self.context), layers=self.context.layers.copy())
        return GatewayStream(context, stream_id, self._gateway, self)

    @property
    def has_lane(self) -> bool:
        """Whether a stream has a short way for what its backend sends."""
        return any(stream.lane is not None for stream in self.streams.values())

    def take(self, data: bytes, connection: Connection) -> Taken | None:
        """Have a read of a backend's socket taken by the stream that it is for, if that has a short way.

        None: it has not, and the read has to come as an event.
        """
        for stream in self.streams.values():
            if stream.lane is not None and stream.upstream is connection and connection in self.connections:
                client = self.context.client
                taken = stream.lane.take(data, client, self.connections.get(client))
                if taken is not None and taken.sent:
                    self.output.add(len(taken.sent))
                return taken
        return None

    @property
    def rest(self) -> Rest | None:
        """Since when the client's connection waits for a request; None: one is under way."""
        server = self.connections.get(self.context.client)
        if server is None:
            return BEFORE_HTTP
        return server.rest if isinstance(server, GatewayHttp1Server) else None

    # --- connections -----------------------------------------------------------------------------------

    def idle(self, address: tuple[str, int], tls: bool) -> Server | None:
        """Return an open connection to a backend on which nothing is under way, or None."""
        return next(self._idle(address, tls), None)

    def _idle(self, address: tuple[str, int], tls: bool) -> Iterator[Server]:
        for connection in self.connections:
            if (
                isinstance(connection, Server)
                and connection.address == address
                and connection.connected
                and connection.tls is tls
                and not connection.error
                and connection not in self.waiting_for_establishment
            ):
                yield connection

    def get_connection(
        self, event: http_layers.GetHttpConnection, *, reuse: bool = True
    ) -> CommandGenerator[None]:
        """Open a connection; it has a deadline."""
        assert isinstance(event, Connect)
        self._forget_dead_connections()
        for connection in list(self._idle(event.address, event.tls)):
            # mitmproxy lets a client have five connections to an address; the next one would wait for ever.
            yield commands.CloseConnection(connection)
        context = self.context.fork()
        layer = connection_layers(context, event.address, event.tls, fresh=event.fresh)
        event.opening = context.server
        self.connections[context.server] = layer
        self.waiting_for_establishment[context.server].append(event)
        yield from self.set_deadline(event, self._gateway.clock.monotonic() + event.seconds)
        yield from self.event_to_child(layer, events.Start())

    def register_connection(self, command: http_layers.RegisterHttpConnection) -> CommandGenerator[None]:
        """Tell the streams that wait for a connection what became of it."""
        for waiting in self.waiting_for_establishment.get(command.connection, ()):
            self._deadlines.clear(waiting)
        yield from super().register_connection(command)

    def _forget_dead_connections(self) -> None:
        dead = [
            connection
            for connection in self.connections
            if connection is not self.context.client
            and connection not in self.waiting_for_establishment
            and (connection.error or connection.state is ConnectionState.CLOSED)
        ]
        for connection in dead:
            # Later: it may be its very end that is being handled.
            self._dead.append(self.connections.pop(connection))

    # --- time ------------------------------------------------------------------------------------------

    def set_deadline(self, owner: Connect | DeadlinePassed, at: float) -> CommandGenerator[None]:
        """Have something told when its time has come (monotonic seconds)."""
        timer_at = self._deadlines.set(owner, at)
        if timer_at is not None:
            yield self._timer(timer_at)

    def _timer(self, at: float) -> commands.RequestWakeup:
        timer = commands.RequestWakeup(max(0.0, at - self._gateway.clock.monotonic()))
        self._timers.add(timer)
        return timer

    def _timer_fired(self) -> CommandGenerator[None]:
        expired, timer_at = self._deadlines.fired(self._gateway.clock.monotonic() + TIMER_SLACK)
        if timer_at is not None:
            yield self._timer(timer_at)
        for owner in expired:
            if isinstance(owner, Connect):
                if owner.opening is not None and owner.opening in self.waiting_for_establishment:
                    owner.timed_out = True
                    yield commands.CloseConnection(owner.opening)
            elif isinstance(owner, DeadlinePassed) and owner.stream_id in self.streams:
                yield from self.event_to_child(self.streams[owner.stream_id], owner)
