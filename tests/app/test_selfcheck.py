"""The check at start, and the contracts behind it: what the layers rely on inside mitmproxy."""

from __future__ import annotations

import inspect

import pytest
from mitmproxy import http, version
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers import http as layers
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    Http1Server,
    HttpLayer,
    HTTPMode,
    ReceiveHttp,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.test import tflow, tutils

from aoai_gateway.app import selfcheck
from aoai_gateway.proxy.upstream import BackendHttp1Client
from aoai_gateway.runtime.stream_hooks import GatewayAskHook, GatewayAttemptFailedHook, GatewayCallEndedHook

# --- the self-check ----------------------------------------------------------------------------------


def test_the_installed_mitmproxy_is_one_that_we_know() -> None:
    assert selfcheck.problems() == []


def test_an_unknown_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "VERSION", "13.0.0")
    (problem,) = selfcheck.problems()
    assert "13.0.0" in problem
    assert "12.2." in problem


def test_a_missing_part_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(layers.HttpLayer, "register_connection")
    (problem,) = selfcheck.problems()
    assert "HttpLayer.register_connection" in problem


def test_a_changed_part_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.HttpLayer, "get_connection", lambda self: None)
    (problem,) = selfcheck.problems()
    assert "HttpLayer.get_connection" in problem


def test_missing_state_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(layer.Layer.__annotations__, "_paused_event_queue")
    (problem,) = selfcheck.problems()
    assert "Layer._paused_event_queue" in problem


# --- contracts: HTTP/1 towards a backend -------------------------------------------------------------


class Backend:
    """The HTTP/1 client layer with a request under way."""

    def __init__(self) -> None:
        ctx = context.Context(tflow.tclient_conn(), Options())
        ctx.server = self.server = Server(address=("a.example", 80))
        self.server.state = ConnectionState.OPEN
        self.client = BackendHttp1Client(ctx)
        self.commands: list[commands.Command] = []
        self.feed(events.Start())
        self.request(1)

    def feed(self, event: events.Event) -> None:
        self.commands += self.client.handle_event(event)

    def request(self, stream_id: int) -> None:
        self.feed(RequestHeaders(stream_id, tutils.treq(), True))
        self.feed(RequestEndOfMessage(stream_id))

    def receive(self, data: bytes) -> None:
        self.feed(events.DataReceived(self.server, data))

    def closed(self) -> None:
        self.server.state = ConnectionState.CLOSED
        self.feed(events.ConnectionClosed(self.server))

    @property
    def received(self) -> list[layers.HttpEvent]:
        return [c.event for c in self.commands if isinstance(c, ReceiveHttp)]


def test_the_end_of_a_message_comes_before_the_connection_is_reset() -> None:
    """So nothing may be sent on it inside that event: the reset would wipe the new request."""
    backend = Backend()
    backend.receive(b"HTTP/1.1 429 x\r\ncontent-length: 1\r\n\r\n")
    generator = backend.client.handle_event(events.DataReceived(backend.server, b"x"))
    for command in generator:
        if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseEndOfMessage):
            assert backend.client.request is not None
            assert backend.client.stream_id == 1
    assert backend.client.request is None
    assert backend.client.stream_id is None


def test_a_connection_that_ends_before_the_headers_says_so_in_these_words() -> None:
    backend = Backend()
    backend.closed()
    (event,) = backend.received
    assert isinstance(event, ResponseProtocolError)
    assert "closed connection" in event.message


def test_what_is_no_http_is_a_protocol_error() -> None:
    backend = Backend()
    backend.receive(b"SSH-2.0-nonsense\r\n\r\n")
    (event,) = backend.received
    assert isinstance(event, ResponseProtocolError)
    assert "closed connection" not in event.message


def test_a_body_that_breaks_off_is_a_protocol_error_after_its_data() -> None:
    backend = Backend()
    backend.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nxy")
    backend.closed()
    assert [type(e) for e in backend.received] == [ResponseHeaders, ResponseData, ResponseProtocolError]


