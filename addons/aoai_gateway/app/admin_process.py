"""The process beside the workers: their one admin listener, and the simulated endpoints.

Both are one, however many workers there are. It carries no traffic of clients, so a crash costs no call: the
supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, override

from tornado import netutil, web
from tornado.httpserver import HTTPServer

from aoai_gateway.admin.ended_workers import WorkersMetrics
from aoai_gateway.admin.fleet import FleetHandler
from aoai_gateway.admin.listener import IDLE_SECONDS, LARGEST_BODY
from aoai_gateway.app import processes
from aoai_gateway.app.simulators import Simulators
from aoai_gateway.config.endpoints import SimulatedEndpoint
from aoai_gateway.tokens import Counter

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from aoai_gateway.tokens import Encodings

logger = logging.getLogger(__name__)

WORKERS_FILE = "workers.json"
"""The file in the sockets' folder with the supervisor's facts of each worker."""

HEARTBEAT_SECONDS = 1.0


class Keeper(Protocol):
    """Writes a part of what the workers' own store holds into a file."""

    async def run(self) -> None:
        """Write until cancelled."""

    async def flush(self) -> None:
        """Write what is not written yet."""


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
