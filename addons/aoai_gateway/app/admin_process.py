"""The process beside the workers: their one admin listener, and the simulated endpoints.

Both are one, however many workers there are. It carries no traffic of clients, so a crash costs no call: the
supervisor starts it again. `serve` runs in it, and `AdminProcess` is what the supervisor has of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, override

from tornado import netutil, web
from tornado.httpserver import HTTPServer

from aoai_gateway.admin.fleet import FleetHandler
from aoai_gateway.admin.listener import IDLE_SECONDS, LARGEST_BODY
from aoai_gateway.admin.merging import WorkersMetrics
from aoai_gateway.app import log_format, processes
from aoai_gateway.app.processes import Backoff
from aoai_gateway.app.simulators import Simulators
from aoai_gateway.config.endpoints import SimulatedEndpoint
from aoai_gateway.tokens import Counter

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aoai_gateway.app.processes import Child
    from aoai_gateway.app.workers_store import Keeper, WorkersStore
    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Encodings

logger = logging.getLogger("aoai_gateway.supervisor")

WORKERS_FILE = "workers.json"
"""The file in the sockets' folder with the supervisor's facts of each worker."""

HEARTBEAT_SECONDS = 1.0


class SimulateHandler(web.RequestHandler):
    """Answers workers, on a Unix socket that only this user may use."""

    def initialize(self, simulators: Simulators) -> None:
        """Take what the application gives."""
        self._simulators = simulators

    @override
    async def post(self) -> None:
        asked = json.loads(self.request.body)
        endpoint = SimulatedEndpoint.model_validate(asked["endpoint"])
        url, key = await self._simulators.get(asked["name"], endpoint)
        self.finish(json.dumps({"url": url, "key": key}))


async def serve(
    folder: Path,
    sockets: list[socket.socket],
    encodings: Encodings | None,
    keepers: Sequence[Keeper],
    pipe: int,
) -> int:
    """Serve until SIGTERM.

    ``folder``: that of the workers' sockets; ``sockets``: of the admin listener; ``keepers``: write what is
    in the workers' own store.
    """
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    inner = folder / "simulators.sock"
    inner.unlink(missing_ok=True)
    silent: dict[str, Any] = {"log_function": lambda handler: None}
    counter = Counter()
    if encodings is not None:
        counter.encodings = encodings
    given = {"simulators": Simulators(counter)}
    simulate = HTTPServer(web.Application([(r"/simulate", SimulateHandler, given)], **silent))
    simulate.add_socket(netutil.bind_unix_socket(str(inner)))
    sources = {
        "sockets": lambda: sorted(folder.glob("worker-*.sock")),
        "workers": lambda: _known_workers(folder),
        "metrics": WorkersMetrics(folder),
    }
    page = HTTPServer(
        web.Application([(r"/.*", FleetHandler, sources)], **silent),
        max_body_size=LARGEST_BODY,
        max_header_size=LARGEST_BODY,
        idle_connection_timeout=IDLE_SECONDS,
        body_timeout=IDLE_SECONDS,
    )
    page.add_sockets([each.dup() for each in sockets])
    keeping = [asyncio.create_task(keeper.run()) for keeper in keepers]
    while not over.is_set():
        processes.say(pipe)
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), HEARTBEAT_SECONDS)
    page.stop()
    for task, keeper in zip(keeping, keepers, strict=True):
        task.cancel()
        await asyncio.wait({task})
        await keeper.flush()
    return os.EX_OK


def _known_workers(folder: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads((folder / WORKERS_FILE).read_text())
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


class AdminProcess:
    """The admin process: it listens for all workers, has their simulated endpoints, and keeps their files.

    ``sockets``: of the admin listener; empty without one. ``let_go``: to be called in the child, closes
    what is not its own.
    """

    def __init__(self, folder: Path, sockets: list[socket.socket], let_go: Callable[[], None]) -> None:
        self._folder, self.sockets, self._let_go = folder, sockets, let_go
        self.encodings: Encodings | None = None
        self.store: WorkersStore | None = None
        self.child: Child | None = None
        self._backoff = Backoff()
        self._told = ""

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

    def tell(self, workers: list[dict[str, Any]]) -> None:
        """Write down what is known of each worker, for the status page."""
        text = json.dumps(workers)
        if text == self._told:
            return
        draft = self._folder / "workers.draft"
        # The status page can do without it, on a full disk for instance; calls cannot do without workers.
        with suppress(OSError):
            draft.write_text(text)
            draft.replace(self._folder / WORKERS_FILE)
            self._told = text

    def _run(self, config: Config, pipe: int) -> int:
        self._let_go()
        log_format.write_to_stdout(config.log)
        keepers = self.store.keepers() if self.store is not None else []
        return asyncio.run(serve(self._folder, self.sockets, self.encodings, keepers, pipe))
