"""How many bytes of requests' bodies are in memory: of one client, and in all.

A body stays as long as its call, since it may be sent again. A client may hold as many bytes as are free
after that: alone half of all, beside others less, and there always is room for one more client. This is the
dynamic threshold by which switches share their buffers (Choudhury and Hahne, 1998): it needs no figure for
each client, and no count of the clients.
"""

from __future__ import annotations

from collections import Counter

from aoai_gateway.wire import errors

COME_BACK_SECONDS = 1.0
"""For a refused client. Nothing says when a call ends; it is not to upload its body in vain all the time."""


class HeldBytes:
    """The bytes that all calls hold."""

    def __init__(self) -> None:
        self.total = 0
        self.given_back = 0
        """Bytes that were held, since it was last set to 0. Some may wait for a garbage collection."""
        self._of: Counter[str] = Counter()

    def of(self, client: str) -> int:
        """Return the bytes that the calls of a client hold."""
        return self._of[client]

    def open(self, client: str, most: int) -> Held:
        """Begin to count for one call. ``most``: bytes for all calls of all clients."""
        return Held(self, client, most)

    def has_room(self, client: str, size: int, most: int) -> bool:
        """Whether a client may hold so many bytes more."""
        return size <= self.room(client, most)

    def room(self, client: str, most: int) -> int:
        """Return how many bytes more a client may hold; may be negative."""
        return (most - self.total - self._of[client]) // 2

    def take(self, client: str, size: int) -> None:
        """Count bytes as held."""
        self.total += size
        self._of[client] += size

    def give_back(self, client: str, size: int) -> None:
        """Count bytes as held no more."""
        self.total -= size
        self.given_back += size
        self._of[client] -= size
        if not self._of[client]:
            del self._of[client]


class Held:
    """The bytes that one call holds."""

    def __init__(self, all_of_them: HeldBytes, client: str, most: int) -> None:
        self._all = all_of_them
        self._client = client
        self._most = most
        self.size = 0

    @property
    def room(self) -> int:
        """How many bytes more may be held now; may be negative."""
        return self._all.room(self._client, self._most)

    def expect(self, size: int) -> None:
        """Check that there is room for so many bytes more, which are not there yet.

        Raises GatewayError (503).
        """
        if not self._all.has_room(self._client, size, self._most):
            raise errors.unavailable("The gateway holds too many large requests.", COME_BACK_SECONDS)

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises GatewayError (503) if there is no room for them."""
        self.expect(size)
        self._all.take(self._client, size)
        self.size += size

    def shrink(self, size: int) -> None:
        """Hold so many bytes less; of what is held no more, nothing is given back twice."""
        size = min(size, self.size)
        if size:
            self._all.give_back(self._client, size)
            self.size -= size

    def release(self) -> None:
        """Hold nothing any more."""
        self.shrink(self.size)
