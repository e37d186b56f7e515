"""Breaks of endpoints for want of a credential that they accept.

Without a credential an endpoint is skipped until there is one. One that has refused its credential is in a
break as any other (:mod:`~aoai_gateway.engine.aftermath`), which ends when it is shown another one: a key
that was wrong and has been mended is to be of use at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aoai_gateway.config.reload import changed_credentials
from aoai_gateway.routing.breaker import Break

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aoai_gateway.config.models import Config
    from aoai_gateway.routing.breaker import Breaks, Scope

NO_CREDENTIAL = "no credential"
"""The name in the place of a call's id, of a break for want of a credential."""

logger = logging.getLogger(__name__)


class CredentialBreaks:
    """Opens and ends breaks of endpoints by what is known of their credentials.

    ``breaks``: gives those in force. ``now``: gives the monotonic time. ``changed`` is called when calls that
    wait may go somewhere else.
    """

    def __init__(
        self, breaks: Callable[[], Breaks], now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._breaks = breaks
        self._now = now
        self._changed = changed
        self.tell_ends: Callable[[Sequence[Scope]], None] = lambda scopes: None
        """Tells other processes which breaks have ended here."""

    def told(self, endpoint: str, why_none: str, seconds: float, is_another: bool) -> None:
        """Take in what became of a credential that is fetched (`Told`)."""
        breaks, scope, now = self._breaks(), (endpoint, None), self._now()
        breaks.withdraw(scope, NO_CREDENTIAL)
        if why_none:
            breaks.open(scope, Break(now, now + seconds, why_none, NO_CREDENTIAL))
        if is_another:
            self._end_refusals(endpoint)
        self._changed()

    def adopted(self, before: Config, now: Config) -> None:
        """Take in that another configuration is in force."""
        for endpoint in changed_credentials(before, now):
            self._end_refusals(endpoint)

    def _end_refusals(self, endpoint: str) -> None:
        ended = self._breaks().credential_changed(endpoint, self._now())
        if ended:
            logger.info(
                "%s is shown another credential; the break ends that the one before caused.", endpoint
            )
            self.tell_ends(ended)
