"""The habits of clients, learned from their calls: how long their answers are, and how long they wait.

*Lengths of answers.* Callers say as max_tokens what no answer may go beyond, and most answers end before it.
A call that waits only for as long as the longest answer that it allows would still come in time is given up
too early. So the longest answers of late count, by client and deployment. Of a client that has had hardly
any, those of all clients count: else one with many calls could wait for longer than others.

Some callers' answers grow with their bound, others' are as long under any bound. So the part is that of
answers whose bounds were about as large. Where those were hardly any, an answer is foretold to be as large a
part of its bound as that of any other one was, and to have at least as many tokens.

An answer whose client left before its end teaches, too: it is longer than what had come by then. Were that
not learned, long answers would be sent for too late, be cut off each time, and never be seen. By how much it
is longer is not known. A call that has waited is sent when as much time is left as the longest answer takes,
so one that is cut off then has shown just the length that was known. It counts as twice as long as what came.

*Patience.* Most clients do not say how long they wait. A call that waits in a queue for all of that time and
is then sent gives its answer to a client that has left, for tokens that another call needed. So the observed
patience of a client counts: the time below which most of its hang-ups did not come.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from aoai_gateway.bounded import Bounded
from aoai_gateway.routing.responsiveness import Largest

MOST_CLIENTS = 10_000
"""Clients, each with a deployment or a class; the pair that was unused for longest is forgotten."""

_ALL = ""
"""The name that stands for all clients."""

LONGER = 2
"""How many times as long as what had come an answer that was cut off is taken to be."""

HANG_UPS = 50
"""Hang-ups of a client that are remembered."""

HANG_UPS_NEEDED = 3
"""Fewer show nothing: a person may have pressed a button."""

QUANTILE = 0.8
"""The share of the remembered hang-ups that came at this time or earlier. A client with impatient and with
patient callers is taken for patient: an early refusal costs its caller more than a place in the queue."""


@dataclass(slots=True)
class _Longest:
    """The longest answers of late."""

    parts: tuple[tuple[int, Largest], ...] = ()
    """Lengths as parts (0..1) of the bound, by the power of two above it; pairs take less than a dict."""
    tokens: Largest = field(default_factory=Largest)
    """Under bounds of any size."""

    def learn(self, tokens: float, bound: int) -> None:
        self._near(bound).learn(tokens / bound)
        self.tokens.learn(tokens)

    def raise_to(self, tokens: float, bound: int) -> None:
        self._near(bound).raise_to(tokens / bound)
        self.tokens.raise_to(tokens)

    def likely(self, bound: int) -> float | None:
        near = self._under(bound)
        near_part = near.known() if near is not None else None
        if near_part is not None:
            return near_part * bound
        tokens = self.tokens.known()
        return None if tokens is None else max([tokens, *(part.amount * bound for _, part in self.parts)])

    def _under(self, bound: int) -> Largest | None:
        size = bound.bit_length()
        return next((part for known, part in self.parts if known == size), None)

    def _near(self, bound: int) -> Largest:
        part = self._under(bound)
        if part is None:
            part = Largest()
            self.parts = (*self.parts, (bound.bit_length(), part))
        return part


class AnswerLengths:
    """The longest answers of late, in tokens and as parts of what they could have had at most."""

    def __init__(self) -> None:
        self._longest: Bounded[tuple[str, str], _Longest] = Bounded(MOST_CLIENTS)

    def learn(self, client: str, deployment: str, tokens: float, bound: int) -> None:
        """Note a complete answer. ``bound``: the most tokens that it could have had."""
        for name in (client, _ALL):
            self._of(name, deployment).learn(min(tokens, bound), bound)

    def cut_off(self, client: str, deployment: str, tokens: float, bound: int) -> None:
        """Note an answer that was given up when so many of its tokens had been written."""
        for name in (client, _ALL):
            self._of(name, deployment).raise_to(min(LONGER * tokens, bound), bound)

    def likely(self, client: str, deployment: str, bound: int | None) -> int | None:
        """Return the tokens that an answer takes at most, as far as is known; None: nothing bounds it."""
        if bound is None:
            return None
        for name in (client, _ALL):
            longest = self._longest.get((name, deployment))
            likely = longest.likely(bound) if longest is not None else None
            if likely is not None:
                return min(bound, math.ceil(likely))
        return bound

    def _of(self, client: str, deployment: str) -> _Longest:
        longest = self._longest.get((client, deployment))
        if longest is None:
            longest = _Longest()
            self._longest.put((client, deployment), longest)
        return longest


class Patience:
    """The hang-ups of clients, streaming calls and others apart. Times in seconds from a call's begin."""

    def __init__(self) -> None:
        self._waits: Bounded[tuple[str, str, bool], deque[float]] = Bounded(MOST_CLIENTS)
        """The waits by client, class, and whether it streams; with `_ALL` as the client, those of a
        whole class."""

    def hung_up(self, client: str, cls: str, streaming: bool, waited: float) -> None:
        """Note that a client hung up before its answer was complete."""
        for name in (client, _ALL):
            waits = self._waits.get((name, cls, streaming)) or deque(maxlen=HANG_UPS)
            waits.append(waited)
            self._waits.put((name, cls, streaming), waits)

    def of(self, client: str, cls: str, streaming: bool) -> float | None:
        """Return the seconds for which the client waits for an answer; None: not known.

        For a client that has hardly ever hung up, the observations of its class count.
        """
        for name in (client, _ALL):
            waits = self._waits.get((name, cls, streaming)) or ()
            if len(waits) >= HANG_UPS_NEEDED:
                return sorted(waits)[round(QUANTILE * (len(waits) - 1))]
        return None
