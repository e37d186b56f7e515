"""One of several workers: its sockets, its store and its simulated endpoints come from the supervisor."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mitmproxy.utils import asyncio_utils

from aoai_gateway.admin.fleet import ask
from aoai_gateway.admin.merging import leave
from aoai_gateway.app import listening, processes

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from aoai_gateway.config.loader import Loaded
    from aoai_gateway.config.models import SimulatedEndpoint
    from aoai_gateway.runtime.readiness import ReadinessPolls
    from aoai_gateway.tokens import Encodings

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""How often a worker tells the supervisor that its event loop runs."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as the supervisor has planned it."""

    number: int
    """Its number, from 1 on; its successor after a crash or a reload has the same."""
    sockets: Sequence[socket.socket]
    """What it listens on."""
    pipe: int
    """Where the supervisor hears from it."""
    admin_socket: Path
    """Where the process of the admin listener asks it."""
    simulators: Path
    """Where that process is asked for simulated endpoints."""
    store: str | None
    """The store that all workers share; None: the one that the configuration names."""
    encodings: Encodings | None
    """What counts tokens, if it was loaded before the workers were started."""
    last_good: Loaded
    """The last configuration without errors: in force where the file has some at the worker's start."""
    readiness_polls: ReadinessPolls
    """Those that come to any of the workers."""

    def prepare(self) -> None:
        """Take over the sockets. To be called before the proxy server starts."""
        listening.inherit(self.sockets)

    def is_ready(self) -> None:
        """Tell the supervisor, now and from now on."""
        processes.say(self.pipe)
        asyncio_utils.create_task(self._live(), name="heartbeat", keep_ref=True)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            processes.say(self.pipe)

    async def leave(self, counts: bytes) -> None:
        """Leave the last counts to the process of the admin listener, which adds them to its own."""
        try:
            await asyncio.to_thread(leave, self.admin_socket, counts)
        except OSError as error:
            logger.error("The last counts of this worker are lost: %s", error)

    async def simulate(self, name: str, endpoint: SimulatedEndpoint) -> tuple[str, str]:
        """Return the URL and the key of a simulated endpoint: it is one, however many workers there are."""
        asked = json.dumps({"name": name, "endpoint": endpoint.model_dump(mode="json")})
        reply = await ask(self.simulators, "POST", "/simulate", body=asked.encode())
        if reply.status != 200:
            raise OSError(f"the simulated endpoint {name} was not started (status {reply.status})")
        found = json.loads(reply.body)
        return found["url"], found["key"]
