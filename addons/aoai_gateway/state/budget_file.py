"""Admission per day and month in a file, so that they survive a restart without Redis.

The file is small JSON, replaced as a whole: written beside its place, synced to the disk, renamed
over the old one. A crash leaves the old or the new one, and costs at most what was settled since
the last write (`INTERVAL`). Reservations are not kept: a process that is gone holds none.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aoai_gateway.quota.calendar import Period
from aoai_gateway.quota.counters import Counters

INTERVAL: Final = 1.0
"""Seconds between writes while something changes."""

_VERSION: Final = 1

logger = logging.getLogger(__name__)

type Entry = tuple[str, str | None, Period, int]
"""Client, virtual deployment (None: over all), period, settled tokens."""


class BudgetFileError(Exception):
    """The file cannot be used; the message names it and the remedy."""


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the file's content for these entries."""
    budgets = [
        {"client": client, "deployment": deployment, of.calendar: of.name, "tokens": tokens}
        for client, deployment, of, tokens in sorted(entries, key=repr)
    ]
    return json.dumps({"version": _VERSION, "budgets": budgets}, indent=1).encode()


def decode(content: bytes) -> list[Entry]:
    """Return the entries in a file's content; ValueError if it is not such a file."""
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f"not a budget file of version {_VERSION}")
    return [_entry(item) for item in document["budgets"]]


def _entry(item: object) -> Entry:
    match item:
        case {"client": str(client), "deployment": (str() | None) as name, "day": str(day), "tokens": int(n)}:
            return client, name, Period("day", day), n
        case {
            "client": str(client),
            "deployment": (str() | None) as name,
            "month": str(month),
            "tokens": int(n),
        }:
            return client, name, Period("month", month), n
    raise ValueError(f"not a budget: {item!r}")


class BudgetFile:
    """Keeps the calendar budgets of `counters` in the file at `path`.

    `load` once before the first reservation; then `run` as a task; at the end cancel it and `flush`.
    """

    def __init__(self, path: Path, counters: Counters, interval: float = INTERVAL) -> None:
        self._path = path
        self._accounts = counters
        self._interval = interval
        self._written = b""
        self._failing = False
        self._writing: asyncio.Future[None] | None = None

    def load(self) -> None:
        """Count the file's entries; a missing file has none. Raises BudgetFileError."""
        try:
            self._written = self._path.read_bytes()
            entries = decode(self._written)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a budget file"
            raise BudgetFileError(
                f"{self._path}: cannot read the budgets per day and month ({reason}); "
                "repair the file, or remove it to start with nothing spent"
            ) from error
        for client, deployment, of, tokens in entries:
            self._accounts.restore(client, deployment, of, tokens)

    async def run(self) -> None:
        """Write the file whenever something was settled, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.flush()

    async def flush(self) -> None:
        """Write the file if it is out of date. A failing disk is logged once and tried again."""
        if self._writing:  # by a run that was cancelled meanwhile; two writers must not cross
            await asyncio.wait({self._writing})
        content = encode(self._accounts.settled())
        if content == self._written:
            return
        self._writing = asyncio.ensure_future(asyncio.to_thread(write_atomically, self._path, content))
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            if not self._failing:
                logger.error("%s: cannot write the budgets per day and month: %s", self._path, error)
            self._failing = True
            return
        self._written = content
        if self._failing:
            logger.info("%s: budgets per day and month are written again", self._path)
        self._failing = False


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file by one with this content: all of it or nothing, and on the disk (fsync)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
