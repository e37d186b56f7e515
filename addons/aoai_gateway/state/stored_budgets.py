"""Budgets per day and month of a store that forgets: in a file, read at its start, written while it runs.

The workers' own store keeps nothing on the disk. What `budget_file` promises is kept all the same: the file
is that of a single process (:mod:`~aoai_gateway.state.budget_file`), so either can follow the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import redis
import redis.asyncio
from redis.exceptions import RedisError

from aoai_gateway.quota.calendar import Period
from aoai_gateway.state import budget_file

_EPOCH: Final = date(1970, 1, 1)
_KEPT: Final = timedelta(days=70)
"""Longer than any month; the script that counts sets the time anew."""

STORE_SECONDS: Final = 5.0
"""The time that the store has to answer; it is on this machine."""

type _Budget = tuple[str, str | None, Period]
"""Client, virtual deployment (None: over all) and period."""

logger = logging.getLogger(__name__)


def put(url: str, prefix: str, path: Path) -> None:
    """Put what the file says into the store. One that is not there says nothing.

    Raises BudgetFileError, and RedisError if the store does not take it.
    """
    put_entries(url, prefix, budget_file.read(path))


def put_entries(url: str, prefix: str, entries: Iterable[budget_file.Entry]) -> None:
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
        pause = budget_file.INTERVAL
        while True:
            await asyncio.sleep(pause)
            begun = time.monotonic()
            await self.flush()
            pause = max(budget_file.INTERVAL, budget_file.PAUSE_PER_WRITE * (time.monotonic() - begun))

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


def _text(field: bytes | str) -> str:
    return field.decode() if isinstance(field, bytes) else field


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
