"""What never ends: lines, heads and sections that a client sends before any key is looked at.

Each connection sends far more than it may. It must be answered or cut long before, and memory must not grow
with what was sent.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import READY_PATH, Gateway, request
from tests.e2e.shared import running

HOSTS = ("serve", "mitmdump")
CHUNKED = b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

ENDLESS = {
    "request line": (b"GET /", b"x" * 65536),
    "field line": (b"GET / HTTP/1.1\r\nX: ", b"x" * 65536),
    "fields": (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
    "chunk size": (CHUNKED, b"0" * 65536),
    "chunk extension": (CHUNKED + b"1;", b"x" * 65536),
    "trailer line": (CHUNKED + b"0\r\nX: ", b"x" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
}

SENT = 64 * 1024 * 1024
"""Bytes that each connection tries to send."""

MARGIN = 20 * 1024
"""Kilobytes by which a process may be larger after all of it than after the first round."""


@pytest.fixture(scope="module", params=HOSTS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp(f"memory-{request.param}")
    with running(request.param, folder, folder) as pair:
        settle(pair.gateway)
        yield pair.gateway


def resident(gateway: Gateway) -> int:
    """Return the kilobytes of memory that the process has."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])


def settle(gateway: Gateway) -> None:
    """Wait until the process has all that it loads late: encodings, views, the first refusal's code."""
    push(gateway, *ENDLESS["fields"])
    last, deadline = resident(gateway), time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(1)
        now = resident(gateway)
        if abs(now - last) < 1024:
            return
        last = now


def push(gateway: Gateway, begin: bytes, more: bytes) -> int:
    """Send until the gateway ends the connection or takes no more; gives the bytes that it took."""
    sent = 0
    with socket.create_connection(("127.0.0.1", gateway.port), 1) as connection:
        try:
            connection.sendall(begin)
            while sent < SENT:
                connection.sendall(more)
                sent += len(more)
        except OSError:
            pass
    return sent


@pytest.mark.parametrize("kind", ENDLESS)
def test_it_is_cut(gateway: Gateway, kind: str) -> None:
    before = resident(gateway)
    assert push(gateway, *ENDLESS[kind]) < SENT, "it was all taken"
    assert resident(gateway) - before < MARGIN
    assert request(f"http://127.0.0.1:{gateway.port}{READY_PATH}").status == 200
    assert "Traceback" not in gateway.log


def test_memory_does_not_grow_with_their_number(gateway: Gateway) -> None:
    before = resident(gateway)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda message: push(gateway, *message), 2 * list(ENDLESS.values())))
    assert resident(gateway) - before < MARGIN
