"""The journal: the changes that this process has made of which the others are to be told.

Each part of the shared state whose changes peers must know writes them down as it makes them
(:mod:`~aoai_gateway.engine.replicated_parts`). How peers apply them: :mod:`~aoai_gateway.engine.peers`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MOST_UNTOLD = 20_000
"""Records that are kept for a store which does not answer."""

type Record = list[Any]
"""A change: its kind, and what the method of that kind takes."""


class CallRecord(NamedTuple):
    """The values of a record of the kind ``call``, in order: what peers must know of a `RoutingRequest`.

    Times are on the clock of the process that writes it, in seconds.
    """

    at: float
    call_id: str
    client: str
    cls_name: str
    pool: Sequence[Sequence[str]]
    """The keys of the backends."""
    deployment: str
    operation: str
    queue_name: str
    tokens: int
    arrived: float
    weight: float
    strategy: Any
    home: str | None
    takes: Sequence[Sequence[str]] | None
    """The keys of the backends that take it; None: all do."""
    too_small: Sequence[Sequence[str]]
    limited: bool


class Journal:
    """What this process has changed since the others were told last; the end of it, if it is too much."""

    def __init__(self, most: int = MOST_UNTOLD) -> None:
        self._most = most
        self.records: deque[Record] = deque()
        self.has_dropped = False
        """Whether changes were lost before a peer was told of them."""
        self.written: Callable[[], None] = lambda: None
        """Called when there is something to tell."""
        self._muted = False

    def write(self, *record: Any) -> None:
        """Note a change."""
        if self._muted:
            return
        if len(self.records) >= self._most:
            self.records.popleft()
            self.has_dropped = True
        self.records.append(list(record))
        if len(self.records) == 1:
            self.written()

    def take(self, most: int | None = None) -> list[Record]:
        """Return what there is, so much at most, to be told now."""
        count = len(self.records) if most is None else min(most, len(self.records))
        return [self.records.popleft() for _ in range(count)]

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Note nothing: what is done meanwhile was told by another process."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before
