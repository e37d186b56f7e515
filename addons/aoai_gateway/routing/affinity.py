"""Affinity: which endpoint holds the state that a call refers to.

Azure keeps stored responses in one resource, and encrypted reasoning can be read only by the resource
that wrote it, so a call that continues a conversation must go where the conversation is.
"""

from __future__ import annotations

from aoai_gateway.bounded import Recent

LIFETIME = 30 * 24 * 3600.0
"""Seconds for which Azure keeps a stored response."""


class Affinity:
    """A bounded memory of response ids and session keys; the least recently used go first."""

    def __init__(self, capacity: int = 100_000, lifetime: float = LIFETIME) -> None:
        self._lifetime = lifetime
        self._homes: Recent[tuple[str, float]] = Recent(capacity)

    def remember(self, key: str, endpoint: str, now: float) -> None:
        """Note that the state called ``key`` lives at ``endpoint``."""
        self._homes.put(key, (endpoint, now + self._lifetime))

    def home(self, key: str, now: float) -> str | None:
        """Return the name of the endpoint that holds ``key``, or None if it is not known (any more)."""
        found = self._homes.get(key)
        if found is None:
            return None
        endpoint, expires = found
        if expires <= now:
            self._homes.forget(key)
            return None
        return endpoint
