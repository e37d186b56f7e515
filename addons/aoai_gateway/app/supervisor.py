"""``serve --workers N``: processes that are one gateway, and the one that keeps them running.

The supervisor loads what all of them need once, opens their sockets, and forks. It carries no traffic and
runs no event loop; it waits for signals and for what its children say:

- **A worker that has ended** comes back, at once after the first time, later with every further one in a
  row. The log says how it ended. One whose event loop has been silent for long is ended first.
- **SIGHUP** replaces the workers one after the other. A successor listens on the same socket and is ready
  before its predecessor is asked to finish its calls: no connection is refused. It reads the configuration
  anew, what otherwise waits for a restart included. If the file has errors, nothing is replaced.
- **SIGTERM, SIGINT**: all workers drain, and it ends when the last one has.

A first start that fails (the configuration asks for what this machine has not) ends it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from aoai_gateway.app import admin_process, listening, processes
from aoai_gateway.app.private_store import NoStoreError, PrivateStore
from aoai_gateway.app.worker import Worker
from aoai_gateway.config.loader import ConfigErrors, load
from aoai_gateway.engine.admission import counts_prompts
from aoai_gateway.state import stored_affinity, stored_budgets
from aoai_gateway.state.affinity_file import AffinityFileError
from aoai_gateway.state.budget_file import BudgetFileError
from aoai_gateway.state.stored_affinity import AffinityKeeper
from aoai_gateway.state.stored_budgets import BudgetKeeper
from aoai_gateway.tokens import load_encodings
from aoai_gateway.wire.authority import authority

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.app.processes import Child
    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Encodings

logger = logging.getLogger("aoai_gateway.supervisor")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds until a worker that has ended comes back: doubling from the first to the longest."""

MOST_DOUBLINGS = 16

STEADY_SECONDS = 60.0
"""How long a worker must live for the next pause to be the first again."""

SILENT_SECONDS = 30.0
"""Silence of a worker's event loop after which it is ended."""

START_SECONDS = 60.0
"""How long a worker may take until it is ready."""

DRAIN_MARGIN = 15.0
"""Seconds beyond what a configuration lets calls take, until a worker that ends is killed."""

TICK_SECONDS = 0.5

LOG_FORMAT = "[%(asctime)s.%(msecs)03d] %(message)s"
"""As mitmproxy's own log in the workers."""

type Serve = Callable[[Worker], int]
"""Runs one worker until it is told to end, and gives the exit code."""


class StartFailedError(Exception):
    """The workers could not be started; the message says why."""


@dataclass(slots=True)
class _Slot:
    """One worker's place: its sockets, who is in it, and when it is filled again."""

    number: int
    sockets: list[socket.socket]
    child: Child | None = None
    successor: Child | None = None
    old: list[Child] = field(default_factory=list)
    """Those that finish their calls."""
    due: float = 0.0
    failures: int = 0
    starts: int = 0
    last_end: str | None = None

    def children(self) -> list[Child]:
        return [each for each in (self.child, self.successor, *self.old) if each is not None]


