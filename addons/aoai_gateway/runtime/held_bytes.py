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
"""The wait that a refused client is told. The end of a call is unknown; it is not to upload in vain
meanwhile."""


class HeldBytes:
    """The bytes that all calls hold."""

    def __init__(self) -> None:
        self.total = 0
        self.given_back = 0
        """Bytes that were held, since it was last set to 0. Some may wait for a garbage collection."""
        self.by_client: Counter[str] = Counter()


class Held:
    """The bytes that one call holds. ``most``: bytes for all calls of all clients."""

    def __init__(self, all_of_them: HeldBytes, client: str, most: int) -> None:
        self._all = all_of_them
        self._client = client
        self._most = most
        self.size = 0

    @property
    def room(self) -> int:
        """How many bytes more may be held now; may be negative."""
        return (self._most - self._all.total - self._all.by_client[self._client]) // 2

    def expect(self, size: int) -> None:
        """Check that there is room for so many bytes more, which are not there yet.

        Raises GatewayError (503).
        """
        if size > self.room:
            raise errors.unavailable("The gateway holds too many large requests.", COME_BACK_SECONDS)

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises GatewayError (503) if there is no room for them."""
        self.expect(size)
        self._count(size)

    def shrink(self, size: int) -> None:
        """Hold so many bytes less; of what is held no more, nothing is given back twice."""
        size = min(size, self.size)
        if size:
            self._count(-size)
            self._all.given_back += size

    def release(self) -> None:
        """Hold nothing any more."""
        self.shrink(self.size)

    def _count(self, size: int) -> None:
        self.size += size
        self._all.total += size
        self._all.by_client[self._client] += size
        if not self._all.by_client[self._client]:
            del self._all.by_client[self._client]
