"""The counters behind the gateway: in this process, or shared by all gateway processes through Redis.

Quotas are asked at every call (see :class:`~aoai_gateway.runtime.gateway.Gateway`). Breaks are shared in
another way: one that is opened here is written to the store at once, and those of other processes are read
now and then, so that the choice of a backend never waits for a network.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
from typing import TYPE_CHECKING

from mitmproxy.utils import asyncio_utils

from aoai_gateway.config.priorities import IMPLICIT
from aoai_gateway.routing.breaker import Break
from aoai_gateway.state.affinity_file import AffinityFile, AffinityFileError
from aoai_gateway.state.budget_file import BudgetFile, BudgetFileError
from aoai_gateway.state.memory import MemoryState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from aoai_gateway.config.models import Config
    from aoai_gateway.config.shared_store import StoreAddress
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.runtime.peer_sync import PeerSync
    from aoai_gateway.state.failover import FailoverState

logger = logging.getLogger(__name__)

RENEWAL_SECONDS = 20.0
"""How often the leases of running calls are renewed; a fraction of their length."""

SHARED = "another gateway process"
"""The name in the place of a call's id, of a break that this process has not opened itself."""


LONGEST_REASON = 160
"""Characters of a break's reason that are shared. A reason holds nothing secret (`Attempt.reason`)."""

SAME_BREAK_SECONDS = 1.0
"""The difference between the ends of a break here and in the store that sharing it may cause."""

WHOLE_ENDPOINT = "*"
EVERY_CLASS = "*"

CLOSED = "\nclosed"
"""The name in the place of a class: all breaks of this scope were closed by hand. No class is named so."""

CLOSED_SECONDS = 2.0
"""The time for which that is shared: each process must look once meanwhile."""


type ClassBreak = tuple[Scope, str | None]
"""The scope of a break, and its class; None: for all."""


OWN_PREFIX = "workers"
"""The prefix of all keys in a store that workers have of their own."""


