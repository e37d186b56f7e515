"""A client that behaves as the official SDKs do: two retries, hints honoured, jittered back-off.

What a call is told by `retry-after-ms`, `retry-after` and `x-should-retry` is obeyed as openai-python 1.x and
2.x do; a wait that would be longer than 60 s is replaced by the back-off. The whole call has a deadline, as
an application sets one; each attempt says so in `x-stainless-read-timeout`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_RETRIES = 2
_RETRIED = frozenset({408, 409, 429})
_BROKEN = (OSError, EOFError)


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: when it comes (seconds from the start), by when it must be done, what it asks for."""

    number: int
    cls: str
    at: float
    deadline: float
    prompt_tokens: int
    max_tokens: int
    stream: bool


@dataclass(slots=True)
class Outcome:
    """What became of a call. `tokens`: what a complete answer used; None: no answer in time."""

    ask: Ask
    seconds: float = 0.0
    tokens: int | None = None
    statuses: list[int] = field(default_factory=list)

    @property
    def refusals(self) -> int:
        """How many 429s the client saw."""
        return self.statuses.count(429)


def retry_wait(headers: Mapping[str, str], retry: int, dice: random.Random) -> float:
    """Seconds until the retry of this number (0 is the first)."""
    wait: float | None = None
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait = float(headers[name]) / unit
            break
        except (KeyError, ValueError):
            continue
    if wait is not None and 0 < wait <= 60:
        return wait
    return min(0.5 * 2.0**retry, 8.0) * (1 - 0.25 * dice.random())


def is_retried(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the SDK sends again after this answer."""
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return status in _RETRIED or status >= 500


async def call(port: int, path: str, key: str, ask: Ask, body: bytes, *, told: bool = True) -> Outcome:
    """Make a call, retries included, within its deadline; then it hangs up.

    ``told``: it says in a header how long it waits, as the SDKs do; plain HTTP clients do not.
    """
    outcome = Outcome(ask)
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(ask.deadline):
            outcome.tokens = await _attempts(port, path, key, body, outcome, told=told)
    except TimeoutError:
        pass
    outcome.seconds = time.perf_counter() - begun
    return outcome


async def _attempts(
    port: int, path: str, key: str, body: bytes, outcome: Outcome, *, told: bool
) -> int | None:
    ask, dice = outcome.ask, random.Random(outcome.ask.number)
    says = f"x-stainless-read-timeout: {ask.deadline:.1f}\r\n" if told else ""
    for retry in range(MAX_RETRIES + 1):
        head = (
            f"POST {path} HTTP/1.1\r\nhost: gateway\r\napi-key: {key}\r\ncontent-type: application/json\r\n"
            f"{says}x-stainless-retry-count: {retry}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        headers: Mapping[str, str] = {}
        reader: asyncio.StreamReader
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + body)
            status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            outcome.statuses.append(status)
            try:
                answer = await _body(reader, headers)
            except _BROKEN:
                # What breaks off within a stream is the application's to see: the SDK does not retry it.
                if status == 200 and ask.stream:
                    return None
                raise
            if status == 200:
                return _used(answer, stream=ask.stream)
            if not is_retried(status, headers):
                return None
        except _BROKEN:
            outcome.statuses.append(0)
        finally:
            if writer is not None:
                writer.close()
        if retry < MAX_RETRIES:
            await asyncio.sleep(retry_wait(headers, retry, dice))
    return None


def _head(raw: bytes) -> tuple[int, Mapping[str, str]]:
    """Status and headers, names in lower case."""
    first, *lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return bytes(body)


def _used(body: bytes, *, stream: bool) -> int | None:
    """The tokens of a complete answer, None of an incomplete one."""
    if not stream:
        return _total(json.loads(body))
    if not body.rstrip().endswith(b"data: [DONE]"):
        return None
    position = body.rfind(b"data: {", 0, body.rfind(b'"usage":{'))
    return _total(json.loads(body[position + 6 :].split(b"\n", 1)[0])) if position >= 0 else None


def _total(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["total_tokens"])
