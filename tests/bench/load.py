"""Load over keep-alive connections, from bare asyncio protocols. Times are in seconds.

`run` is a closed loop: each connection sends its next request when the last one is answered. `run_paced` is
an open one: requests come at a rate, whatever becomes of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field


def request(path: str, body: dict[str, object], key: str) -> bytes:
    """One request as bytes."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\napi-key: {key}\r\ncontent-type: application/json\r\n"
        f"accept: application/json\r\nuser-agent: bench\r\ncontent-length: {len(raw)}\r\n\r\n"
    ).encode() + raw


@dataclass
class Result:
    """What came of one run. ``first``: time to the first byte of each answer's body (or its head)."""

    answers: int = 0
    failures: int = 0
    events: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered, until the time is over."""

    def __init__(self, message: bytes, until: float, result: Result) -> None:
        self.message, self.until, self.result = message, until, result
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.send()

    def send(self) -> None:
        self.buffer.clear()
        self.length: int | None = None
        self.chunked = self.first = False
        self.begun = time.perf_counter()
        self.transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.length is None and not self.chunked:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.buffer[:end]).lower()
            if b" 200 " not in head[:16]:
                self.result.failures += 1
            self.chunked = b"transfer-encoding: chunked" in head
            if not self.chunked:
                self.length = int(head[head.find(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
            del self.buffer[: end + 4]
        if not self.first and self.buffer:
            self.first = True
            self.result.first.append(time.perf_counter() - self.begun)
        if self.chunked:
            self.result.events += self.buffer.count(b"data: ")
            if not self.buffer.endswith(b"0\r\n\r\n"):
                # An event that is cut by a read's border is counted with its rest.
                cut = self.buffer.rfind(b"\n\n")
                if cut > 0:
                    self.result.events -= self.buffer.count(b"data: ", cut)
                    del self.buffer[:cut]
                else:
                    self.result.events -= self.buffer.count(b"data: ")
                return
        elif len(self.buffer) < (self.length or 0):
            return
        self.result.answers += 1
        self.result.whole.append(time.perf_counter() - self.begun)
        self.answered()

    def answered(self) -> None:
        """Go on, or end."""
        if time.perf_counter() < self.until:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run(port: int, message: bytes, *, connections: int, seconds: float) -> Result:
    """Load a port of this machine for a time."""
    result = Result()
    begun = time.perf_counter()
    loop = asyncio.get_running_loop()
    callers = []
    for _ in range(connections):
        _, caller = await loop.create_connection(
            lambda: Caller(message, begun + seconds, result), "127.0.0.1", port
        )
        callers.append(caller)
    await asyncio.wait_for(asyncio.gather(*(c.done for c in callers)), seconds + 60)
    result.seconds = time.perf_counter() - begun
    return result


LAST_SECONDS = 1.0
"""For the answers to the last requests of a rate."""


class PacedCaller(Caller):
    """Sends a request when it is told to, and counts the time since that was due."""

    def __init__(self, message: bytes, result: Result, idle: list[PacedCaller]) -> None:
        super().__init__(message, 0.0, result)
        self.idle = idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.idle.append(self)

    def send_due(self, due: float) -> None:
        """Send; the caller is late, if this thread is."""
        self.send()
        self.begun = due

    def answered(self) -> None:
        """Be there for the next one."""
        self.idle.append(self)


async def run_paced(port: int, message: bytes, *, rate: float, seconds: float, connections: int) -> Result:
    """Send so many requests a second to a port of this machine; a request without a connection fails."""
    result, idle = Result(), list[PacedCaller]()
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: PacedCaller(message, result, idle), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if idle:
            idle.pop(0).send_due(due)
        else:
            result.failures += 1
    await asyncio.sleep(LAST_SECONDS)
    for caller in callers:
        caller.transport.close()
    result.seconds = time.perf_counter() - begun
    return result


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