class Supervisor:
    """The processes of one gateway.

    ``path``: the configuration file; ``address``: where it listens, in place of what the file says;
    ``serve``: what a worker runs.
    """

    def __init__(
        self, path: Path, config: Config, address: tuple[str, int], count: int, serve: Serve
    ) -> None:
        self._path = path
        self._config = config
        self._serve = serve
        self._folder = Path(tempfile.mkdtemp(prefix="aoai-gateway-"))
        self._store: PrivateStore | None = None
        self._encodings: Encodings | None = None
        self._admin: Child | None = None
        self._admin_due = 0.0
        self._admin_sockets: list[socket.socket] = []
        self._over = False
        self._started = False
        self._rolling: list[_Slot] = []
        self._exit_code = 0
        self._signals: set[int] = set()
        self._told = ""
        self._wake_read, self._wake_write = socket.socketpair()
        sockets = listening.open_sockets(*address, count)
        self.port = int(sockets[0][0].getsockname()[1])
        self._slots = [_Slot(number, each) for number, each in enumerate(sockets, 1)]

    def run(self) -> int:
        """Keep the workers running until SIGTERM or SIGINT. Gives the exit code. Raises StartFailedError."""
        _log_on_stdout(logger)
        try:
            self._prepare()
            self._catch_signals()
            while self._alive():
                self._start_what_is_due()
                self._wait()
                self._obey()
                self._look()
            return self._exit_code
        finally:
            for child in self._children():
                child.tell(signal.SIGKILL)
            if self._store is not None:
                self._store.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- before the first fork -------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._config.redis_url is None:
            try:
                self._store = PrivateStore(self._folder)
            except NoStoreError as error:
                raise StartFailedError(str(error)) from None
            self._fill_store(self._store)
        simulated = bool(self._config.simulated_endpoints)
        if counts_prompts(self._config) or simulated:
            self._encodings = load_encodings()
        if self._config.admin.enabled:
            self._admin_sockets = self._bind_admin()
        logger.info(
            "%d workers share %s.", len(self._slots), "a store of their own" if self._store else "state"
        )
        # What is there now is in every child, and not copied until it is changed.
        gc.collect()
        gc.freeze()

    def _fill_store(self, store: PrivateStore) -> None:
        """Start the workers' own store, with what the files say of budgets and affinity."""
        try:
            store.start()
            if self._config.budget_file is not None:
                stored_budgets.put(store.url, self._config.state_prefix, self._config.budget_file)
            if self._config.affinity_path is not None:
                stored_affinity.put(store.url, self._config.state_prefix, self._config.affinity_path)
        except (NoStoreError, BudgetFileError, AffinityFileError, RedisError) as error:
            raise StartFailedError(str(error)) from None

    def _bind_admin(self) -> list[socket.socket]:
        from tornado.netutil import bind_sockets

        admin = self._config.admin
        try:
            sockets = bind_sockets(admin.port, admin.host)
        except OSError as error:
            logger.warning(
                "There is no status page: %s:%d cannot be listened on (%s). The gateway serves without it; "
                "admin.port names another port.",
                admin.host,
                admin.port,
                os.strerror(error.errno) if error.errno else error,
            )
            return []
        logger.info("Status page at http://%s/", authority(admin.host, sockets[0].getsockname()[1]))
        return sockets

    def _catch_signals(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.add(number))

    # --- the loop --------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [child for slot in self._slots for child in slot.children()] + (
            [self._admin] if self._admin is not None else []
        )

    def _alive(self) -> bool:
        return not self._over or any(slot.children() for slot in self._slots) or self._admin is not None

    def _wait(self) -> None:
        """Wait until something happens."""
        pipes = {child.pipe: child for child in self._children()}
        wake = self._wake_read.fileno()
        heard, _, _ = select.select([*pipes, wake], [], [], TICK_SECONDS)
        for each in heard:
            if each == wake:
                with suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            else:
                pipes[each].listen()

    def _obey(self) -> None:
        """Do what signals have asked for."""
        asked, self._signals = self._signals, set()
        if asked & {signal.SIGTERM, signal.SIGINT}:
            self._end()
        elif signal.SIGHUP in asked:
            self._roll()

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        if self._over:
            return
        if self._admin is None and now >= self._admin_due and self._wants_admin:
            self._admin = self._fork("admin process", self._run_admin)
            self._admin_due = now + 1.0
        if not self._admin_is_ready:
            return
        for slot in self._slots:
            if slot.child is None and now >= slot.due:
                slot.child = self._start_worker(slot)

    @property
    def _admin_is_ready(self) -> bool:
        """Whether workers can be started: they ask the admin process for simulated endpoints."""
        return not self._wants_admin or (self._admin is not None and self._admin.ready)

    @property
    def _wants_admin(self) -> bool:
        files = (self._config.budget_file, self._config.affinity_path)
        keeps_files = self._store is not None and any(file is not None for file in files)
        return bool(self._admin_sockets) or bool(self._config.simulated_endpoints) or keeps_files

    def _start_worker(self, slot: _Slot) -> Child | None:
        slot.starts += 1

        def run(pipe: int) -> int:
            self._let_go(slot)
            return self._serve(
                Worker(
                    number=slot.number,
                    sockets=slot.sockets,
                    pipe=pipe,
                    admin_socket=self._folder / f"worker-{slot.number}-{os.getpid()}.sock",
                    simulators=self._folder / "simulators.sock",
                    store=self._store.url if self._store is not None else None,
                    encodings=self._encodings,
                )
            )

        child = self._fork(f"worker {slot.number}", run)
        if child is None:
            slot.due = time.monotonic() + LONGEST_PAUSE
        return child

    @staticmethod
    def _fork(name: str, run: Callable[[int], int]) -> Child | None:
        """Start a child; None, with a line in the log, where the system takes no further process now."""
        try:
            return processes.start(name, run)
        except OSError as error:
            logger.error("The %s could not be started (%s); it is tried again.", name, error.strerror)
            return None

    def _run_admin(self, pipe: int) -> int:
        self._let_go(None)
        _log_on_stdout(logging.getLogger())
        keepers: list[admin_process.Keeper] = []
        config = self._config
        if self._store is not None and config.budget_file is not None:
            keepers.append(BudgetKeeper(self._store.url, config.state_prefix, config.budget_file))
        if self._store is not None and config.affinity_path is not None:
            keepers.append(AffinityKeeper(self._store.url, config.state_prefix, config.affinity_path))
        return admin_process.run(self._folder, self._admin_sockets, self._encodings, keepers, pipe)

    def _let_go(self, own: _Slot | None) -> None:
        """In a child: close what belongs to others."""
        for slot in self._slots:
            if slot is not own and (own is None or slot.sockets is not own.sockets):
                listening.let_go(slot.sockets)
        for child in self._children():
            with suppress(OSError):
                os.close(child.pipe)
        if own is not None:
            listening.let_go(self._admin_sockets)
        self._wake_read.close()
        self._wake_write.close()

    # --- what has happened -----------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        for child in self._children():
            if child.due <= now or self._is_stuck(child, now):
                logger.error("%s (%d) does not answer; it is killed.", child.name.capitalize(), child.pid)
                child.due = float("inf")
                child.heard = now
                child.tell(signal.SIGKILL)
        for slot in self._slots:
            self._look_at(slot, now)
        if self._admin is not None and (said := self._admin.ended()) is not None:
            if not self._over:
                logger.error("The admin process %s; it starts again.", said)
                if self._config.simulated_endpoints:
                    self._rolling = list(self._slots)  # simulated endpoints have new addresses
            self._admin = None
        if self._store is not None and not self._over and (said := self._store.ended()) is not None:
            logger.error("The workers' store ended (%s); it starts again, empty.", said)
            try:
                self._fill_store(self._store)
            except StartFailedError as error:
                logger.error("%s", error)
        if self._over and self._admin is not None and not any(slot.children() for slot in self._slots):
            self._retire(self._admin, signal.SIGTERM)
        self._go_on_rolling()
        self._tell_workers()

    @staticmethod
    def _is_stuck(child: Child, now: float) -> bool:
        return now - child.heard > (SILENT_SECONDS if child.ready else START_SECONDS)

    def _look_at(self, slot: _Slot, now: float) -> None:
        if slot.successor is not None and slot.successor.ready:
            if slot.child is not None:
                self._retire(slot.child, signal.SIGUSR2)
                slot.old.append(slot.child)
            slot.child, slot.successor, slot.failures = slot.successor, None, 0
        for old in list(slot.old):
            if old.ended() is not None:
                slot.old.remove(old)
                self._forget(slot, old)
        if slot.successor is not None and (said := slot.successor.ended()) is not None:
            logger.error("The successor of worker %d %s; the reload stops here.", slot.number, said)
            self._forget(slot, slot.successor)
            slot.successor, self._rolling = None, []
        child = slot.child
        if child is None:
            return
        if child.ready:
            self._started = True
        said = child.ended()
        if said is None:
            return
        slot.child, slot.last_end = None, said
        self._forget(slot, child)
        if self._over:
            return
        lived = now - child.started
        if not child.ready and not self._started and said.startswith("ended with"):
            # The log says why; to try again would not help.
            self._exit_code = 1
            self._end()
            return
        slot.failures = 0 if lived >= STEADY_SECONDS else slot.failures + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(max(0, slot.failures - 1), MOST_DOUBLINGS))
        slot.due = now + pause
        logger.error(
            "Worker %d (%d) %s after %.1f s; it comes back in %.1f s.",
            slot.number,
            child.pid,
            said,
            lived,
            pause,
        )

    def _forget(self, slot: _Slot, child: Child) -> None:
        (self._folder / f"worker-{slot.number}-{child.pid}.sock").unlink(missing_ok=True)

    def _tell_workers(self) -> None:
        """Write down what is known of each worker, for the status page."""
        known: list[dict[str, Any]] = []
        for slot in self._slots:
            child = slot.child
            wall = time.time() - time.monotonic()
            known.append(
                {
                    "number": slot.number,
                    "pid": child.pid if child is not None else None,
                    "status": "ended" if child is None else "ready" if child.ready else "starting",
                    "started": _rfc3339(child.started + wall) if child is not None else None,
                    "starts": slot.starts,
                    "last_end": slot.last_end,
                }
            )
        text = json.dumps(known)
        if text != self._told:
            self._told = text
            # The status page can do without it, on a full disk for instance; calls cannot do without workers.
            with suppress(OSError):
                draft = self._folder / "workers.draft"
                draft.write_text(text)
                draft.replace(self._folder / admin_process.WORKERS_FILE)

    # --- reload and end --------------------------------------------------------------------------------

    def _roll(self) -> None:
        try:
            loaded = load(self._path, env=os.environ)
        except ConfigErrors as errors:
            for problem in errors.problems:
                logger.error("%s", problem)
            logger.error("%s has errors; no worker is replaced.", self._path)
            return
        self._config = loaded.config
        logger.info("The workers are replaced, one after the other.")
        self._rolling = list(self._slots)

    def _go_on_rolling(self) -> None:
        if not self._rolling or self._over or any(slot.successor is not None for slot in self._slots):
            return
        if not self._admin_is_ready or time.monotonic() < self._rolling[0].due:
            return
        slot = self._rolling[0]
        slot.successor = self._start_worker(slot)
        if slot.successor is None:
            return
        self._rolling.pop(0)
        if not self._rolling:
            logger.info("The last worker is being replaced.")

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        # The workers' own copies are open as long as they accept connections.
        for slot in self._slots:
            for each in slot.sockets:
                with suppress(OSError):
                    each.close()
            for child in slot.children():
                self._retire(child, signal.SIGTERM)

    def _retire(self, child: Child, number: signal.Signals) -> None:
        if child.retiring:
            return
        child.retiring = True
        child.due = time.monotonic() + self._longest_drain() + DRAIN_MARGIN
        child.heard = child.due
        child.tell(number)

    def _longest_drain(self) -> float:
        """Return the seconds that a worker may take to end; it may have read a newer file."""
        configs = [self._config]
        with suppress(ConfigErrors, OSError):
            configs.append(load(self._path, env=os.environ).config)
        return max(each.drain_seconds + (each.drain.unready_seconds or 0.0) for each in configs)


def _log_on_stdout(log: logging.Logger) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
