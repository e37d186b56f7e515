"""Tells the log when a backend breaks and recovers, and when a pool empties and fills again: a line each.

An endpoint whose backends all break for one reason, or all recover, is one line: a key that is refused breaks
dozens at once. It looks now and then, so a storm of failures is one line; what it counted meanwhile is said
at the end.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.runtime.trouble import empty_pools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.breaker import Break
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
        self._tell_breaks([*backends.values()], now)
        self._tell_recoveries([*backends.values()], now)
        self._look_at_pools(now)

    def _tell_breaks(self, backends: list[Backend], now: float) -> None:
        """Tell which backends have come into a break since the last look."""
        gateway = self._gateway
        begun: dict[tuple[str, str, str], list[tuple[Backend, Break]]] = defaultdict(list)
        for backend in backends:
            brk, known = gateway.engine.breaks.on(backend, now), self._broken.get(backend.name)
            if brk is None:
                continue
            if known is not None:
                known.free_since = None
                continue
            failed = gateway.metrics.failed_attempts(backend.name)
            self._broken[backend.name] = _Broken(brk.since, failed)
            begun[backend.key.endpoint, brk.reason, brk.call_id].append((backend, brk))
        for (endpoint, reason, call_id), found in begun.items():
            for name, event, count in _lines(endpoint, [backend for backend, _ in found], backends):
                left = max(brk.remaining(now) for backend, brk in found if name in (backend.name, endpoint))
                logger.warning(
                    "%s is in a break for %.1f s%s: %s%s",
                    name,
                    left,
                    count,
                    reason,
                    f" (call {call_id})" if found[0][1].is_of_a_call else "",
                    extra={"event": f"{event}.broken", event: name},
                )

    def _tell_recoveries(self, backends: list[Backend], now: float) -> None:
        gateway = self._gateway
        back: dict[str, list[Backend]] = defaultdict(list)
        for backend in backends:
            known = self._broken.get(backend.name)
            if known is None or gateway.engine.breaks.on(backend, now) is not None:
                continue
            known.free_since = known.free_since or now
            if now - known.free_since >= STEADY_SECONDS:
                back[backend.key.endpoint].append(backend)
        for endpoint, recovered in back.items():
            was = {backend.name: self._broken.pop(backend.name) for backend in recovered}
            for name, event, count in _lines(endpoint, recovered, backends):
                of = was if event == "endpoint" else {name: was[name]}
                failed = sum(gateway.metrics.failed_attempts(each) - of[each].failed_before for each in of)
                logger.warning(
                    "%s is back after %.0f s%s; meanwhile, %d %s failed.",
                    name,
                    max((each.free_since or now) - each.since for each in of.values()),
                    count,
                    failed,
                    "attempt" if failed == 1 else "attempts",
                    extra={"event": f"{event}.recovered", event: name},
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


def _lines(endpoint: str, changed: list[Backend], backends: list[Backend]) -> Iterator[tuple[str, str, str]]:
    """Give a line for each backend that has changed, or one for their endpoint where all of its own have.

    A line is a name, its kind (endpoint or backend), and the number of its backends in words.
    """
    own = [backend for backend in backends if backend.key.endpoint == endpoint]
    if len(changed) == len(own) > 1:
        yield endpoint, "endpoint", f" with its {len(own)} backends"
        return
    for backend in changed:
        yield backend.name, "backend", ""
