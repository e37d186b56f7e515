"""Renewal of credentials and keys in tasks of their own, so that calls find them fresh.

A token, which expires, is renewed some minutes before, at a time that is drawn, so that many gateways do not
ask at once; if it is short-lived, after half its life. A key in a file, which does not, is looked at again
and again. A renewal that fails is repeated, after longer and longer pauses; as long as the last value is
valid, no call notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

AHEAD_SECONDS = (200.0, 290.0)
"""How long before its end a token is renewed, at least and at most. Entra ID's libraries hand out the same
one again as long as it has five minutes left."""

SPARE_SECONDS = 5.0
"""A token is not shown any more so long before its end: it has to arrive, and clocks differ."""

FETCH_SECONDS = 30.0
"""The time for one fetch; a longer one has failed."""

RETRY_SECONDS = (1.0, 30.0)
"""The first pause after a failure, and the longest."""

logger = logging.getLogger(__name__)


async def cancel_all(tasks: dict[Any, asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended; no exception of theirs is raised."""
    ending = list(tasks.values())
    tasks.clear()
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def wait_for_all(renewals: Iterable[Renewal[Any]], seconds: float) -> None:
    """Wait until an attempt of each has ended, so long at most."""
    waits = [asyncio.create_task(renewal.settled.wait()) for renewal in renewals]
    if waits:
        _, late = await asyncio.wait(waits, timeout=seconds)
        for task in late:
            task.cancel()


class FetchError(Exception):
    """A fetch failed. The message is one line without secrets; ``remedy`` names the way out."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def read_at_most(file: Path, most: int, remedy: str) -> bytes:
    """Return what a file holds: of a larger one, a byte more than this. Raises FetchError."""
    try:
        with file.open("rb") as content:
            return content.read(most + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise FetchError(f"{file}: {reason}", remedy) from None


class Fetched(Protocol):
    """A value that is kept fresh; two that are equal are the same."""

    @property
    def seconds(self) -> float | None:
        """How long it is valid from when it came; None: until another takes its place."""


class Fetch[Value: Fetched](Protocol):
    """Gets it. Blocks; raises FetchError."""

    @property
    def again_seconds(self) -> float | None:
        """How often what does not expire is looked at again."""

    def __call__(self) -> Value:
        """Get it."""


class Renewal[Value: Fetched]:
    """Keeps one thing fresh. ``changed``: called when it is there, is not any more, or why has changed."""

    def __init__(
        self,
        name: str,
        fetch: Fetch[Value],
        changed: Callable[[Renewal[Value]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = name
        self.problem = ""
        """Why the last attempt failed; empty if it did not."""
        self.remedy = ""
        """The way out of that failure."""
        self.retry_at: float | None = None
        """When it is tried again, after a failure."""
        self.settled = asyncio.Event()
        """Set once an attempt has ended, in any way."""
        self.changed_at: float | None = None
        """When the value came that is there now."""
        self.fetch = fetch
        self._changed = changed
        self._clock, self._draw = clock, draw
        self._held: Value | None = None
        self._expires: float | None = None
        self._failures = 0
        self._busy = False
        """Whether a thread is at it, one that was given up perhaps."""
        self._wanted = asyncio.Event()

    def __repr__(self) -> str:
        return f"Renewal({self.name!r})"

    @property
    def value(self) -> Value | None:
        """The last value, if it is valid."""
        left = self.seconds_left
        return self._held if left is None or left > SPARE_SECONDS else None

    @property
    def seconds_left(self) -> float | None:
        """The seconds for which it is valid; None if it does not expire."""
        return None if self._expires is None else self._expires - self._clock()

    async def run(self) -> None:
        """Keep it fresh, until cancelled."""
        while True:
            try:
                pause = await self.renew()
            except Exception:
                # A bug must not end it: the next token would never come.
                logger.exception("A bug in the renewal of %s.", self.name)
                pause = RETRY_SECONDS[1]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause)

    async def at_once(self, seconds: float) -> None:
        """Have it renewed before its time, and wait for that, so long at most."""
        self._wanted.set()
        self.settled.clear()
        await self.wait(seconds)

    async def wait(self, seconds: float) -> None:
        """Wait until an attempt that is under way has ended, so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.settled.wait(), seconds)

    async def renew(self) -> float:
        """Make one attempt. Returns the seconds until the next one."""
        self._wanted.clear()
        try:
            value = await asyncio.wait_for(self._in_a_thread(), FETCH_SECONDS)
        except TimeoutError:
            pause = self._failed(FetchError(f"no answer within {FETCH_SECONDS:g} s", "See whether it is up."))
        except FetchError as error:
            pause = self._failed(error)
        else:
            pause = self._got(value)
        self.settled.set()
        return pause

    def _got(self, value: Value) -> float:
        if self.problem:
            logger.info("%s: it is there again.", self.name)
        is_new = self._held != value or self.value is None or bool(self.problem)
        if self._held != value:
            self.changed_at = self._clock()
        self._held, self._failures, self.problem, self.remedy, self.retry_at = value, 0, "", "", None
        self._expires = None if value.seconds is None else self._clock() + value.seconds
        if is_new:
            self._changed(self)
        if value.seconds is None:
            return self.fetch.again_seconds or RETRY_SECONDS[1]
        return max(RETRY_SECONDS[0], value.seconds - min(self._draw(*AHEAD_SECONDS), value.seconds / 2))

    def _failed(self, error: FetchError) -> float:
        shortest, longest = RETRY_SECONDS
        pause = min(longest, shortest * 2.0 ** min(self._failures, 10)) * self._draw(0.8, 1.2)
        self._failures += 1
        problem, left = str(error), self.seconds_left
        if problem != self.problem:
            held = " What is at hand is used as long as it is valid." if self.value is not None else ""
            logger.warning("%s: %s. %s%s", self.name, problem, error.remedy, held)
        if self.value is not None and left is not None:
            # To report in time that it has expired.
            pause = min(pause, max(0.1, left - SPARE_SECONDS))
        self.problem, self.remedy, self.retry_at = problem, error.remedy, self._clock() + pause
        self._changed(self)
        return pause

    async def _in_a_thread(self) -> Value:
        """Fetch in a thread that the end of the process does not wait for; never in two at once."""
        if self._busy:
            raise FetchError("an earlier attempt has not ended yet", "See whether it is up.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Value] = loop.create_future()

        def tell(value: Value | None, error: Exception | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif value is not None:
                done.set_result(value)

        def work() -> None:
            value: Value | None = None
            error: Exception | None = None
            try:
                value = self.fetch()
            except FetchError as failed:
                error = failed
            except Exception as failed:
                error = FetchError(f"it failed with {type(failed).__name__}", "This is a bug of the gateway.")
            self._busy = False
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, value, error)

        self._busy = True
        threading.Thread(target=work, name=self.name, daemon=True).start()
        return await done
