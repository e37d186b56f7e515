"""Affinity of a store that forgets: in a file, read at its start, written while it runs.

The workers' own store keeps nothing on the disk. What `affinity_file` promises is kept all the same: the
file is that of a single process (:mod:`~aoai_gateway.state.affinity_file`), so either can follow the other.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import batched
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import RedisError

from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.state.affinity_file import INTERVAL, AffinityFile, AffinityFileError, read
from aoai_gateway.state.exchange import KEPT_HOMES, homes_key, read_homes, written_homes
from aoai_gateway.state.stored_budgets import STORE_SECONDS

TOGETHER: Final = 500
"""Homes in one entry of the stream."""

AT_ONCE: Final = 100
"""Entries that are read at once."""

logger = logging.getLogger(__name__)


def put(url: str, prefix: str, path: Path) -> None:
    """Put what the file says into the store. One that is not there says nothing. Raises AffinityFileError."""
    with redis.Redis.from_url(url, socket_timeout=STORE_SECONDS) as store:
        for some in batched(read(path), TOGETHER):
            entry: dict[Any, Any] = written_homes([(key.hex(), name, seen) for key, name, seen in some])
            store.xadd(homes_key(prefix), entry, maxlen=KEPT_HOMES, approximate=True)


class AffinityKeeper:
    """Writes the file with what workers learn: `run` as a task; at the end cancel it and `flush`."""

    def __init__(self, url: str, prefix: str, path: Path) -> None:
        self._store = redis.asyncio.Redis.from_url(url, socket_timeout=STORE_SECONDS)
        self._key = homes_key(prefix)
        self._affinity = Affinity()
        self._file = AffinityFile(path, self._affinity)
        self._last = "0-0"
        self._failing = False

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            await asyncio.to_thread(self._file.load)
        except AffinityFileError as error:
            logger.error("%s", error)
            return
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()

    async def flush(self) -> None:
        """Write what was learned since the last time. What fails is logged once and tried again."""
        try:
            await self._hear()
        except (OSError, RedisError) as error:
            if not self._failing:
                logger.error("Where stored responses and files are cannot be read in the store: %s", error)
            self._failing = True
        else:
            self._failing = False
        await self._file.flush()

    async def _hear(self) -> None:
        newest: Any = await self._store.xrevrange(self._key, "+", "-", count=1)
        if newest and _order(newest[0][0]) < _order(self._last):
            self._last = "0-0"  # the store began anew
        while True:
            found: Any = await self._store.xrange(self._key, f"({_text(self._last)}", "+", count=AT_ONCE)
            for name, fields in found:
                self._last = _text(name)
                # What another version has written, perhaps, is passed over.
                with suppress(KeyError, TypeError, ValueError):
                    for digest, endpoint, seen in read_homes(fields):
                        home = (bytes.fromhex(digest), endpoint, seen)
                        if self._affinity.take_in(home):
                            self._file.note(home)
            if len(found) < AT_ONCE:
                return


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _order(name: bytes | str) -> tuple[int, int]:
    milliseconds, _, number = _text(name).partition("-")
    return int(milliseconds), int(number or 0)
