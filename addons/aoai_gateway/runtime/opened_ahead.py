"""Connections to backends that are opened before a call needs them.

mitmproxy opens a backend's connection for one client's connection. With TLS that takes two or three round
trips, which the first call of each client connection waits for, and so does the first attempt at another
backend. Here the next few connections are opened meanwhile.

A connection that is held here has carried nothing but its handshake, and never comes back once it was taken.
So no answer can get from one client to another, by no bytes of a backend and by no end of a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mitmproxy.utils import asyncio_utils

from aoai_gateway.runtime.log_records import log_exception

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from OpenSSL import SSL

    from aoai_gateway.config.models import Config, Endpoint

type Address = tuple[str, int]
"""A host name, or an IP address, and a port."""

RECENT_SECONDS = 10.0
"""The time over which need is counted: as many are held as were needed within it."""

HELD_SECONDS = 45.0
"""The time for which one is held. nginx and Node close a connection that says nothing after 60 s, Azure's
front ends later."""

MOST_IN_ALL = 48
"""The most of one process; they come out of the descriptors that it has for itself."""

logger = logging.getLogger(__name__)


class Opened(Protocol):
    """A connection whose handshake is done."""

    tls: SSL.Connection

    def is_open(self) -> bool:
        """Whether the backend has neither closed it nor sent anything on it, as far as is known."""

    def has_unread(self) -> bool:
        """Whether something has come that is yet to be looked at: its end, or no more than TLS's own."""

    def close(self) -> None:
        """Close it; harmless when it is closed."""

    def hand_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give it away, for good."""


class Place(NamedTuple):
    """Where connections are opened ahead."""

    most: int
    """How many there may be."""
    seconds: float
    """How long one may take to open."""


class OpenedAhead[T: Opened]:
    """The connections of one process that no call has needed yet, by the address of the backend.

    ``now`` gives the monotonic time. ``is_barred``: whether a plugin wants a say in each connection that a
    client's call opens.
    """

    def __init__(self, now: Callable[[], float], is_barred: Callable[[], bool] = lambda: False) -> None:
        self._now, self._is_barred = now, is_barred
        self.open: Callable[[Address, float], Awaitable[T]] | None = None
        """Opens one, within so many seconds. Raises OSError. None: nothing is opened ahead."""
        self._places: dict[Address, Place] = {}
        self._held: defaultdict[Address, deque[tuple[float, T]]] = defaultdict(deque)
        """And since when (monotonic seconds), the oldest first."""
        self._opening: defaultdict[Address, set[asyncio.Task[None]]] = defaultdict(set)
        self._needed: dict[Address, deque[float]] = {}
        """When calls needed a new connection, as often as matters."""

    def adopt(self, config: Config) -> None:
        """Follow a configuration, and begin with nothing: what is held was opened under another one."""
        self.drop()
        self._places.clear()
        for endpoint in config.aoai.endpoints:
            if endpoint.url is None or endpoint.scheme != "https" or not endpoint.enabled:
                continue
            address = (endpoint.host, endpoint.port)
            most, seconds = endpoint.connections.opened_ahead, endpoint.connections.timeouts.connect
            other = self._places.get(address, Place(0, seconds))
            if most:
                self._places[address] = Place(max(most, other.most), min(seconds, other.seconds))

    def needed(self, address: Address) -> None:
        """Note that a call has just opened, or taken, a connection, and open what the next ones will need.

        Nothing is opened at any other time. So a backend that is out of reach, or in a break, is left alone.
        """
        place = self._places.get(address)
        if place is None or self.open is None or self._is_barred():
            return
        now = self._now()
        needed = self._needed.setdefault(address, deque(maxlen=place.most))
        needed.append(now)
        wanted = sum(now - at <= RECENT_SECONDS for at in needed)
        missing = wanted - self.held(address) - len(self._opening[address])
        for _ in range(min(missing, MOST_IN_ALL - self._in_all())):
            self._begin(address, place.seconds)

    def take(self, address: Address) -> T | None:
        """Give a connection away, if one is there that can be used."""
        held, oldest = self._held.get(address, ()), self._oldest()
        for entry in tuple(held):
            since, opened = entry
            if since > oldest and opened.is_open() and not opened.has_unread() and not self._is_barred():
                self._held[address].remove(entry)
                return opened
        return None

    def held(self, address: Address) -> int:
        """Count those that are held for a backend."""
        return sum(opened.is_open() for _, opened in self._held.get(address, ()))

    def held_for(self, endpoint: Endpoint) -> int:
        """Count those that are held for an endpoint, and for others at its address."""
        return self.held((endpoint.host, endpoint.port)) if endpoint.url is not None else 0

    def look(self) -> None:
        """Close those that were held for long enough, or that the backend has closed. Now and then."""
        oldest = self._oldest()
        for address, held in list(self._held.items()):
            kept: deque[tuple[float, T]] = deque()
            for since, opened in held:
                if since > oldest and opened.is_open():
                    kept.append((since, opened))
                else:
                    opened.close()
            if kept:
                self._held[address] = kept
            else:
                del self._held[address]

    def drop(self) -> None:
        """Close all of them; what is being opened is given up."""
        for tasks in self._opening.values():
            for task in tasks:
                task.cancel()
        for held in self._held.values():
            for _, opened in held:
                opened.close()
        self._held.clear()
        self._needed.clear()

    async def close(self) -> None:
        """Close all of them, and open no more."""
        self.open = None
        self.drop()
        opening = [task for tasks in self._opening.values() for task in tasks]
        if opening:
            await asyncio.wait(opening)

    def _oldest(self) -> float:
        return self._now() - HELD_SECONDS

    def _in_all(self) -> int:
        return sum(map(len, self._held.values())) + sum(map(len, self._opening.values()))

    def _begin(self, address: Address, seconds: float) -> None:
        tasks = self._opening[address]
        task = asyncio_utils.create_task(
            self._open(address, seconds), name=f"connection ahead to {address[0]}", keep_ref=True
        )
        if not task.done():
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _open(self, address: Address, seconds: float) -> None:
        # mitmproxy's tasks run at once, and the call that needed a connection is yet to be sent.
        await asyncio.sleep(0)
        if self.open is None:
            return
        try:
            opened = await self.open(address, seconds)
        except OSError as error:
            logger.debug("No connection could be opened ahead to %s:%d: %s", *address, error)
        except Exception as error:
            log_exception("where a connection is opened ahead; calls open theirs.", error)
        else:
            self._held[address].append((self._now(), opened))
