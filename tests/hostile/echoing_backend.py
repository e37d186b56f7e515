"""A backend that knows secrets and spreads them: in bodies, heads, reason phrases and streams.

A call says by its header ``x-spread`` in which way. The backend's credential is what it was sent with the
call; the other secrets it was told.
"""

from __future__ import annotations

import base64
import gzip
import json
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from tests.coded_streams import CODINGS

type Head = tuple[str, list[tuple[str, str]]]
type Spread = Callable[[bytes, str], Iterator[bytes]]

JSON = ("content-type", "application/json")


def echoes(secret: str) -> list[str]:
    """The forms in which a server without bad intent writes a secret."""
    return [
        secret,
        quote(secret, safe=""),
        base64.b64encode(f"user:{secret}".encode()).decode(),
        json.dumps(secret)[1:-1].replace("/", "\\/"),
    ]


def response(status: str, body: bytes, *fields: tuple[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{n}: {v}" for n, v in fields), f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(text: str) -> bytes:
    # As it is: what is in it was escaped when it was made.
    message = b'{"role":"assistant","content":"%s"}' % text.encode()
    choice = b'{"index":0,"finish_reason":"stop","message":%s}' % message
    return b'{"id":"x","model":"gpt-4o","choices":[%s]}' % choice


def error(code: str, message: str = "no") -> bytes:
    return json.dumps({"error": {"code": code, "type": code, "message": message}}).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
END = b"0\r\n\r\n"


def spread(way: str, secrets: Sequence[str]) -> Iterator[bytes]:
    """Yield the pieces of an answer, in which every secret stands."""
    kind, _, detail = way.partition("-")
    everything = " ".join(echo for secret in secrets for echo in echoes(secret))
    number = int(detail) if detail.isdigit() else 0
    secret = secrets[number % len(secrets)]
    match kind:
        case "json":
            yield response("200 OK", completion(everything), JSON)
        case "gzip":
            body = gzip.compress(completion(everything))
            yield response("200 OK", body, JSON, ("content-encoding", "gzip"))
        case "id":
            body = json.dumps({"id": secret, "model": secret, "choices": []}).encode()
            yield response("200 OK", body, JSON)
        case "cut":  # a stream whose pieces end anywhere in a secret
            data = b'data: {"choices":[{"index":0,"delta":{"content":"' + secret.encode() + b'"}}]}\n\n'
            at = data.index(secret.encode()) + len(detail)
            whole = STREAM + chunk(TEXT) + chunk(data) + chunk(DONE) + END
            border = whole.index(secret.encode()) + (at - data.index(secret.encode()))
            yield whole[:border]
            yield whole[border:]
        case "bytes":  # byte by byte, each a chunk of HTTP's as well
            data = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % everything.encode()
            yield STREAM + chunk(TEXT)
            for byte in data:
                yield chunk(bytes([byte]))
            yield chunk(DONE) + END
        case (
            "coded"
        ):  # in a coding that no request has asked for, each event flushed, and some pieces within secrets
            coding, encode = CODINGS[detail]
            data = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % everything.encode()
            pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
            yield STREAM.replace(b"\r\n\r\n", b"\r\ncontent-encoding: %b\r\n\r\n" % coding.encode())
            for part in encode([TEXT, *pieces, DONE]):
                if part:
                    yield chunk(part)
            yield END
        case "half":  # the stream breaks off within a secret
            yield STREAM + chunk(TEXT) + chunk(b"data: " + secret.encode())
        case "refusal":
            yield STREAM + chunk(b"data: " + error("429", secret) + b"\n\n") + END
        case "refusalcode":
            document = {"error": {"code": secret, "type": "rate_limit_exceeded", "message": secret}}
            yield STREAM + chunk(b"data: " + json.dumps(document).encode() + b"\n\n") + END
        case "status":
            status, _, where = detail.partition("-")
            fields = [JSON, ("x-ms-region", secret)]
            body = error(secret, everything)
            if where == "gzip":
                body, fields = gzip.compress(body), [*fields, ("content-encoding", "gzip")]
            yield response(f"{status} Because", body, *fields)
        case "failed":  # an error inside a 200
            body = error("server_error", everything)
            fields = [JSON]
            if detail == "gzip":
                body, fields = gzip.compress(body), [JSON, ("content-encoding", "gzip")]
            yield response("200 OK", body, *fields)
        case "misnamed":  # the gateway's own fault, as the backend sees it
            body = gzip.compress(error("DeploymentNotFound", everything))
            yield response("404 No", body, JSON, ("content-encoding", "gzip"))
        case "header":
            fields = [(f"x-echo-{n}", echo) for n, echo in enumerate(echoes(secret))]
            names = [(f"x-{each}", "1") for each in secrets if each.isalnum()]
            yield response("200 OK", completion("x"), JSON, *fields, *names, ("set-cookie", f"k={secret}"))
        case "reason":
            yield response(f"200 {secret}", completion("x"), JSON)
        case "reason404":
            yield response(f"404 {secret}", error("x"), JSON)
        case "location":
            yield response("307 Go", b"", ("location", f"https://a.example/?k={quote(secret, safe='')}"))
        case "interim":
            yield f"HTTP/1.1 103 {secret}\r\nlink: <{secret}>\r\n\r\n".encode()
            yield response("200 OK", completion(everything), JSON)
        case "malformed":
            yield f"HTTP/1.1 {secret}\r\n{secret}\r\n\r\n".encode()
        case "nohttp":
            yield f"{secret} {secret}\r\n\r\n".encode()
        case "badchunk":
            yield STREAM + chunk(TEXT) + f"{secret}\r\n".encode()
        case "trailer":
            yield STREAM + chunk(TEXT) + chunk(DONE) + f"0\r\nx-trailer: {secret}\r\n\r\n".encode()
        case "unasked":
            yield response("200 OK", completion("x"), JSON) + secret.encode() * 3
        case _:
            yield response("200 OK", completion("plain"), JSON)


class Backend:
    """Listens on a port of its own until it is closed. ``secrets``: what it was told beside its own key."""

    def __init__(self, secrets: Sequence[str]) -> None:
        told = list(secrets)
        seen: list[bytes] = []
        self.seen = seen
        """The heads of the requests that came."""

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True
            timeout = 20

            def handle(self) -> None:
                while self._one():
                    pass

            def _one(self) -> bool:
                lines = []
                while (line := self.rfile.readline(65_536)) not in (b"\r\n", b""):
                    lines.append(line)
                if not lines:
                    return False
                seen.append(b"".join(lines))
                fields = dict(each.decode().rstrip().split(": ", 1) for each in lines[1:])
                self.rfile.read(int(fields.get("content-length", "0")))
                way = fields.get("x-spread", "")
                own = [value for name, value in fields.items() if name in ("api-key", "authorization")]
                try:
                    for piece in spread(way, [*(each.removeprefix("Bearer ") for each in own), *told]):
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:
                    return False
                return not way.startswith(("half", "malformed", "nohttp", "badchunk", "unasked", "trailer"))

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
