"""The state that calls share, told to other processes as it changes (:mod:`~aoai_gateway.engine.peers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, override

from aoai_gateway.engine.journal import Journal
from aoai_gateway.engine.shared import Shared
from aoai_gateway.engine.told_scheduler import SharedBreaks, SharedScheduler, SharedSuspicions
from aoai_gateway.engine.unfinished import Unfinished, UnfinishedWork
from aoai_gateway.routing.affinity import Affinity, Home, Untold
from aoai_gateway.routing.patience import Patience

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from random import Random


class SharedPatience(Patience):
    """Hang-ups that peers are told of."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    @override
    def hung_up(self, client: str, cls: str, streaming: bool, waited: float) -> None:
        super().hung_up(client, cls, streaming, waited)
        self._journal.write("hung up", client, cls, streaming, waited)


class SharedAffinity(Affinity):
    """Homes of state that peers are told of; ``untold``: those that the store does not keep yet."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.untold: Untold = Untold()
        self.tell = self._tell

    def _tell(self, home: Home) -> None:
        digest, endpoint, seen = home
        self.untold.put(home)
        self._journal.write("home", digest.hex(), endpoint, seen)


class SharedUnfinishedWork(UnfinishedWork):
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


class PeerShared(Shared):
    """What the calls of several processes share, as far as it can be told; speeds each one learns alone."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.journal = Journal()
        self.scheduler: SharedScheduler = SharedScheduler(
            self.journal, SharedBreaks(self.journal), SharedSuspicions(self.journal)
        )
        self.affinity: SharedAffinity = SharedAffinity(self.journal)
        self.patience = SharedPatience(self.journal)
        self.unfinished = SharedUnfinishedWork(self.journal)

    @override
    def muted(self) -> AbstractContextManager[None]:
        return self.journal.muted()
