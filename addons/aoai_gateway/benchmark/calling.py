"""One planned call: it is sent, its answer is read, and a usage record says all of it.

Times are measured from the moment at which the call was to be sent. ``waited_ms`` is by how much it was sent
later than that: since all clients were busy, or this machine is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp

from aoai_gateway.quota.access import PRIORITY_HEADER
from aoai_gateway.usage.chunk_gaps import ChunkGaps
from aoai_gateway.usage.record import empty_attempt, empty_record, written_time
from aoai_gateway.wire.hints import utilization_of
from aoai_gateway.wire.stream import StreamReader
from aoai_gateway.wire.stream_kinds import Verdict
from aoai_gateway.wire.usage import AnswerFacts, read_answer

if TYPE_CHECKING:
    from aoai_gateway.benchmark.plan import Planned, Prompts
    from aoai_gateway.tokens import Counter
    from aoai_gateway.usage.sink import Record

OPERATION = "chat.completions"

CONNECT_SECONDS = 10.0

RETRY_SECONDS = 60.0
"""Seconds from a call's begin, for which it is sent again; as azure-openai-benchmark has it."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds between tries of the exponential retry, where the answer names no time."""

LARGEST_ERROR = 64 * 1024

GIVEN_UP, TIMEOUT = "given up", "timeout"
"""Why a call has no end: the benchmark was ended, or its time was over."""

BREAKS: tuple[tuple[type[aiohttp.ClientError], str], ...] = (
    (aiohttp.ServerDisconnectedError, "closed without an answer"),
    (aiohttp.ClientPayloadError, "answer broken off"),
    (aiohttp.ClientResponseError, "no HTTP"),
)
"""How a connection ends, in words."""

