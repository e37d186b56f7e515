"""What the workers' own store would forget, in files that are read at its start and written while it runs.

That store keeps nothing on the disk. What `budget_file` and `affinity_file` promise is kept all the same: the
files are those of a single process, so either can follow the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date, timedelta
from itertools import batched
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import redis
import redis.asyncio
from redis.exceptions import RedisError

from aoai_gateway.quota.calendar import Period
from aoai_gateway.routing.affinity import Affinity
from aoai_gateway.state import affinity_file, budget_file
from aoai_gateway.state.exchange import KEPT_HOMES, homes_key, order_of, read_homes, written_homes

_EPOCH: Final = date(1970, 1, 1)
_KEPT: Final = timedelta(days=70)
"""Longer than any month; the script that counts sets the time anew."""

STORE_SECONDS: Final = 5.0
"""The time that the store has to answer; it is on this machine."""

TOGETHER: Final = 500
"""Homes in one entry of the stream."""

AT_ONCE: Final = 100
"""Entries that are read at once."""

type _Budget = tuple[str, str | None, Period]
"""Client, virtual deployment (None: over all) and period."""

logger = logging.getLogger(__name__)


def put_budgets(url: str, prefix: str, entries: Iterable[budget_file.Entry]) -> None:
    """Put budgets into an empty store, all or none of them. Raises RedisError."""
    with redis.Redis.from_url(url, socket_timeout=STORE_SECONDS) as store, store.pipeline() as all_at_once:
        for client, deployment, of, tokens in entries:
            key = f"{prefix}:{{{quote(client, safe='')}}}:budgets"
            # What a worker has counted since the store began is not lost.
            all_at_once.hincrby(key, _field(deployment, of), tokens)
            all_at_once.expire(key, _KEPT)
        all_at_once.execute()


class BudgetKeeper:
    """Writes the file whenever something was settled: `run` as a task; at the end cancel it and `flush`."""

    def __init__(self, url: str, prefix: str, path: Path) -> None:
        self._store = redis.asyncio.Redis.from_url(url, socket_timeout=STORE_SECONDS)
        self._prefix = prefix
        self._path = path
        self._written: dict[_Budget, int] | None = None
        self._failing = False

    async def run(self) -> None:
        """Write until cancelled."""
        await budget_file.now_and_then(self.flush)

    async def flush(self) -> None:
        """Write the file if it is out of date. What fails is logged once and tried again."""
        try:
            spent = await self._spent()
            if spent != self._written:
                await asyncio.to_thread(self._write, spent)
                self._written = spent
        except (OSError, RedisError) as error:
            if not self._failing:
                logger.error("%s: cannot write the budgets per day and month: %s", self._path, error)
            self._failing = True
            return
        if self._failing:
            logger.info("%s: budgets per day and month are written again", self._path)
        self._failing = False

    def _write(self, spent: Mapping[_Budget, int]) -> None:
        budget_file.write_atomically(
            self._path, budget_file.encode((*budget, tokens) for budget, tokens in spent.items())
        )

    async def _spent(self) -> dict[_Budget, int]:
        found: dict[_Budget, int] = {}
        async for key in self._store.scan_iter(match=f"{_escaped(self._prefix)}:{{*}}:budgets", count=1000):
            client = unquote(key.decode().removeprefix(f"{self._prefix}:{{").removesuffix("}:budgets"))
            # In portions: all end users of a client are in one hash, and the store serves calls meanwhile. A
            # field may come twice, with another value.
            async for field, value in self._store.hscan_iter(key, count=budget_file.PORTION):
                words = _text(field).split(" ")
                if words[-1] == "s" and int(value):
                    deployment, of, _ = words
                    name = None if deployment == "*" else unquote(deployment)
                    found[client, name, _period(of)] = int(value)
        return found


def put_affinity(url: str, prefix: str, path: Path) -> None:
    """Put what the file says into the store. One that is not there says nothing. Raises AffinityFileError."""
    with redis.Redis.from_url(url, socket_timeout=STORE_SECONDS) as store:
        for some in batched(affinity_file.read(path), TOGETHER):
            entry: dict[Any, Any] = written_homes([(key.hex(), name, seen) for key, name, seen in some])
            store.xadd(homes_key(prefix), entry, maxlen=KEPT_HOMES, approximate=True)


class AffinityKeeper:
    """Writes the file with what workers learn: `run` as a task; at the end cancel it and `flush`."""

    def __init__(self, url: str, prefix: str, path: Path) -> None:
        self._store = redis.asyncio.Redis.from_url(url, socket_timeout=STORE_SECONDS)
        self._key = homes_key(prefix)
        self._affinity = Affinity()
        self._file = affinity_file.AffinityFile(path, self._affinity)
        self._last = "0-0"
        self._failing = False

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            await asyncio.to_thread(self._file.load)
        except affinity_file.AffinityFileError as error:
            logger.error("%s", error)
            return
        while True:
            await asyncio.sleep(affinity_file.INTERVAL)
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
        if newest and order_of(_text(newest[0][0])) < order_of(self._last):
            self._last = "0-0"  # the store began anew
        while True:
            found: Any = await self._store.xrange(self._key, f"({self._last}", "+", count=AT_ONCE)
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


def _field(deployment: str | None, of: Period) -> str:
    """Name a budget's settled tokens as the script ``quotas.lua`` does."""
    name = "*" if deployment is None else quote(deployment, safe="")
    if of.calendar == "day":
        return f"{name} d{(date.fromisoformat(of.name) - _EPOCH).days} s"
    year, month = map(int, of.name.split("-"))
    # The script counts months from March on, as leap days are at the end of the year then.
    return f"{name} m{(year - (month < 3)) * 12 + (month + 9) % 12} s"


def _period(of: str) -> Period:
    number = int(of[1:])
    if of[0] == "d":
        return Period("day", (_EPOCH + timedelta(days=number)).isoformat())
    year, march_based = divmod(number, 12)
    month = (march_based + 2) % 12 + 1
    return Period("month", f"{year + (month < 3):04}-{month:02}")


def _escaped(prefix: str) -> str:
    """A prefix, for a pattern of Redis: its wildcards stand for themselves."""
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix)
