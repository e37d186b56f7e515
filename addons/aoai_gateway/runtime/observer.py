"""The observer of calls, which takes no part in them.

The proxy reports the events of calls to it, where a process has one. It changes neither the answer nor the
routing. The inspector is one (:mod:`aoai_gateway.inspect.inspector`); a headless gateway has none, and loads
nothing of the inspector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.runtime.stream_hooks import AttemptFailed
    from aoai_gateway.wire.gateway_error import GatewayError


class Observation(Protocol):
    """The observation of one call."""

    def follow[T](self, run: EffectGenerator[T]) -> EffectGenerator[T]:
        """Stand between the engine's generator and the stream that drives it. Effects pass unchanged."""

    def finished(self, flow: http.HTTPFlow) -> None:
        """See the end of the call, before its record is written and other addons see its flow."""


class Observer(Protocol):
    """Sees the calls of a process."""

    def begun(self, call: Call) -> Observation:
        """See a call begin: its client is known, and all of its request is there."""

    def refused(self, flow: http.HTTPFlow, error: GatewayError) -> None:
        """See a request that never became a call."""

    def say(self, flow: http.HTTPFlow) -> None:
        """Write on a flow what became of its call, if that was put off until the flow is looked at."""

    async def attempt_failed(self, addons: AddonManager, failed: AttemptFailed) -> None:
        """See a failed attempt; the call does not wait for it."""
