"""Where state lives (`aoai_gateway.routing.affinity`), in a file, so that it survives a restart.

A line is the digest of a name, when its state was seen (Unix time), and the endpoint. What is learned is
appended, once a second and synced to the disk; a later line counts before an earlier one. When the file has
grown to more than twice what is remembered, it is replaced as a whole. A line that a crash cut off is passed
over. Only its owner may read the file (0600), and of what clients and Azure call things it holds digests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from itertools import batched, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from aoai_gateway.bounded import DIGEST_BYTES
from aoai_gateway.routing.affinity import CAPACITY, LIFETIME, Affinity, Home, Untold
from aoai_gateway.state.budget_file import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

INTERVAL: Final = 1.0
"""Seconds between writes while something is learned."""

HEADER: Final = b"aoai-gateway affinity 1\n"

LARGEST_FILE: Final = 32 * 1024 * 1024
"""Bytes. An entry has about fifty; with long names of endpoints, fewer are kept than fit into memory."""

ALWAYS_APPENDED: Final = 1024 * 1024
"""Bytes that a file may have, however little of it counts."""

PORTION: Final = 1000
"""Entries that are written or read together."""

MOST_AT_ONCE: Final = 10_000
"""Entries that are written at once; the others follow a second later."""

MODE: Final = 0o600

logger = logging.getLogger(__name__)


class AffinityFileError(Exception):
    """The file cannot be used; the message names it and the remedy."""


class AffinityFile:
    """Keeps what `affinity` learns in the file at ``path``.

    ``unix_offset`` gives the seconds to add to a time of `affinity` to make it Unix time. `load` once before
    the first call; then `run` as a task; at the end cancel it and `flush`.
    """

    def __init__(
        self, path: Path, affinity: Affinity, unix_offset: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._path = path
        self._affinity = affinity
        self._unix_offset = unix_offset
        self._untold = Untold()
        self._size = 0
        """Bytes of the file, as far as is known."""
        self._compact_size = 0
        """Its bytes when it was written as a whole, or read, last."""
        self._is_whole = True
        """Whether its last line has an end."""
        self._failing = False
        self._writing: asyncio.Future[None] | None = None
        affinity.tell = self._untold.put

    def note(self, home: Home) -> None:
        """Have a home written that something else than `affinity` has learned."""
        self._untold.put(home)

    def load(self) -> None:
        """Take in what the file says; a missing one says nothing. Raises AffinityFileError."""
        unix_offset, oldest = self._unix_offset(), time.time() - LIFETIME
        count = 0
        for digest, endpoint, seen in read(self._path):
            if seen > oldest:
                self._affinity.take_in((digest, endpoint, seen - unix_offset))
                count += 1
        with suppress(OSError):
            self._size = self._path.stat().st_size
            self._is_whole = _ends_with_line(self._path)
        # Where each name stands once, that is its size; else the rest is dropped with the next write.
        self._compact_size = self._size * len(self._affinity) // max(1, count)

    async def run(self) -> None:
        """Write what is learned, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.flush()

    async def flush(self) -> None:
        """Write what was learned. A failing disk is logged once and tried again."""
        if self._writing:  # by a run that was cancelled meanwhile; two writers must not cross
            await asyncio.wait({self._writing})
        homes = self._untold.take(MOST_AT_ONCE)
        if not homes:
            return
        largest = min(max(2 * self._compact_size, ALWAYS_APPENDED), LARGEST_FILE)
        unix_offset = self._unix_offset()
        if self._size < len(HEADER):
            work = asyncio.to_thread(self._replace, self._affinity.snapshot(), unix_offset)
        elif self._size <= largest:
            work = asyncio.to_thread(self._append, homes, unix_offset)
        else:
            work = asyncio.to_thread(self._compact, homes, unix_offset)
        # What this flush cannot write is noted again.
        self._writing = asyncio.ensure_future(self._written(work, homes))
        await asyncio.shield(self._writing)

    async def _written(self, work: Coroutine[Any, Any, None], homes: list[Home]) -> None:
        try:
            await work
        except (OSError, AffinityFileError) as error:
            self._untold.put_back(homes)
            if isinstance(error, FileNotFoundError):
                self._size = 0
            if not self._failing:
                logger.error("%s: cannot keep where stored responses and files are: %s", self._path, error)
            self._failing = True
            return
        if self._failing:
            logger.info("%s: where stored responses and files are is kept again", self._path)
        self._failing = False

    # These run in a thread ----------------------------------------------------------------------------------

    def _append(self, homes: Iterable[Home], unix_offset: float) -> None:
        # Not made anew, if it has been removed: it would lack its first line.
        flags = os.O_WRONLY | os.O_APPEND
        with open(self._path, "ab", opener=lambda path, _: os.open(path, flags)) as file:
            if not self._is_whole:
                file.write(b"\n")
            self._is_whole = False
            for portion in _lines(homes, unix_offset):
                file.write(portion)
            file.flush()
            os.fsync(file.fileno())
            self._is_whole = True
            self._size = file.tell()

    def _compact(self, homes: Iterable[Home], unix_offset: float) -> None:
        """Write the last line of each name alone. The file has them all, so no call waits for a copy.

        Raises FileNotFoundError if it has been removed: it would have these homes alone.
        """
        kept: dict[bytes, Home] = {}
        for digest, endpoint, seen in chain(
            _entries(self._path), ((k, e, at + unix_offset) for k, e, at in homes)
        ):
            kept.pop(digest, None)
            kept[digest] = (digest, endpoint, seen)
        self._replace(islice(kept.values(), max(0, len(kept) - CAPACITY), None), 0.0)

    def _replace(self, homes: Iterable[Home], unix_offset: float) -> None:
        portions = list(_lines(homes, unix_offset))
        size = sum(map(len, portions))
        while size > LARGEST_FILE // 2:
            size -= len(portions.pop(0))
        write_atomically(self._path, b"".join((HEADER, *portions)), MODE)
        self._size = self._compact_size = len(HEADER) + size
        self._is_whole = True


