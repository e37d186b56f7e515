"""Admission per day and month in a file, so that they survive a restart without Redis.

The file is JSON, replaced as a whole: written beside its place, synced to the disk, renamed over the
old one. A crash leaves the old or the new one, and costs at most what was settled since the last write
(`INTERVAL`; longer where writing takes long). Reservations are not kept: a process that is gone holds none.

With many end users there are tens of thousands of budgets. They are gathered and encoded in portions, so
that calls are served meanwhile, and nothing at all is done while nothing was settled.
"""

import asyncio
import json
import logging
import os
import reprlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import batched
from pathlib import Path
from typing import Final

from aoai_gateway.quota.calendar import Period, is_period
from aoai_gateway.quota.counters import Counters

INTERVAL: Final = 1.0
"""Seconds between writes while something changes."""

MOST_TOKENS: Final = 2**53
"""The most of one budget: Redis's scripts count with doubles, which are exact up to here."""

PAUSE_PER_WRITE: Final = 20.0
"""The pause after a write, in times of its own length: it takes a twentieth of the time at most."""

PORTION: Final = 500
"""Budgets that are gathered or encoded in one go, within a millisecond or two."""

_VERSION: Final = 1

logger = logging.getLogger(__name__)

type Entry = tuple[str, str | None, Period, int]
"""Client, virtual deployment (None: over all), period, settled tokens."""


class BudgetFileError(Exception):
    """The file cannot be used; the message names it and the remedy."""


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the file's content for these entries, in an order of its own."""
    return b"".join(_lines(sorted(entries, key=repr)))


def _lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    yield b'{"version": %d, "budgets": [' % _VERSION
    separator = b"\n"
    for some in batched(entries, PORTION):
        budgets = [
            {"client": client, "deployment": deployment, of.calendar: of.name, "tokens": tokens}
            for client, deployment, of, tokens in some
        ]
        # The encoder is much faster without indentation, and holds up other threads while it runs.
        yield separator + json.dumps(budgets)[1:-1].replace("}, {", "},\n{").encode()
        separator = b",\n"
    yield b"\n]}\n"


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


def read(path: Path) -> list[Entry]:
    """Return the entries of a file; a missing one has none. Raises BudgetFileError."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return []
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


async def now_and_then(flush: Callable[[], Awaitable[None]], interval: float = INTERVAL) -> None:
    """Write again and again, until cancelled, with pauses that are longer where writing takes long."""
    pause = interval
    while True:
        await asyncio.sleep(pause)
        begun = time.monotonic()
        await flush()
        pause = max(interval, PAUSE_PER_WRITE * (time.monotonic() - begun))


class BudgetFile:
    """Keeps the calendar budgets of `counters` in the file at `path`.

    `load` once before the first reservation; then `run` as a task; at the end cancel it and `flush`.
    """

    def __init__(self, path: Path, counters: Counters, interval: float = INTERVAL) -> None:
        self._path = path
        self._counters = counters
        self._interval = interval
        self._written = counters.settlements
        """How many there had been when the file was written last."""
        self._failing = False
        self._writing: asyncio.Future[None] | None = None

    def load(self) -> None:
        """Count the file's entries; a missing file has none. Raises BudgetFileError."""
        for client, deployment, of, tokens in read(self._path):
            self._counters.restore(client, deployment, of, tokens)
        self._written = self._counters.settlements

    async def run(self) -> None:
        """Write the file whenever something was settled, until cancelled."""
        await now_and_then(self.flush, self._interval)

    async def flush(self) -> None:
        """Write the file if it is out of date. A failing disk is logged once and tried again."""
        if self._writing:  # by a run that was cancelled meanwhile; two writers must not cross
            await asyncio.wait({self._writing})
        settlements = self._counters.settlements
        if settlements == self._written:
            return
        entries: list[Entry] = []
        for some in batched(self._counters.settled(), PORTION):
            entries += some
            await asyncio.sleep(0)
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, entries))
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            if not self._failing:
                logger.error("%s: cannot write the budgets per day and month: %s", self._path, error)
            self._failing = True
            return
        self._written = settlements
        if self._failing:
            logger.info("%s: budgets per day and month are written again", self._path)
        self._failing = False

    def _write(self, entries: Iterable[Entry]) -> None:
        write_atomically(self._path, b"".join(_lines(entries)))


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace the file by one with this content: all of it or nothing, and on the disk (fsync).

    ``mode``: the rights of a new file, less those that the process's mask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
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
