"""What gateway processes tell each other, through two streams of the store that they share.

Each process appends what it has done, and reads what all have appended, in the same order.
The first stream keeps the last minute or two: a process that starts reads them and knows what the others
know. The second one keeps where state lives (`aoai_gateway.routing.affinity`), by digests of its names; that
is worth knowing for weeks.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aoai_gateway.config.shared_store import answer_seconds
from aoai_gateway.state.store_client import StoreClient, keys_prefix, packed

if TYPE_CHECKING:
    from aoai_gateway.config.shared_store import StoreAddress

KEPT_SECONDS: Final = 90.0
"""The time for which records are kept: longer than any window of a backend."""

KEPT_HOMES: Final = 100_000

BLOCK_SECONDS: Final = 0.5
"""How long a read waits for something new."""

AT_ONCE: Final = 100
"""Entries that are read at once."""

logger = logging.getLogger(__name__)


type StoredHome = tuple[str, str, float]
"""The digest of a name, the endpoint that holds what it names, and when that was seen (Unix time)."""


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Change records of one process. ``unix_offset``: seconds that make the times in them Unix time.

    ``number`` grows. A batch that is sent again, since its answer was lost, has the same.
    """

    process: str
    unix_offset: float
    records: Sequence[Any]
    number: int | None = None


class Exchange:
    """One process's part. ``process``: its name, which no other has. Raises StateUnavailableError only."""

    def __init__(self, store: StoreAddress, prefix: str, process: str) -> None:
        self._process = process
        prefix = keys_prefix(store, prefix)
        # In a cluster, keys with the same words in braces are on the same node.
        self._events = f"{prefix}:{{peers}}:events"
        self._homes = homes_key(prefix)
        self._writer = _Connection(store, self._events)
        self._reader = _Connection(store, self._events, BLOCK_SECONDS)
        self._last = "0-0"
        self._written_ms: int | None = None
        """When this process wrote last, in milliseconds on the store's clock, which names the entries."""
        self._has_complained = False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._writer.aclose()
        await self._reader.aclose()

    async def tell(self, records: Sequence[Any], unix_offset: float, number: int | None = None) -> None:
        """Append what this process has done; nothing is a sign of life. ``number``: see `ChangeBatch`."""
        fields = ["p", self._process, "c", repr(unix_offset), "r", json.dumps(records)]
        if number is not None:
            fields += ("n", str(number))
        # By the store's clock: one here that is ahead would take away what others have not read.
        written = self._written_ms
        oldest = () if written is None else ("MINID", "~", written - int(KEPT_SECONDS * 1000))
        name = await self._writer.answer("XADD", self._events, *oldest, "*", *fields)
        self._written_ms, _ = order_of(name.decode())

    async def tell_homes(self, homes: Sequence[StoredHome]) -> None:
        """Append where state lives."""
        ((name, value),) = written_homes(homes).items()
        await self._writer.answer("XADD", self._homes, "MAXLEN", "~", KEPT_HOMES, "*", name, value)

    async def homes(self) -> AsyncIterator[list[StoredHome]]:
        """Read where state lives, as far as it is known, newest first."""
        highest = "+"
        while True:
            found = await self._reader.answer("XREVRANGE", self._homes, highest, "-", "COUNT", AT_ONCE)
            for name, fields in found or ():
                highest = f"({name.decode()}"
                try:
                    homes = read_homes(_pairs(fields))
                except (KeyError, TypeError, ValueError):
                    self._complain()
                else:
                    yield homes
            if len(found or ()) < AT_ONCE:
                return

    async def news(self, *, wait: bool) -> list[ChangeBatch]:
        """Read what others have told since the last time; ``wait``: for some time, if there is nothing."""
        block = ("BLOCK", int(BLOCK_SECONDS * 1000)) if wait else ()
        found = await self._reader.answer(
            "XREAD", "COUNT", AT_ONCE, *block, "STREAMS", self._events, self._last
        )
        told = []
        for _, entries in found or ():
            for name, words in entries:
                self._last = name.decode()
                try:
                    fields = _pairs(words)
                    if fields[b"p"].decode() != self._process:
                        told.append(_told(fields))
                except (KeyError, TypeError, ValueError):
                    self._complain()
        return told

    def _complain(self) -> None:
        """Say once that something was passed over: another version may have written it."""
        if not self._has_complained:
            self._has_complained = True
            logger.warning("Another gateway process tells what cannot be read here; that is passed over.")

    async def follow(self) -> None:
        """Check that the stream is the one that was read last: one that began anew is read from its begin."""
        newest = await self._reader.answer("XREVRANGE", self._events, "+", "-", "COUNT", 1)
        if not newest or order_of(newest[0][0].decode()) < order_of(self._last):
            self._last = "0-0"


class _Connection(StoreClient):
    """A client whose commands come one at a time, each with an answer in time.

    ``blocks``: for how long a command may wait at the store, in seconds.
    """

    def __init__(self, store: StoreAddress, key: str, blocks: float = 0.0) -> None:
        seconds = answer_seconds(store)
        self._bound = seconds + blocks
        super().__init__(store, key=key, connect_seconds=seconds, answer_seconds=self._bound)

    async def answer(self, *words: str | int) -> Any:
        """Return the answer to a command. Raises StateUnavailableError."""
        try:
            async with asyncio.timeout(self._bound):
                (answer,) = await self.ask([packed(*words)])
            if isinstance(answer, Exception):
                raise answer
        except Exception as error:
            await self.drop()
            raise self.unavailable(error) from error
        return answer


def homes_key(prefix: str) -> str:
    """Name the stream of where state lives."""
    return f"{prefix}:{{peers}}:homes"


def written_homes(homes: Sequence[StoredHome]) -> dict[str, str]:
    """Return the fields of an entry of that stream."""
    return {"h": json.dumps(homes)}


def read_homes(fields: Mapping[bytes, bytes]) -> list[StoredHome]:
    """Read an entry of that stream. Raises KeyError, TypeError or ValueError."""
    return [(str(key), str(endpoint), float(at)) for key, endpoint, at in json.loads(fields[b"h"])]


def _told(fields: dict[bytes, bytes]) -> ChangeBatch:
    records = json.loads(fields[b"r"])
    if not isinstance(records, list):
        raise TypeError("no list of changes")
    number = int(fields[b"n"]) if b"n" in fields else None
    return ChangeBatch(fields[b"p"].decode(), float(fields[b"c"]), records, number)


def _pairs(words: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of an entry, which come as a list of names and values."""
    return dict(zip(words[::2], words[1::2], strict=True))


def order_of(name: str) -> tuple[int, int]:
    """Return what orders entries of a stream, by an entry's name."""
    milliseconds, _, number = name.partition("-")
    return int(milliseconds), int(number or 0)
