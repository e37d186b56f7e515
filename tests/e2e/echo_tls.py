"""A backend that speaks https and says back what it was asked, and knows its connections one by one."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.e2e.certificates import Certificates

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNASKED = b'HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{"id":"of another client"}'
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Talk:
    """One connection, as the backend sees it."""

    raw: socket.socket
    began: float = field(default_factory=time.monotonic)
    ready: float | None = None
    """When its handshake was done."""
    asked: list[str] = field(default_factory=list)
    """What calls said on it, in order."""
    ended: bool = False


class EchoBackend:
    """Listens on a port of loopback until it is closed.

    A call says in its message how it is answered, before a colon: see `_answer`. On so many connections as
    ``slams`` says, the first call finds no answer.
    """

    def __init__(self, made: Certificates) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(made.certificate, made.private_key)
        self._context.num_tickets = 0  # it sends nothing of its own after a handshake
        self._server = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._server.getsockname()[1]
        self.url = f"https://localhost:{self.port}"
        self.talks: list[Talk] = []
        self.slams = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()
        for talk in self.open():
            self.end(talk)

    def open(self) -> list[Talk]:
        """Return the connections that are open."""
        return [talk for talk in self.talks if not talk.ended]

    def idle(self) -> list[Talk]:
        """Return those of them that have shaken hands, and carried nothing."""
        return [talk for talk in self.open() if talk.ready is not None and not talk.asked]

    @property
    def asked(self) -> list[str]:
        """What all calls said."""
        return [text for talk in self.talks for text in talk.asked]

    def end(self, talk: Talk, *, reset: bool = False) -> None:
        """Close a connection without a word."""
        with contextlib.suppress(OSError):
            if reset:
                talk.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            talk.raw.shutdown(socket.SHUT_RDWR)

    def say(self, talk: Talk, data: bytes) -> None:
        """Send on a connection what no call has asked for."""
        talk.raw.sendall(data)

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._server.accept()
            except OSError:
                return
            talk = Talk(raw)
            self.talks.append(talk)
            threading.Thread(target=self._talk, args=(talk,), daemon=True).start()

    def _talk(self, talk: Talk) -> None:
        try:
            with contextlib.suppress(OSError, ValueError), talk.raw:
                talk.raw.settimeout(60)
                talk.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._context.wrap_socket(talk.raw, server_side=True) as secured:
                    talk.raw = secured
                    talk.ready = time.monotonic()
                    self._answer_all(talk, secured)
        finally:
            talk.ended = True

    def _answer_all(self, talk: Talk, secured: ssl.SSLSocket) -> None:
        with secured.makefile("rb") as file:
            while line := file.readline():
                length = 0
                while line not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    line = file.readline()
                body = json.loads(file.read(length))
                text = body["messages"][0]["content"] if "messages" in body else body["input"]
                talk.asked.append(text)
                assert talk.ready is not None
                if self.slams and len(talk.asked) == 1:
                    self.slams -= 1
                    return
                for piece in _answer(text, streams=bool(body.get("stream"))):
                    if piece is None:
                        return
                    secured.sendall(piece)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def whole(status: str, document: object, *fields: str) -> bytes:
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _error(status: str, code: str, *fields: str) -> bytes:
    return whole(status, {"error": {"code": code, "message": "no"}}, *fields)


def _answer(text: str, *, streams: bool) -> Iterator[bytes | None]:
    """Yield the pieces of an answer; None ends the connection."""
    how = text.partition(":")[0]
    dice = random.Random(text)
    match how:
        case "late":
            time.sleep(0.3)
        case "throttle":
            yield _error("429 Too Many Requests", "429", "retry-after-ms: 1")
            return
        case "fail":
            yield _error("500 Oops", "server_error")
            return
        case "drop":
            yield None
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if not streams:
        answer = whole("200 OK", {"id": "c", "object": "chat.completion", "choices": [choice]})
        if how == "halve":
            yield answer[:-20]
            yield None
        yield answer
    else:
        yield STREAM
        for number in range(6):
            if how == "halve" and number == 4:
                yield None
            delta = {"content": f"{text} "}
            part = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            yield chunk(b"data: " + json.dumps(part).encode() + b"\n\n")
            time.sleep(dice.random() * 0.01)
        part = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield chunk(b"data: " + json.dumps(part).encode() + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n"
    if how == "poison":
        yield UNASKED
