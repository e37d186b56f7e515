"""A shared store with local counters behind it, so that losing Redis fails no request.

Every admission by the shared store is booked in the local counters too. When the shared store
does not answer in time, they take over with that call: this process's calls of the last minute are
in their windows already. From then on no call waits for the shared store; a task in the background
probes it with growing pauses. Once it answers, it gets the missed events (calls that run, calls that
ended, breaks), and only then is asked again. While it is gone each process enforces
the whole limit alone.

`degraded_since` shows the state, and each change is logged once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final

from aoai_gateway.quota.counters import LEASE
from aoai_gateway.quota.quotas import Decision, Quota, Reservation
from aoai_gateway.state import Answer, Break, Left, StateUnavailableError
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.outbox import Ended, Outbox, Running, Used
from aoai_gateway.state.redis import RedisState

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0
"""Seconds between probes: doubling from the first to the longest, less up to a half by chance."""

STEADY: Final = 60.0
"""Seconds that contact must last for the next loss to start with the first pause again."""

# Asking exercises the whole path (script, write permission, memory), which a PING does not. The
# name cannot be a configured client's.
_PROBE: Final = Reservation("probe", "\0probe", (Quota(None, 1),), tokens=0)

logger = logging.getLogger(__name__)


class FailoverState:
    """`shared` while it answers, `local` while it does not.

    Answers come as in `aoai_gateway.state.State`: on the spot while degraded, else to be awaited.
    Nothing here raises because of the shared store. `random` spreads the probes of many processes;
    `clock` is Unix time, as the callers' `now`. Use it within one event loop: `start` there,
    `aclose` at the end.
    """

    def __init__(
        self,
        shared: RedisState,
        local: MemoryState,
        *,
        random: Random,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._shared = shared
        self._local = local
        self._random = random
        self._lease = lease
        self._clock = clock
        self._first_pause = self._pause = first_pause
        self._returned_at = float("-inf")
        self._outbox = Outbox()
        self._degraded_since: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def degraded_since(self) -> float | None:
        """Unix time since when the shared store has been out of reach; None when all is well."""
        return self._degraded_since

    def start(self) -> None:
        """Start keeping the leases of running calls."""
        self._spawn(self._keep_leases())

    async def aclose(self) -> None:
        """Stop the tasks and close the shared store's connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._shared.aclose()

    # Quotas --------------------------------------------------------------------------------------

    def peek(self, reservation: Reservation, now: float) -> Answer[Decision]:
        """Return what `reserve` would answer, booking nothing."""
        if self._degraded_since is not None:
            return self._local.peek(reservation, now)
        locally = partial(self._local.peek, reservation, now)
        return self._or_locally(self._shared.peek(reservation, now), locally, now)

    def reserve(self, reservation: Reservation, now: float) -> Answer[Decision]:
        """Book the reservation against all of its quotas, or against none."""
        if self._degraded_since is not None:
            return self._reserve_locally(reservation, now, sent=False)
        return self._reserve(reservation, now)

    async def _reserve(self, reservation: Reservation, now: float) -> Decision:
        try:
            decision = await self._shared.reserve(reservation, now)
        except StateUnavailableError as error:
            self._degrade(error, now)
            return self._reserve_locally(reservation, now, sent=True)
        except asyncio.CancelledError:
            # The caller has gone; the store may have booked a call that would never be settled.
            self._outbox.start(Running(reservation, now, sent=True, booked=True))
            self._later(self.cancel(reservation, now))
            raise
        if decision.admitted:
            self._local.book(reservation, now)
            # Contact may have been lost, and regained, while this answer was on its way.
            booked = self._degraded_since is None
            self._outbox.start(Running(reservation, now, sent=True, booked=booked))
        return decision

    def _reserve_locally(self, reservation: Reservation, now: float, *, sent: bool) -> Decision:
        decision = self._local.reserve(reservation, now)
        running = Running(reservation, now, sent)
        if decision.admitted:
            self._outbox.start(running)
        elif sent:  # it may have been admitted there
            self._outbox.owe(running, None, now)
        return decision

    def book(self, reservation: Reservation, now: float) -> Answer[None]:
        """Book a call that a backend has worked on, whether it fits or not."""
        self._local.book(reservation, now)
        self._outbox.start(Running(reservation, now, sent=False))
        if self._degraded_since is not None:
            return None
        return self._unless_gone(self._tell_booking(reservation), now)

    def settle(
        self, reservation: Reservation, tokens: int, now: float, cost: int | None = None
    ) -> Answer[None]:
        """Replace what was reserved by the tokens used, and the money, wherever it was reserved."""
        self._local.settle(reservation, tokens, now, cost)
        return self._end(reservation, (tokens, cost), now)

    def cancel(self, reservation: Reservation, now: float) -> Answer[None]:
        """Take back a reservation that no backend served, wherever it was reserved."""
        self._local.cancel(reservation, now)
        return self._end(reservation, None, now)

    def _end(self, reservation: Reservation, used: Used | None, now: float) -> Answer[None]:
        running = self._outbox.finish(reservation)
        if running is None:
            return None
        if self._degraded_since is not None:
            self._outbox.owe(running, used, now)
            return None
        if used is not None and not running.booked:
            return self._charge(running, used, now)
        # No caller waits for it, and most calls end so: without a task.
        told = asyncio.get_running_loop().create_future()

        def took(error: StateUnavailableError | None) -> None:
            if error is not None:
                self._lose_end(error, running, used, now)
            if not told.done():
                told.set_result(None)

        self._shared.tell_end(reservation, used, took)
        return told

    async def _charge(self, running: Running, used: Used, now: float) -> None:
        tokens, cost = used
        try:
            await self._shared.charge(
                running.reservation, tokens, self._clock() - running.admitted_at, cost=cost
            )
        except StateUnavailableError as error:
            self._lose_end(error, running, used, now)
        except asyncio.CancelledError:
            self._later(self._charge(running, used, now))
            raise

    def _lose_end(
        self, error: StateUnavailableError, running: Running, used: Used | None, now: float
    ) -> None:
        self._degrade(error, now)
        # The store may have counted it, and lost its answer alone.
        self._outbox.owe(replace(running, sent=True), used, now)

    def renew(self, reservations: Iterable[Reservation], now: float) -> Answer[None]:
        """Keep reservations from lapsing; `start` does so for all that run."""
        reservations = list(reservations)
        self._local.renew(reservations, now)
        if self._degraded_since is not None:
            return None
        return self._unless_gone(self._shared.renew(reservations, now), now)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            answer = self.renew(self._outbox.running(), self._clock())
            if answer is not None:
                await answer

    # Breaks --------------------------------------------------------------------------------------

    def open_break(
        self, backend: str, priority: str, seconds: float, now: float, note: str = ""
    ) -> Answer[None]:
        """Skip a backend for a priority for `seconds`; a longer break stays."""
        self._local.open_break(backend, priority, seconds, now, note)
        if self._degraded_since is not None:
            return None
        return self._unless_gone(self._shared.open_break(backend, priority, seconds, now, note=note), now)

    def close_break(self, backend: str, priority: str, now: float) -> Answer[None]:
        """End a break before its time; while degraded, in this process only."""
        self._local.close_break(backend, priority, now)
        if self._degraded_since is not None:
            return None
        return self._unless_gone(self._shared.close_break(backend, priority, now), now)

    def breaks(self, now: float) -> Answer[Mapping[Break, Left]]:
        """Return all open breaks with the seconds that are left of each."""
        if self._degraded_since is not None:
            return self._local.breaks(now)
        return self._or_locally(self._shared.breaks(now), partial(self._local.breaks, now), now)

    # Losing and regaining contact ----------------------------------------------------------------

    async def _or_locally[T](self, asked: Awaitable[T], locally: Callable[[], T], now: float) -> T:
        try:
            return await asked
        except StateUnavailableError as error:
            self._degrade(error, now)
            return locally()

    async def _unless_gone(self, asked: Awaitable[None], now: float) -> None:
        try:
            await asked
        except StateUnavailableError as error:
            self._degrade(error, now)

    def _degrade(self, error: StateUnavailableError, now: float) -> None:
        if self._degraded_since is not None:
            return
        self._degraded_since = now
        if now - self._returned_at > STEADY:
            self._pause = self._first_pause
        logger.warning("Shared state lost, each process counts alone until it is back: %s", error)
        self._spawn(self._return())

    async def _return(self) -> None:
        """Probe until the shared store answers and knows everything; then ask it again."""
        while True:
            await asyncio.sleep(self._pause * self._random.uniform(0.5, 1))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                await self._shared.peek(_PROBE)
                await self._catch_up()
            except StateUnavailableError as error:
                logger.debug("Shared state is still out of reach: %s", error)
            except Exception:  # a bug of ours must not leave the processes apart for ever
                logger.exception("Shared state could not be brought up to date; trying again")
            else:
                break
        self._returned_at = self._clock()
        lost_for = self._returned_at - (self._degraded_since or self._returned_at)
        self._degraded_since = None
        logger.info("Shared state is back after %.1f s: %s", lost_for, self._shared.address)
        try:
            while not self._outbox.is_told():  # the little that happened during the last step
                await self._tell_journal()
        except StateUnavailableError as error:
            self._degrade(error, self._clock())

    async def _catch_up(self) -> None:
        """Tell the shared store what it missed up to now, assuming that it remembers nothing."""
        for (backend, priority), left in self._local.breaks(self._clock()).items():
            await self._shared.open_break(backend, priority, left, note=left.note)
        self._outbox.rebook()
        await self._tell_journal()

    async def _tell_journal(self) -> None:
        """Report running and ended calls; not those that start or end meanwhile."""
        for reservation in self._outbox.unbooked():
            await self._tell_booking(reservation)
        ends = self._outbox.take_ends()
        try:
            while ends:
                await self._tell_missed(ends[-1])
                ends.pop()
        finally:
            self._outbox.put_back(ends)

    async def _tell_booking(self, reservation: Reservation) -> None:
        """Have a call booked that runs, whether it fits or not."""
        if running := self._outbox.sending(reservation):
            await self._shared.book(reservation, self._clock() - running.admitted_at)
            if not self._outbox.booked(running):
                # It ended meanwhile, and its end may have overtaken this.
                await self._shared.cancel(reservation)

    async def _tell_missed(self, ended: Ended) -> None:
        if ended.used is None:
            await self._shared.cancel(ended.reservation)
        else:
            age = self._clock() - ended.admitted_at
            tokens, cost = ended.used
            await self._shared.charge(ended.reservation, tokens, age, cost=cost)

    def _later(self, answer: Answer[None]) -> None:
        """Finish in the background what a cancelled caller no longer waits for."""
        if answer is not None:
            self._spawn(_awaited(answer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _awaited(answer: Awaitable[None]) -> None:
    await answer
