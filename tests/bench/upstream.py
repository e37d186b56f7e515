"""An upstream that costs next to nothing: canned answers from a bare asyncio protocol.

``python upstream.py PORT [--chunks N] [--pace SECONDS] [--tls FILE]``. A call whose body asks for a stream
gets so many events, so many seconds apart; the deployment ``refuses`` (in path or body) is answered with a
429; everything else gets a small JSON answer. ``--tls`` names a file with a certificate and its key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl

CHUNKS = 200
PACE = 0.01

ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-2024-11-20",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x" * 200}}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 50, "total_tokens": 70},
    }
).encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(ANSWER),
    ANSWER,
)
REFUSAL = b'{"error":{"code":"RateLimitReached","message":"Please retry after 1 second."}}'
REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after-ms: 1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(REFUSAL), REFUSAL)
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(data: bytes) -> bytes:
    """One event as one chunk."""
    raw = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(raw), raw)


CHUNK = event(
    json.dumps(
        {
            "choices": [
                {
                    "content_filter_results": {},
                    "delta": {"content": " word"},
                    "finish_reason": None,
                    "index": 0,
                }
            ],
            "created": 0,
            "id": "chatcmpl-bench",
            "model": "gpt-4o-2024-11-20",
            "object": "chat.completion.chunk",
            "usage": None,
        },
        separators=(",", ":"),
    ).encode()
)
LAST = event(b"[DONE]") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            body, self.buffer = rest[:length], rest[length:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if b"refuses" in head.split(b"\r\n", 1)[0] or b"refuses" in body:
            self.transport.write(REFUSED)
        elif b'"stream":true' in body:
            self.transport.write(STREAM)
            self.left = CHUNKS
            self.stream()
        else:
            self.transport.write(OK)

    def stream(self) -> None:
        if self.transport.is_closing():
            return
        if self.left == 0:
            self.transport.write(LAST)
            return
        self.left -= 1
        self.transport.write(CHUNK)
        asyncio.get_running_loop().call_later(PACE, self.stream)


async def main(port: int, certificate: str | None) -> None:
    """Serve for ever."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=1024, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--pace", type=float, default=PACE)
    parser.add_argument("--tls", metavar="FILE")
    args = parser.parse_args()
    CHUNKS, PACE = args.chunks, args.pace
    asyncio.run(main(args.port, args.tls))
