"""One worker's place among several: its sockets, the processes in it, and when it is filled again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aoai_gateway.app.processes import Backoff
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    import socket

    from aoai_gateway.app.processes import Child


@dataclass(slots=True)
class Slot:
    """The place of the workers with one number."""

    number: int
    sockets: list[socket.socket]
    child: Child | None = None
    successor: Child | None = None
    old: list[Child] = field(default_factory=list)
    """The processes that finish their calls."""
    backoff: Backoff = field(default_factory=Backoff)
    starts: int = 0
    last_end: str | None = None

    def children(self) -> list[Child]:
        """All processes in it."""
        return [each for each in (self.child, self.successor, *self.old) if each is not None]

    def document(self) -> dict[str, Any]:
        """Return what is known of it, for the status page."""
        child = self.child
        unix_offset = time.time() - time.monotonic()
        return {
            "number": self.number,
            "pid": child.pid if child is not None else None,
            "status": "ended" if child is None else "ready" if child.ready else "starting",
            "started": rfc3339(child.started + unix_offset) if child is not None else None,
            "starts": self.starts,
            "last_end": self.last_end,
        }
