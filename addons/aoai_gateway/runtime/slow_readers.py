"""Clients that do not read their answers.

What a client does not read stays in the system's buffers, then in the process's, and then no more is read
from its backend. The time of that is the client's, not a silence of the backend; and it has an end: what
waits for a client must go out with 1 KB/s on average, or its connection is closed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLOWEST = 1024.0
"""Bytes per second with which a client must read on average."""


class Progress:
    """How fast what is unread goes out; times are monotonic seconds."""

    def __init__(self) -> None:
        self._since = math.inf
        self._read = 0

    def is_too_slow(self, sent: int, unread: int, seconds: float, now: float) -> bool:
        """Whether too little has gone out for so long. ``sent``, ``unread``: bytes in all, and of those."""
        read = sent - unread
        if not unread or self._since == math.inf:
            self._since, self._read = (now if unread else math.inf), read
        elif now - self._since >= seconds:
            if read - self._read < SLOWEST * seconds:
                return True
            self._since, self._read = now, read
        return False


class Output:
    """What goes out on one client's connection."""

    def __init__(self, connection: str, busy: set[Output]) -> None:
        self.connection = connection
        self.sent = 0
        """Bytes that were handed over for it."""
        self.waited = -math.inf
        """When something was last seen that its client had not read."""
        self.is_cut = False
        """Whether it is closed since its client does not read."""
        self.progress = Progress()
        self._busy = busy

    def __repr__(self) -> str:
        return f"Output(sent={self.sent}, waited={self.waited}, is_cut={self.is_cut})"

    def add(self, size: int) -> None:
        """Count bytes that are handed over."""
        self.sent += size
        self._busy.add(self)


class SlowReaders:
    """The clients' connections that have something to read."""

    def __init__(self) -> None:
        self.unread: Callable[[str], int] = lambda connection: 0
        """Gives the bytes for a connection, by its id, that the system has not taken yet."""
        self._busy: set[Output] = set()

    def __len__(self) -> int:
        return len(self._busy)

    def output(self, connection: str) -> Output:
        """Begin to look at a connection."""
        return Output(connection, self._busy)

    def closed(self, output: Output) -> None:
        """Look at a connection no more."""
        self._busy.discard(output)

    def is_waited_for(self, output: Output, now: float) -> bool:
        """Whether the client of a connection has something to read."""
        if self.unread(output.connection):
            output.waited = now
            return True
        return False

    def look(self, seconds: float, now: float) -> list[str]:
        """Return, once, the connections whose clients have read too little for so long."""
        found = []
        for output in list(self._busy):
            unread = self.unread(output.connection)
            if unread:
                output.waited = now
            else:
                self._busy.discard(output)
            if output.progress.is_too_slow(output.sent, unread, seconds, now):
                output.is_cut = True
                self._busy.discard(output)
                found.append(output.connection)
        return found
