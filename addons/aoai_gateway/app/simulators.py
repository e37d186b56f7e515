"""The simulated endpoints that a gateway starts itself: of one process, or for all of its workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from aoai_gateway.config.endpoints import SimulatedEndpoint
    from aoai_gateway.tokens import Counter
    from aoai_simulator.simulator import Simulator


class Simulators:
    """The simulators that run, by name.

    ``counter`` counts their tokens as the gateway does: else two numbers would be shown for the same prompt.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._running: dict[str, tuple[SimulatedEndpoint, Simulator]] = {}
        self._lock = asyncio.Lock()

    async def get(self, name: str, endpoint: SimulatedEndpoint) -> tuple[str, str]:
        """Return the URL and the key of one; it is started, or replaced, if it is not as it should be."""
        async with self._lock:
            found = self._running.get(name)
            if found is None or found[0] != endpoint:
                if found is not None:
                    del self._running[name]
                    await found[1].stop()
                self._running[name] = found = endpoint, await self._start(name, endpoint)
            return found[1].urls[name], found[1].keys[name]

    async def keep_only(self, names: Container[str]) -> None:
        """Stop all others."""
        async with self._lock:
            for name, (_, running) in list(self._running.items()):
                if name not in names:
                    del self._running[name]
                    await running.stop()

    async def _start(self, name: str, endpoint: SimulatedEndpoint) -> Simulator:
        # Loaded only where an endpoint is simulated: real ones do without its memory and start-up time.
        from aoai_simulator import server
        from aoai_simulator.settings import Settings
        from aoai_simulator.tokenizer import EncodingTokenizer

        # It is not to show its requests, or to be made to fail: no control plane, no log of requests.
        return await server.start(
            {name: endpoint},
            control_port=None,
            settings=Settings(log_requests=False),
            tokenizer=EncodingTokenizer(self._counter),
        )
