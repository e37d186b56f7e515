"""Clients that have sent all they will: those that wait get their answers, those that left are gone.

Both send the same, the end of what they send. The backend here answers when the test says so; before that,
the gateway has been told that nothing more will come.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import certificates, json_lines
from tests.e2e.processes import WAIT_SECONDS, Gateway, Host
from tests.e2e.raw import Connection, exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import OK, ScriptedBackend

pytestmark = [pytest.mark.e2e, pytest.mark.each_host]

CHAT = "/openai/v1/chat/completions"
JSON = json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "Hello"}]}).encode()
STREAM = json.dumps({**json.loads(JSON), "stream": True}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BEGIN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"One"}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

VERSIONS = pytest.mark.parametrize("version", ["1.1", "1.0"])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class SlowBackend(ScriptedBackend):
    """Answers a request in two parts, each when it is told to. ``closed`` is set when it is hung up on."""

    def __init__(self) -> None:
        self.parts: tuple[bytes, bytes] = (OK, b"")
        self.repeats = False
        """Whether the second part comes again and again, until it is hung up on."""
        self.asked, self.first, self.second = (threading.Event() for _ in range(3))
        super().__init__()

    def reset(self) -> None:
        for event in (self.asked, self.first, self.second, self.closed):
            event.clear()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while self._request(connection):
                first, second = self.parts
                self.asked.set()
                threading.Thread(target=self._watch, args=(connection,), daemon=True).start()
                self.first.wait(60)
                connection.sendall(first)
                if second:
                    self.second.wait(60)
                    connection.sendall(second)
                while self.repeats:
                    time.sleep(0.02)
                    connection.sendall(second)
                return

    def _watch(self, connection: socket.socket) -> None:
        try:
            is_closed = connection.recv(1) == b""
        except OSError:  # what it sends meanwhile is not read, which makes a reset of the close
            is_closed = True
        if is_closed:
            self.closed.set()


class Running:
    """A gateway before one slow backend."""

    def __init__(self, gateway: Gateway, backend: SlowBackend, usage: Path) -> None:
        self.gateway, self.backend, self._usage = gateway, backend, usage
        self._seen = 0

    def outcome(self) -> str:
        """Wait for the record of the one call since the last time."""
        self._seen += 1
        return str(json_lines.wait_for(self._usage, self._seen)[self._seen - 1]["outcome"])

    def ask(self, body: bytes, version: str = "1.1") -> socket.socket:
        """Send a request, and wait until the backend has it."""
        client = socket.create_connection(("127.0.0.1", self.gateway.port), WAIT_SECONDS)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(post(CHAT, body, key=CLIENT_KEY).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
        assert self.backend.asked.wait(WAIT_SECONDS)
        return client


@contextmanager
def serving(
    host: Host, folder: Path, home: Path, tls: certificates.Certificates | None = None
) -> Iterator[Running]:
    backend, usage = SlowBackend(), folder / "usage.jsonl"
    endpoint = {
        "name": "only",
        "url": f"http://127.0.0.1:{backend.port}",
        "key": "key-of-the-backend",
        "virtual_deployments": [{"name": "gpt", "standins": [{"name": "real"}]}],
    }
    config: dict[str, Any] = {
        "aoai": {"endpoints": [endpoint]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY}],
        "usage_log": str(usage),
    }
    if tls is not None:
        config["listen"] = {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}
    gateway = Gateway(host, config, folder, home=home, ca=tls.ca if tls is not None else None)
    try:
        yield Running(gateway, backend, usage)
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        print(gateway.log)
        gateway.kill()
        backend.close()


@pytest.fixture(scope="module")
def process(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Running]:
    with serving(host, tmp_path_factory.mktemp(f"half-close-{host}"), home) as running:
        yield running


@pytest.fixture
def running(process: Running) -> Iterator[Running]:
    process.backend.reset()
    yield process
    print(process.gateway.log)
    process.backend.parts, process.backend.repeats = (OK, b""), False
    process.backend.first.set()
    process.backend.second.set()
    assert exchange(process.gateway, post(CHAT, JSON, key=CLIENT_KEY)).status == 200
    assert process.outcome() == "ok"


def half_close(client: socket.socket) -> None:
    """End what is sent, and wait until the gateway knows: then it sends the begin of its answer ahead."""
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1, socket.MSG_PEEK) == b"H"


def read(client: socket.socket) -> bytes:
    """Read to the end."""
    got = b""
    while data := client.recv(65536):
        got += data
    return got


@VERSIONS
def test_a_client_that_waits_gets_its_answer(running: Running, version: str) -> None:
    with running.ask(JSON, version) as client:
        half_close(client)
        running.backend.first.set()
        head, _, body = read(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in head
    assert body == b'{"id":"fine"}'
    assert running.outcome() == "ok"


@VERSIONS
def test_it_gets_an_error(running: Running, version: str) -> None:
    said = b'{"error":{"code":"content_filter","message":"no","type":null,"param":null}}'
    running.backend.parts = (b"HTTP/1.1 400 x\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said), b"")
    with running.ask(JSON, version) as client:
        half_close(client)
        running.backend.first.set()
        head, _, body = read(client).partition(b"\r\n\r\n")
    assert (head[:13], body) == (b"HTTP/1.1 400 ", said)
    assert running.outcome() == "ok"


@VERSIONS
def test_it_gets_a_stream(running: Running, version: str) -> None:
    """It closes its side before the stream begins; the stream then pauses, and a comment fills the pause."""
    running.backend.parts = (HEAD + chunk(BEGIN), chunk(END) + b"0\r\n\r\n")
    with running.ask(STREAM, version) as client:
        half_close(client)
        running.backend.first.set()
        got = b""
        while not got.count(b":\n\n"):
            got += client.recv(65536)
        running.backend.second.set()
        got += read(client)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    parts = [BEGIN, *[b":\n\n"] * body.count(b":\n\n"), END]
    if version == "1.1":
        parts = [*(chunk(part) for part in parts), b"0\r\n\r\n"]
    assert body == b"".join(parts)
    assert running.outcome() == "ok"


@VERSIONS
def test_it_closes_its_side_within_a_stream(running: Running, version: str) -> None:
    running.backend.parts = (HEAD + chunk(BEGIN), chunk(END) + b"0\r\n\r\n")
    with running.ask(STREAM, version) as client:
        running.backend.first.set()
        got = b""
        while BEGIN not in got:
            got += client.recv(65536)
        client.shutdown(socket.SHUT_WR)
        while not got.count(b":\n\n"):
            got += client.recv(65536)
        running.backend.second.set()
        got += read(client)
    assert END in got
    assert got.endswith(b"0\r\n\r\n") == (version == "1.1")
    assert running.outcome() == "ok"


def test_all_that_it_has_sent_is_answered(running: Running) -> None:
    """Two requests, and the half of a third one."""
    with Connection(running.gateway) as client:
        request = post(CHAT, JSON, key=CLIENT_KEY)
        client.send(request + request + request[:-1])
        client.finish()
        assert running.backend.asked.wait(WAIT_SECONDS)
        running.backend.first.set()
        replies = [client.reply() for _ in range(3)]
        assert client.rest() == b""
    assert [(reply.status, reply.headers.get("connection")) for reply in replies[:2]] == [(200, None)] * 2
    assert (replies[2].status, replies[2].error["code"]) == (400, "body_malformed")
    assert [running.outcome() for _ in range(2)] == ["ok"] * 2


@VERSIONS
@pytest.mark.parametrize("body", [JSON, STREAM], ids=["json", "stream"])
def test_a_client_that_left_is_gone(running: Running, body: bytes, version: str) -> None:
    running.ask(body, version).close()
    assert running.backend.closed.wait(WAIT_SECONDS)
    assert running.outcome() == "client_gone"


@VERSIONS
def test_a_client_that_leaves_a_silent_stream_is_gone(running: Running, version: str) -> None:
    running.backend.parts = (HEAD + chunk(BEGIN), chunk(END))
    client = running.ask(STREAM, version)
    running.backend.first.set()
    got = b""
    while BEGIN not in got:
        got += client.recv(65536)
    client.close()
    assert running.backend.closed.wait(WAIT_SECONDS)
    assert running.outcome() == "client_gone"


@VERSIONS
def test_a_client_that_leaves_later_is_gone(running: Running, version: str) -> None:
    """It closes one side first, and has read what the gateway sent: its close alone sends no reset."""
    client = running.ask(JSON, version)
    half_close(client)
    assert client.recv(1) == b"H"
    client.close()
    assert running.backend.closed.wait(WAIT_SECONDS)
    assert running.outcome() == "client_gone"


def test_a_client_that_leaves_while_its_stream_flows_is_gone(running: Running) -> None:
    """Nothing is asked: the events that it does not read are enough, and their loss is not the backend's."""
    running.backend.parts = (HEAD + chunk(BEGIN), chunk(BEGIN))
    running.backend.repeats = True
    client = running.ask(STREAM)
    half_close(client)
    running.backend.first.set()
    running.backend.second.set()
    got = b""
    while got.count(b"One") < 2:
        got += client.recv(65536)
    client.close()
    assert running.backend.closed.wait(WAIT_SECONDS)
    assert running.outcome() == "client_gone"


