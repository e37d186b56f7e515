"""How much of what they may write a client's answers do write, learned from those that came.

Callers say as max_tokens what no answer may go beyond, and most answers end before it. A call that waits only
for as long as the longest answer that it allows would still come in time is given up too early. So the part
of their bound counts that the longest answers of late have had, by client and deployment. Of a client that
has had hardly any, those of all clients count: else one with many calls could wait for longer than others.

An answer whose client left before its end teaches, too: it is longer than what had come by then. Were that
not learned, long answers would be sent for too late, be cut off each time, and never be seen.
"""

from __future__ import annotations

import math

from aoai_gateway.bounded import Bounded
from aoai_gateway.routing.speed import Largest

MOST_CLIENTS = 10_000
"""Clients and deployments that are remembered; the pair that was unused for longest is forgotten."""

_ALL = ""
"""In the place of a client: all of them."""


class AnswerLengths:
    """The longest answers of late, as parts (0..1) of what they could have been at most."""

    def __init__(self) -> None:
        self._parts: Bounded[tuple[str, str], Largest] = Bounded(MOST_CLIENTS)

    def learn(self, client: str, deployment: str, part: float) -> None:
        """Note a complete answer."""
        for name in (client, _ALL):
            self._largest(name, deployment).learn(min(part, 1.0))

    def cut_off(self, client: str, deployment: str, part: float) -> None:
        """Note an answer that was given up when so much of it had been written."""
        for name in (client, _ALL):
            self._largest(name, deployment).raise_to(min(part, 1.0))

    def likely(self, client: str, deployment: str, bound: int | None) -> int | None:
        """Return the tokens that an answer takes at most, as far as is known; None: nothing bounds it."""
        if bound is None:
            return None
        for name in (client, _ALL):
            largest = self._parts.get((name, deployment))
            part = largest.known() if largest is not None else None
            if part is not None:
                return math.ceil(part * bound)
        return bound

    def _largest(self, client: str, deployment: str) -> Largest:
        largest = self._parts.get((client, deployment))
        if largest is None:
            largest = Largest()
            self._parts.put((client, deployment), largest)
        return largest
