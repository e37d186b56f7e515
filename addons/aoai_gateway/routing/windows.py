"""How full a pay-as-you-go backend is thought to be: a sliding window.

It counts the calls of this process, and is corrected by the backend's own figures. Times are seconds on any
monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GRAIN = 0.125
"""Length of a window's slices in seconds, so that its memory is bounded."""

LATE = 0.25
"""How much later than here something may leave the backend's window: it arrived there later, too."""


@dataclass(frozen=True, slots=True)
class Others:
    """Usage that the backend counts and this process does not know of; it fades, or ends at once."""

    amount: float
    since: float
    until: float
    fades: bool
    """Whether it leaves the window bit by bit, as steady use does; else all of it at `until`."""

    def at(self, now: float) -> float:
        """How much of it is left."""
        if now >= self.until:
            return 0.0
        return self.amount * (self.until - now) / (self.until - self.since) if self.fades else self.amount

    def falls_to(self, room: float) -> float:
        """The time at which not more than this is left."""
        if self.amount <= room:
            return self.since
        if not self.fades or room <= 0:
            return self.until
        return self.until - (self.until - self.since) * room / self.amount


NO_OTHERS = Others(0.0, 0.0, 0.0, fades=False)


type _Piece = tuple[int, float, float, float, float]
"""A piece of time in which nothing leaves a window at once: what is in the window of our own, the begin and
the end in seconds from now, and what others have in it then and then."""


class SlidingWindow:
    """The amounts that were put in during the last seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.others = NO_OTHERS
        self._slices: dict[int, int] = {}
        """Amounts by the number of their slice, the oldest first."""
        self._oldest: float = math.inf
        """The number of the oldest slice; infinite without one."""
        self._total = 0
        self._pieces: list[_Piece] = []
        """The last pieces, as far as they have been needed; the others are made by `_earlier_pieces`."""
        self._earlier_pieces: Iterator[_Piece] = iter(())
        self._pieces_of: tuple[float, float, Others] | None = None
        """Of which time they are, and of which window; None: they are to be made anew."""

    def own(self, now: float) -> int:
        """Return the amount in the window that this process has put in."""
        # `_leaves` of the oldest: this is asked some ten times for each call.
        while (self._oldest + 1) * GRAIN + self.seconds + LATE <= now:
            self._total -= self._slices.pop(int(self._oldest))
            self._oldest = next(iter(self._slices), math.inf)
            self._pieces_of = None
        return self._total

    def used(self, now: float) -> float:
        """How much is in the window, whosever it is."""
        return self.own(now) + self.others.at(now)

    def add(self, amount: int, now: float) -> None:
        """Put something in."""
        index = self._index(now)
        self._slices[index] = self._slices.get(index, 0) + amount
        self._total += amount
        if index < self._oldest:
            self._oldest = index
        self._pieces_of = None

    def give_back(self, amount: int, at: float) -> None:
        """Take out what was put in at a time; nothing if that has left the window."""
        index = math.floor(at / GRAIN)
        if index in self._slices:
            returned = min(amount, self._slices[index])
            self._slices[index] -= returned
            self._total -= returned
            self._pieces_of = None

    def around(self, at: float) -> int:
        """How much was put in about the time, and so may have reached the backend in any order."""
        index = math.floor(at / GRAIN)
        last = index + math.ceil(LATE / GRAIN)
        return sum(self._slices.get(each, 0) for each in range(index, last + 1))

    def when(self, room: float, now: float) -> float:
        """Seconds until no more than `room` is used, if nothing else comes; infinite if that is below 0."""
        if room < 0:
            return math.inf
        own, others = self.own(now), self.others.at(now)
        if own + others <= room:
            return 0.0
        if not others:
            return self._leaves(self._last_above(room)) - now
        last: int | None = None
        for index, amount in self._slices.items():
            if own <= room:
                since = now if last is None else self._leaves(last)
                fallen = max(since, self.others.falls_to(room - own))
                if fallen < self._leaves(index):
                    return fallen - now
            own, last = own - amount, index
        since = now if last is None else self._leaves(last)
        return max(since, self.others.falls_to(room - own)) - now

    def _last_above(self, room: float) -> int:
        """Return the last slice of which it is so that more than `room` is used until it leaves.

        More than that is used now. The shorter way is from the side of the slices to which it is nearer.
        """
        if 2 * room < self._total:
            later = 0
            for index, amount in reversed(self._slices.items()):
                later += amount
                if later > room:
                    return index
        left = self._total
        for index, amount in self._slices.items():
            left -= amount
            if left <= room:
                return index
        raise AssertionError("a window without slices is empty")

    def when_beside(self, room: float, inflow: float, now: float) -> float:
        """Seconds until not more than `room` is used from then on, while `inflow` per second comes in.

        For one length of the window, that is: calls that come in now are gone after that. Infinite if there
        is no such time.
        """
        lasts = now + self.seconds - now
        if self.own(now) + inflow * lasts + self.others.at(now) <= room:
            return 0.0
        # What matters is the last time at which more is used, so the last piece comes first.
        for left, begin, end, others_at_begin, others_at_end in self._pieces_back(now):
            at_end = left + inflow * end + others_at_end
            if at_end > room:
                return end if end < lasts else math.inf
            if others_at_begin > others_at_end:
                at_begin = left + inflow * begin + others_at_begin
                if at_begin > room:
                    # What others use fades faster than the rest comes in.
                    return begin + (end - begin) * ((at_begin - room) / (at_begin - at_end))
        return 0.0

    def _pieces_back(self, now: float) -> Iterable[_Piece]:
        """Return the pieces of time in which nothing leaves the window at once, from the last one back."""
        of = now, self.seconds, self.others
        if self._pieces_of != of:
            # Many calls are asked about at the same time.
            self._pieces_of = of
            self._pieces = []
            self._earlier_pieces = self._new_pieces(now, self._pieces)
        return chain(self._pieces, self._earlier_pieces)

    def _new_pieces(self, now: float, pieces: list[_Piece]) -> Iterator[_Piece]:
        """Make the pieces one by one, and add them to those that there are."""
        others = self.others
        end, left = now + self.seconds, 0
        for begin, amount in self._seams(now):
            at_begin = at_end = 0.0
            if begin < others.until:
                at_begin, at_end = others.at(begin), others.at(end) if others.fades else others.amount
            piece = (left, begin - now, end - now, at_begin, at_end)
            pieces.append(piece)
            yield piece
            left, end = left + amount, begin

    def _seams(self, now: float) -> Iterator[tuple[float, int]]:
        """Yield the times between pieces, and how much of our own leaves then, from the last one back."""
        until, ends = now + self.seconds, self.others.until
        for index, amount in reversed(self._slices.items()):
            leaves = min(self._leaves(index), until)
            if leaves < ends:
                if ends < until:
                    yield ends, 0
                ends = now
            yield leaves, amount
        if now < ends < until:
            yield ends, 0
        yield now, 0

    def _index(self, now: float) -> int:
        # Never behind the newest slice: they stay in the order of time even if the clock goes back.
        index = math.floor(now / GRAIN)
        newest = next(reversed(self._slices), index)
        return newest if newest > index else index

    def _leaves(self, index: float) -> float:
        return (index + 1) * GRAIN + self.seconds + LATE
