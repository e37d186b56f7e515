"""Peers that do not read what is sent to them: each has an end, and none is taken for another's fault."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Gateway, eventually
from tests.e2e.raw import exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import ScriptedBackend

pytestmark = pytest.mark.e2e

PATH = "/openai/v1/chat/completions"
STREAM = b'{"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
WHOLE = STREAM.replace(b"true", b"false")
UNREAD_SECONDS, IDLE_SECONDS = 5, 1
BEGINNING = 100_000
"""Bytes by which a client sees that its answer has begun."""

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 10_000)
EVENTS = 2_000
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
BODY = EVENT * EVENTS + STOP
"""More than the system's buffers hold."""

LONG_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
)
LONG_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
    len(EVENT) * EVENTS
) + b'{"padding":"%s"}' % (b"x" * (len(EVENT) * EVENTS - 14))


class Place:
    def __init__(self, gateway: Gateway, backend: ScriptedBackend, folder: Path) -> None:
        self.gateway, self.backend, self.folder = gateway, backend, folder

    def ask(self, body: bytes, answer: bytes) -> socket.socket:
        """Send a call that gets a long answer; its client reads the beginning of that."""
        self.backend.answers.append(answer)
        connection = socket.socket()
        # Small buffers, so that the gateway sees early what is not read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.gateway.port))
        connection.sendall(post(PATH, body, "Connection: close", key=CLIENT_KEY))
        came = 0
        while came < BEGINNING:
            came += len(connection.recv(BEGINNING - came))
        return connection

    def outcomes(self) -> list[str]:
        return [record["outcome"] for record in json_lines.read(self.folder / "usage.jsonl")]


def owned(*, local: int, remote: int) -> bool:
    """Whether a process has a socket with these ports; 0 is any."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(fields[n].partition(":")[2], 16) for n in (1, 2)]
        # One that no process has any more has no inode; the kernel still sends what is left.
        if (not local or ports[0] == local) and ports[1] == remote and fields[9] != "0":
            return True
    return False


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(f"slow-{request.param}")
    backend = ScriptedBackend()
    url = f"http://127.0.0.1:{backend.port}"
    config = {
        "aoai": {"endpoints": [{"name": "only", "url": url, "key": "backend-key-1"}]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY}],
        "limits": {"unread_seconds": UNREAD_SECONDS},
        "replay": {"idle_seconds": IDLE_SECONDS},
        "usage_log": str(folder / "usage.jsonl"),
    }
    gateway = Gateway(request.param, config, folder, home=folder)
    try:
        yield Place(gateway, backend, folder)
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()
        backend.close()


def is_open(place: Place, connection: socket.socket) -> bool:
    """Whether the gateway still has its socket of a client's connection."""
    return owned(local=place.gateway.port, remote=connection.getsockname()[1])


def rest_of(connection: socket.socket) -> bytes:
    came = []
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1024 * 1024):
            came.append(data)
    return b"".join(came)


def test_a_client_that_pauses_gets_all_of_its_stream(place: Place) -> None:
    before = len(place.outcomes())
    with place.ask(STREAM, LONG_STREAM) as connection:
        # Meanwhile nothing goes out; for a backend, that would be too long.
        time.sleep(2 * IDLE_SECONDS)
        came = rest_of(connection)
    assert b"upstream_disconnected" not in came
    assert came.endswith(b"[DONE]\n\n\r\n0\r\n\r\n")
    eventually(lambda: place.outcomes()[before:] == ["ok"], "the record")


def test_a_client_that_never_reads_its_stream_is_cut_off(place: Place) -> None:
    before = len(place.outcomes())
    with place.ask(STREAM, LONG_STREAM) as connection:
        eventually(lambda: place.outcomes()[before:] == ["client_stalled"], "the record")
        eventually(lambda: not is_open(place, connection), "its socket is closed")
        assert not rest_of(connection).endswith(b"0\r\n\r\n")
    assert "A client did not read its answer" in place.gateway.log
    # The backend has nothing to do with it.
    assert exchange(place.gateway, post(PATH, WHOLE, key=CLIENT_KEY)).status == 200


def test_a_client_that_never_reads_a_whole_answer_is_cut_off(place: Place) -> None:
    with place.ask(WHOLE, LONG_ANSWER) as connection:
        assert is_open(place, connection)
        eventually(lambda: not is_open(place, connection), "its socket is closed")
        assert not rest_of(connection).endswith(b'x"}')


def test_a_client_that_reads_a_whole_answer_late_gets_it(place: Place) -> None:
    with place.ask(WHOLE, LONG_ANSWER) as connection:
        time.sleep(UNREAD_SECONDS - 3)
        assert rest_of(connection).endswith(b'x"}')


def test_a_backend_that_does_not_read_leaves_no_socket(place: Place) -> None:
    deaf = socket.create_server(("127.0.0.1", 0))
    port = deaf.getsockname()[1]
    text = place.gateway.config_path.read_text()
    try:
        body = json.dumps({"model": "gpt-4o", "messages": [], "x": "x" * 20_000_000}).encode()
        # The process that reads such a body is there from now on.
        assert exchange(place.gateway, post(PATH, body, key=CLIENT_KEY)).status == 200
        reloaded = place.gateway.log.count("was reloaded")
        place.gateway.config_path.write_text(text.replace(f":{place.backend.port}", f":{port}"))
        eventually(lambda: place.gateway.log.count("was reloaded") > reloaded, "the reload")
        message = post(PATH, body, "x-stainless-read-timeout: 1", "Connection: close", key=CLIENT_KEY)
        assert exchange(place.gateway, message).status in (408, 429, 504)
        eventually(lambda: not owned(local=0, remote=port), "its socket is closed")
    finally:
        place.gateway.config_path.write_text(text)
        deaf.close()
