"""Turns at something of which there is little: a process that reads bodies, threads that count tokens.

Each client gets the same share of it, in bytes, as long as it has something to do; what it does not use is
the others'. That is start-time fair queueing (Goyal, Vin and Cheng, 1996): a job is tagged with the bytes of
its client that come before it, counted from what is being served, and the smallest tag is next. So the first
job of a client that has had no turn lately is next, however many jobs of another client wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class _Waiting(NamedTuple):
    tag: int
    number: int
    """Breaks ties, by arrival."""
    turn: asyncio.Future[None]


class FairTurns:
    """``places`` jobs at a time; of several, one client has half at most."""

    def __init__(self, places: int = 1) -> None:
        self._places = places
        self._of_one = max(1, places // 2)
        self._working: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiting]] = {}
        """The waiting jobs by client; clients without one are not in it."""
        self._ends: dict[str, int] = {}
        """Where the next tag of a client begins, of those that have had a turn since all was quiet."""
        self._served = 0
        """The tag of the job that was begun last."""
        self._arrived = 0

    @property
    def is_idle(self) -> bool:
        """Whether no job is at work and none waits."""
        return not self._working and not self._waiting

    @asynccontextmanager
    async def turn(self, client: str, size: int) -> AsyncIterator[None]:
        """Wait for a turn of a client's job, and hold it. ``size``: its bytes."""
        await self.enter(client, size)
        try:
            yield
        finally:
            self.leave(client)

    async def enter(self, client: str, size: int) -> None:
        """Wait for a turn of a client's job; `leave` ends it. ``size``: its bytes."""
        if not self._waiting and self._may_work(client):
            self._begin(client, self._tag(client, size))
        else:
            await self._wait(client, size)

    def leave(self, client: str) -> None:
        """End a turn."""
        self._working[client] -= 1
        if not self._working[client]:
            del self._working[client]
        self._next()
        self._forget_if_idle()

    def _may_work(self, client: str) -> bool:
        return self._working.total() < self._places and self._working[client] < self._of_one

    def _tag(self, client: str, size: int) -> int:
        tag = max(self._served, self._ends.get(client, 0))
        self._ends[client] = tag + size
        return tag

    async def _wait(self, client: str, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived += 1
        waiting = _Waiting(self._tag(client, size), self._arrived, turn)
        self._waiting.setdefault(client, deque()).append(waiting)
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave(client)
            elif waiting in self._waiting.get(client, ()):
                self._take(client, waiting)
                self._forget_if_idle()
            raise

    def _take(self, client: str, waiting: _Waiting) -> None:
        self._waiting[client].remove(waiting)
        if not self._waiting[client]:
            del self._waiting[client]

    def _begin(self, client: str, tag: int) -> None:
        self._served = max(self._served, tag)
        self._working[client] += 1

    def _forget_if_idle(self) -> None:
        if self.is_idle:
            self._ends.clear()
            self._served = 0

    def _next(self) -> None:
        """Give turns to the next ones, as long as there are places."""
        while ready := [client for client in self._waiting if self._may_work(client)]:
            client = min(ready, key=lambda each: self._waiting[each][0][:2])
            job = self._waiting[client][0]
            self._take(client, job)
            if not job.turn.done():
                # Else it was cancelled, and is yet to hear of it.
                self._begin(client, job.tag)
                job.turn.set_result(None)


class FairThreads:
    """Threads in which jobs of clients are done by turns.

    They are threads of their own: the event loop's are needed to look up names of hosts.
    """

    def __init__(self, places: int = 4) -> None:
        self._turns = FairTurns(places)
        self._threads = ThreadPoolExecutor(places, "fair")

    async def run[**P, Result](
        self, client: str, size: int, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Call a function in a thread when it is the client's turn. ``size``: bytes that it works on.

        A thread cannot be interrupted: the turn ends with it, also where nothing waits for it any more.
        """
        return await self.run_after(lambda: None, client, size, function, *args, **kwargs)

    async def run_after[**P, Result](
        self,
        prepare: Callable[[], None],
        client: str,
        size: int,
        function: Callable[P, Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result:
        """Do as `run` does, but call ``prepare`` first, on the event loop; what it raises ends the turn."""
        await self._turns.enter(client, size)
        try:
            prepare()
            call = partial(function, *args, **kwargs)
            work = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except BaseException:
            self._turns.leave(client)
            raise
        work.add_done_callback(lambda _: self._turns.leave(client))
        return await asyncio.shield(work)

    def close(self) -> None:
        """Take no more jobs; what is at work is not waited for."""
        self._threads.shutdown(wait=False)
