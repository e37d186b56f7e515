"""The state that calls share, replicated: what changes it is in a journal, which peers apply to their own.

How: :mod:`~aoai_gateway.engine.peers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, override

from aoai_gateway.engine.journal import Journal
from aoai_gateway.engine.replicated_scheduler import (
    ReplicatedBreaks,
    ReplicatedScheduler,
    ReplicatedSuspicions,
)
from aoai_gateway.engine.settlement import Unfinished, UnfinishedWork
from aoai_gateway.engine.shared import SharedState
from aoai_gateway.routing.affinity import Affinity, Home, Untold
from aoai_gateway.routing.client_habits import Patience

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from random import Random


class ReplicatedPatience(Patience):
    """Hang-ups, which are written into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    @override
    def hung_up(self, client: str, cls: str, streaming: bool, waited: float) -> None:
        super().hung_up(client, cls, streaming, waited)
        self._journal.write("hung up", client, cls, streaming, waited)


class ReplicatedAffinity(Affinity):
    """Homes of state, which are written into the journal; ``untold``: those that are not in the store yet."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.untold: Untold = Untold()
        self.tell = self._tell

    def _tell(self, home: Home) -> None:
        digest, endpoint, seen = home
        self.untold.put(home)
        self._journal.write("home", digest.hex(), endpoint, seen)


class ReplicatedUnfinishedWork(UnfinishedWork):
    """Work that goes on, whose end may be looked at in any process; the one that began it has its booking."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    @override
    def begin(self, client: str, name: str, work: Unfinished) -> None:
        super().begin(client, name, work)
        told = (work.call_id, work.deployment, work.since, work.prompt, work.is_charged)
        self._journal.write("work", client, name, *told)

    @override
    def charge(self, client: str, name: str, work: Unfinished, tokens: int, cost: int | None) -> None:
        super().charge(client, name, work, tokens, cost)
        self._journal.write("work ended", client, name, tokens, cost)


class ReplicatedState(SharedState):
    """The state of one of several processes. Only the speeds of backends each of them learns alone."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.journal = Journal()
        self.scheduler: ReplicatedScheduler = ReplicatedScheduler(
            self.journal, ReplicatedBreaks(self.journal), ReplicatedSuspicions(self.journal)
        )
        self.affinity: ReplicatedAffinity = ReplicatedAffinity(self.journal)
        self.patience = ReplicatedPatience(self.journal)
        self.unfinished = ReplicatedUnfinishedWork(self.journal)

    @override
    def muted(self) -> AbstractContextManager[None]:
        return self.journal.muted()
