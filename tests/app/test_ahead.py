"""A connection that is opened ahead: its handshake, its end, and how a client's call gets it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.addons import tlsconfig
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server import ConnectionHandler, SimpleConnectionHandler
from mitmproxy.test import taddons
from OpenSSL import SSL

from aoai_gateway.app import ahead, connection_ends
from aoai_gateway.app.ahead import AheadConnection, open_ahead
from tests.e2e.certificates import Certificates, make

SECONDS = 50.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("tls"))


def story(run: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(run, 2 * SECONDS))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, which sets no event
            await asyncio.sleep(0.005)


@dataclass
class Backend:
    """A server that shakes hands, and then does what a test says."""

    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    read: list[bytes] = field(default_factory=list)
    ended: int = 0


@asynccontextmanager
async def backend(
    made: Certificates | None,
    *,
    options: dict[str, Any] | None = None,
    prepared: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Backend]:
    """Run one, and a mitmproxy that trusts it; without certificates, it says nothing."""
    found = Backend(0)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                found.read.append(data)
        found.ended += 1
        writer.close()

    if made is not None and prepared is None:
        prepared = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        prepared.load_cert_chain(made.certificate, made.private_key)
    server = await asyncio.start_server(accept, host, 0, ssl=prepared)
    found.port = server.sockets[0].getsockname()[1]
    with taddons.context(tlsconfig.TlsConfig()) as tctx:
        trusted = {"ssl_verify_upstream_trusted_ca": str(made.ca)} if made is not None else {}
        tctx.options.update(**{**trusted, **(options or {})})
        try:
            yield found
        finally:
            for writer in found.writers:
                writer.close()
            server.close()


def plaintext(tls: SSL.Connection) -> bytes:
    with contextlib.suppress(SSL.WantReadError):
        return tls.recv(65536)
    return b""


# --- by itself -----------------------------------------------------------------------------------------


def test_it_shakes_hands_and_says_no_more(made: Certificates) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            connection = await open_ahead(("localhost", behind.port), SECONDS)
            await until(lambda: behind.writers)
            behind.writers[0].write(b"")
            assert connection.is_open()
            assert connection.tls.get_protocol_version_name() == "TLSv1.3"
            certificate = connection.tls.get_peer_certificate()
            assert certificate is not None
            # A session's tickets come after the handshake; they are read, and are no reason to let go of it.
            await until(lambda: connection.tls.get_session() is not None and not connection.has_unread())
            assert behind.read == []
            connection.close()
            await until(lambda: behind.ended == 1)
            assert behind.read == []
            assert not connection.is_open()
            connection.close()

    story(run())


def test_given_away_it_carries_what_the_new_holder_sends(made: Certificates) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            connection = await open_ahead(("localhost", behind.port), SECONDS)
            reader, writer = connection.hand_over()
            connection.tls.sendall(b"question")
            writer.write(connection.tls.bio_read(65536))
            await until(lambda: behind.read == [b"question"])
            behind.writers[0].write(b"answer")
            # The tickets of the session may come before it.
            while not (text := plaintext(connection.tls)):
                connection.tls.bio_write(await reader.read(65536))
            assert text == b"answer"
            writer.close()
            await until(lambda: behind.ended == 1)

    story(run())


@pytest.mark.parametrize("way", ["ends", "resets", "speaks"])
def test_it_ends_with_a_backend_that_does_not_wait(made: Certificates, way: str) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            connection = await open_ahead(("localhost", behind.port), SECONDS)
            await until(lambda: behind.writers)
            writer = behind.writers[0]
            if way == "ends":
                writer.close()
            elif way == "resets":
                writer.transport.abort()
            else:
                writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await until(lambda: not connection.is_open())
            await until(lambda: behind.ended == 1)
            # One that was closed in the very moment in which it is given away has its end for its holder.
            reader, _ = connection.hand_over()
            assert await asyncio.wait_for(reader.read(10), SECONDS) == b""

    story(run())


def test_what_has_come_and_was_not_looked_at_yet_counts(made: Certificates) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            connection = await open_ahead(("localhost", behind.port), SECONDS)
            await until(lambda: behind.writers and not connection.has_unread())
            assert connection._transport is not None
            connection._transport.pause_reading()
            await until(lambda: not connection.has_unread())
            behind.writers[0].transport.abort()
            await until(connection.has_unread)
            assert connection.is_open()
            connection.close()

    story(run())


def test_a_backend_must_be_who_it_says(made: Certificates, tmp_path: Path) -> None:
    other = make(tmp_path)

    async def run() -> None:
        for options in (
            {"ssl_verify_upstream_trusted_ca": str(other.ca)},
            {"ssl_verify_upstream_trusted_ca": None},
        ):
            async with backend(made, options=options) as behind:
                with pytest.raises(ConnectionError, match="certificate verify failed"):
                    await open_ahead(("localhost", behind.port), SECONDS)
        async with backend(made, host="127.0.0.2") as behind:
            # The certificate is for localhost, 127.0.0.1 and ::1, and for no other.
            with pytest.raises(ConnectionError, match="certificate verify failed"):
                await open_ahead(("127.0.0.2", behind.port), SECONDS)

    story(run())


def test_a_client_certificate_is_shown_where_mitmproxy_has_one(made: Certificates, tmp_path: Path) -> None:
    pem = tmp_path / "client.pem"
    pem.write_bytes(made.private_key.read_bytes() + made.certificate.read_bytes())
    asking = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.ca))
    asking.load_cert_chain(made.certificate, made.private_key)
    asking.verify_mode = ssl.CERT_REQUIRED

    async def run() -> None:
        async with backend(made, options={"client_certs": str(pem)}, prepared=asking) as behind:
            connection = await open_ahead(("localhost", behind.port), SECONDS)
            await until(lambda: behind.writers)
            assert behind.writers[0].get_extra_info("peercert")["subject"]
            connection.close()
        async with backend(made, prepared=asking) as behind:
            # With TLS 1.3, the client's side is done before the server has looked at its certificate.
            with contextlib.suppress(ConnectionError):
                connection = await open_ahead(("localhost", behind.port), SECONDS)
                await until(lambda: not connection.is_open())

    story(run())


def test_a_handshake_has_its_time() -> None:
    async def run() -> None:
        async with backend(None) as behind:
            with pytest.raises(TimeoutError):
                await open_ahead(("127.0.0.1", behind.port), 0.2)
            await until(lambda: behind.ended == 1)

    story(run())


def test_a_handshake_that_is_given_up_leaves_nothing() -> None:
    async def run() -> None:
        async with backend(None) as behind:
            opening = asyncio.create_task(open_ahead(("127.0.0.1", behind.port), SECONDS))
            await until(lambda: behind.read)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled()
            await until(lambda: behind.ended == 1)

    story(run())


def test_a_port_that_nothing_listens_on_is_an_error_of_the_system() -> None:
    async def run() -> None:
        async with backend(None) as behind:
            port = behind.port
        async with backend(None):
            with pytest.raises(OSError, match="Connect call failed"):
                await open_ahead(("127.0.0.1", port), SECONDS)

    story(run())


def test_a_backend_that_does_not_speak_tls_is_one() -> None:
    async def run() -> None:
        async with backend(None) as behind:
            opening = asyncio.create_task(open_ahead(("127.0.0.1", behind.port), SECONDS))
            await until(lambda: behind.writers)
            behind.writers[0].write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(ConnectionError, match="TLS"):
                await opening
            await until(lambda: behind.ended == 1)

    story(run())


# --- in the hands of mitmproxy -------------------------------------------------------------------------


class Scripted(layer.Layer):
    """Opens a connection at the start; writes down what comes."""

    def __init__(self, context: Any, server: Server) -> None:
        super().__init__(context)
        self.server = server
        self.seen: list[events.Event] = []

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        yield from self._handle_event(event)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        self.seen.append(event)
        if isinstance(event, events.Start):
            yield commands.OpenConnection(self.server)
        if isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(event.connection)

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


@dataclass
class Handling:
    """A client before a handler, whose server's connection was opened ahead."""

    handler: ConnectionHandler
    layer: Scripted
    connection: AheadConnection
    hooks: list[str]
    whole: asyncio.Task[None]
    client: asyncio.StreamWriter | None = None


