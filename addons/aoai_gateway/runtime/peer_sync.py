"""Telling other gateway processes what this one does, and applying what they do, as it comes.

What is told and what follows from it is in :mod:`~aoai_gateway.engine.peers`; how it travels, in
:mod:`~aoai_gateway.state.exchange`. No call waits for any of it. Without the store each process decides
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING

from mitmproxy.utils import asyncio_utils

from aoai_gateway.bounded import Bounded
from aoai_gateway.engine.peers import Peers
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import ChangeBatch

if TYPE_CHECKING:
    from aoai_gateway.engine.journal import Record
    from aoai_gateway.engine.replicated_state import ReplicatedState
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.state.exchange import Exchange

logger = logging.getLogger(__name__)

COLLECTED_SECONDS = 0.002
"""The time for which records are collected, to travel together."""

ALONE_SECONDS = 0.03
"""As long as no other process is heard: for how long records are collected, and between two readings. What
it tells itself would wake it at each call, and no peer waits for it."""

ALIVE_SECONDS = 0.5
"""How often a process that does nothing tells that it is there."""

LOST_SECONDS = 3.0
"""Silence after which a peer is taken to be gone."""

PAUSE_SECONDS = 0.5
"""The pause until a store that did not answer is asked again."""

CATCH_UP_SECONDS = 3.0
"""The time for reading what others did before the start; then calls are taken all the same."""

AT_ONCE = 500
"""Records, or homes, that are told together: a peer applies them within some milliseconds."""

LAST_SECONDS = 1.0
"""The time for telling what is left at the end."""

MOST_PEERS = 1_000
"""The peers whose last record, and whose records that could not be applied, are remembered."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records that are told together. What is told again has the same number."""

    number: int
    records: Sequence[Record]


class PeerSync:
    """The exchange of one process. `start` it once, before calls are taken; `close` it in the end."""

    def __init__(self, gateway: Gateway, shared: ReplicatedState, exchange: Exchange) -> None:
        self._gateway = gateway
        self._shared = shared
        self._exchange = exchange
        self._peers = Peers(shared, lambda: gateway.setup)
        self._heard: dict[str, float] = {}
        """The time of each peer's last record (monotonic)."""
        self._numbers: Bounded[str, int] = Bounded(MOST_PEERS)
        """The number of each peer's last record."""
        self._failing: Bounded[str, bool] = Bounded(MOST_PEERS)
        """Peers of which a record could not be applied."""
        self._number = 0
        self._batch: _Batch | None = None
        """What the store has not confirmed."""
        self._told = time.monotonic()
        """When something was told last."""
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        shared.journal.written = self._something.set

    async def start(self) -> None:
        """Take in what others know, and follow them from now on. Needs the configuration in force."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await self._catch_up()
        except (StateUnavailableError, TimeoutError):
            logger.info("The other processes could not be heard yet; this one begins alone.")
        except Exception as error:
            log_exception("while it was read what other processes know; this one begins alone.", error)
        self._something.set()  # peers are to know of it at once, and no longer take themselves to be alone
        for name, work in (("tells peers", self._keep_telling()), ("hears peers", self._keep_listening())):
            self._tasks.append(asyncio_utils.create_task(work, name=name, keep_ref=True))

    async def close(self) -> None:
        """Tell what is left, and stop."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            with contextlib.suppress(StateUnavailableError, TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._tell_changes()
                    await self._tell_homes()
        await self._exchange.aclose()

    async def _catch_up(self) -> None:
        now, unix_offset = time.monotonic(), self._gateway.unix_offset
        homes = [
            ["home", digest, endpoint, at - unix_offset]
            async for some in self._exchange.homes()
            for digest, endpoint, at in some
        ]
        # The newest came first, and what is remembered last is kept longest.
        homes.reverse()
        for some in batched(homes, AT_ONCE):
            self._apply(ChangeBatch("the store", unix_offset, some), now)
            await asyncio.sleep(0)
        while told := await self._exchange.news(wait=False):
            await self._take_in(told)

    # --- telling ---------------------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        while True:
            try:
                await self._wait_for_news()
                await self._tell_changes()
                await self._tell_homes()
            except StateUnavailableError:
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                log_exception("while other processes were told something; they were not.", error)
                self._batch, self._shared.journal.has_dropped = None, True
                await asyncio.sleep(PAUSE_SECONDS)

    async def _wait_for_news(self) -> None:
        """Wait until there is something to tell, or it is time for a sign of life."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._something.wait()
            await asyncio.sleep(COLLECTED_SECONDS if self._heard else ALONE_SECONDS)
        except TimeoutError:
            pass

    async def _tell_changes(self) -> None:
        """Tell all changes; if there is none, that this process is there."""
        self._something.clear()
        journal, was_silent = self._shared.journal, False
        while True:
            if self._batch is None:
                self._number += 1
                self._batch = _Batch(self._number, journal.take(AT_ONCE))
            await self._exchange.tell(self._batch.records, self._gateway.unix_offset, self._batch.number)
            self._batch = None
            now = time.monotonic()
            was_silent, self._told = was_silent or now - self._told > LOST_SECONDS, now
            if journal.records:
                continue
            if not (was_silent or journal.has_dropped):
                return
            # Peers have forgotten its calls meanwhile, or do not hear of some of their changes.
            was_silent = journal.has_dropped = False
            self._shared.scheduler.tell_again()

    async def _tell_homes(self) -> None:
        """Have the store keep where state lives."""
        unix_offset, untold = self._gateway.unix_offset, self._shared.affinity.untold
        while homes := untold.take(AT_ONCE):
            try:
                await self._exchange.tell_homes(
                    [(key.hex(), name, seen + unix_offset) for key, name, seen in homes]
                )
            except BaseException:
                untold.put_back(homes)
                raise

    # --- hearing ---------------------------------------------------------------------------------------

    async def _keep_listening(self) -> None:
        while True:
            try:
                if not self._heard:
                    await asyncio.sleep(ALONE_SECONDS)
                await self._take_in(await self._exchange.news(wait=True))
            except StateUnavailableError:
                await asyncio.sleep(PAUSE_SECONDS)
                with contextlib.suppress(StateUnavailableError):
                    await self._exchange.follow()
            except Exception as error:
                log_exception("while it was read what other processes do; it was passed over.", error)
                await asyncio.sleep(PAUSE_SECONDS)
            self._forget_lost()

    async def _take_in(self, told: list[ChangeBatch]) -> None:
        for each in told:
            now = time.monotonic()
            self._heard[each.process] = now
            if each.number is not None:
                if each.number <= (self._numbers.get(each.process) or 0):
                    continue
                self._numbers.put(each.process, each.number)
            self._apply(each, now)
            self._gateway.waiting.changed()
            # Each may take a millisecond, and calls come first.
            await asyncio.sleep(0)

    def _apply(self, told: ChangeBatch, now: float) -> None:
        failed = self._peers.apply(
            told.process, told.records, told.unix_offset - self._gateway.unix_offset, now
        )
        if failed and not self._failing.get(told.process):
            self._failing.put(told.process, True)
            log_exception("while a change at another process was applied; it was passed over.", failed[0])

    def _forget_lost(self) -> None:
        now = time.monotonic()
        for peer in (*self._peers.known, *self._heard):
            if now - self._heard.get(peer, 0.0) > LOST_SECONDS:
                self._peers.forget(peer, now)
                self._heard.pop(peer, None)
                self._gateway.waiting.changed()
