"""The demand for which calls leave room: that of higher classes, and that of clients which have had less.

*Between classes* (`Demands`). A pay-as-you-go window that lower classes have filled in a few seconds stays
full for a minute. A fixed share that they must leave free is either too small for what higher classes need
until then, or wasted when they need less. So the recent demand of the higher classes is taken for their next.

*Between clients of a class* (`ClientShares`). A queue divides fairly among the clients that wait, at the
moment when room comes. But a pay-as-you-go window comes free in lumps: in a lull, or when a lump is larger
than all that waits, a client with many calls fills it, and the others, whose calls come a few seconds later,
find nothing to divide. So a client is measured by the minute, as Azure's windows are.

A client that was given more of its class's tokens in the last minute than its fair part (its weight, of the
weights of all clients that asked or were served in that minute) leaves room for what the others of its class
ask for, as every client does for the classes above, and the more, the more it had: with twice its part, all
but a fortieth of each limit. It also sorts behind them in the queue, by how much it had. A client that has
had less leaves nothing, and a client alone in its class never does. Where there is enough for all, there is
room beside what the others ask for, and no call waits because of this.

A client's large calls, those above the median of its recent ones, leave room in the same way for a part of
what its smaller ones ask for (`SMALLER`). For the tokens of a large call two small ones are answered, and a
window that comes free at once would be filled with all that waits, and be full when the next small ones come.
Between clients this changes nothing: each one's large calls make way for its own small ones.

Times are seconds on any monotonic clock, amounts are tokens.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.bounded import Bounded
from aoai_gateway.routing.windows import SlidingWindow
from aoai_gateway.wire.hints import TOKEN_WINDOW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aoai_gateway.config.priorities import PriorityClass
    from aoai_gateway.routing.backends import BackendKey

DEMAND_SECONDS = TOKEN_WINDOW_SECONDS
"""How far back is looked: as far as Azure does."""

SHORTEST_SECONDS = 5.0
"""Demand that was observed for a shorter time counts as that of so many seconds."""

STEADY_SECONDS = 30.0
"""The same, where a burst must not be taken for the begin of a steady flow.

With 5 s, 19 of 40 calls waited that took half of an idle backend.
"""

SAFETY = 1.25
"""How many times more than that is expected: calls do not come evenly."""

MOST_ENTRIES = 10_000
MOST_CLASSES = 1_000
MOST_CLIENTS = 10_000
"""The clients of a class that are remembered; the one that asked or was served longest ago is forgotten."""

SMALLER = 0.6
"""The part of the demand of a client's smaller calls for which its large ones leave room."""

RECENT = 64
"""Calls of a client by which it is told what is large for it."""

FEWEST = 5
"""Of them, below which none is."""


class Demands:
    """Tokens that classes ask for, by backend; of names only, so that it survives a reload."""

    def __init__(self) -> None:
        self._asked: Bounded[tuple[BackendKey, str], tuple[int, float, SlidingWindow]] = Bounded(MOST_ENTRIES)
        """The rank, the begin and the tokens of each class at each backend."""

    def note(self, cls: PriorityClass, parts: Mapping[BackendKey, int], now: float) -> None:
        """Note a call of a class; ``parts``: its tokens by the backend that is likely to take them."""
        for key, tokens in parts.items():
            asked = self._asked.get((key, cls.name))
            _, since, window = asked if asked is not None else (0, now, SlidingWindow(DEMAND_SECONDS))
            if not window.own(now):
                since, window = now, SlidingWindow(DEMAND_SECONDS)
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

    def of(
        self, cls: PriorityClass, key: BackendKey, now: float, shortest: float = SHORTEST_SECONDS
    ) -> float:
        """Return the tokens per second that a class itself asks of a backend at present.

        ``shortest``: seconds; with `STEADY_SECONDS`, a burst counts for no more than twice what it was.
        """
        asked = self._asked.peek((key, cls.name))
        return _rate(asked, now, shortest) if asked is not None else 0.0

    def forgotten_in(self, cls: PriorityClass, classes: Iterable[str], key: BackendKey, now: float) -> float:
        """Return the seconds after which `above` is 0 if no more such calls come, at most a window's."""
        asked = (self._asked.peek((key, name)) for name in classes)
        return max((each[2].when(0, now) for each in asked if each and each[0] < cls.rank), default=0.0)


def _rate(asked: tuple[int, float, SlidingWindow], now: float, shortest: float = SHORTEST_SECONDS) -> float:
    _, since, window = asked
    return window.own(now) / min(DEMAND_SECONDS, max(shortest, now - since))


class Left(NamedTuple):
    """What a client leaves to the others of its class."""

    demand: float
    """The part (0..1) of its class's demand for which it leaves room: that of the others."""
    excess: float
    """How many times its fair part it was given; above 1."""