@asynccontextmanager
async def handling(behind: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Handling]:
    """Have mitmproxy handle a client's connection, with eager tasks as it has them."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    for name in ("handle_client", "handle_connection", "open_connection"):
        monkeypatch.setattr(ConnectionHandler, name, getattr(ConnectionHandler, name))
    connection = await open_ahead(("localhost", behind.port), SECONDS)
    connection_ends.install(take=lambda handler, server: connection)
    made: asyncio.Future[Handling] = asyncio.get_running_loop().create_future()
    hooks: list[str] = []

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names = ("server_connect", "server_connected", "server_disconnected", "client_disconnected")
        listening = {name: lambda _, name=name: hooks.append(name) for name in names}
        handler = SimpleConnectionHandler(reader, writer, Options(), ProxyMode.parse("regular"), listening)
        scripted = Scripted(handler.layer.context, Server(address=("localhost", behind.port)))
        handler.layer = scripted
        whole = asyncio.create_task(handler.handle_client())
        made.set_result(Handling(handler, scripted, connection, hooks, whole))

    front = await asyncio.start_server(handle, "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*front.sockets[0].getsockname())
    here = await made
    here.client = client
    try:
        yield here
    finally:
        client.close()
        await asyncio.wait([here.whole], timeout=SECONDS)
        front.close()


def test_mitmproxy_has_it_in_the_place_of_its_own(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with backend(made) as behind, handling(behind, monkeypatch) as here:
            await until(lambda: here.layer.of(events.OpenConnectionCompleted))
            (opened,) = here.layer.of(events.OpenConnectionCompleted)
            server = here.layer.server
            assert opened.reply is None
            assert server.connected
            assert server.peername == ("127.0.0.1", behind.port)
            assert server.timestamp_start is not None
            assert server.timestamp_tcp_setup is not None
            assert server.timestamp_start <= server.timestamp_tcp_setup
            assert len(behind.writers) == 1, "no other one was opened"
            io = here.handler.transports[server]
            here.connection.tls.sendall(b"question")
            assert isinstance(io.writer, asyncio.StreamWriter)
            io.writer.write(here.connection.tls.bio_read(65536))
            await until(lambda: behind.read == [b"question"])
            behind.writers[0].write(b"answer")
            await until(lambda: here.layer.of(events.DataReceived))
            assert here.client is not None
            here.client.close()
            await until(lambda: behind.ended == 1)
            await until(here.whole.done)
            assert server not in here.handler.transports
            assert server.state is ConnectionState.CLOSED
            assert server.timestamp_end is not None
            assert here.hooks[0] == "server_connected"
            assert sorted(here.hooks[1:]) == ["client_disconnected", "server_disconnected"]

    story(run())


def test_one_that_ends_while_it_is_taken_is_an_open_one_that_ends(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            real = ahead.carry

            async def carry(handler: Any, command: Any, connection: AheadConnection) -> None:
                connection.close()
                await real(handler, command, connection)

            monkeypatch.setattr(ahead, "carry", carry)
            async with handling(behind, monkeypatch) as here:
                await until(lambda: here.layer.of(events.ConnectionClosed))
                (opened,) = here.layer.of(events.OpenConnectionCompleted)
                assert opened.reply is None
                (closed,) = here.layer.of(events.ConnectionClosed)
                assert closed.connection is here.layer.server

    story(run())


def test_one_that_is_closed_before_it_was_said_to_be_open_has_an_answer(
    made: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with backend(made) as behind:
            real = ahead.carry

            async def carry(*args: Any) -> None:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await real(*args)

            monkeypatch.setattr(ahead, "carry", carry)
            async with handling(behind, monkeypatch) as here:
                await until(lambda: here.layer.of(events.OpenConnectionCompleted))
                (opened,) = here.layer.of(events.OpenConnectionCompleted)
                assert opened.reply == ahead.GIVEN_UP
                assert here.layer.server.state is ConnectionState.CLOSED
                assert here.layer.server not in here.handler.transports
                await until(lambda: behind.ended == 1)

    story(run())
