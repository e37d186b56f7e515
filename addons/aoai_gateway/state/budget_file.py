"""Admission per day and month in a file, so that they survive a restart without Redis.

The file is small JSON, replaced as a whole: written beside its place, synced to the disk, renamed
over the old one. A crash leaves the old or the new one, and costs at most what was settled since
the last write (`INTERVAL`). Reservations are not kept: a process that is gone holds none.
"""

import asyncio
import json
import logging
import os
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aoai_gateway.quota.calendar import Period, is_period
from aoai_gateway.quota.counters import Counters

INTERVAL: Final = 1.0
"""Seconds between writes while something changes."""

MOST_TOKENS: Final = 2**53
"""Of one budget: Redis's scripts count with doubles, which are exact up to here."""

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
    try:
        document = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f"it is no budget file of version {_VERSION}")
    budgets = document.get("budgets")
    if not isinstance(budgets, list):
        raise ValueError("it has no list of budgets")
    return [_entry(item) for item in budgets]


def read(path: Path) -> tuple[bytes, list[Entry]]:
    """Return a file's content and the entries in it; of a missing one, nothing. Raises BudgetFileError."""
    try:
        content = path.read_bytes()
        return content, decode(content)
    except FileNotFoundError:
        return b"", []
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BudgetFileError(
            f"{path}: cannot read the budgets per day and month ({reason}); "
            "repair the file, or remove it to start with nothing spent"
        ) from error


def _entry(item: object) -> Entry:
    match item:
        case {"client": str(client), "deployment": (str() | None) as name, "day": str(of), "tokens": tokens}:
            period = Period("day", of)
        case {
            "client": str(client),
            "deployment": (str() | None) as name,
            "month": str(of),
            "tokens": tokens,
        }:
            period = Period("month", of)
        case _:
            raise ValueError(f"it has what is no budget: {_shortened(item)}")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= MOST_TOKENS:
        raise ValueError(f"it has a number of tokens that is none, of {_shortened(client)}")
    if not is_period(period):
        raise ValueError(f"it has a {period.calendar} that is none: {_shortened(period.name)}")
    try:
        f"{client}{name}".encode()
    except UnicodeEncodeError:
        raise ValueError(f"it has a name that is none: {_shortened(item)}") from None
    return client, name, period, tokens


def _shortened(value: object) -> str:
    # Written as ASCII: it goes into a log, and comes from a file that is broken.
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()


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
        self._written, entries = read(self._path)
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