def check(path: Path) -> None:
    """Check that it can be used: read its beginning. Raises AffinityFileError."""
    next(read(path), None)


def read(path: Path) -> Iterator[Home]:
    """Yield what a file says, the oldest line first; times are Unix times. Raises AffinityFileError.

    A missing file says nothing, and so does a line that is none.
    """
    with suppress(FileNotFoundError):
        yield from _entries(path)


def _entries(path: Path) -> Iterator[Home]:
    try:
        with path.open("rb") as file:
            first = file.readline(len(HEADER))
            if not HEADER.startswith(first):
                raise AffinityFileError(
                    f"{path}: is not a file of the gateway's affinity; name another one, or remove it"
                )
            size = os.fstat(file.fileno()).st_size
            if size > 2 * LARGEST_FILE:
                file.seek(size - LARGEST_FILE)
                file.readline()
            while line := file.readline(4096):
                if (home := _home(line)) is not None:
                    yield home
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AffinityFileError(
            f"{path}: cannot read where stored responses and files are ({error.strerror}); "
            "let the gateway's user read it, or remove it"
        ) from error


def _home(line: bytes) -> Home | None:
    try:
        digest, seen, endpoint = line.decode("ascii").removesuffix("\n").split(" ")
        found = bytes.fromhex(digest), unquote(endpoint, errors="strict"), float(int(seen))
    except ValueError:
        return None
    return found if len(found[0]) == DIGEST_BYTES and endpoint and line.endswith(b"\n") else None


def _lines(homes: Iterable[Home], unix_offset: float) -> Iterator[bytes]:
    for some in batched(homes, PORTION):
        lines = (
            f"{key.hex()} {round(seen + unix_offset)} {quote(name, safe='')}\n" for key, name, seen in some
        )
        yield "".join(lines).encode()


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
