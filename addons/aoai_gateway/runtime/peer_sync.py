"""Telling other gateway processes what this one does, and applying what they do, as it comes.

What is told and what follows from it is in :mod:`~aoai_gateway.engine.peers`; how it travels, in
:mod:`~aoai_gateway.state.exchange`. No call waits for any of it. Without the store each process decides
alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from mitmproxy.utils import asyncio_utils

from aoai_gateway.engine.peers import Peers
from aoai_gateway.runtime.exception_log import log_exception
from aoai_gateway.state import StateUnavailableError

if TYPE_CHECKING:
    from aoai_gateway.engine.told_state import PeerShared
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.state.exchange import Exchange, Told

logger = logging.getLogger(__name__)

COLLECTED_SECONDS = 0.002
"""For how long records are collected, to travel together."""

ALIVE_SECONDS = 0.5
"""How often a process that does nothing tells that it is there."""

LOST_SECONDS = 3.0
"""Silence after which a peer is taken to be gone."""

PAUSE_SECONDS = 0.5
"""Until the store is asked again that did not answer."""

CATCH_UP_SECONDS = 3.0
"""For reading what others did before the start; then calls are taken all the same."""

MOST_UNTOLD = 20_000
"""Records that wait for a store which does not answer; they are dropped then, and it is told nothing."""


class PeerSync:
    """The exchange of one process. `start` it once, before calls are taken; `close` it in the end."""

    def __init__(self, gateway: Gateway, shared: PeerShared, exchange: Exchange) -> None:
        self._gateway = gateway
        self._shared = shared
        self._exchange = exchange
        self._peers = Peers(shared, lambda: gateway.setup)
        self._heard: dict[str, float] = {}
        """By peer: when it last told something (monotonic)."""
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
        for name, work in (("tells peers", self._keep_telling()), ("hears peers", self._keep_listening())):
            self._tasks.append(asyncio_utils.create_task(work, name=name, keep_ref=True))

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._exchange.aclose()

    async def _catch_up(self) -> None:
        now, wall = time.monotonic(), self._gateway.wall
        homes = [
            (key, endpoint, at - wall) async for some in self._exchange.homes() for key, endpoint, at in some
        ]
        # The newest came first, and what is remembered last is kept longest.
        for index, (key, endpoint, at) in enumerate(reversed(homes)):
            self._peers.apply("", [["home", key, endpoint, at]], 0.0, now)
            if index % 1000 == 999:
                await asyncio.sleep(0)
        while told := await self._exchange.news(wait=False):
            await self._take_in(told)

    # --- telling ---------------------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        while True:
            try:
                await self._tell()
            except StateUnavailableError:
                if len(self._shared.journal.records) > MOST_UNTOLD:
                    self._shared.journal.take()
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                log_exception("while other processes were told something; they were not.", error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _tell(self) -> None:
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                await self._something.wait()
            await asyncio.sleep(COLLECTED_SECONDS)
        except TimeoutError:
            pass
        self._something.clear()
        wall, affinity = self._gateway.wall, self._shared.affinity
        await self._exchange.tell(self._shared.journal.take(), wall)
        if affinity.homes:
            homes, affinity.homes = affinity.homes, []
            await self._exchange.tell_homes([(key, endpoint, at + wall) for key, endpoint, at in homes])

    # --- hearing ---------------------------------------------------------------------------------------

    async def _keep_listening(self) -> None:
        while True:
            try:
                await self._take_in(await self._exchange.news(wait=True))
            except StateUnavailableError:
                await asyncio.sleep(PAUSE_SECONDS)
                await self._follow()
            except Exception as error:
                log_exception("while it was read what other processes do; it was passed over.", error)
                await asyncio.sleep(PAUSE_SECONDS)
            self._forget_lost()

    async def _follow(self) -> None:
        try:
            await self._exchange.follow()
        except StateUnavailableError:
            return

    async def _take_in(self, told: list[Told]) -> None:
        for each in told:
            now = time.monotonic()
            self._heard[each.process] = now
            self._peers.apply(each.process, each.records, each.clock - self._gateway.wall, now)
            self._gateway.waiting.changed()
            # Each may take a millisecond, and calls come first.
            await asyncio.sleep(0)

    def _forget_lost(self) -> None:
        now = time.monotonic()
        for peer in (*self._peers.known, *self._heard):
            if now - self._heard.get(peer, 0.0) > LOST_SECONDS:
                self._peers.forget(peer, now)
                self._heard.pop(peer, None)
                self._gateway.waiting.changed()
