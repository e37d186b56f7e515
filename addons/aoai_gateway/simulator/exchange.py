"""One request on one connection: reads it, lets faults strike, and sends the answer at the right pace.

tornado reads the request and keeps the connection's order; the response's bytes are written to the
connection's stream directly, since faults need to break them anywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import struct
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError

from aoai_gateway.simulator import refusals, responses
from aoai_gateway.simulator.asks import Ask
from aoai_gateway.simulator.delivery import GZIP, BodyWriter, compressed, head
from aoai_gateway.simulator.faults import Fault
from aoai_gateway.simulator.limits import Headers, retry_headers
from aoai_gateway.simulator.replies import (
    EVENT_STREAM_TYPE,
    JSON_TYPE,
    Frames,
    Reply,
    Whole,
    rate_limited,
)
from aoai_gateway.simulator.resource import Call, Request
from aoai_gateway.simulator.timing import Pace

if TYPE_CHECKING:
    from aoai_gateway.simulator.listener import Connection, Listener

_log = logging.getLogger(__name__)

_RESET_GRACE = 0.05
"""Seconds between the last bytes and a RST: a RST may take back what the peer has not read yet."""

_INSTANT = Pace(0.0, 0.0)


def abort(stream: IOStream, how: str) -> None:
    """Close a connection by FIN, or by RST (`how` is `rst`)."""
    if how == "rst" and stream.socket is not None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


class Exchange(HTTPMessageDelegate):
    """One request and its response; tornado calls its methods as the request comes in."""

    def __init__(self, listener: Listener, connection: Connection, http: HTTP1Connection) -> None:
        self._listener = listener
        self._connection = connection
        self._http = http
        self._chunks: list[bytes] = []
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._used = 0
        self._fault: Fault | None = None

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
        self._entry = self._listener.opened(self, self._connection, start_line, headers)
        if self._connection.doomed is not None:
            self._end("dropped")
            abort(self._connection.stream, self._connection.doomed)

    def data_received(self, chunk: bytes) -> None:
        """A part of the body has come."""
        self._chunks.append(chunk)

    def on_connection_close(self) -> None:
        """The client hung up before its request was complete."""
        self._end("client_gone")

    def finish(self) -> None:
        """The request is complete: answer it, at once if nothing has to be waited for."""
        self._http.set_close_callback(self._gone)
        body = b"".join(self._chunks)
        self._chunks.clear()
        entry = self._entry
        entry.body_bytes = len(body)
        if self._listener.settings.log_requests:
            entry.body_sha256 = hashlib.sha256(body).hexdigest()
        resource = self._listener.resource
        request = Request(self._start.method, self._start.path, self._headers, body)
        begun = resource.begin(request, time.time())
        if isinstance(begun, Whole):
            self._send_now(begun)
            return
        self._call = begun
        entry.operation = begun.target.operation
        entry.deployment = begun.deployment.name if begun.deployment else None
        self._fault = self._listener.faults.take(resource.name, entry.deployment)
        if self._fault is not None:
            entry.fault = self._fault.kind
            self._start_task(self._struck(self._fault, begun))
            return
        reply = resource.reply(begun, asyncio.get_running_loop().time(), time.time())
        pace = self._pace(begun)
        if isinstance(reply, Frames):
            self._start_task(self._stream(reply, pace))
        elif reply.status == 200 and (wait := pace.whole(reply.completion_tokens)) > 0:
            self._start_task(self._send_later(reply, wait))
        else:
            self._send_now(reply)

    def stop(self) -> None:
        """End the call because the simulator stops."""
        self._end("stopped")
        self._connection.stream.close()

    # The ends of a call

    def _gone(self) -> None:
        self._end("client_gone")

    def _end(self, outcome: str) -> None:
        if self._entry.ended_at is not None:
            return
        self._entry.outcome = outcome
        self._entry.ended_at = time.time()
        self._listener.closed(self)
        if self._call is not None:
            self._listener.resource.finish(self._call, self._used, asyncio.get_running_loop().time())
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _complete(self) -> None:
        """The response is sent: the connection waits for the next request, or closes."""
        fault = self._fault
        if fault is not None and fault.kind == "drop-after-idle":
            self._drop_later(fault)
        self._end("completed")
        self._http.finish()
        if not self._persistent:
            self._connection.stream.close()

    def _drop_later(self, fault: Fault) -> None:
        if fault["when"] == "request":
            self._connection.doomed = fault["how"]
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(fault["after_seconds"], abort, self._connection.stream, fault["how"])

    async def _break_off(self, outcome: str, how: str) -> None:
        if how == "rst" and self._entry.answered_at is not None:
            await asyncio.sleep(_RESET_GRACE)
        self._end(outcome)
        abort(self._connection.stream, how)

    # Sending

    def _pace(self, call: Call) -> Pace:
        if call.deployment is None:
            return _INSTANT
        spec = call.deployment.spec
        return Pace(spec.first_token_seconds, spec.tokens_per_second, self._listener.settings.burst_seconds)

    def _head(self, status: int, own: Headers, length: int | None) -> bytes:
        """The response's head; `length` None is for a body whose end is not known."""
        entry = self._entry
        entry.status = status
        entry.answered_at = time.time()
        headers = [
            *own,
            ("date", self._listener.date()),
            *self._listener.resource.headers(self._call, status),
        ]
        if length is not None:
            headers.append(("content-length", str(length)))
        elif self._start.version == "HTTP/1.1":
            headers.append(("transfer-encoding", "chunked"))
        if not self._persistent:
            headers.append(("connection", "close"))
        return head(status, headers)

    def _compresses(self) -> bool:
        return self._listener.settings.gzip and "gzip" in self._headers.get("accept-encoding", "")

    def _whole(self, reply: Whole) -> tuple[bytes, bytes]:
        """Head and body of a reply, compressed if that is on and the client takes it."""
        body, headers = reply.body, reply.headers
        if body and self._compresses():
            body, headers = compressed(body), (*headers, *GZIP)
        content = b"" if self._start.method == "HEAD" else body
        return self._head(reply.status, headers, len(body)), content

    def _send_now(self, reply: Whole) -> None:
        self._used = reply.tokens
        start, body = self._whole(reply)
        stream = self._connection.stream
        try:
            written = stream.write(start + body)
        except StreamClosedError:
            self._end("client_gone")
            return
        if stream.writing():
            # A large body: the client may still go away before it has read all.
            written.add_done_callback(lambda done: None if done.exception() else self._complete())
        else:
            self._complete()

    async def _send_later(self, reply: Whole, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._send_now(reply)

    async def _stream(
        self, reply: Frames, pace: Pace, *, head_first: bool = False, broken: bool = False
    ) -> None:
        """Send a stream at its pace; `broken` leaves the body without its end."""
        stream = self._connection.stream
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
            await stream.write(self._head(200, headers, None))
        for at, upto in pace.schedule(reply):
            wait = begin + at - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._entry.answered_at is None:
                pending = self._head(200, headers, None)
            await stream.write(pending + writer.write(reply.frames[sent:upto]))
            pending = b""
            sent = self._entry.events = upto
            self._used = reply.prompt_tokens + max(0, min(upto, reply.last) - reply.first)
        if not broken:
            self._used = reply.tokens
            await stream.write(writer.end())
            self._complete()

    # Faults

    async def _struck(self, fault: Fault, call: Call) -> None:
        """Answer a call that a fault strikes."""
        if fault.kind == "hang":
            if fault["after_head"]:
                kind = EVENT_STREAM_TYPE if call.ask is not None and call.ask.stream else JSON_TYPE
                await self._connection.stream.write(self._head(200, (kind,), None))
            await _for_ever()
        if fault.kind != "drop-after-idle":
            await asyncio.sleep(fault.get("after_seconds", 0))
        if fault.kind == "reset":
            await self._break_off("reset", fault["how"])
            return
        resource = self._listener.resource
        pace = self._pace(call)
        reply: Reply | None = refusals.replacement(fault, resource.refused(call))
        if reply is None and fault.kind == "in-200-refusal" and call.ask is not None:
            reply = self._refusal_in_200(fault, call, call.ask)
            pace = Pace(fault["seconds"], 0.0)
        if reply is None:
            reply = resource.reply(call, asyncio.get_running_loop().time(), time.time())
        if fault.kind == "slow-first-token":
            pace = replace(pace, first_token=fault["seconds"])
        if fault.kind == "bad-content-type":
            reply = replace(reply, headers=_retyped(reply.headers, fault["content_type"]))
        if isinstance(reply, Whole):
            await self._send_struck(fault, reply, pace)
        else:
            await self._stream_struck(fault, reply, pace)

    def _refusal_in_200(self, fault: Fault, call: Call, ask: Ask) -> Reply:
        """The refusal inside a stream; a call that does not stream gets its plain 429."""
        resource = self._listener.resource
        who = resource.refused(call)
        if not ask.stream:
            seconds = fault["retry_after"]
            return rate_limited(who, "tokens", seconds, headers=retry_headers(seconds) if seconds else ())
        made = resource.made(who.deployment, time.time())
        return responses.refused_stream(
            ask, made, who, order=fault["order"], big=fault["big"], retry_after=int(fault["retry_after"])
        )

    async def _send_struck(self, fault: Fault, reply: Whole, pace: Pace) -> None:
        if reply.status == 200:
            await asyncio.sleep(pace.whole(reply.completion_tokens))
        if fault.kind == "429-late-body":
            start, body = self._whole(reply)
            await self._connection.stream.write(start)
            await asyncio.sleep(fault["body_seconds"])
            await self._connection.stream.write(body)
            self._complete()
        elif fault.kind in ("cut", "stall") and reply.status == 200:
            start, body = self._whole(reply)
            await self._connection.stream.write(start + body[: len(body) // 2])
            await self._cut(fault)
        else:
            self._send_now(reply)

    async def _stream_struck(self, fault: Fault, reply: Frames, pace: Pace) -> None:
        head_first = fault.kind == "slow-first-token" and fault["head_first"]
        if fault.kind in ("cut", "stall") and fault.get("how") != "clean":
            await self._stream(refusals.spoiled(reply, fault), pace, broken=True)
            await self._cut(fault)
        else:
            await self._stream(refusals.spoiled(reply, fault), pace, head_first=head_first)

    async def _cut(self, fault: Fault) -> None:
        if fault.kind == "stall":
            await _for_ever()
        await self._break_off("cut", "rst" if fault["how"] == "rst" else "fin")

    def _start_task(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except StreamClosedError:
            self._end("client_gone")
        except Exception:
            _log.exception("simulator: a call failed")
            self._end("failed")
            self._connection.stream.close()


async def _for_ever() -> None:
    """Wait until the call's task is cancelled: the client hangs up, or the simulator stops."""
    await asyncio.get_running_loop().create_future()


def _retyped(headers: Headers, content_type: str) -> Headers:
    others = tuple(pair for pair in headers if pair[0] != "content-type")
    return (("content-type", content_type), *others) if content_type else others
