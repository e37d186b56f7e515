"""A client's connection, and how it is broken."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

from tornado.iostream import IOStream


def abort(stream: IOStream, how: str) -> None:
    """Close a connection by FIN, or by RST (`how` is `rst`)."""
    if how == "rst" and stream.socket is not None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


@dataclass(eq=False, slots=True)
class Connection:
    """A client's connection. `doomed` is how it ends when its next request comes: `fin`, `rst` or None."""

    number: int
    stream: IOStream
    doomed: str | None = None

    def drop_idle(self, when: str, seconds: float, how: str) -> None:
        """Close it `seconds` from now (`when` is `answer`), or as its next request comes (`request`)."""
        if when == "request":
            self.doomed = how
        else:
            asyncio.get_running_loop().call_later(seconds, abort, self.stream, how)
