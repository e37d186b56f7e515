"""The demand of each priority class at each backend, which lower classes leave free.

A pay-as-you-go window that lower classes have filled in a few seconds stays full for a minute. A fixed share
that they must leave free is either too small for what higher classes need until then, or wasted when they
need less. So the recent demand of the higher classes is taken for their next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.bounded import Bounded
from aoai_gateway.routing.windows import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.routing.backends import BackendKey

SECONDS = 60.0
"""How far back is looked."""

SHORTEST_SECONDS = 5.0
"""Demand that was observed for a shorter time counts as that of so many seconds."""

STEADY_SECONDS = 30.0
"""The same, where a burst must not be taken for the begin of a steady flow.

With 5 s, 19 of 40 calls waited that took half of an idle backend.
"""

SAFETY = 1.25
"""How many times more than that is expected: calls do not come evenly."""

MOST_ENTRIES = 10_000


class Demands:
    """Tokens that classes ask for, by backend; of names only, so that it survives a reload."""

    def __init__(self) -> None:
        self._asked: Bounded[tuple[BackendKey, str], tuple[int, float, SlidingWindow]] = Bounded(MOST_ENTRIES)
        """The rank, the begin and the tokens of each class at each backend."""

    def note(self, cls: PriorityClass, parts: Mapping[BackendKey, int], now: float) -> None:
        """Note a call of a class; ``parts``: its tokens by the backend that is likely to take them."""
        for key, tokens in parts.items():
            asked = self._asked.get((key, cls.name))
            _, since, window = asked if asked is not None else (0, now, SlidingWindow(SECONDS))
            if not window.own(now):
                since, window = now, SlidingWindow(SECONDS)
            window.add(tokens, now)
            self._asked.put((key, cls.name), (cls.rank, since, window))

    def give_back(
        self, cls: PriorityClass, parts: Mapping[BackendKey, int], unused: float, at: float
    ) -> None:
        """Note that a call which came at a time has left a share (0..1) of its parts unused."""
        for key, tokens in parts.items():
            asked = self._asked.get((key, cls.name))
            if asked is not None:
                asked[2].give_back(round(tokens * unused), at)

    def above(self, cls: PriorityClass, classes: Iterable[str], key: BackendKey, now: float) -> float:
        """Return the tokens per second that higher ones of the named classes will ask of a backend."""
        expected = 0.0
        for name in classes:
            asked = self._asked.peek((key, name))
            if asked is not None and asked[0] < cls.rank:
                expected += SAFETY * _rate(asked, now)
        return expected

    def of(self, cls: PriorityClass, key: BackendKey, now: float) -> float:
        """Return the tokens per second that a class itself asks of a backend at present."""
        asked = self._asked.peek((key, cls.name))
        return _rate(asked, now) if asked is not None else 0.0

    def steady(self, cls: PriorityClass, key: BackendKey, now: float) -> float:
        """Return what a class asks of a backend as `of` does, but of a burst only twice as much as it was."""
        asked = self._asked.peek((key, cls.name))
        return _rate(asked, now, STEADY_SECONDS) if asked is not None else 0.0

    def forgotten_in(self, cls: PriorityClass, classes: Iterable[str], key: BackendKey, now: float) -> float:
        """Return the seconds after which `above` is 0 if no more such calls come, at most a window's."""
        asked = (self._asked.peek((key, name)) for name in classes)
        return max((each[2].when(0, now) for each in asked if each and each[0] < cls.rank), default=0.0)


def _rate(asked: tuple[int, float, SlidingWindow], now: float, shortest: float = SHORTEST_SECONDS) -> float:
    _, since, window = asked
    return window.own(now) / min(SECONDS, max(shortest, now - since))
