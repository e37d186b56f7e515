"""State that the calls of one gateway share: the scheduler, and the lessons of earlier calls."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from aoai_gateway.bounded import Bounded, Recent
from aoai_gateway.engine.scheduler import Scheduler
from aoai_gateway.engine.settlement import UnfinishedWork
from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.routing.capacity import MOST_BACKENDS
from aoai_gateway.routing.client_habits import AnswerLengths, Patience

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from random import Random

    from aoai_gateway.routing.backends import BackendKey
    from aoai_gateway.routing.responsiveness import Speed

MOST_WITHOUT_USAGE = 1_000


class SharedState:
    """The state that all calls of a process share; it lives as long as the gateway."""

    def __init__(self, random: Random) -> None:
        self.scheduler = Scheduler()
        self.affinity = Affinity()
        self.speeds: Bounded[BackendKey, Speed] = Bounded(MOST_BACKENDS)
        """The speeds of real deployments: an endpoint without standins serves fast and slow ones."""
        self.patience = Patience()
        self.answer_lengths = AnswerLengths()
        self.without_usage: Recent[float] = Recent(MOST_WITHOUT_USAGE)
        """The time until which a backend is known not to take ``stream_options``, by backend and
        api-version."""
        self.unfinished = UnfinishedWork()
        self.random = random

    def muted(self) -> AbstractContextManager[None]:
        """Write no change that is made meanwhile into a journal: see `ReplicatedState`."""
        return nullcontext()
