"""The simulator's log of the requests that it received."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

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

    def as_dict(self) -> dict[str, Any]:
        """The entry in JSON's terms."""
        return asdict(self)


class RequestLog:
    """The last requests, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Remember a request."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()
