"""The processes that the supervisor keeps beside the workers: their own store, and the admin process.

Neither carries traffic. The end of one costs no call: it is started again, after a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from aoai_gateway.app import admin_process, log_format, processes
from aoai_gateway.app.backoff import Backoff
from aoai_gateway.app.private_store import START_SECONDS, NoStoreError, PrivateStore
from aoai_gateway.runtime.state_sync import OWN_PREFIX
from aoai_gateway.state.affinity_file import AffinityFileError
from aoai_gateway.state.budget_file import BudgetFileError, read
from aoai_gateway.state.keepers import AffinityKeeper, BudgetKeeper, put_affinity, put_budgets

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from aoai_gateway.app.admin_process import Keeper
    from aoai_gateway.app.processes import Child
    from aoai_gateway.config.models import Config
    from aoai_gateway.state.budget_file import Entry
    from aoai_gateway.tokens import Encodings

logger = logging.getLogger("aoai_gateway.supervisor")

RESTART_SECONDS = 2.0
"""Seconds that a new store may take to answer: the supervisor does nothing else meanwhile."""


class StoreCompanion:
    """The workers' own store, with what files keep for it: budgets, and affinity. Raises NoStoreError."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._store = PrivateStore(folder)
        # As they are at the start: what a file says that is named later is not in the store.
        self._file, self._affinity = config.budget_file, config.affinity_path
        self._entries: list[Entry] | None = None
        self._backoff = Backoff()
        self._started: float | None = None

    @property
    def url(self) -> str:
        """How redis-py reaches it."""
        return self._store.url

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start it, and put into it what the files say. Raises NoStoreError."""
        try:
            if self._file is not None and self._entries is None:
                # Before it runs, since the file is written anew from what is in it.
                self._entries = read(self._file)
            self._store.start(seconds)
            if self._entries:
                put_budgets(self.url, OWN_PREFIX, self._entries)
            if self._affinity is not None:
                put_affinity(self.url, OWN_PREFIX, self._affinity)
        except (AffinityFileError, BudgetFileError, RedisError) as error:
            # One without its budgets would let calls pass that are to be refused.
            self._store.stop()
            raise NoStoreError(str(error)) from None
        self._entries, self._started = None, time.monotonic()

    def look(self, now: float) -> None:
        """Start it again if it has ended, and its pause is over."""
        if self._started is not None:
            said = self._store.ended()
            if said is None:
                return
            pause = self._backoff.ended(now, now - self._started)
            self._started = None
            logger.error("The workers' store ended (%s); it starts again in %.1f s, empty.", said, pause)
        if now < self._backoff.due:
            return
        began = time.monotonic()
        try:
            self.start(RESTART_SECONDS)
        except NoStoreError as error:
            pause = self._backoff.ended(now + time.monotonic() - began, 0.0)
            logger.error("The workers' store: %s; it is tried again in %.1f s.", error, pause)

    def stop(self) -> None:
        """End it; what it knows is gone."""
        self._store.stop()

    def keepers(self) -> list[Keeper]:
        """Make what writes the files."""
        found: list[Keeper] = []
        if self._file is not None:
            found.append(BudgetKeeper(self.url, OWN_PREFIX, self._file))
        if self._affinity is not None:
            found.append(AffinityKeeper(self.url, OWN_PREFIX, self._affinity))
        return found

    @property
    def keeps_files(self) -> bool:
        """Whether there are files to write."""
        return self._file is not None or self._affinity is not None


class AdminCompanion:
    """The admin process: it listens for all workers, has their simulated endpoints, and keeps their files.

    ``sockets``: of the admin listener; empty: there is none. ``let_go``: to be called in the child, closes
    what is not its own.
    """

    def __init__(self, folder: Path, sockets: list[socket.socket], let_go: Callable[[], None]) -> None:
        self._folder, self.sockets, self._let_go = folder, sockets, let_go
        self.encodings: Encodings | None = None
        self.store: StoreCompanion | None = None
        self.child: Child | None = None
        self._backoff = Backoff()

    def is_wanted(self, config: Config) -> bool:
        """Whether it has anything to do."""
        keeps_files = self.store is not None and self.store.keeps_files
        return bool(self.sockets) or bool(config.simulated_endpoints) or keeps_files

    def is_ready(self, config: Config) -> bool:
        """Whether workers can be started: they ask it for simulated endpoints."""
        return not self.is_wanted(config) or (self.child is not None and self.child.ready)

    def start_if_due(self, config: Config, now: float) -> None:
        """Start it if it is wanted, does not run, and its pause is over."""
        if self.child is not None or now < self._backoff.due or not self.is_wanted(config):
            return
        self.child = processes.try_to_start("admin process", lambda pipe: self._run(config, pipe))
        if self.child is None:
            self._backoff.ended(now, 0.0)

    def has_ended(self, now: float, *, expected: bool) -> bool:
        """Look whether it has ended just now; the log says so unless that was to be expected."""
        if self.child is None or (said := self.child.ended()) is None:
            return False
        pause = self._backoff.ended(now, now - self.child.started)
        if not expected:
            logger.error("The admin process %s; it starts again in %.1f s.", said, pause)
        self.child = None
        return True

    def _run(self, config: Config, pipe: int) -> int:
        self._let_go()
        log_format.write_to_stdout(config.log)
        keepers = self.store.keepers() if self.store is not None else []
        return asyncio.run(admin_process.serve(self._folder, self.sockets, self.encodings, keepers, pipe))
