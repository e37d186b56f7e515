"""Bodies that are not in memory: read by parts, and sent on with some bytes replaced.

A store gives a body as a `Stored`. `StoredText` has as much of a ``bytes`` object as the reader of forms
needs; it reads one block after the other, so memory stays small. `Pieces` is what goes to a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from aoai_gateway.wire.json_members import replaced

BLOCK = 256 * 1024
"""Bytes that are read at a time."""


MOST_COUNTED = 10_000
"""More than a form can have parts."""


class Stored(Protocol):
    """A body in a store."""

    def __len__(self) -> int:
        """Bytes of all of it."""
        ...

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a part of it. Takes as long as the store does."""
        ...


class InMemory:
    """A body in memory, where a `Stored` is wanted."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        """Return a part of it."""
        return self._data[start:end]


class StoredText:
    """A stored body with some of the methods of ``bytes``. Indexes are not negative."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, span: slice) -> bytes:
        return self._stored.read(span.start or 0, len(self) if span.stop is None else span.stop)

    def __contains__(self, found: bytes) -> bool:
        return self.find(found) >= 0

    def startswith(self, found: bytes, start: int = 0) -> bool:
        """Whether these bytes stand at a place."""
        return self._stored.read(start, start + len(found)) == found

    def find(self, found: bytes, start: int = 0, end: int | None = None) -> int:
        """Where these bytes stand first, between two places; -1 if they do not."""
        size, overlap = len(self), len(found) - 1
        end = size if end is None else min(end, size)
        while start + len(found) <= end:
            block = self._stored.read(start, min(start + BLOCK + overlap, end))
            at = block.find(found)
            if at >= 0:
                return start + at
            start += BLOCK
        return -1

    def count(self, found: bytes) -> int:
        """How often these bytes stand there, without overlaps; `MOST_COUNTED` is as far as it counts."""
        number, at, size, overlap = 0, 0, len(self), len(found) - 1
        while at < size and number < MOST_COUNTED:
            block, begin = self._stored.read(at, min(at + BLOCK + overlap, size)), 0
            while 0 <= (hit := block.find(found, begin)) < BLOCK and number < MOST_COUNTED:
                number += 1
                begin = hit + len(found)
            at += max(BLOCK, begin)
        return number


class Pieces:
    """A stored body in which some bytes are replaced.

    ``changes``: places, in order, and the new bytes; there may be very many of them, which are gone through
    with each reading. ``growth``: how many bytes they add, if that is known.
    """

    def __init__(
        self,
        stored: Stored,
        changes: Iterable[tuple[tuple[int, int], bytes]],
        growth: int | None = None,
    ) -> None:
        self._stored = stored
        self._changes = changes
        if growth is None:
            growth = sum(len(new) - (end - start) for (start, end), new in changes)
        self._size = len(stored) + growth

    def __len__(self) -> int:
        return self._size

    def blocks(self) -> Iterator[bytes]:
        """Read it, about a `BLOCK` at a time; the first bytes begin anew with each call."""
        size, at = len(self._stored), 0
        changes = iter(self._changes)
        change = next(changes, None)
        while at < size or change is not None:
            end = min(at + BLOCK, size)
            inside: list[tuple[tuple[int, int], bytes]] = []
            while change is not None and (change[0][0] < end or end >= size):
                inside.append(change)
                end = max(end, change[0][1])
                change = next(changes, None)
            yield replaced(self._stored.read(at, end), inside, at)
            at = end
