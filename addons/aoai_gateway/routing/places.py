"""The calls of a queue: a ticket for each, its place, and which places of a client come next.

Within one client and class, calls come by arrival, but for large ones that make way for small ones; in a
queue that stands, the small ones first, and every so often the newest. Why, is told in
:mod:`~aoai_gateway.routing.queue`.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LOOKED_AT = 32
"""The calls of a client that are looked at for one that finds room, where its queue stands, or its first call
makes way."""

NEWEST_EVERY = 8
"""One release in so many of a client whose queue stands goes by age and not by size."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that waits. `arrived` is in seconds of the caller's clock, `tokens` is its estimate.

    `cls_rank` and `cls_name` are its priority class; `weight` is the client's, and is above 0.
    """

    id: str
    cls_rank: int
    cls_name: str
    client: str
    arrived: float
    tokens: int
    weight: float = 1.0
    size: int = 0
    """Bytes that are held for it while it waits."""
    stands_after: float = math.inf
    """Seconds of waiting after which its client's calls do not come in order any more: the queue stands."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"the weight of client {self.client!r} must be above 0, not {self.weight}")

    @property
    def cost(self) -> int:
        """The tokens that serving it counts for; at least 1, so that a call without tokens counts, too."""
        return max(self.tokens, 1)


@dataclass(slots=True, eq=False)
class Place:
    """A ticket in the queue: how many tokens overtook it, and since when it holds back the others."""

    ticket: Ticket
    number: int
    overtaken: int = 0
    holds_since: float | None = None

    def __lt__(self, other: Place) -> bool:
        return (self.ticket.arrived, self.number) < (other.ticket.arrived, other.number)


@dataclass(slots=True)
class ClientPlaces:
    """One client's places within a class, by arrival, while there are any.

    `start` is the first one's virtual start time.
    """

    start: float
    places: list[Place] = field(default_factory=list)
    size: int = 0
    by_cost: list[Place] = field(default_factory=list)
    """The same places, the smallest first, and of these the newest."""
    turn: int = 0
    """How many of its calls were released while its queue stood, modulo `NEWEST_EVERY`."""

    def add(self, place: Place) -> None:
        """Take in a place; it need not be the newest."""
        insort(self.places, place)
        insort(self.by_cost, place, key=_by_cost)
        self.size += place.ticket.size

    def remove(self, place: Place) -> None:
        """Give up one of its places."""
        self.places.remove(place)
        # A place is told from others by its number.
        del self.by_cost[bisect_left(self.by_cost, _by_cost(place), key=_by_cost)]
        self.size -= place.ticket.size

    def stands(self, now: float) -> bool:
        """Whether its oldest call has waited for so long that more comes than can be served."""
        oldest = self.places[0].ticket
        return now - oldest.arrived > oldest.stands_after

    def took_turn(self, now: float) -> None:
        """Note that one of its calls is released; before the call is removed."""
        if self.stands(now):
            self.turn = (self.turn + 1) % NEWEST_EVERY

    def next_ones(self, now: float, makes_way: Callable[[Ticket], bool]) -> list[Place]:
        """Return the places that may be served next, in order.

        ``makes_way``: says of a ticket whether it leaves room to smaller ones of its client. These are not to
        stand behind it while it does.
        """
        if not self.stands(now):
            first = self.places[:1]
            if makes_way(first[0].ticket):
                smaller = (each for each in self.places[1:MOST_LOOKED_AT] if not makes_way(each.ticket))
                first += itertools.islice(smaller, 1)
            return first
        if self.turn == NEWEST_EVERY - 1:
            return self.places[: -MOST_LOOKED_AT - 1 : -1]
        return self.by_cost[:MOST_LOOKED_AT]


def _by_cost(place: Place) -> tuple[int, float, int]:
    return place.ticket.cost, -place.ticket.arrived, -place.number
