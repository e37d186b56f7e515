"""Answers made to keep a gateway busy or to fill its memory: bytes of a backend on a socket.

How a stall is measured is told in tests/e2e/test_hostile_prompts.py.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import brotli
import pytest
from mitmproxy.net import encoding

from tests.e2e import json_lines
from tests.e2e.processes import Gateway
from tests.e2e.raw import Connection, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import ScriptedBackend
from tests.machine_speed import slowness

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
ADDONS = Path(__file__).parent.parent / "e2e" / "addons"
CHAT, RESPONSES = "/openai/v1/chat/completions", "/openai/v1/responses"
LONGEST_STALL = 0.020
ATTEMPTS = 5
MOST_MEMORY = 64 * MIB
"""Of a bomb: what is decoded to be read, twice, and the answer itself."""

SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
)
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def whole(body: bytes, coding: str = "identity", status: int = 200) -> bytes:
    return (
        f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


def stream(*events: bytes) -> bytes:
    body = b"".join(events)
    return SSE + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def coded(coding: str, body: bytes) -> bytes:
    """A stream in a coding, which no request has asked for."""
    head = SSE.replace(b"connection: close", b"connection: close\r\ncontent-encoding: %b" % coding.encode())
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def data(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


LOGPROBS = [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []} for _ in range(70_000)]
STOP = data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
COMPLETED = {"id": "resp_1", "object": "response", "status": "completed", "output": LOGPROBS, "usage": USAGE}

ANSWERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "log probabilities": (
        CHAT,
        lambda: whole(
            json.dumps({"choices": [{"logprobs": {"content": LOGPROBS}}], "usage": USAGE}).encode()
        ),
    ),
    "response.completed": (
        RESPONSES,
        lambda: stream(b"event: response.completed\n" + data({"response": COMPLETED})),
    ),
    "a first event of 10 MB": (
        CHAT,
        lambda: stream(data({"choices": [{"index": 0, "delta": {"content": "x" * 10 * MIB}}]}), STOP),
    ),
    "a key again and again": (
        CHAT,
        lambda: stream(b'data: {"choices":[' + b'"content" : ' * 800_000 + b"]}\n\n", STOP),
    ),
    "usage again and again": (
        CHAT,
        lambda: whole(b"{" + b'"usage" : {"usage":' * 300_000),
    ),
    "a million lines": (CHAT, lambda: stream(b"data: x\n" * 1_000_000 + b"\n", STOP)),
    "empty events": (CHAT, lambda: stream(STOP, b":\n\n" * 200_000)),
    "tiny events": (CHAT, lambda: stream(STOP, b"data: [0]\n\n" * 100_000)),
    "carriage returns": (CHAT, lambda: stream(b"data: " + b"x\r" * 2_000_000 + b"\r", STOP)),
    **{
        f"30,000 events in {coding}": (CHAT, lambda coding=coding: coded(coding, BOMBS[coding](tokens())))
        for coding in ("gzip", "deflate", "br", "zstd")
    },
    "an error without end": (CHAT, lambda: whole(b"[" * 900_000, status=429)),
}

BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    # The best quality takes half a minute, and unfolds no further.
    "br": partial(brotli.compress, quality=5),
    "zstd": encoding.encode_zstd,
}


@cache
def tokens() -> bytes:
    """A stream of 2 MB."""
    return b"".join(data({"choices": [{"index": 0, "delta": {"content": f"{n}"}}]}) for n in range(30_000))


@cache
def bomb_of(coding: str) -> bytes:
    return BOMBS[coding](bytes(512 * MIB))


class Watched:
    """A gateway whose event loop is watched, before one backend."""

    def __init__(self, gateway: Gateway, backend: ScriptedBackend, log: Path) -> None:
        self.gateway, self.backend, self.log = gateway, backend, log

    def peak(self, *, reset: bool = False) -> int:
        """Return the bytes of memory that the gateway's process had at most, since the last reset."""
        process = Path(f"/proc/{self.gateway.pid}")
        if reset:
            (process / "clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024

    def ask(self, path: str, answer: bytes, *, streaming: bool) -> tuple[int, float]:
        """Have a call answered so; returns its status, and the seconds of the longest stall meanwhile."""
        self.backend.answers[:] = [answer]
        body = json.dumps({"model": "gpt", "messages": [], "input": "hi", "stream": streaming}).encode()
        begun = time.monotonic()
        with Connection(self.gateway) as client:
            client.send(post(path, body, "Connection: close", key=CLIENT_KEY))
            status = int(client.rest().split(b" ", 2)[1])  # a stream that is cut has no end to be read
        time.sleep(0.02)  # for the tick that tells of the last stall
        stalls = [min(s["seconds"], s["used"]) for s in json_lines.read(self.log) if s["end"] >= begun]
        return status, max(stalls, default=0.0)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Watched]:
    backend, folder = ScriptedBackend(), tmp_path_factory.mktemp("answers")
    log = folder / "loop.jsonl"
    log.touch()
    endpoint = {
        "name": "only",
        "url": f"http://127.0.0.1:{backend.port}/",
        "key": "key-of-the-only-one",
        "virtual_deployments": [{"name": "gpt", "standins": [{"name": "real"}]}],
    }
    client = {"name": "Tester", "key": CLIENT_KEY, "max_tokens_per_minute": 1_000_000_000}
    config = {"aoai": {"endpoints": [endpoint]}, "clients": [client], "breaks": {"default_seconds": 0.01}}
    gateway = Gateway(
        "serve",
        config,
        folder,
        home=home,
        addons=[ADDONS / "watch_loop.py"],
        env={"WATCH_LOOP_LOG": str(log)},
    )
    try:
        here = Watched(gateway, backend, log)
        here.ask(CHAT, whole(b"{}"), streaming=False)
        yield here
        assert "Traceback" not in gateway.log
        assert gateway.stop() == 0, gateway.log
    finally:
        gateway.kill()
        backend.close()


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_stalls_the_loop(watched: Watched, name: str) -> None:
    path, make = ANSWERS[name]
    answer, worst = make(), []
    for _ in range(ATTEMPTS):
        _, stall = watched.ask(path, answer, streaming=b"event-stream" in answer[:200])
        worst.append(round(1000 * stall, 1))
        if stall <= LONGEST_STALL * slowness():
            break
        time.sleep(0.05)
    print(f"{name}: {len(answer):,} bytes, longest stalls {worst} ms")
    assert min(worst) <= 1000 * LONGEST_STALL * slowness()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("kind", ["200", "429", "stream"])
@pytest.mark.parametrize("coding", BOMBS)
def test_no_bomb_unfolds(watched: Watched, coding: str, kind: str) -> None:
    is_stream, packed = kind == "stream", bomb_of(coding)
    bomb = coded(coding, packed) if is_stream else whole(packed, coding, int(kind))
    worst, before = [], watched.peak(reset=True)
    for _ in range(ATTEMPTS):
        _, stall = watched.ask(CHAT, bomb, streaming=is_stream)
        worst.append(round(1000 * stall, 1))
        if stall <= LONGEST_STALL * slowness():
            break
        time.sleep(0.05)
    grown = watched.peak() - before
    print(f"{coding}, {kind}: {len(bomb):,} bytes, stalls {worst} ms, {grown / MIB:.1f} MiB more")
    assert grown < MOST_MEMORY
    assert min(worst) <= 1000 * LONGEST_STALL * slowness()
