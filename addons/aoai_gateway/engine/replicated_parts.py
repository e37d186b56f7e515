"""Breaks, signs of life, suspicions, patience, affinity and unfinished work that write their changes down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, override

from aoai_gateway.engine.settlement import Unfinished, UnfinishedWork
from aoai_gateway.routing.affinity import Affinity, Home, Untold
from aoai_gateway.routing.breaker import Break, BreakLengths, Breaks, FailedCall
from aoai_gateway.routing.client_habits import Patience
from aoai_gateway.routing.responsiveness import Liveness
from aoai_gateway.routing.suspicion import Finding, Suspicions, Witness

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aoai_gateway.engine.journal import Journal
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.breaker import Scope

HEARD_SECONDS = 0.25
"""How often signs of life of one backend are told."""


class ReplicatedBreaks(Breaks):
    """Breaks whose changes are written into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    @override
    def open(self, scope: Scope, brk: Break) -> None:
        super().open(scope, brk)
        told = (brk.since, brk.until, brk.reason, brk.call_id, brk.cls, brk.only, brk.refuses_us)
        self._journal.write("break", scope, *told)

    @override
    def open_for(self, failed: FailedCall, lengths: Mapping[str, BreakLengths]) -> dict[str, float]:
        opened = super().open_for(failed, lengths)
        self._journal.write("failed", *failed)
        return opened

    @override
    def withdraw(self, scope: Scope, call_id: str) -> None:
        super().withdraw(scope, call_id)
        self._journal.write("withdrawn", scope, call_id)

    @override
    def close(self, scope: Scope) -> None:
        super().close(scope)
        self._journal.write("closed", scope)

    def probe_elsewhere(self, backend: Backend, cls: str, call_id: str, now: float) -> None:
        """Note that a peer has sent a call, which is a probe where one is due."""
        endpoint, standin = backend.key
        self.probes.lease((endpoint, standin), cls, call_id, now)
        self.probes.lease((endpoint, None), cls, call_id, now)


class ReplicatedLiveness(Liveness):
    """Signs of life, a few of which are written into the journal: see `HEARD_SECONDS`."""

    __slots__ = ("_journal", "_name", "_told")

    def __init__(self, whole: Liveness, journal: Journal, name: tuple[Sequence[str], str]) -> None:
        super().__init__(whole)
        self._journal = journal
        self._name = name
        self._told = -math.inf

    @override
    def sent(self, call_id: str, now: float, within: float | None) -> None:
        super().sent(call_id, now, within)
        self._journal.write("sent", *self._name, now, call_id, within)

    @override
    def hear(self, now: float) -> None:
        super().hear(now)
        if now - self._told >= HEARD_SECONDS:
            self._told = now
            self._journal.write("heard", *self._name, now)


class ReplicatedSuspicions(Suspicions):
    """Failures of which the journal has all."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    @override
    def hear(self, scope: Scope, way: str, witness: Witness) -> Finding:
        finding = super().hear(scope, way, witness)
        content = witness.content.hex()
        told = (witness.call_id, witness.client, content, witness.at, witness.proof)
        self._journal.write("witness", scope, way, *told)
        return finding

    @override
    def withdraw(self, call_id: str) -> None:
        super().withdraw(call_id)
        self._journal.write("no witness", call_id)


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
