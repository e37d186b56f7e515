"""A TCP relay that makes a port of this machine seem far away.

``python far.py PORT TARGET [--round-trip SECONDS]``. Bytes take half of a round trip each way. Loopback opens
a TCP connection at once, so the first bytes of each connection take a whole round trip more, in its place.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

type Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def carry(ends: Ends, delay: float, more: float) -> None:
    """Pass on what comes, in order, each read so many seconds late, and the first one more than that."""
    reader, writer = ends
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)

    delivery, earliest = asyncio.create_task(deliver()), loop.time() + more
    data = b"-"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        under_way.put_nowait((max(loop.time(), earliest) + delay, data))
    await delivery


async def main(port: int, target: int, round_trip: float) -> None:
    """Relay for ever."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other, upstream = await asyncio.open_connection("127.0.0.1", target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(carry((reader, upstream), round_trip / 2, round_trip))
                group.create_task(carry((other, writer), round_trip / 2, 0))
        except* OSError:
            pass
        finally:
            writer.close()
            upstream.close()

    server = await asyncio.start_server(relay, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--round-trip", type=float, default=0.03)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(args.port, args.target, args.round_trip))
