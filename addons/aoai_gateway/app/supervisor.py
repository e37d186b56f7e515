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
import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aoai_gateway.admin.listener import bind
from aoai_gateway.app import listening, log_format, processes
from aoai_gateway.app.admin_process import AdminProcess
from aoai_gateway.app.private_folder import PrivateFolder
from aoai_gateway.app.processes import LONGEST_PAUSE
from aoai_gateway.app.worker import Worker
from aoai_gateway.app.worker_slot import Slot
from aoai_gateway.app.workers_store import NoStoreError, WorkersStore
from aoai_gateway.config.loader import ConfigErrors, Loaded
from aoai_gateway.config.reload import Watch
from aoai_gateway.engine.admission import counts_prompts
from aoai_gateway.runtime import log_records
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.readiness import ReadinessPolls
from aoai_gateway.tokens import load_encodings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from aoai_gateway.app.processes import Child
    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Encodings

logger = logging.getLogger("aoai_gateway.supervisor")

SILENT_SECONDS = 30.0
"""Silence of a worker's event loop after which it is ended."""

START_SECONDS = 60.0
"""How long a worker may take until it is ready."""

DRAIN_MARGIN = 15.0
"""Seconds beyond what a configuration lets calls take, until a worker that ends is killed."""

TICK_SECONDS = 0.5

PAUSED_SECONDS = 5.0
"""A gap between two looks of the supervisor that shows that all processes stood still: a paused container."""

type Serve = Callable[[Worker], int]
"""Runs one worker until it is told to end, and gives the exit code."""


class StartFailedError(Exception):
    """The workers could not be started; the message says why."""


def _share_with_children() -> None:
    """Have the collector leave alone all that is here: every child has it, and copies what is changed."""
    gc.collect()
    gc.freeze()


