"""How full a backend is thought to be: a sliding window for pay as you go, a leaky bucket for provisioned.

Both count the calls of this process, and are corrected by the backend's own figures. Times are
seconds on any monotonic clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

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


class _Piece(NamedTuple):
    """How full a window is at the begin and the end of a piece of time, in seconds from now."""

    begin: float
    end: float
    at_begin: float
    at_end: float


class _Course:
    """How full a window will be in the course of time.

    Only those pieces count in which it is fuller than in all later ones: `add` takes the last one first.
    """

    def __init__(self, end: float) -> None:
        self._end = end
        self._peaks: list[_Piece] = []
        self._mosts: list[float] = []
        """How full it is in each of them at most."""

    def add(self, begin: float, end: float, at_begin: float, at_end: float) -> None:
        """Take in the piece before those that were added."""
        most = max(at_begin, at_end)
        if not self._mosts or most > self._mosts[-1]:
            self._peaks.append(_Piece(begin, end, at_begin, at_end))
            self._mosts.append(most)

    def falls_to(self, room: float) -> float:
        """Seconds until not more than `room` is used from then on; infinite if that never is."""
        index = bisect_right(self._mosts, room)
        if index == len(self._peaks):
            return 0.0
        piece = self._peaks[index]
        if piece.at_end > room:
            return piece.end if piece.end < self._end else math.inf
        # What others use fades faster than the rest comes in.
        share = (piece.at_begin - room) / (piece.at_begin - piece.at_end)
        return piece.begin + (piece.end - piece.begin) * share


class SlidingWindow:
    """The amounts that were put in during the last seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.others = NO_OTHERS
        self._slices: dict[int, int] = {}
        self._total = 0
        self._courses: dict[float, _Course] = {}
        """By inflow; of one time, and of the window's contents then."""
        self._courses_of: tuple[float, float, Others] | None = None

    def own(self, now: float) -> int:
        """Return the amount in the window that this process has put in."""
        while self._slices:
            index = next(iter(self._slices))
            if self._leaves(index) > now:
                break
            self._total -= self._slices.pop(index)
            self._courses.clear()
        return self._total

    def used(self, now: float) -> float:
        """How much is in the window, whosever it is."""
        return self.own(now) + self.others.at(now)

    def add(self, amount: int, now: float) -> None:
        """Put something in."""
        index = self._index(now)
        self._slices[index] = self._slices.get(index, 0) + amount
        self._total += amount
        self._courses.clear()

    def give_back(self, amount: int, at: float) -> None:
        """Take out what was put in at a time; nothing if that has left the window."""
        index = math.floor(at / GRAIN)
        if index in self._slices:
            returned = min(amount, self._slices[index])
            self._slices[index] -= returned
            self._total -= returned
            self._courses.clear()

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
            for index, amount in self._slices.items():
                own -= amount
                if own <= room:
                    return self._leaves(index) - now
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

    def when_beside(self, room: float, inflow: float, now: float) -> float:
        """Seconds until not more than `room` is used from then on, while `inflow` per second comes in.

        For one length of the window, that is: calls that come in now are gone after that.
        """
        self.own(now)
        of = (now, self.seconds, self.others)
        if self._courses_of != of:
            # Many calls are asked about at the same time.
            self._courses_of = of
            self._courses.clear()
        course = self._courses.get(inflow)
        if course is None:
            course = self._courses[inflow] = self._course(inflow, now)
        return course.falls_to(room)

    def _course(self, inflow: float, now: float) -> _Course:
        """Return how full it will be, while `inflow` per second comes in."""
        until, others = now + self.seconds, self.others
        ends = [(min(self._leaves(index), until), amount) for index, amount in self._slices.items()]
        if now < others.until < until:
            ends = sorted([*ends, (others.until, 0)])
        ends.append((until, 0))
        # The pieces of time in which nothing leaves the window at once; the last one is empty.
        course, left = _Course(until - now), 0
        begins = [now, *(end for end, _ in ends[:-1])]
        for begin, (end, amount) in zip(reversed(begins), reversed(ends), strict=True):
            left += amount
            at_begin = left + inflow * (begin - now)
            at_end = left + inflow * (end - now)
            if begin < others.until:
                at_begin += others.at(begin)
                at_end += others.at(end) if others.fades else others.amount
            course.add(begin - now, end - now, at_begin, at_end)
        return course

    def _index(self, now: float) -> int:
        # Never behind the newest slice: they stay in the order of time even if the clock goes back.
        index = math.floor(now / GRAIN)
        return max(index, next(reversed(self._slices), index))

    def _leaves(self, index: int) -> float:
        return (index + 1) * GRAIN + self.seconds + LATE


class Bucket:
    """A leaky bucket that holds one minute's tokens and drains as many per minute.

    Its level is a share: 1.0 is full, and more is possible, since a call of any size is
    admitted while it is not full.
    """

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0
        self.poured = 0.0
        """All that was ever poured in."""

    def level(self, now: float) -> float:
        """How full it is."""
        if now > self._at:
            self._level = max(0.0, self._level - (now - self._at) / 60)
            self._at = now
        return self._level

    def pour(self, share: float, now: float) -> None:
        """Put something in; a negative share takes out what had been put in too much."""
        self._level = max(0.0, self.level(now) + share)
        self.poured += share

    def correct(self, told: float, at: float, poured: float, now: float) -> None:
        """Take in the level that the backend had at a time, when so much had been `poured`.

        A higher one is believed at once. A lower one by half: such figures lag behind.
        """
        told = max(0.0, told - max(0.0, now - at) / 60) + self.poured - poured
        level = self.level(now)
        self._level = max(0.0, told if told >= level else (told + level) / 2)

    def when(self, room: float, now: float) -> float:
        """Seconds until it is not above `room`, if nothing else comes."""
        return max(0.0, (self.level(now) - room) * 60)
