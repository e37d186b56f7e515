"""A TCP relay in front of an endpoint that can hang and can reset, whatever is under way in it.

Faults of the simulator strike calls that begin. An endpoint that dies takes along those in flight too, and
its peer notices nothing at first.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal

State = Literal["healthy", "hanging", "resetting"]

_RST = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 seconds: closing sends a RST."""


class Relay:
    """Relays to a port of this machine.

    `sent_into_it` counts what came while it was not well: requests, and connections that it reset.
    """

    def __init__(self, target: int) -> None:
        self.sent_into_it = 0
        self._target = target
        self._state: State = "healthy"
        self._well = asyncio.Event()
        self._well.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; gives the port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        self.become("resetting")
        self._well.set()
        await asyncio.gather(*self._tasks)

    def become(self, state: State) -> None:
        """Change how it behaves; "resetting" ends all connections that are open."""
        self._state = state
        if state == "healthy":
            self._well.set()
        else:
            self._well.clear()
        if state == "resetting":
            for writer in list(self._open):
                _reset(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == "resetting":
            self.sent_into_it += 1
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writers = {writer}
        self._open.add(writer)
        try:
            other, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            writers.add(upstream)
            self._open.add(upstream)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream, requests=True))
                group.create_task(self._pump(other, writer, requests=False))
        except* OSError:
            pass
        finally:
            self._open -= writers
            for each in writers:
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, requests: bool
    ) -> None:
        while data := await reader.read(65536):
            if requests and self._state != "healthy" and data.startswith(b"POST "):
                self.sent_into_it += 1
            await self._well.wait()
            writer.write(data)
            await writer.drain()
        await self._well.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()
