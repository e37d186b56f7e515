"""One request on one connection: reads it, and sends the answer at the right pace.

tornado reads the request and keeps the connection's order; the response's bytes are written to the
connection's stream directly, since faults need to break them anywhere. What a fault does to a call is in
`fault_injection`.

A response's bytes: head, chunks, compression.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Coroutine, Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

from aoai_simulator.connection import Connection, Entry, abort
from aoai_simulator.faults import Fault, FaultQueue
from aoai_simulator.limits import Headers
from aoai_simulator.messages import shaped
from aoai_simulator.replies import Frames, Pace, Upgrade, Whole
from aoai_simulator.requests import Request
from aoai_simulator.resource import Call, Resource
from aoai_simulator.settings import Settings
from aoai_simulator.targets import parse_target
from aoai_simulator.web_socket import WebSocket

_REASONS = {status.value: status.phrase for status in HTTPStatus}


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """A status line and headers, names as they are given."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


@lru_cache(maxsize=1)
def _date(unix_time: int) -> str:
    return formatdate(unix_time, usegmt=True)


def compressed(body: bytes) -> bytes:
    """A body with content-encoding gzip."""
    return gzip.compress(body, 1, mtime=0)


GZIP: Headers = (("content-encoding", "gzip"), ("vary", "accept-encoding"))


class BodyWriter:
    """Turns frames into what goes on the wire: compressed if wanted, chunked unless HTTP/1.0 reads it."""

    def __init__(self, *, compress: bool, chunked: bool) -> None:
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, 31) if compress else None
        self._chunked = chunked

    def write(self, frames: tuple[bytes, ...]) -> bytes:
        """The frames as one chunk."""
        data = b"".join(frames)
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return self._chunk(data)

    def end(self) -> bytes:
        """The end of a complete body."""
        rest = self._chunk(self._compressor.flush()) if self._compressor is not None else b""
        return rest + (b"0\r\n\r\n" if self._chunked else b"")

    def _chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked and data else data


_log = logging.getLogger(__name__)

_RESET_GRACE = 0.05
"""Seconds between the last bytes and a RST: a RST may take back what the peer has not read yet."""


class Port(Protocol):
    """What an exchange needs of the listener that it came through."""

    resource: Resource
    faults: FaultQueue
    settings: Settings

    def opened(
        self, exchange: Exchange, connection: Connection, start: RequestStartLine, headers: HTTPHeaders
    ) -> Entry:
        """A request has begun; returns its log entry."""

    def closed(self, exchange: Exchange) -> None:
        """A call has ended."""


type Strike = Callable[[Exchange, Fault, Call], Coroutine[None, None, None]]
"""Answers a call as a fault wants it."""