@dataclass(slots=True)
class _Client:
    weight: float
    asked: SlidingWindow = field(default_factory=lambda: SlidingWindow(DEMAND_SECONDS))
    given: SlidingWindow = field(default_factory=lambda: SlidingWindow(DEMAND_SECONDS))
    last: float = 0.0
    """When it asked or was served last."""
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The tokens of the calls with which it asked last."""
    _usual: tuple[int, float] | None = None

    def ask(self, tokens: int, now: float) -> None:
        """Note that one of its calls has come."""
        self.asked.add(tokens, now)
        self.recent.append(tokens)
        self._usual = None

    @property
    def usual(self) -> tuple[int, float]:
        """The median of its recent calls' tokens, and the part (0..1) of all of them up to there."""
        if self._usual is None:
            sizes = sorted(self.recent)
            half = (len(sizes) + 1) // 2
            self._usual = sizes[half - 1], sum(sizes[:half]) / max(1, sum(sizes))
        return self._usual


class _Class:
    def __init__(self) -> None:
        self.clients: OrderedDict[str, _Client] = OrderedDict()
        """The one that asked or was served longest ago comes first."""
        self.asked = SlidingWindow(DEMAND_SECONDS)
        self.given = SlidingWindow(DEMAND_SECONDS)
        self.weights = 0.0
        """The sum of all clients' weights."""
        self.excesses: dict[str, float] = {}
        """What is known of some clients, at the time `excesses_at`: a queue asks often at the same time."""
        self.excesses_at = -math.inf

    def client(self, name: str, weight: float, now: float) -> _Client:
        """Return a client, who has just asked or been served."""
        self.excesses.clear()
        self.forget_old(now)
        client = self.clients.get(name)
        if client is None:
            if len(self.clients) >= MOST_CLIENTS:
                self._forget_first()
            client = self.clients[name] = _Client(0.0)
        self.clients.move_to_end(name)
        self.weights += weight - client.weight
        client.weight, client.last = weight, now
        return client

    def forget_old(self, now: float) -> None:
        while self.clients and now - next(iter(self.clients.values())).last > DEMAND_SECONDS:
            self._forget_first()

    def excess(self, name: str, now: float) -> float:
        """Return how many times its fair part a client was given, as `ClientShares.excess` does."""
        client = self.clients.get(name)
        if client is None or len(self.clients) < 2:
            return 0.0
        given, fair = client.given.own(now) * self.weights, self.given.own(now) * client.weight
        return given / fair if given > fair > 0 else 0.0

    def _forget_first(self) -> None:
        _, client = self.clients.popitem(last=False)
        # Begun anew at 0, so that rounding does not add up for ever.
        self.weights = self.weights - client.weight if self.clients else 0.0


class ClientShares:
    """What the clients of each class asked for and were given in the last minute."""

    def __init__(self) -> None:
        self._classes: Bounded[str, _Class] = Bounded(MOST_CLASSES)

    def asked(self, cls: str, client: str, weight: float, tokens: int, now: float) -> None:
        """Note that a call of a client has come."""
        item = self._class(cls)
        item.client(client, weight, now).ask(tokens, now)
        item.asked.add(tokens, now)

    def given(self, cls: str, client: str, weight: float, tokens: int, now: float) -> None:
        """Note that a client's call is sent to a backend."""
        item = self._class(cls)
        item.client(client, weight, now).given.add(tokens, now)
        item.given.add(tokens, now)

    def _class(self, name: str) -> _Class:
        item = self._classes.get(name)
        if item is None:
            item = _Class()
            self._classes.put(name, item)
        return item

    def give_back(self, cls: str, client: str, tokens: int, at: float) -> None:
        """Note that a call which was sent at a time has left some of its tokens unused."""
        item = self._classes.get(cls)
        own = item.clients.get(client) if item is not None else None
        if item is not None and own is not None:
            own.given.give_back(tokens, at)
            item.given.give_back(tokens, at)
            item.excesses.clear()

    def excess(self, cls: str, client: str, now: float) -> float:
        """Return how many times its fair part a client was given, if that is more than once; else 0."""
        item = self._classes.peek(cls)
        if item is None:
            return 0.0
        if item.excesses_at != now:
            item.forget_old(now)
            item.excesses.clear()
            item.excesses_at = now
        excess = item.excesses.get(client)
        if excess is None:
            excess = item.excesses[client] = item.excess(client, now)
        return excess

    def left(self, cls: str, client: str, now: float) -> Left | None:
        """Return what a client leaves to others of its class; None if it has had no more than its part."""
        item, excess = self._classes.peek(cls), self.excess(cls, client, now)
        if item is None or not excess:
            return None
        asked = item.asked.own(now)
        others = max(0.0, 1 - item.clients[client].asked.own(now) / asked) if asked else 0.0
        return Left(others, excess) if others else None

    def is_large(self, cls: str, client: str, tokens: int) -> bool:
        """Whether a call is large for its client, so that it leaves room for smaller ones."""
        item = self._classes.peek(cls)
        own = item.clients.get(client) if item is not None else None
        return own is not None and len(own.recent) >= FEWEST and tokens > own.usual[0]

    def smaller(self, cls: str, client: str, now: float) -> float:
        """Return the part (0..1) of its class's demand for which a client's large calls leave room."""
        item = self._classes.peek(cls)
        own = item.clients.get(client) if item is not None else None
        if item is None or own is None:
            return 0.0
        asked = item.asked.own(now)
        return SMALLER * own.usual[1] * own.asked.own(now) / asked if asked else 0.0
