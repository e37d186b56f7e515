"""Captured calls -> a gateway, as a client would make them -> their results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError

from aoai_gateway.rerun.answers import Answer, read
from aoai_gateway.rerun.calls import CapturedCall, Outcome
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import Verdict
from aoai_gateway.wire.targets import dialect_of

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0
"""Seconds that the official SDKs wait by default."""

RETRIES = 2
LONGEST_WAIT = 60.0
"""Also theirs: for how long they let a 429 make them wait, and how often."""

LARGEST_ANSWER = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where calls go. ``ca``: a file with an authority to trust, beside the usual ones none."""

    url: str
    key: str = field(repr=False)
    ca: str | None = None


class UnreachableError(Exception):
    """Nothing answers there; the text gives the reason."""


async def send_all(
    calls: Sequence[CapturedCall], gateway: Gateway, *, concurrency: int
) -> AsyncIterator[tuple[CapturedCall, Outcome]]:
    """Make the calls, so many at a time, and give what came of each, in their order.

    Raises UnreachableError if not even the first one finds a gateway.
    """
    client = AsyncHTTPClient(force_instance=True, max_clients=concurrency, max_body_size=LARGEST_ANSWER)
    room = asyncio.Semaphore(concurrency)
    reached = False

    async def one(call: CapturedCall) -> Outcome:
        nonlocal reached
        async with room:
            try:
                outcome = await _send(client, call, gateway)
            except OSError as error:
                if not reached:
                    raise UnreachableError(error.strerror or str(error)) from None
                return Outcome(Answer(0, error=f"no connection: {error.strerror or error}"))
            reached = True
            return outcome

    tasks = [asyncio.create_task(one(call)) for call in calls]
    try:
        for call, task in zip(calls, tasks, strict=True):
            yield call, await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client.close()


async def _send(client: AsyncHTTPClient, call: CapturedCall, gateway: Gateway) -> Outcome:
    for retry in range(RETRIES + 1):
        attempt = _Attempt(call)
        try:
            response = await client.fetch(attempt.request(gateway), raise_error=False)
        except HTTPTimeoutError:
            return Outcome(Answer(0, error=f"no answer within {ANSWER_SECONDS:.0f} s"))
        except HTTPStreamClosedError:
            return Outcome(attempt.cut_off())
        except HTTPClientError as error:
            return Outcome(Answer(0, error=f"no answer: {error.message}"))
        wait = _asked_to_wait(response) if retry < RETRIES else None
        if wait is None:
            return attempt.outcome(response)
        await asyncio.sleep(wait)
    raise AssertionError("the last attempt has returned")


def _asked_to_wait(response: HTTPResponse) -> float | None:
    """Return the seconds after which a client is to come back, where it would."""
    if response.code != 429 or response.headers.get("x-should-retry") == "false":
        return None
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait = float(response.headers.get(name, "")) * unit
        except ValueError:
            continue
        return wait if 0 <= wait <= LONGEST_WAIT else None
    return None


class _Attempt:
    def __init__(self, call: CapturedCall) -> None:
        self._call = call
        self._body = bytearray()
        dialect = dialect_of(call.target)
        self._reader = StreamReader(call.operation, dialect=dialect) if call.streaming else None
        self._first: float | None = None
        self._began = 0.0

    def request(self, gateway: Gateway) -> HTTPRequest:
        call = self._call
        self._began = time.monotonic()
        return HTTPRequest(
            gateway.url.rstrip("/") + call.target,
            call.method,
            headers=_headers(call, gateway.key),
            body=call.body,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS,
            follow_redirects=False,
            ca_certs=gateway.ca,
            streaming_callback=self._came,
        )

    def _came(self, data: bytes) -> None:
        self._body += data
        if self._reader is not None and self._first is None:
            self._reader.feed(data)
            if self._reader.verdict is Verdict.ACCEPTED:
                self._first = time.monotonic() - self._began

    def cut_off(self) -> Answer:
        """Read the bytes before the connection's end: a stream that breaks off may name the reason."""
        came = read(self._call.operation, 200, "text/event-stream", bytes(self._body))
        return Answer(0, error=came.error or "the connection was closed before the answer's end")

    def outcome(self, response: HTTPResponse) -> Outcome:
        total = time.monotonic() - self._began
        content_type = response.headers.get("content-type", "")
        answer = read(self._call.operation, response.code, content_type, bytes(self._body))
        return Outcome(answer, self._first if answer.is_good else None, total)


def _headers(call: CapturedCall, key: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in call.headers:
        # Of the few that may stand twice, all count.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers | {"api-key": key}
