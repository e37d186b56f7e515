"""Deployments whose calls all fail at their backends: a line of the log when it begins, and one at its end.

The breaks of a call that fails everywhere are withdrawn, since the call itself may be at fault. So backends
that fail every call may all look well. Whether they are shows in the calls of several clients: as long as
none is answered, the deployment fails.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aoai_gateway.engine.call import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.engine.call import Call

logger = logging.getLogger(__name__)

LOWEST_FAILURE = 500
"""The lowest status of a call that may say that its deployment fails."""

FEWEST_CALLS, FEWEST_CLIENTS = 5, 2
"""The calls in a row, and their clients, that fail before a deployment is said to fail; of one client alone,
`FEWEST_ALONE`."""

FEWEST_ALONE = 20

MOST_DEPLOYMENTS, MOST_CLIENTS = 200, 10
"""The deployments, and clients of each, that are remembered: clients may make up names of deployments."""

FORGOTTEN_SECONDS = 600.0
"""The time after the last failure when a deployment is forgotten, if no call has come since."""


@dataclass(slots=True)
class _Failing:
    since: float
    last: float
    calls: int = 0
    clients: set[str] = field(default_factory=set)
    is_told: bool = False


class FailingDeployments:
    """Follows the calls of each deployment. Times are monotonic."""

    def __init__(self) -> None:
        self.suspects: dict[str, _Failing] = {}
        """The deployments whose last calls failed."""

    def note(self, call: Call, now: float) -> None:
        """Take a call that has ended."""
        status = call.status or 0
        if status < LOWEST_FAILURE:
            # A refusal of a client's own, and a hang-up, say nothing of backends; any answer of one does.
            if call.outcome is Outcome.OK and status != 429:
                self._end(call.deployment, now)
            return
        if not call.attempts or call.outcome not in (Outcome.OK, Outcome.BACKENDS_OUT):
            return
        if not call.deployment:
            return  # it is for no deployment: a list, a file
        known = self.suspects.get(call.deployment)
        if known is None or now - known.last > FORGOTTEN_SECONDS:
            self._forget(now)
            if len(self.suspects) >= MOST_DEPLOYMENTS:
                return
            known = self.suspects[call.deployment] = _Failing(now, now)
        known.calls += 1
        known.last = now
        if len(known.clients) < MOST_CLIENTS:
            known.clients.add(call.client.name)
        if not known.is_told and _is_certain(known):
            known.is_told = True
            logger.error(
                "%s fails: of the last %d calls, of %d %s, none was answered; the last attempt: %s: %s.",
                call.deployment,
                known.calls,
                len(known.clients),
                "client" if len(known.clients) == 1 else "clients",
                call.attempts[-1].backend.name,
                call.attempts[-1].reason or status,
                extra={"event": "deployment.failing", "deployment": call.deployment},
            )

    def names(self, now: float) -> Iterator[str]:
        """Give the deployments that fail now."""
        self._forget(now)
        yield from [name for name, known in self.suspects.items() if known.is_told]

    def _forget(self, now: float) -> None:
        for name, known in [*self.suspects.items()]:
            if now - known.last > FORGOTTEN_SECONDS:
                del self.suspects[name]

    def _end(self, deployment: str, now: float) -> None:
        known = self.suspects.pop(deployment, None)
        if known is not None and known.is_told:
            logger.warning(
                "%s is answered again, after %.0f s; %d calls failed meanwhile.",
                deployment,
                now - known.since,
                known.calls,
                extra={"event": "deployment.recovered", "deployment": deployment},
            )


def _is_certain(known: _Failing) -> bool:
    return known.calls >= (FEWEST_CALLS if len(known.clients) >= FEWEST_CLIENTS else FEWEST_ALONE)