def relay(gateway: Gateway) -> int:
    """Relay one connection as relays of TCP do: the end of one side's data is passed on as that. Its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
            return
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RD)
            each.close()

    def accept() -> None:
        client, _ = listener.accept()
        listener.close()
        server = socket.create_connection(("127.0.0.1", gateway.port))
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def test_a_client_behind_a_relay_that_left_is_gone(running: Running) -> None:
    client = socket.create_connection(("127.0.0.1", relay(running.gateway)), 20)
    client.sendall(post(CHAT, JSON, key=CLIENT_KEY))
    assert running.backend.asked.wait(WAIT_SECONDS)
    client.close()
    assert running.backend.closed.wait(WAIT_SECONDS)
    assert running.outcome() == "client_gone"


@pytest.mark.parametrize("by", ["close_notify", "the end of the connection"])
def test_the_end_of_tls_is_a_hang_up(
    host: Host, tmp_path: Path, home: Path, tls: certificates.Certificates, by: str
) -> None:
    """What protects the answer has ended with it."""
    context = ssl.create_default_context(cafile=tls.ca)
    with serving(host, tmp_path, home, tls) as running:
        plain = socket.create_connection(("127.0.0.1", running.gateway.port), WAIT_SECONDS)
        with plain, context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(post(CHAT, JSON, key=CLIENT_KEY))
            assert running.backend.asked.wait(WAIT_SECONDS)
            if by == "close_notify":
                with suppress(ssl.SSLEOFError):  # the gateway says no farewell
                    client.unwrap()
            else:
                client.shutdown(socket.SHUT_WR)
            assert running.backend.closed.wait(WAIT_SECONDS)
            assert running.outcome() == "client_gone"
        running.backend.first.set()