class Exchange(HTTPMessageDelegate):
    """One request and its response; tornado calls its methods as the request comes in."""

    def __init__(self, listener: Port, connection: Connection, http: HTTP1Connection, strike: Strike) -> None:
        self._strike = strike
        self.listener = listener
        self.connection = connection
        self.call: Call | None = None
        self._http = http
        self._chunks: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self.when_done: Callable[[], None] | None = None
        """Called when the response has been sent."""
        self._complete = False
        self._used = 0

    # What tornado calls

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """The head is complete."""
        assert isinstance(start_line, RequestStartLine)
        self._start = start_line
        self._headers = headers
        self._persistent = (
            start_line.version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        )
        self.entry = self.listener.opened(self, self.connection, start_line, headers)
        if self.connection.doomed is not None:
            self.end("dropped")
            abort(self.connection.stream, self.connection.doomed)
        elif len(self.listener.faults):
            self._strike_head()

    def data_received(self, chunk: bytes) -> None:
        """A part of the body has come."""
        if self._task is None:
            self._chunks.append(chunk)

    def on_connection_close(self) -> None:
        """The client hung up before its request was complete."""
        self.end("client_gone")

    def finish(self) -> None:
        """The request is complete: answer it, at once if nothing has to be waited for."""
        self._complete = True
        if self.connection.stream.closed():
            # A fault closed it, but tornado still had the body in its buffer.
            return
        self._http.set_close_callback(self._gone)
        if self._task is not None:
            # A fault struck at the head; it has answered by now, or will.
            if self.entry.ended_at is not None:
                self._release()
            return
        body = b"".join(self._chunks)
        self._chunks.clear()
        self.entry.body_bytes = len(body)
        if self.listener.settings.log_requests:
            self.entry.body_sha256 = hashlib.sha256(body).hexdigest()
        request = Request(self._start.method, self._start.path, self._headers, body)
        try:
            begun = self.listener.resource.begin(request, time.time())
            if isinstance(begun, Whole):
                self.send(begun)
            else:
                self._answer(begun)
        except Exception:
            self._failed()

    # The life of a call

    def _strike_head(self) -> None:
        """Let a fault strike a call of which only the head is known."""
        target = parse_target(self._start.method, self._start.path)
        if target is None:
            return
        resource = self.listener.resource
        fault = self.listener.faults.take(resource.name, target.deployment, before_body=True)
        if fault is not None:
            self.entry.fault = fault.kind
            self.entry.operation = target.operation
            self.entry.deployment = target.deployment
            self.call = Call(target, resource.deployment(target.deployment or ""))
            self._start_task(self._strike(self, fault, self.call))

    def _answer(self, call: Call) -> None:
        self.call = call
        resource = self.listener.resource
        self.entry.operation = call.target.operation
        self.entry.deployment = call.deployment.name if call.deployment else None
        fault = self.listener.faults.take(resource.name, self.entry.deployment)
        if fault is not None:
            self.entry.fault = fault.kind
            self._start_task(self._strike(self, fault, call))
            return
        reply = resource.reply(call, asyncio.get_running_loop().time(), time.time())
        pace = self.pace(call)
        if isinstance(reply, Upgrade):
            self._start_task(self.switch(reply, pace))
        elif isinstance(reply, Frames):
            self._start_task(self.stream(reply, pace))
        elif reply.status == 200 and (wait := pace.whole(reply.completion_tokens)) > 0:
            self._start_task(self._send_later(reply, wait))
        else:
            self.send(reply)

    def pace(self, call: Call) -> Pace:
        """The speed of the deployment that a call is for."""
        if call.deployment is None:
            return Pace(0.0, 0.0)
        spec = call.deployment.spec
        return Pace(spec.first_token_seconds, spec.tokens_per_second, self.listener.settings.burst_seconds)

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except StreamClosedError:
            self.end("client_gone")
        except Exception:
            self._failed()

    def _failed(self) -> None:
        """A bug of the simulator's own: loud in the log, and the client is not left hanging."""
        _log.exception("simulator: a call failed")
        self.end("failed")
        self.connection.stream.close()

    def _gone(self) -> None:
        self.end("client_gone")

    def stop(self) -> None:
        """End the call because the simulator stops, or goes off the air."""
        self.end("stopped")
        self.connection.stream.close()

    def end(self, outcome: str) -> None:
        """Close the call's books; only the first end counts."""
        if self.entry.ended_at is not None:
            return
        self.entry.outcome = outcome
        self.entry.ended_at = time.time()
        self.listener.closed(self)
        if self.call is not None:
            self.listener.resource.finish(self.call, self._used, asyncio.get_running_loop().time())
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def break_off(self, outcome: str, how: str) -> None:
        """End the call by closing the connection: `how` is `fin` or `rst`."""
        if how == "rst" and self.entry.answered_at is not None:
            await asyncio.sleep(_RESET_GRACE)
        self.end(outcome)
        abort(self.connection.stream, how)

    def done(self, outcome: str = "completed") -> None:
        """The response is sent; if the request has been read too, the next one may come."""
        self.end(outcome)
        if self.when_done is not None:
            self.when_done()
        if self._complete:
            self._release()

    def _release(self) -> None:
        self._http.finish()
        if not self._persistent:
            self.connection.stream.close()

    # Sending

    def head(self, status: int, own: Headers, length: int | None) -> bytes:
        """The response's head; `length` None is for a body whose end is not known."""
        self.entry.status = status
        self.entry.answered_at = time.time()
        common = self.listener.resource.headers(self.call, status)
        headers = [*own, ("date", _date(int(time.time()))), *common]
        if length is not None:
            headers.append(("content-length", str(length)))
        elif self._start.version == "HTTP/1.1":
            headers.append(("transfer-encoding", "chunked"))
        if not self._persistent:
            headers.append(("connection", "close"))
        return head(status, headers)

    def _compresses(self) -> bool:
        return self.listener.settings.gzip and "gzip" in self._headers.get("accept-encoding", "")

    def whole(self, reply: Whole) -> tuple[bytes, bytes]:
        """Head and body of a reply, compressed if that is on and the client takes it."""
        reply = shaped(self._start.path, reply)
        self._used = reply.tokens
        body, headers = reply.body, reply.headers
        if body and self._compresses():
            body, headers = compressed(body), (*headers, *GZIP)
        content = b"" if self._start.method == "HEAD" else body
        return self.head(reply.status, headers, len(body)), content

    def send(self, reply: Whole) -> None:
        """Send a whole reply at once."""
        start, body = self.whole(reply)
        stream = self.connection.stream
        try:
            written = stream.write(start + body)
        except StreamClosedError:
            self.end("client_gone")
            return
        if stream.writing():
            # A large body: the client may still go away before it has read all.
            written.add_done_callback(lambda done: None if done.exception() else self.done())
        else:
            self.done()

    async def switch(self, reply: Upgrade, pace: Pace) -> None:
        """Accept a WebSocket's handshake, and serve the session to its end."""
        resource, call, loop = self.listener.resource, self.call, asyncio.get_running_loop()
        assert call is not None
        # tornado reads no more requests from this connection; it still tells when it is closed.
        self._http.detach()
        stream = self.connection.stream
        stream.set_close_callback(self._gone)
        self._persistent = True
        await stream.write(self.head(101, reply.headers, 0))
        reply.session.book = lambda tokens: resource.book(call, tokens, loop.time())
        reply.session.ask = lambda body: resource.respond_in_session(call, body, loop.time(), time.time())
        try:
            await WebSocket(stream, reply.session, pace).serve()
        finally:
            self.end("completed")
            stream.close()

    async def _send_later(self, reply: Whole, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.send(reply)

    async def stream(
        self, reply: Frames, pace: Pace, *, head_first: bool = False, broken: bool = False
    ) -> None:
        """Send a stream at its pace; `broken` leaves the body without its end, and the call open."""
        stream = self.connection.stream
        loop = asyncio.get_running_loop()
        begin = loop.time()
        compress = self._compresses()
        writer = BodyWriter(compress=compress, chunked=self._start.version == "HTTP/1.1")
        headers = (*reply.headers, *GZIP) if compress else reply.headers
        # Nagle's algorithm would hold frames back until the client has acknowledged the last ones.
        stream.set_nodelay(True)
        pending = b""
        sent = 0
        self._used = reply.prompt_tokens
        if head_first or not reply.frames:
            await stream.write(self.head(200, headers, None))
        for at, upto in pace.schedule(reply):
            wait = begin + at - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if self.entry.answered_at is None:
                pending = self.head(200, headers, None)
            await stream.write(pending + writer.write(reply.frames[sent:upto]))
            pending = b""
            sent = self.entry.events = upto
            self._used = reply.prompt_tokens + max(0, min(upto, reply.last) - reply.first)
        if not broken:
            self._used = reply.tokens
            await stream.write(writer.end())
            self.done()
