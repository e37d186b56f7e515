"""Affinity: which endpoint holds the state that a call refers to.

Azure keeps stored responses in one resource, and encrypted reasoning can be read only by the resource
that wrote it, so a call that continues a conversation must go where the conversation is.

What is remembered of a name (a response id, a session key) is its digest: an entry has the same size however
long the name is, and files and stores hold no names of the clients' things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from aoai_gateway.bounded import Bounded, digest_of

LIFETIME = 30 * 24 * 3600.0
"""Seconds for which Azure keeps a stored response."""

CAPACITY = 100_000

TOLD_SECONDS = 3600.0
"""The time for which the place of a stored thing need not be kept or told anew."""

type Home = tuple[bytes, str, float]
"""The digest of a name, the endpoint that holds what it names, and when that was seen."""


class Affinity:
    """A bounded memory of response ids and session keys; the least recently used go first."""

    def __init__(self, capacity: int = CAPACITY, lifetime: float = LIFETIME) -> None:
        self._lifetime = lifetime
        self._homes: Bounded[bytes, tuple[str, float, float]] = Bounded(capacity)
        """The endpoint of each digest, when it was seen there last, and when that was told last."""
        self.tell: Callable[[Home], None] = lambda _: None
        """Called with a home that is new, or was told so long ago that it may be forgotten elsewhere."""

    def __len__(self) -> int:
        return len(self._homes)

    def snapshot(self) -> Iterator[Home]:
        """Iterate over all homes as they are now, the least recently used first; in a thread, if need be."""
        homes = list(self._homes.items())
        return ((digest, endpoint, seen) for digest, (endpoint, seen, _) in homes)

    def remember(self, key: str, endpoint: str, now: float) -> None:
        """Note that the state called ``key`` lives at ``endpoint``."""
        digest = digest_of(key)
        if digest is None:
            return
        before, _, told = self._homes.get(digest) or ("", 0.0, -math.inf)
        is_news = before != endpoint or now - told >= TOLD_SECONDS
        self._homes.put(digest, (endpoint, now, now if is_news else told))
        if is_news:
            self.tell((digest, endpoint, now))

    def take_in(self, home: Home) -> bool:
        """Note what another process has seen, or this one in an earlier life. False if that is no news."""
        digest, endpoint, seen = home
        before, latest, told = self._homes.get(digest) or ("", -math.inf, -math.inf)
        if latest > seen:
            return False
        is_news = before != endpoint or seen - told >= TOLD_SECONDS
        self._homes.put(digest, (endpoint, seen, seen if is_news else told))
        return is_news

    def home(self, key: str, now: float) -> str | None:
        """Return the name of the endpoint that holds ``key``, or None if it is not known (any more)."""
        digest = digest_of(key)
        found = None if digest is None else self._homes.get(digest)
        if digest is None or found is None:
            return None
        endpoint, seen, _ = found
        if seen + self._lifetime <= now:
            self._homes.forget(digest)
            return None
        return endpoint


class Untold:
    """Homes that are to be kept or told; the newest of them, if there are too many."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._homes: Bounded[bytes, tuple[str, float]] = Bounded(capacity)

    def __len__(self) -> int:
        return len(self._homes)

    def put(self, home: Home) -> None:
        """Note one; it replaces what was noted of the same name."""
        digest, endpoint, seen = home
        self._homes.put(digest, (endpoint, seen))

    def take(self, most: int) -> list[Home]:
        """Return so many at most, the oldest first; they are noted no more."""
        return [(digest, *place) for digest, place in self._homes.take(most)]

    def put_back(self, homes: Iterable[Home]) -> None:
        """Note again what was taken, but for what has changed meanwhile or has no room."""
        for digest, endpoint, seen in homes:
            if len(self._homes) < self._capacity and self._homes.get(digest) is None:
                self._homes.put(digest, (endpoint, seen))
