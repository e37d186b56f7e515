"""Paced streams over real sockets, plain and with TLS: all bytes in order, and most by the short way."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import json_lines
from tests.e2e.certificates import make
from tests.e2e.processes import Gateway, Host, eventually
from tests.e2e.raw import Connection, post
from tests.e2e.settings import CLIENT_KEY

COUNTER = Path(__file__).parent / "addons" / "count_short_ways.py"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = 80


def event(index: int) -> bytes:
    choice = {"index": 0, "delta": {"content": f"word {index} "}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


END = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
TEXT = b"".join(map(event, range(WORDS))) + END


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def pieces(way: str) -> Iterator[bytes]:
    """Yield what is written at once, a pause after each."""
    chunks = [chunked(event(index)) for index in range(WORDS)]
    rest = chunked(END) + b"0\r\n\r\n"
    match way.partition("-"):
        case "plain", _, _:
            yield from [HEAD + chunks[0], *chunks[1:], rest]
        case "cut", _, seed:
            whole, chance = HEAD + b"".join(chunks) + rest, random.Random(int(seed))
            while whole:
                # Often, though not always, at the end of a chunk.
                size = chance.choice([len(chunks[20]), 2 * len(chunks[20]), chance.randint(1, 400)])
                yield whole[:size]
                whole = whole[size:]
        case "mixed", _, _:
            yield HEAD
            for index, each in enumerate(chunks):
                if index % 7 == 3:
                    yield from (each[:11], each[11:])
                elif index % 7 == 5:
                    yield each.replace(b"\r\n", b";name=value\r\n", 1)
                else:
                    yield each
            yield rest[:-3]
            yield rest[-3:]
        case "endless", _, _:
            yield HEAD
            while True:
                yield from chunks
        case "broken", _, _:
            yield HEAD + chunks[0]
            yield from chunks[1:40]


@dataclass
class Backend:
    """Streams as a call says in its first message, on connections that it keeps."""

    context: ssl.SSLContext | None
    port: int = 0
    connections: int = 0
    """On which calls came."""
    _server: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(accepted,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            talking = self.context.wrap_socket(connection, server_side=True) if self.context else connection
            with talking, talking.makefile("rb") as file:
                served = False
                while line := file.readline():
                    self.connections += not served
                    served = True
                    length = 0
                    while line not in (b"\r\n", b""):
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                        line = file.readline()
                    way = json.loads(file.read(length))["messages"][0]["content"]
                    for piece in pieces(way):
                        talking.sendall(piece)
                        time.sleep(0.002)
                    if way.startswith("broken"):
                        return


@dataclass
class Stage:
    gateway: Gateway
    backend: Backend
    folder: Path

    def request(self, way: str) -> bytes:
        body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": way}]}
        return post("/openai/v1/chat/completions", json.dumps(body).encode(), key=CLIENT_KEY)

    def counted(self) -> int:
        file = self.folder / "counted"
        return int(file.read_text() or 0) if file.exists() else 0

    def records(self) -> list[dict[str, Any]]:
        return json_lines.read(self.folder / "usage.jsonl")


@pytest.fixture(scope="module", params=["plain", "tls"])
def stage(
    request: pytest.FixtureRequest, host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp(f"relay-{request.param}-{host}")
    context, aoai, scheme = None, {}, "http"
    if request.param == "tls":
        made = make(folder)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made.certificate, made.private_key)
        aoai, scheme = {"trusted_ca": str(made.ca)}, "https"
    backend = Backend(context)
    pool = {"name": "gpt-4o", "standins": [{"name": "gpt-4o"}]}
    url = f"{scheme}://localhost:{backend.port}"
    endpoint = {"name": "one", "url": url, "key": "k", "virtual_deployments": [pool]}
    config = {
        "aoai": {**aoai, "endpoints": [endpoint]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY, "max_tokens_per_minute": 10_000_000}],
        "breaks": {"default_seconds": 0.01, "floor_seconds": 0.01, "ceiling_seconds": 0.01},
        "usage_log": str(folder / "usage.jsonl"),
    }
    env = {"COUNTED": str(folder / "counted")}
    gateway = Gateway(host, config, folder, home=home, addons=[COUNTER], env=env)
    try:
        yield Stage(gateway, backend, folder)
        assert gateway.stop() == 0
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()
        backend.close()


def test_every_word_comes_in_its_order(stage: Stage) -> None:
    before, connections = stage.counted(), stage.backend.connections
    ways = ["plain", "mixed", *(f"cut-{seed}" for seed in range(8))]
    with Connection(stage.gateway) as connection:
        for way in ways:
            connection.send(stage.request(way))
            reply = connection.reply()
            assert (reply.status, reply.body) == (200, TEXT), way
    assert stage.backend.connections == connections + 1, "one connection serves them all"
    assert stage.counted() - before > WORDS // 4, "a busy machine reads several chunks at once"


def test_streams_at_once_do_not_mix(stage: Stage) -> None:
    def one(seed: int) -> bool:
        with Connection(stage.gateway) as connection:
            connection.send(stage.request(f"cut-{seed}"))
            return connection.reply().body == TEXT

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(one, range(12)))


def test_a_stream_that_breaks_off_says_so(stage: Stage) -> None:
    with Connection(stage.gateway) as connection:
        connection.send(stage.request("broken"))
        got = connection.rest()
    assert b"word 39 " in got
    assert b"upstream_disconnected" in got
    assert not got.endswith(b"0\r\n\r\n")


def test_a_client_that_reads_slowly_gets_all(stage: Stage) -> None:
    with Connection(stage.gateway) as connection:
        connection.send(stage.request("plain"))
        time.sleep(0.5)
        assert connection.reply().body == TEXT


def test_a_client_may_leave_at_any_time(stage: Stage) -> None:
    def gone() -> int:
        return sum(record["outcome"] == "client_gone" for record in stage.records())

    before = gone()
    for patience in (0.0, 0.02, 0.05, 0.08):
        with Connection(stage.gateway) as connection:
            connection.send(stage.request("endless"))
            time.sleep(patience)
    eventually(lambda: gone() == before + 4, "records of all four")
    with Connection(stage.gateway) as connection:
        connection.send(stage.request("mixed"))
        assert connection.reply().body == TEXT


def test_the_record_knows_what_passed(stage: Stage) -> None:
    with Connection(stage.gateway) as connection:
        connection.send(stage.request("plain"))
        call = connection.reply().headers["x-gateway-call"]
    (last,) = eventually(lambda: [each for each in stage.records() if each["call"] == call], "its record")
    assert last["outcome"] == "ok"
    assert last["finish_reason"] == "stop"
    assert last["chunk_gap_max_ms"] > 0
