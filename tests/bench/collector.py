"""A collector that costs next to nothing: takes OTLP by HTTP, and says to its standard output what came.

``python collector.py PORT``. In the end it prints a line of JSON: by path, how many requests and bytes.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"

took: dict[str, list[int]] = {}


class Collector(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            del self.buffer[: end + 4 + length]
            counts = took.setdefault(head.split()[1].decode(), [0, 0])
            counts[0] += 1
            counts[1] += length
            self.transport.write(ANSWER)


async def main(port: int) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    server = await loop.create_server(Collector, "127.0.0.1", port)
    await over.wait()
    server.close()
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
