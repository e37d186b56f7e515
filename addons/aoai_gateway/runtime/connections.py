"""How many clients' connections there may be: of one address, and in all.

Each needs a descriptor, and its call one more towards a backend; an upload on disk needs a third. Beyond the
bound a few more are taken, so that health is still told; they can have nothing else. Without a bound,
connections that say nothing would use up all descriptors, and lock every client out.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aoai_gateway.config.models import Limits

RESERVE = 16
"""Connections beyond the bound, which are told of health and nothing else."""

OWN_DESCRIPTORS = 96
"""That the process has for other things: files, the admin listener, pipes to workers, Redis."""

RESERVE_SECONDS = 5.0
"""The time for a head on one of these; it is closed after its answer."""

MOST = 10_000
"""Connections, if neither the configuration nor the system says less."""


class Place(Enum):
    """What a new connection gets."""

    FULL = "full"
    """Nothing: it is closed."""
    RESERVE = "reserve"
    ORDINARY = "ordinary"


def most_connections(descriptors: int) -> int:
    """Return how many connections that many descriptors are enough for, with a backend's for each."""
    return max(RESERVE, min(MOST, (descriptors - OWN_DESCRIPTORS - RESERVE) // 2))


class Connections:
    """The clients' connections that are open. ``descriptors``: how many the process may have."""

    def __init__(self, descriptors: int = 1024) -> None:
        self.descriptors = descriptors
        self.files = 0
        """Files of uploads that are open; where descriptors are few, two take the place of a connection."""
        self._open: dict[str, str] = {}
        self.reserve: dict[str, str] = {}
        """The addresses of those beyond the bound, which are told of health only."""
        self._by_address: Counter[str] = Counter()
        self._silent: dict[str, float] = {}
        """Those in which no HTTP has begun, and since when (monotonic seconds), the oldest first."""

    def __len__(self) -> int:
        return len(self._open) + len(self.reserve)

    @property
    def has_room_for_file(self) -> bool:
        """Whether there is a descriptor for the file of one more upload."""
        return 2 * len(self._open) + self.files < self.descriptors - OWN_DESCRIPTORS - RESERVE

    def opened(self, connection: str, address: str, limits: Limits, now: float) -> Place:
        """Count a connection, by its id, and say what it gets. ``now``: monotonic seconds."""
        most = limits.connections or most_connections(self.descriptors - self.files)
        of_one = limits.connections_per_address or max(1, most // 2)
        if len(self._open) < most and self._by_address[address] < of_one:
            self._open[connection] = address
            self._silent[connection] = now
            self._by_address[address] += 1
            return Place.ORDINARY
        # Of one address at most half of the reserve, or one that has used up the rest would have it, too.
        reserved = sum(each == address for each in self.reserve.values())
        if len(self.reserve) < RESERVE and reserved < RESERVE // 2:
            self.reserve[connection] = address
            self._silent[connection] = now
            return Place.RESERVE
        return Place.FULL

    def closed(self, connection: str) -> None:
        """Count a connection no more; nothing if it was not counted."""
        self._silent.pop(connection, None)
        self.reserve.pop(connection, None)
        address = self._open.pop(connection, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def speaks(self, connection: str) -> None:
        """Note that HTTP begins in a connection; from now on its own layer keeps time."""
        self._silent.pop(connection, None)

    def silent_for(self, seconds: float, now: float) -> set[str]:
        """Return, once, the connections in which no HTTP has begun for so long."""
        found = set()
        for connection, since in self._silent.items():
            if now - since < seconds:
                break
            found.add(connection)
        for connection in found:
            del self._silent[connection]
        return found