class StateSync:
    """Opens the configured store, keeps leases and breaks up to date, and closes it in the end."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._failover: FailoverState | None = None
        self._peers: PeerSync | None = None
        self._files: list[BudgetFile | AffinityFile] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._renewed = gateway.clock.monotonic()
        self._theirs: dict[ClassBreak, float] = {}
        """The breaks found in the store last, and until when each holds."""
        self._closed: set[Scope] = set()
        """The scopes closed by hand a moment ago, which are closed here too."""

    async def open(self, config: Config, store: str | None = None) -> bool:
        """Put the configured store in the place of the counters in memory. Called once, at start.

        ``store``: the URL of another one, which the supervisor of several workers has started for them.

        False, with the reason in the log, if it cannot be: limits that are to be shared must not silently
        become limits of each process.
        """
        address = store or config.store
        local = MemoryState()
        self._gateway.state = local
        if address is not None:
            # Loaded only where it is used: it takes time and memory.
            from aoai_gateway.state.failover import FailoverState
            from aoai_gateway.state.redis import RedisState

            # What is in a store of our own stays where it is when the configuration changes.
            prefix = config.state_prefix if store is None else OWN_PREFIX
            shared = RedisState(address, prefix=prefix)
            self._failover = FailoverState(
                shared,
                local,
                random=random.Random(),  # noqa: S311 - spreads probes
                clock=self._gateway.unix_time,
            )
            self._failover.start()
            self._gateway.state = self._failover
            self._join_peers(address, prefix)
            return True
        if config.budget_file is not None:
            self._files.append(BudgetFile(config.budget_file, local))
        if config.affinity_path is not None:
            affinity, offset = self._gateway.engine.affinity, lambda: self._gateway.unix_offset
            self._files.append(AffinityFile(config.affinity_path, affinity, offset))
        return await self._load_files()

    def _join_peers(self, store: StoreAddress, prefix: str) -> None:
        from aoai_gateway.runtime.peer_sync import PeerSync
        from aoai_gateway.state.exchange import Exchange

        # A process id may come back; what was told under it must not be taken for one's own.
        name = f"{process_name()}:{random.getrandbits(32):08x}"
        self._peers = PeerSync(self._gateway, self._gateway.join_peers(), Exchange(store, prefix, name))

    async def follow_peers(self) -> None:
        """Take in what other processes know, and follow them; once a configuration is in force."""
        if self._peers is not None:
            await self._peers.start()

    async def _load_files(self) -> bool:
        """Take in what files have kept, and keep them up to date. False if one cannot be used."""
        for file in self._files:
            try:
                await asyncio.to_thread(file.load)
            except (BudgetFileError, AffinityFileError) as error:
                logger.error("%s", error)
                # What was not read must not be written over.
                self._files.clear()
                return False
        for file in self._files:
            name = type(file).__name__
            self._tasks.append(asyncio_utils.create_task(file.run(), name=name, keep_ref=True))
        return True

    async def look(self) -> None:
        """Renew leases, and see which breaks others have opened or ended. Called every half second or so."""
        gateway, now = self._gateway, self._gateway.clock.monotonic()
        gateway.follow_clock()
        gateway.engine.shared.unfinished.expire(now)
        if self._failover is None:
            # What shares a store keeps the leases there itself.
            if now - self._renewed >= RENEWAL_SECONDS:
                self._renewed = now
                await _done(gateway.state.renew(list(gateway.reservations.values()), gateway.unix_time()))
            return
        found = self._failover.breaks(gateway.unix_time())
        if not isinstance(found, dict):
            found = await found  # type: ignore[misc]  # what is no mapping is an awaitable of one
        theirs = {(_scope(name), _class(cls)): seconds for (name, cls), seconds in found.items()}
        with self._gateway.engine.shared.muted():
            self._adopt(theirs, now)

    def _adopt(self, found: dict[ClassBreak, float], now: float) -> None:
        breaks = self._gateway.engine.breaks
        closed = {scope for scope, cls in found if cls == CLOSED}
        found = {each: seconds for each, seconds in found.items() if each[1] != CLOSED}
        newly_closed = closed - self._closed
        for scope in newly_closed:
            # Their own breaks too: no other process can withdraw one.
            breaks.close(scope)
        self._closed = closed
        ours: dict[ClassBreak, float] = {}
        for scope, brk in breaks.all():
            if brk.call_id != SHARED and brk.only is None:
                # By the name under which it is shared: else its echo would hide its own reason.
                cls = None if brk.cls is None else _class(_class_name(brk.cls))
                ours[scope, cls] = max(brk.until, ours.get((scope, cls), -math.inf))
        for scope in {scope for scope, _ in self._theirs}:
            breaks.withdraw(scope, SHARED)
        for (scope, cls), seconds in found.items():
            # What was opened here comes back a bit late; it would hide the reason and outlive a withdrawal.
            if seconds > 0 and ours.get((scope, cls), -math.inf) + SAME_BREAK_SECONDS < now + seconds:
                reason = _reason(getattr(seconds, "note", ""))
                breaks.open(scope, Break(now, now + seconds, reason, SHARED, cls))
        ends = {each: now + seconds for each, seconds in found.items()}
        sooner = any(ends.get(each, 0.0) < end - SAME_BREAK_SECONDS for each, end in self._theirs.items())
        if newly_closed or sooner or self._theirs.keys() != ends.keys():
            self._gateway.waiting.changed()
        self._theirs = ends

    async def tell_break(self, scope: Scope, seconds_by_class: Mapping[str, float], reason: str = "") -> None:
        """Tell other processes of a break that was opened here, for each class, and why."""
        if self._failover is None:
            return
        note = f"{process_name()}\n{reason[:LONGEST_REASON]}"
        for cls, seconds in seconds_by_class.items():
            now = self._gateway.unix_time()
            await _done(self._failover.open_break(_name(scope), _class_name(cls), seconds, now, note))

    async def tell_end(self, scopes: Iterable[Scope]) -> None:
        """Tell other processes of breaks that were withdrawn here."""
        if self._failover is None:
            return
        classes = [cls.name for cls in self._gateway.config.priority_classes]
        for scope in scopes:
            for cls in dict.fromkeys((EVERY_CLASS, *map(_class_name, classes))):
                await _done(self._failover.close_break(_name(scope), cls, self._gateway.unix_time()))

    async def tell_closed(self, scopes: Iterable[Scope]) -> None:
        """Tell other processes to close all breaks of these scopes, their own ones included."""
        scopes = list(scopes)
        self._closed |= set(scopes)
        if self._failover is None:
            return
        await self.tell_end(scopes)
        for scope in scopes:
            now = self._gateway.unix_time()
            await _done(self._failover.open_break(_name(scope), CLOSED, CLOSED_SECONDS, now))

    async def close(self) -> None:
        """Write what must last, and let go of the store."""
        for task in self._tasks:
            task.cancel()
        for file in self._files:
            await file.flush()
        if self._peers is not None:
            await self._peers.close()
        if self._failover is not None:
            await self._failover.aclose()


async def _done(answer: Awaitable[None] | None) -> None:
    """Wait for what a state has to do, if that takes time."""
    if answer is not None:
        await answer


def process_name() -> str:
    """Return how this process is named to others: its host and its id."""
    return f"{socket.gethostname()[:48]}:{os.getpid()}"


def _reason(note: str) -> str:
    """Return the shared reason of a break that another process has opened."""
    parts = note.partition("\n")
    process, _, reason = ("".join(c if c.isprintable() else " " for c in part) for part in parts)
    if not reason:
        return f"in a break at {SHARED}"
    return f"{reason[:LONGEST_REASON]} (at another gateway process, {process[:64]})"


def _name(scope: Scope) -> str:
    endpoint, standin = scope
    return f"{endpoint}\n{WHOLE_ENDPOINT if standin is None else standin}"


def _class_name(cls: str) -> str:
    return EVERY_CLASS if cls == IMPLICIT else cls


def _class(name: str) -> str | None:
    return None if name == EVERY_CLASS else name


def _scope(name: str) -> Scope:
    # Neither name can hold a line feed: the configuration refuses control characters.
    endpoint, _, standin = name.partition("\n")
    return (endpoint, None if standin == WHOLE_ENDPOINT else standin)
