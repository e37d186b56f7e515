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
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aoai_gateway.state.store_client import StoreClient, keys_prefix

if TYPE_CHECKING:
    from aoai_gateway.config.shared_store import StoreAddress

KEPT_SECONDS: Final = 90.0
"""For how long what was done is kept: longer than any window of a backend."""

KEPT_HOMES: Final = 100_000

BLOCK_SECONDS: Final = 0.5
"""How long a read waits for something new."""

AT_ONCE: Final = 100
"""Entries that are read at once."""

TIMEOUT: Final = 1.0

logger = logging.getLogger(__name__)


type StoredHome = tuple[str, str, float]
"""The digest of a name, the endpoint that holds what it names, and when that was seen (Unix time)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one process has told. ``clock``: its Unix time less the time on its own clock.

    ``number``: those of one process grow. What was told twice, since its answer had been lost, has the same.
    """

    process: str
    clock: float
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
        self._writer = _Line(store, TIMEOUT)
        self._reader = _Line(store, BLOCK_SECONDS + TIMEOUT)
        self._last = "0-0"
        self._written_ms: int | None = None
        """When this process wrote last, in milliseconds on the store's clock, which names the entries."""
        self._has_complained = False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._writer.aclose()
        await self._reader.aclose()

    async def tell(self, records: Sequence[Any], clock: float, number: int | None = None) -> None:
        """Append what this process has done; nothing is a sign of life. ``number``: see `Told`."""
        fields: dict[Any, Any] = {"p": self._process, "c": repr(clock), "r": json.dumps(records)}
        if number is not None:
            fields["n"] = number
        # By the store's clock: one here that is ahead would take away what others have not read.
        oldest = None if self._written_ms is None else str(self._written_ms - int(KEPT_SECONDS * 1000))
        add = self._writer.redis.xadd(self._events, fields, minid=oldest, approximate=oldest is not None)
        self._written_ms, _ = _order(_text(await self._writer.answer(add)))

    async def tell_homes(self, homes: Sequence[StoredHome]) -> None:
        """Append where state lives."""
        fields: dict[Any, Any] = written_homes(homes)
        add = self._writer.redis.xadd(self._homes, fields, maxlen=KEPT_HOMES, approximate=True)
        await self._writer.answer(add)

    async def homes(self) -> AsyncIterator[list[StoredHome]]:
        """Read where state lives, as far as it is known, newest first."""
        highest = "+"
        while True:
            asked = self._reader.redis.xrevrange(self._homes, highest, "-", count=AT_ONCE)
            found = await self._reader.answer(asked)
            for name, fields in found or ():
                highest = f"({_text(name)}"
                try:
                    homes = read_homes(fields)
                except (KeyError, TypeError, ValueError):
                    self._complain()
                else:
                    yield homes
            if len(found or ()) < AT_ONCE:
                return

    async def news(self, *, wait: bool) -> list[Told]:
        """Read what others have told since the last time; ``wait``: for some time, if there is nothing."""
        block = int(BLOCK_SECONDS * 1000) if wait else None
        asked = self._reader.redis.xread({self._events: self._last}, count=AT_ONCE, block=block)
        found = await self._reader.answer(asked)
        told = []
        for _, entries in found.items() if isinstance(found, dict) else found or ():
            for name, fields in entries:
                self._last = _text(name)
                try:
                    each = _told(fields)
                except (KeyError, TypeError, ValueError):
                    self._complain()
                else:
                    if each.process != self._process:
                        told.append(each)
        return told

    def _complain(self) -> None:
        """Say once that something was passed over: another version may have written it."""
        if not self._has_complained:
            self._has_complained = True
            logger.warning("Another gateway process tells what cannot be read here; that is passed over.")

    async def follow(self) -> None:
        """See that the stream is the one that was read last: one that began anew is read from its begin."""
        newest = await self._reader.answer(self._reader.redis.xrevrange(self._events, "+", "-", count=1))
        if not newest or _order(_text(newest[0][0])) < _order(self._last):
            self._last = "0-0"


class _Line(StoreClient):
    """A client whose commands come one at a time, each with an answer in ``seconds``."""

    def __init__(self, store: StoreAddress, seconds: float) -> None:
        super().__init__(store, connect_seconds=TIMEOUT, answer_seconds=seconds)
        self._bound = seconds

    async def answer(self, asked: Awaitable[Any]) -> Any:
        """Return the answer to a command. Raises StateUnavailableError."""
        try:
            async with asyncio.timeout(self._bound):
                return await asked
        except Exception as error:
            await self.drop()
            raise self.unavailable(error) from error


def homes_key(prefix: str) -> str:
    """Name the stream of where state lives."""
    return f"{prefix}:{{peers}}:homes"


def written_homes(homes: Sequence[StoredHome]) -> dict[str, str]:
    """Return the fields of an entry of that stream."""
    return {"h": json.dumps(homes)}


def read_homes(fields: Mapping[bytes, bytes]) -> list[StoredHome]:
    """Read an entry of that stream. Raises KeyError, TypeError or ValueError."""
    return [(str(key), str(endpoint), float(at)) for key, endpoint, at in json.loads(fields[b"h"])]


def _told(fields: dict[bytes, bytes]) -> Told:
    records = json.loads(fields[b"r"])
    if not isinstance(records, list):
        raise TypeError("no list of changes")
    number = int(fields[b"n"]) if b"n" in fields else None
    return Told(fields[b"p"].decode(), float(fields[b"c"]), records, number)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _order(name: str) -> tuple[int, int]:
    milliseconds, _, number = name.partition("-")
    return int(milliseconds), int(number or 0)
