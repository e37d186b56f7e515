"""Manual control of a running gateway: breaks by hand, and switches.

Everything here takes effect for calls that come after it; those under way keep their state. Every action is
logged, and listed in the snapshot, with the name of the token's holder (``by``), if it has one. They are
plain functions of one object, for the page, the JSON API, the terminal and mitmproxy's commands alike.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from mitmproxy.utils import asyncio_utils

from aoai_gateway.admin.snapshot import all_backends
from aoai_gateway.config.priorities import IMPLICIT
from aoai_gateway.config.problems import did_you_mean, listed
from aoai_gateway.config.switches import KINDS, Kind, UnknownNameError, enabled_in_file
from aoai_gateway.routing.breaker import BY_HAND, Break
from aoai_gateway.wire.masking import known
from aoai_gateway.wire.printing import printable
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from aoai_gateway.config.models import Config
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.runtime.state_sync import StateSync

logger = logging.getLogger(__name__)

LONGEST_BREAK = 86_400.0
"""Seconds; for a longer time, switch the backend off."""

LONGEST_REASON = 200


class ControlError(Exception):
    """The action is impossible; the message gives the reason, and the remedy."""


class NothingOfThatNameError(ControlError):
    """The configuration has nothing of this name."""


class Controls:
    """The switches of one gateway. ``sharing``: shares breaks with other processes; None: there are none."""

    def __init__(self, gateway: Gateway, sharing: StateSync | None = None) -> None:
        self._gateway = gateway
        self._sharing = sharing

    # --- breaks ----------------------------------------------------------------------------------------

    def open_break(self, name: str, seconds: float, reason: str = "", *, by: str = "") -> str:
        """Open a break on a backend (``standin@endpoint``) or a whole endpoint, for all classes.

        It takes the place of one that was opened by hand before, and stands beside others: the backend is
        skipped until the last one has ended. ``reason`` is shown beside "by hand". Returns a sentence
        about the action. Raises ControlError for an unknown name, or a text that is no time.
        """
        if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_BREAK):
            raise ControlError(f"a break takes more than 0 and at most {LONGEST_BREAK:.0f} seconds")
        reason = known(self._written().secrets).mask_text(" ".join(printable(reason).split()))
        reason = reason[:LONGEST_REASON]
        scope = self._scope(name)
        breaks, now = self._gateway.engine.scheduler.breaks, time.monotonic()
        breaks.withdraw(scope, BY_HAND)
        shown = f"{BY_HAND}: {reason}" if reason else BY_HAND
        breaks.open(scope, Break(now, now + seconds, shown, BY_HAND))
        if self._sharing is not None:
            self._in_background(self._sharing.tell_break(scope, {IMPLICIT: seconds}, shown))
        # It may end sooner than the one whose place it takes.
        self._gateway.waiting.changed()
        done = f"{name}: a break of {seconds:g} s was opened" + (f" ({reason})" if reason else "")
        return self._done(done, by)

    def close_break(self, name: str, *, by: str = "") -> str:
        """End all breaks and half-open states of a backend, or of an endpoint with all that it has.

        A backend whose endpoint is in a break is not free before that has ended too, so it is ended as well.
        Returns a sentence about the action. Raises ControlError for an unknown name, or one without a break.
        """
        breaks, now = self._gateway.engine.scheduler.breaks, time.monotonic()
        endpoint, standin = self._scope(name)
        found = [
            scope
            for scope in breaks.scopes()
            if scope[0] == endpoint and (standin is None or scope[1] in (None, standin))
        ]
        was_open = [scope for scope in found if breaks.at(scope, now) is not None]
        if not found:
            raise ControlError(f"{name} has no break")
        self._close(found)
        what = "its break was closed" if was_open else "its half-open state was ended"
        whole = standin is not None and (endpoint, None) in was_open
        return self._done(f"{name}: {what}" + (f", and that of all of {endpoint}" if whole else ""), by)

    def close_all_breaks(self, *, by: str = "") -> str:
        """End all breaks and half-open states. Returns a sentence about the action."""
        self._close(list(self._gateway.engine.scheduler.breaks.scopes()))
        return self._done("all breaks were closed", by)

    def _close(self, scopes: Sequence[Scope]) -> None:
        for scope in scopes:
            self._gateway.engine.scheduler.breaks.close(scope)
        if self._sharing is not None:
            self._in_background(self._sharing.tell_closed(scopes))
        self._gateway.waiting.changed()

    # --- switches --------------------------------------------------------------------------------------

    def switch(self, kind: str, name: str, *, on: bool, by: str = "") -> str:
        """Switch an endpoint, a standin (``standin@endpoint``) or a client off, or on again.

        It holds for this process until it is switched on again or the process ends, even if the file is
        loaded again. The file's own switches stay off. Returns a sentence about the action. Raises
        ControlError for an unknown kind or name, or one that the file switches off.
        """
        if kind not in KINDS:
            raise ControlError(f"{kind!r} cannot be switched; {listed(KINDS)} can")
        known: Kind = kind
        gateway = self._gateway
        try:
            in_file = enabled_in_file(self._written(), known, name)
        except UnknownNameError as error:
            if not (on and (known, name) in gateway.switches):
                raise NothingOfThatNameError(str(error)) from None
            in_file = True  # it was taken out of the file meanwhile: the switch may go too
        if not in_file:
            raise ControlError(f"the configuration switches {name} off (enabled: false): change it there")
        if not gateway.switches.set(known, name, on=on):
            return f"{kind} {name} is {'on' if on else 'off'} already"
        gateway.switched()
        gateway.waiting.changed()
        return self._done(f"{kind} {name} was switched {'on again' if on else 'off'}", by)

    # --- what they share -------------------------------------------------------------------------------

    def _written(self) -> Config:
        if self._gateway.written is None:
            raise ControlError("the gateway has no configuration yet")
        return self._gateway.written

    def _scope(self, name: str) -> Scope:
        written = self._written()
        known: dict[str, Scope] = {b.name: (b.key.endpoint, b.key.standin) for b in all_backends(written)}
        known |= {endpoint.name: (endpoint.name, None) for endpoint in written.aoai.endpoints}
        if name not in known:
            hint = did_you_mean(name, known) or f"the configuration has {listed(known)}"
            raise NothingOfThatNameError(f"there is no backend or endpoint {name!r}; {hint}")
        return known[name]

    def _done(self, text: str, by: str) -> str:
        logger.warning("By hand%s: %s.", f", by {by}" if by else "", text)
        self._gateway.actions.appendleft({"time": rfc3339(time.time()), "text": text, "by": by})
        return text

    @staticmethod
    def _in_background(told: Coroutine[Any, Any, None]) -> None:
        asyncio_utils.create_task(told, name="breaks by hand", keep_ref=True)