def test_a_connection_that_ends_while_idle_says_nothing() -> None:
    backend = Backend()
    backend.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    before = len(backend.received)
    backend.closed()
    assert len(backend.received) == before


def test_an_abandoned_request_closes_its_connection() -> None:
    backend = Backend()
    backend.feed(RequestProtocolError(1, "abandoned", ErrorCode.CLIENT_DISCONNECTED))
    assert isinstance(backend.commands[-1], commands.CloseConnection)


# --- contracts: HTTP/1 towards a client --------------------------------------------------------------


def test_an_answer_before_the_end_of_the_body_leaves_the_body_to_be_read() -> None:
    ctx = context.Context(tflow.tclient_conn(), Options())
    server = Http1Server(ctx)
    list(server.handle_event(events.Start()))
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab"
    list(server.handle_event(events.DataReceived(ctx.client, head)))
    early = http.Response.make(413, b"", {"connection": "close"})
    list(server.handle_event(ResponseHeaders(1, early, False)))
    assert not list(server.handle_event(ResponseEndOfMessage(1))), "not closed yet"
    made = list(server.handle_event(events.DataReceived(ctx.client, b"cd")))
    assert any(isinstance(c, commands.CloseConnection) for c in made)


# --- contracts: layers -------------------------------------------------------------------------------


class Pausing(layer.Layer):
    """Yields a blocking command for every event, and notes what it is given."""

    def __init__(self, ctx: context.Context) -> None:
        super().__init__(ctx)
        self.seen: list[events.Event] = []

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        self.seen.append(event)
        yield commands.OpenConnection(self.context.server)


def test_a_paused_layer_queues_what_comes() -> None:
    """So the client's hang-up has to be looked for in the queue."""
    ctx = context.Context(tflow.tclient_conn(), Options())
    pausing = Pausing(ctx)
    (opening,) = pausing.handle_event(events.Start())
    gone = events.ConnectionClosed(ctx.client)
    assert list(pausing.handle_event(gone)) == []
    assert list(pausing._paused_event_queue) == [gone]
    assert isinstance(opening, commands.OpenConnection)
    list(pausing.handle_event(events.OpenConnectionCompleted(opening, None)))
    assert pausing.seen[-1] is gone


def test_a_wakeup_comes_back_with_its_command() -> None:
    timer = commands.RequestWakeup(0)
    assert events.Wakeup(timer).command is timer
    assert issubclass(events.Wakeup, events.CommandCompleted)
    assert not timer.blocking


@pytest.mark.parametrize("hook", [GatewayAskHook, GatewayAttemptFailedHook, GatewayCallEndedHook])
def test_a_hook_has_one_argument_and_a_name_of_its_class(hook: type[commands.StartHook]) -> None:
    made = hook("data")  # type: ignore[call-arg]
    assert made.args() == ["data"]
    words = hook.__name__.removesuffix("Hook")
    assert made.name == "".join("_" + c.lower() if c.isupper() else c for c in words).lstrip("_")
    assert made.blocking is (hook is GatewayAskHook)


def test_a_connection_that_failed_is_remembered_by_mitmproxy() -> None:
    """It answers from the stored error for ever; this is why ours forgets dead connections."""
    source = inspect.getsource(HttpLayer.get_connection)
    assert "connection.error" in source


def test_streams_are_found_by_their_id() -> None:
    ctx = context.Context(tflow.tclient_conn(), Options())
    made = HttpLayer(ctx, HTTPMode.transparent)
    assert (made.streams, made.connections, made.command_sources) == ({}, {}, {})
    assert dict(made.waiting_for_establishment) == {}


def test_events_carry_no_connection() -> None:
    """So the layer has to know whose they are; the day they do, it need not."""
    assert set(vars(ResponseEndOfMessage(1))) == {"stream_id"}
    assert SendHttp(ResponseEndOfMessage(1), tflow.tserver_conn()).connection is not None