GIVES_NO_USAGE = "2024-09-01-preview"
"""Azure's versions before this one know no ``stream_options``."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go. ``api_version``: of a classic path; None for the v1 API."""

    base: str
    deployment: str
    api_version: str | None = None
    bearer: bool = False
    """Whether keys go into ``Authorization``, as tokens do."""
    ca: str | None = None
    """A file with the authority to trust, in place of the system's."""

    @property
    def url(self) -> str:
        """The whole URL."""
        if self.api_version is None:
            return f"{self.base.rstrip('/')}/openai/v1/chat/completions"
        deployment, version = quote(self.deployment, safe=""), quote(self.api_version, safe="")
        path = f"openai/deployments/{deployment}/chat/completions?api-version={version}"
        return f"{self.base.rstrip('/')}/{path}"

    @property
    def gives_usage(self) -> bool:
        """Whether a stream can be asked for its usage."""
        return self.api_version is None or self.api_version >= GIVES_NO_USAGE

    def headers(self, key: str, priority: str | None) -> dict[str, str]:
        """Return the headers of a call."""
        shown = {"authorization": f"Bearer {key}"} if self.bearer else {"api-key": key}
        asked = {PRIORITY_HEADER: priority} if priority is not None else {}
        return {"content-type": "application/json", **shown, **asked}

    def session(self) -> aiohttp.ClientSession:
        """Make a client that keeps connections, without a bound on their number."""
        verified = ssl.create_default_context(cafile=self.ca) if self.ca is not None else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=verified),
            headers={"user-agent": "aoai-gateway-benchmark"},
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A call with its body; ``prompt``: the tokens of its prompt."""

    planned: Planned
    body: bytes = field(repr=False)
    prompt: int


@dataclass(slots=True)
class _Try:
    """One send. Times are on the monotonic clock."""

    started: float
    status: int | None = None
    answered: float | None = None
    first: float | None = None
    ended: float | None = None
    failure: str | None = None
    reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    facts: AnswerFacts = field(default_factory=AnswerFacts)
    reader: StreamReader | None = None
    complete: bool = True
    gaps: ChunkGaps = field(default_factory=ChunkGaps)


class Caller:
    """Makes calls. ``begun``: the monotonic time that plans count from; ``clients``: calls at a time."""

    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        prompts: Prompts,
        counter: Counter,
        random: Random,
        *,
        begun: float,
        clients: int,
        retries: bool = False,
        timeout: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._session = session
        self._prompts = prompts
        self._counter = counter
        self._random = random
        self._begun = begun
        self._unix_offset = time.time() - clock()
        self._places = asyncio.Semaphore(clients)
        self._retries = retries
        self._timeout = timeout
        self._clock = clock
        self.under_way = 0
        """Calls that have been sent and not ended."""
        self.were_all_busy = False
        """Whether a call had to wait because as many were under way as there are clients."""

    def prepare(self, planned: Planned) -> Ready:
        """Make the body of a call, before its time has come."""
        return Ready(planned, *self._prompts.body(planned.shape))

    async def call(self, ready: Ready) -> Record:
        """Make a call, and return its record, however the call ends."""
        due = self._begun + ready.planned.at
        tries: list[_Try] = []
        ended = ""
        self.were_all_busy |= self._places.locked()
        try:
            async with self._places:
                self.under_way += 1
                try:
                    async with asyncio.timeout(max(0.0, due + self._timeout - self._clock())):
                        await self._send_until_done(ready, due, tries)
                finally:
                    self.under_way -= 1
        except (TimeoutError, asyncio.CancelledError) as error:
            # A time-out is the client's own, as is the end of the benchmark.
            ended = TIMEOUT if isinstance(error, TimeoutError) else GIVEN_UP
        return self._record(ready, due, tries, ended)

    async def _send_until_done(self, ready: Ready, due: float, tries: list[_Try]) -> None:
        while True:
            sent = _Try(self._clock())
            tries.append(sent)
            await self._send(ready, sent)
            wait = self._pause(sent, len(tries)) if self._retries else None
            if wait is None or self._clock() + wait > due + min(RETRY_SECONDS, self._timeout):
                return
            await asyncio.sleep(wait)

    def _pause(self, sent: _Try, number: int) -> float | None:
        """Return the seconds until the next try; None if there is to be none."""
        if sent.status not in (429, None):
            return None
        told = _milliseconds(sent.headers.get("retry-after-ms"))
        if told is not None:
            return told / 1000
        return self._random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(number, 10)))

    async def _send(self, ready: Ready, sent: _Try) -> None:
        consumer = ready.planned.consumer
        headers = self._target.headers(consumer.key, consumer.priority)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.post(
                self._target.url, data=ready.body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                sent.status, sent.answered, sent.headers = response.status, self._clock(), response.headers
                await self._read(response, sent)
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            sent.failure, sent.reason = "tls", _untrusted(error)
        except aiohttp.ClientConnectorError as error:
            sent.failure, sent.reason = "connect", _why(error.os_error)
        except aiohttp.ConnectionTimeoutError:
            sent.failure, sent.reason = "connect", f"no connection within {CONNECT_SECONDS:g} s"
        except (aiohttp.ClientError, OSError) as error:
            sent.failure, sent.reason = "dropped", _break(error)
            sent.complete = sent.reader is not None and sent.reader.terminal_seen
        finally:
            sent.ended = self._clock()

    async def _read(self, response: aiohttp.ClientResponse, sent: _Try) -> None:
        if response.status >= 400:
            error = await response.content.read(LARGEST_ERROR)
            sent.failure, sent.reason = "status", _code(error) or str(response.status)
        elif response.content_type == "text/event-stream":
            reader = sent.reader = StreamReader(OPERATION)
            seen = 0
            async for data in response.content.iter_any():
                reader.feed(data)
                now = self._clock()
                if sent.first is None and reader.verdict is Verdict.ACCEPTED:
                    sent.first = now
                if reader.content_events > seen:
                    seen = reader.content_events
                    sent.gaps.note(now)
            reader.flush()
            sent.complete = reader.is_complete(cut_short=False)
            if reader.error is not None:
                sent.failure, sent.reason = "refused in stream", reader.error.code or "error"
        else:
            body = await response.read()
            if reason := _no_answer(response, body):
                sent.failure, sent.reason = "no answer", reason
            sent.facts = read_answer(body)

    def _record(self, ready: Ready, due: float, tries: list[_Try], ended_by: str) -> dict[str, Any]:
        """Return the call's record. ``ended_by``: why the call has no end of its own; empty: it has one."""
        planned = ready.planned
        last = tries[-1] if tries else _Try(self._clock())
        reader = last.reader
        found = reader if reader is not None else last.facts
        usage, served = found.usage, last.status is not None and last.status < 400
        gaps = last.gaps.summary()
        ended = last.ended if last.ended is not None else self._clock()
        record = empty_record() | {
            "time": written_time(due + self._unix_offset),
            "call": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "client": planned.consumer.name,
            "priority": planned.consumer.priority,
            "operation": OPERATION,
            "api": "v1" if self._target.api_version is None else "classic",
            "deployment": self._target.deployment,
            "streaming": planned.shape.stream,
            "max_tokens": planned.shape.most,
            "status": last.status,
            "count": 1,
            "waited_ms": _ms(due, tries[0].started) if tries else _ms(due, ended),
            "first_token_ms": _ms(due, last.first) if served else None,
            "duration_ms": _ms(due, ended),
            "model": found.model,
            "response_id": found.response_id,
            "service_tier": found.service_tier,
            "finish_reason": ", ".join(found.finish_reasons) or None,
            "prompt_tokens_counted": ready.prompt,
            "chunk_gap_p50_ms": _ms(0.0, gaps[0]) if gaps else None,
            "chunk_gap_max_ms": _ms(0.0, gaps[1]) if gaps else None,
            "attempts": [self._attempt(each, due) for each in tries],
            "retry_after_ms": _milliseconds(last.headers.get("retry-after-ms")),
            "region": last.headers.get("x-ms-region"),
            "backend_request_id": last.headers.get("apim-request-id"),
            "backend_processing_ms": _milliseconds(last.headers.get("openai-processing-ms")),
            "utilization": utilization_of(last.headers),
        }
        backend = self._backend(last)
        record["standin"], _, record["endpoint"] = backend.rpartition("@")
        if usage is not None:
            record |= {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cached_tokens": usage.cached_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            }
        elif served and reader is not None:
            record["delivered_tokens"] = self._counter.count_delivered(
                reader.delivered, self._target.deployment
            ).tokens
        return record | _end(last, ended_by)

    def _attempt(self, sent: _Try, due: float) -> dict[str, Any]:
        return empty_attempt() | {
            "backend": self._backend(sent),
            "status": sent.status,
            "failure": sent.failure,
            "reason": sent.reason,
            "answered_ms": _ms(sent.started, sent.answered),
            "duration_ms": _ms(sent.started, sent.ended),
            "region": sent.headers.get("x-ms-region"),
            "request_id": sent.headers.get("apim-request-id"),
            "started_ms": _ms(due, sent.started),
            "first_token_ms": _ms(sent.started, sent.first),
        }

    def _backend(self, sent: _Try) -> str:
        host = urlsplit(self._target.base).netloc
        return sent.headers.get("x-gateway-backend") or f"{self._target.deployment}@{host}"


def _end(last: _Try, ended_by: str) -> dict[str, Any]:
    if ended_by:
        return {"outcome": "client_gone", "error": ended_by}
    if last.status is None or last.failure == "no answer":
        return {"outcome": "backends_out", "error": last.reason}
    if last.status >= 400:
        return {"outcome": "ok", "error": last.reason}
    return {"outcome": "ok" if last.complete else "truncated"}


def _untrusted(error: aiohttp.ClientError) -> str:
    cause = error.__cause__
    verified = getattr(cause, "verify_message", None)
    return f"no TLS connection: {verified}" if verified else "no TLS connection"


def _no_answer(response: aiohttp.ClientResponse, body: bytes) -> str:
    """Say why a success is no answer of a chat: the page of a sign-in, say; empty if it is one."""
    if response.status >= 300:
        return f"{response.status} to {_host(response.headers.get('location', ''))}"
    try:
        is_answer = "choices" in json.loads(body)
    except (ValueError, TypeError):
        is_answer = False
    return "" if is_answer else f"{response.status} without a completion ({response.content_type})"


def _host(url: str) -> str:
    """Return the host of an address, which may hold more than a record should."""
    try:
        return urlsplit(url).hostname or "elsewhere"
    except ValueError:
        return "elsewhere"


def _break(error: Exception) -> str:
    for kind, words in BREAKS:
        if isinstance(error, kind):
            return words
    return _why(error) if isinstance(error, OSError) else "connection broken off"


def _why(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "unknown host"
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else "no connection"


def _code(body: bytes) -> str | None:
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(code)[:100] if code is not None else None


def _milliseconds(said: str | None) -> float | None:
    try:
        found = float(said) if said is not None else -1.0
    except ValueError:
        return None
    return found if 0 <= found < 1e9 else None


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round(1000 * (end - start), 1)
