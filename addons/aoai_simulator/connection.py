"""Clients' connections and how they are broken, and the log of the requests on them."""

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


MAX_ENTRIES = 20_000
"""How many requests the log holds; the oldest goes first."""


@dataclass(slots=True)
class Entry:
    """One request. Times are Unix seconds; `headers` are in lower case and hold the keys: it is a simulator.

    `outcome` is `in_flight`, `completed`, `client_gone`, or the effect of a fault: `reset`, `cut`,
    `dropped` (an idle connection, closed as this request came). `ended_at` is when the call ended, for
    any reason; `events` counts the frames of a stream that were sent.
    """

    number: int
    endpoint: str
    connection: int
    method: str
    target: str
    headers: dict[str, str]
    received_at: float
    operation: str | None = None
    deployment: str | None = None
    body_bytes: int = 0
    body_sha256: str | None = None
    fault: str | None = None
    status: int | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    events: int = 0
    outcome: str = "in_flight"