class Supervisor:
    """The processes of one gateway.

    ``path``: the configuration file, and ``loaded``: what was read of it; ``address``: where it listens, in
    place of what the file says; ``serve``: what a worker runs.
    """

    def __init__(
        self, path: Path, loaded: Loaded, address: tuple[str, int], count: int, serve: Serve
    ) -> None:
        self._watch = Watch(path, env=os.environ, loaded=loaded)
        self._path = path
        self._loaded = loaded
        self._serve = serve
        self._private_folder = PrivateFolder()
        self._folder = self._private_folder.path
        self._store: WorkersStore | None = None
        self._encodings: Encodings | None = None
        self._admin = AdminProcess(self._folder, [], lambda: self._let_go(None))
        self._readiness_polls = ReadinessPolls.of_children()
        self._over = False
        self._started = False
        self._rolling: list[Slot] = []
        self._exit_code = 0
        self._signals: set[int] = set()
        self._looked = time.monotonic()
        self._wake_read, self._wake_write = socket.socketpair()
        sockets = listening.open_sockets(*address, count)
        self.port = int(sockets[0][0].getsockname()[1])
        self._slots = [Slot(number, each) for number, each in enumerate(sockets, 1)]

    @property
    def _config(self) -> Config:
        """The last configuration that had no errors."""
        return self._loaded.config

    def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT. Returns the exit code. Raises StartFailedError."""
        log_records.install(lambda: self._config)
        log_format.write_to_stdout(self._config.log)
        try:
            self._prepare()
            self._catch_signals()
            self._looked = time.monotonic()
            while not self._over or self._children():
                self._start_what_is_due()
                self._wait()
                self._obey()
                self._look(time.monotonic())
            return self._exit_code
        finally:
            for child in self._children():
                child.tell(signal.SIGKILL)
            if self._store is not None:
                self._store.stop()
            self._private_folder.remove()

    # --- before the first fork -------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._config.store is None:
            try:
                self._store = WorkersStore(self._folder, self._config)
                self._store.start()
            except NoStoreError as error:
                raise StartFailedError(str(error)) from None
        self._load_encodings()
        if self._config.admin.enabled:
            self._admin.sockets = bind(self._config.admin)
        self._admin.store, self._admin.encodings = self._store, self._encodings
        logger.info(
            "%d workers share %s.", len(self._slots), "a store of their own" if self._store else "state"
        )
        _share_with_children()

    def _load_encodings(self) -> None:
        """Load what counts tokens once for all children, if the configuration needs it."""
        config = self._config
        if self._encodings is None and (counts_prompts(config) or config.simulated_endpoints):
            self._encodings = load_encodings()
            _share_with_children()

    def _catch_signals(self) -> None:
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.add(number))

    # --- the loop --------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [child for slot in self._slots for child in slot.children()] + (
            [self._admin.child] if self._admin.child is not None else []
        )

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
        self._admin.start_if_due(self._config, now)
        if not self._admin.is_ready(self._config):
            return
        for slot in self._slots:
            if slot.child is None and now >= slot.backoff.due:
                slot.child = self._start_worker(slot)

    def _start_worker(self, slot: Slot) -> Child | None:
        slot.starts += 1
        # A file that is broken just now is no reason to serve with less.
        self._read(self._watch.read)
        # A reload may have brought the first quota of tokens: the worker shares them, and does not load them.
        self._load_encodings()

        def run(pipe: int) -> int:
            self._let_go(slot)
            log_format.write_no_more()
            return self._serve(
                Worker(
                    number=slot.number,
                    sockets=slot.sockets,
                    pipe=pipe,
                    admin_socket=self._folder / f"worker-{slot.number}-{os.getpid()}.sock",
                    simulators=self._folder / "simulators.sock",
                    store=self._store.url if self._store is not None else None,
                    encodings=self._encodings,
                    last_good=self._loaded,
                    readiness_polls=self._readiness_polls,
                )
            )

        child = processes.try_to_start(f"worker {slot.number}", run)
        if child is None:
            slot.backoff.due = time.monotonic() + LONGEST_PAUSE
        return child

    def _let_go(self, own: Slot | None) -> None:
        """In a child: close what belongs to others."""
        for slot in self._slots:
            if slot is not own and (own is None or slot.sockets is not own.sockets):
                listening.let_go(slot.sockets)
        for child in self._children():
            with suppress(OSError):
                os.close(child.pipe)
        if own is not None:
            listening.let_go(self._admin.sockets)
        self._wake_read.close()
        self._wake_write.close()

    # --- what has happened -----------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        if (pause := now - self._looked) > PAUSED_SECONDS:
            for child in self._children():
                child.excuse(now, pause)
        self._looked = now
        self._read(self._watch.poll)
        for child in self._children():
            is_stuck = now - child.heard > (SILENT_SECONDS if child.ready else START_SECONDS)
            if is_stuck or child.due <= now:
                logger.error("%s (%d) does not answer; it is killed.", child.name.capitalize(), child.pid)
                child.due = float("inf")
                child.heard = now
                child.tell(signal.SIGKILL)
        for slot in self._slots:
            self._look_at(slot, now)
        if self._admin.has_ended(now, expected=self._over) and self._config.simulated_endpoints:
            self._rolling = list(self._slots)  # simulated endpoints have new addresses
        if self._store is not None and not self._over:
            self._store.look(now)
        if self._over and self._admin.child and not any(slot.children() for slot in self._slots):
            self._retire([self._admin.child], signal.SIGTERM)
        self._go_on_rolling()
        self._tell_workers()

    def _look_at(self, slot: Slot, now: float) -> None:
        if slot.successor is not None and slot.successor.ready:
            if slot.child is not None:
                self._retire([slot.child], signal.SIGUSR2)
                slot.old.append(slot.child)
            slot.child, slot.successor = slot.successor, None
            slot.backoff.went_well()
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
        pause = slot.backoff.ended(now, lived)
        logger.error(
            "Worker %d (%d) %s after %.1f s; it comes back in %.1f s.",
            slot.number,
            child.pid,
            said,
            lived,
            pause,
        )

    def _forget(self, slot: Slot, child: Child) -> None:
        (self._folder / f"worker-{slot.number}-{child.pid}.sock").unlink(missing_ok=True)

    def _tell_workers(self) -> None:
        self._admin.tell([slot.document() for slot in self._slots])

    # --- reload and end --------------------------------------------------------------------------------

    def _read(self, read: Callable[[], Loaded | ConfigErrors | None]) -> Loaded | ConfigErrors | None:
        """Read the configuration; one with errors leaves what was read before."""
        try:
            found = read()
        except Exception as error:
            log_exception("while the configuration was read; the one before stays.", error)
            return None
        if isinstance(found, Loaded):
            self._loaded = found
        return found

    def _roll(self) -> None:
        found = self._read(self._watch.read)
        if not isinstance(found, Loaded):
            for problem in found.problems if found is not None else ():
                logger.error("%s", problem)
            logger.error("%s has errors; no worker is replaced.", self._path)
            return
        log_format.write_to_stdout(self._config.log)
        logger.info("The workers are replaced, one after the other.")
        self._rolling = list(self._slots)

    def _go_on_rolling(self) -> None:
        if not self._rolling or self._over or any(slot.successor is not None for slot in self._slots):
            return
        if not self._admin.is_ready(self._config) or time.monotonic() < self._rolling[0].backoff.due:
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
        children = [child for slot in self._slots for child in slot.children()]
        for child in children:
            if child.retiring:
                child.tell(signal.SIGTERM)  # its clients have no successor to go to any more
        self._retire(children, signal.SIGTERM)

    def _retire(self, children: Iterable[Child], number: signal.Signals) -> None:
        """Ask children to end that were not asked yet."""
        asked = [child for child in children if not child.retiring]
        # All of them first: to read the configuration takes seconds on a busy machine.
        for child in asked:
            child.retiring = True
            child.tell(number)
        if asked:
            due = time.monotonic() + self._longest_drain() + DRAIN_MARGIN
            for child in asked:
                child.due = child.heard = due

    def _longest_drain(self) -> float:
        """Return the seconds that a worker may take to end; it may have read a newer file."""
        before = self._config
        self._read(self._watch.read)
        configs = (before, self._config)
        return max(each.drain_seconds + (each.drain.unready_seconds or 0.0) for each in configs)
