"""Files of hundreds of megabytes, up and down, through a real process that has no room for them in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, Host, eventually
from tests.e2e.settings import CLIENT_KEY

MIB = 1024 * 1024
SIZE, MOST_MORE = 200, 40
"""Megabytes of a file, and of memory that it may take."""

BLOCK = os.urandom(MIB)
BEFORE = b'--xyz\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
AFTER = b'\r\n--xyz\r\ncontent-disposition: form-data; name="model"\r\n\r\n%s\r\n--xyz--\r\n'


def digest(model: bytes) -> str:
    whole = hashlib.sha256(BEFORE)
    for _ in range(SIZE):
        whole.update(BLOCK)
    whole.update(AFTER % model)
    return whole.hexdigest()


class Backend(socketserver.ThreadingTCPServer):
    """Takes uploads, and answers with their digests; sends files.

    ``failing``: how many answers are a 500; ``refusing``: a 429.

    The body is read before either.
    """

    daemon_threads = True
    failing = 0
    refusing = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(socketserver.StreamRequestHandler):
    server: Backend

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        lengths = [each for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:")]
        left, found = int(lengths[0].split(b":")[1]) if lengths else 0, hashlib.sha256()
        while left and (data := self.rfile.read(min(left, MIB))):
            found.update(data)
            left -= len(data)
        if b"/content" in head.split(b" ")[1]:
            self.answer(200, b"application/octet-stream", SIZE * MIB)
            for _ in range(SIZE):
                self.wfile.write(BLOCK)
            return
        status = 200
        if self.server.failing:
            self.server.failing, status = self.server.failing - 1, 500
        if self.server.refusing:
            self.server.refusing, status = self.server.refusing - 1, 429
        body = b'{"text":"%s"}' % found.hexdigest().encode()
        self.answer(status, b"application/json", len(body))
        self.wfile.write(body)

    def answer(self, status: int, kind: bytes, length: int) -> None:
        lines = b"HTTP/1.1 %d x\r\nconnection: close\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
        self.wfile.write(lines % (status, kind, length))


class Place:
    def __init__(self, gateway: Gateway, backend: Backend) -> None:
        self.gateway, self.backend = gateway, backend

    def memory(self, figure: str) -> float:
        """Megabytes of the gateway: ``VmRSS`` now, ``VmHWM`` at most until now."""
        lines = Path(f"/proc/{self.gateway.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(figure))

    @property
    def files(self) -> int:
        """Files without a name that the gateway has open."""
        folder = Path(f"/proc/{self.gateway.pid}/fd")
        found = 0
        for each in os.listdir(folder):
            with contextlib.suppress(OSError):
                found += os.readlink(folder / each).endswith("(deleted)")
        return found

    def connect(self, method: str, path: str, *fields: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.gateway.port), 60)
        lines = (
            f"{method} {path} HTTP/1.1",
            "host: g",
            f"api-key: {CLIENT_KEY}",
            "connection: close",
            *fields,
        )
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        return connection

    def upload(self, size: int = SIZE) -> socket.socket:
        """Begin an upload, and send so many megabytes of it."""
        length = len(BEFORE) + SIZE * MIB + len(AFTER % b"whisper")
        connection = self.connect(
            "POST",
            "/openai/v1/audio/transcriptions",
            "content-type: multipart/form-data; boundary=xyz",
            f"content-length: {length}",
        )
        connection.sendall(BEFORE)
        for _ in range(size):
            connection.sendall(BLOCK)
        return connection


@pytest.fixture(scope="module")
def place(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Place]:
    backend = Backend()
    virtual = [{"name": "whisper", "standins": [{"name": "whisper-ptu"}, {"name": "whisper-paygo"}]}]
    config = {
        "aoai": {
            "endpoints": [
                {
                    "name": "here",
                    "url": f"http://127.0.0.1:{backend.port}",
                    "key": "the-endpoints-key",
                    "virtual_deployments": virtual,
                }
            ]
        },
        "clients": [{"name": "Tester", "key": CLIENT_KEY}],
    }
    gateway = Gateway(host, config, tmp_path_factory.mktemp("uploads"), home=home)
    try:
        yield Place(gateway, backend)
        assert gateway.stop() == 0
    finally:
        gateway.kill()
        backend.shutdown()
        backend.server_close()


def received(connection: socket.socket) -> bytes:
    came = []
    while data := connection.recv(MIB):
        came.append(data)
    return b"".join(came)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_upload_is_sent_on_and_sent_again_from_disk(place: Place, failing: int) -> None:
    before, files = place.memory("VmRSS"), place.files
    place.backend.failing = failing
    with place.upload() as connection:
        connection.sendall(AFTER % b"whisper")
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    assert b"x-gateway-attempts: %d" % (1 + failing) in answer
    assert digest(b"whisper-paygo" if failing else b"whisper-ptu").encode() in answer
    assert place.memory("VmHWM") - before < MOST_MORE
    eventually(lambda: place.files == files, "its file is closed")


LINE = b'{"custom_id": "1", "body": {"input": "%s", "model": "%s"}}\n'
LINES = 256
"""In a megabyte of a batch's input file."""


def batch_file(model: bytes) -> Iterator[bytes]:
    text = b"a" * (MIB // LINES - len(LINE % (b"", b"whisper")))
    yield b'--xyz\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' + BEFORE
    for _ in range(SIZE):
        yield (LINE % (text, model)) * LINES
    yield b"\r\n--xyz--\r\n"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_batchs_input_is_read_and_renamed_from_disk(place: Place, failing: int) -> None:
    before, files = place.memory("VmRSS"), place.files
    # What creates a file is sent again only if it was surely not taken.
    place.backend.refusing = failing
    length, kind = sum(map(len, batch_file(b"whisper"))), "content-type: multipart/form-data; boundary=xyz"
    fields = kind, f"content-length: {length}"
    with place.connect("POST", "/openai/v1/files", *fields) as connection:
        for block in batch_file(b"whisper"):
            connection.sendall(block)
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    wanted = hashlib.sha256()
    for block in batch_file(b"whisper-paygo" if failing else b"whisper-ptu"):
        wanted.update(block)
    assert wanted.hexdigest().encode() in answer
    assert place.memory("VmHWM") - before < MOST_MORE
    eventually(lambda: place.files == files, "its file is closed")


def test_a_download_passes_as_it_comes(place: Place) -> None:
    before = place.memory("VmRSS")
    came = 0
    with place.connect("GET", "/openai/v1/files/file-1/content") as connection:
        while data := connection.recv(MIB):
            came += len(data)
    assert came > SIZE * MIB
    assert place.memory("VmHWM") - before < MOST_MORE


def test_a_client_that_leaves_in_the_midst_leaves_no_file(place: Place) -> None:
    files = place.files
    with place.upload(size=20):
        eventually(lambda: place.files == files + 1, "a file")
    eventually(lambda: place.files == files, "it is closed")
