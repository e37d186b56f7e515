"""Observers of calls, which take no part in them.

The proxy reports the events of calls to one observer of the process. It decides nothing: an observer changes
neither the answer nor the routing. The inspector is one (:mod:`aoai_gateway.inspect.inspector`). A
headless gateway has the one below, which does nothing, and so loads none of the inspector's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.runtime.stream_hooks import AttemptFailed
    from aoai_gateway.wire.gateway_error import GatewayError


class Observation:
    """The observation of one call. This one does nothing."""

    def follow[T](self, run: EffectGenerator[T]) -> EffectGenerator[T]:
        """Stand between the engine's generator and the stream that drives it. Effects pass unchanged."""
        return run

    def finished(self, flow: http.HTTPFlow) -> None:
        """See the end of the call, before its record is written and other addons see its flow."""


class Observer:
    """Sees the calls of a process. This one does nothing."""

    def begun(self, call: Call) -> Observation:
        """See a call begin: its client is known, and all of its request is there."""
        return UNSEEN

    def refused(self, flow: http.HTTPFlow, error: GatewayError) -> None:
        """See a request that never became a call."""

    def say(self, flow: http.HTTPFlow) -> None:
        """Write on a flow what became of its call, if that was put off until the flow is looked at."""

    async def attempt_failed(self, addons: AddonManager, failed: AttemptFailed) -> None:
        """See a failed attempt; the call does not wait for it."""


UNSEEN = Observation()
"""The observation of a call that is not observed."""

UNOBSERVED = Observer()
"""The observer of a process without an inspector."""
