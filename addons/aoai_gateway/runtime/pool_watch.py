"""Tells the log when a backend breaks and recovers, and when a pool empties and fills again: a line each.

It looks now and then, so a storm of failures is one line; what it counted meanwhile is said at the end.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.runtime.trouble import empty_pools

if TYPE_CHECKING:
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

STEADY_SECONDS = 5.0
"""For how long a backend must be out of its break before it counts as recovered: most come back for a probe
only, and break again."""


@dataclass(slots=True)
class _Broken:
    since: float
    failed_before: int
    free_since: float | None = None


class PoolWatch:
    """Looks at the backends of a gateway. Times are monotonic."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._broken: dict[str, _Broken] = {}
        self._empty: dict[str, float] = {}

    def look(self) -> None:
        """Look, and tell what has changed."""
        gateway = self._gateway
        if gateway.setup is None:
            return
        now = gateway.clock.monotonic()
        backends = {backend.name: backend for backend in gateway.setup.table.backends}
        for name in [name for name in self._broken if name not in backends]:
            del self._broken[name]  # no longer configured, or switched off
        for name, backend in backends.items():
            self._look_at(name, backend, now)
        self._look_at_pools(now)

    def _look_at(self, name: str, backend: Backend, now: float) -> None:
        gateway, known = self._gateway, self._broken.get(name)
        brk = gateway.engine.breaks.on(backend, now)
        if brk is not None:
            if known is None:
                self._broken[name] = _Broken(brk.since, gateway.metrics.failed_attempts(name))
                logger.warning(
                    "%s is in a break for %.1f s: %s (call %s)",
                    name,
                    brk.remaining(now),
                    brk.reason,
                    brk.call_id,
                    extra={"event": "backend.broken", "backend": name},
                )
            else:
                known.free_since = None
        elif known is not None:
            known.free_since = known.free_since or now
            if now - known.free_since >= STEADY_SECONDS:
                del self._broken[name]
                logger.warning(
                    "%s is back after %.0f s, in which %d attempts failed.",
                    name,
                    known.free_since - known.since,
                    gateway.metrics.failed_attempts(name) - known.failed_before,
                    extra={"event": "backend.recovered", "backend": name},
                )

    def _look_at_pools(self, now: float) -> None:
        empty = empty_pools(self._gateway)
        for name, seconds in empty.items():
            if name not in self._empty:
                self._empty[name] = now
                logger.error(
                    "%s has no backend left; the next one may be tried in %.1f s.",
                    name,
                    seconds,
                    extra={"event": "pool.empty", "deployment": name},
                )
        for name in [name for name in self._empty if name not in empty]:
            logger.warning(
                "%s has a backend again, after %.1f s.",
                name,
                now - self._empty.pop(name),
                extra={"event": "pool.back", "deployment": name},
            )
