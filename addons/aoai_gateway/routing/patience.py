"""How long a client's calls wait before they hang up, learned from those that did.

Most clients do not say how long they wait. A call that waits in a queue for all of that time and is then
sent gives its answer to a client that has left, for tokens that another call needed. So the observed patience
of a client counts: the time below which most of its hang-ups did not come.
"""

from __future__ import annotations

from collections import deque

from aoai_gateway.bounded import Bounded

SAMPLES = 50
"""Hang-ups of a client that are remembered."""

SAMPLES_NEEDED = 3
"""Fewer show nothing: a person may have pressed a button."""

QUANTILE = 0.8
"""The share of the remembered hang-ups that came at this time or earlier. A client with impatient and with
patient callers is taken for patient: an early refusal costs its caller more than a place in the queue."""

MOST_CLIENTS = 10_000


class Patience:
    """The hang-ups of clients, streaming calls and others apart. Times in seconds from a call's begin."""

    def __init__(self) -> None:
        self._waits: Bounded[tuple[str, str, bool], deque[float]] = Bounded(MOST_CLIENTS)
        """The waits by client, class, and whether it streams; with "" as the client, those of a whole
        class."""

    def hung_up(self, client: str, cls: str, streaming: bool, waited: float) -> None:
        """Note that a client hung up before its answer was complete."""
        for name in (client, ""):
            waits = self._waits.get((name, cls, streaming)) or deque(maxlen=SAMPLES)
            waits.append(waited)
            self._waits.put((name, cls, streaming), waits)

    def of(self, client: str, cls: str, streaming: bool) -> float | None:
        """Return the seconds for which the client waits for an answer; None: not known.

        For a client that has hardly ever hung up, the observations of its class count.
        """
        for name in (client, ""):
            waits = self._waits.get((name, cls, streaming)) or ()
            if len(waits) >= SAMPLES_NEEDED:
                return sorted(waits)[round(QUANTILE * (len(waits) - 1))]
        return None
