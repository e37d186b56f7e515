"""What can be seen of a call from outside, without taking part in it.

The proxy tells one observer of the process what happens to calls. It decides nothing: what an observer does
changes neither the answer nor the routing. The inspector is one (:mod:`aoai_gateway.inspect.inspector`). A
headless gateway has the one below, which does nothing, and so loads none of the inspector's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import Effect, Result
    from aoai_gateway.runtime.stream_hooks import AttemptFailed
    from aoai_gateway.wire.errors import GatewayError


class Observation:
    """What is seen of one call. Here: nothing."""

    def follow(self, run: Generator[Effect, Result]) -> Generator[Effect, Result]:
        """Stand between the engine's generator and the stream that drives it. Effects pass unchanged."""
        return run

    def finished(self, flow: http.HTTPFlow) -> None:
        """See the end of the call, before its record is written and other addons see its flow."""


class Observer:
    """Sees the calls of a process. Here: none of them."""

    def begun(self, call: Call) -> Observation:
        """See a call begin: its client is known, and all of its request is there."""
        return UNSEEN

    def refused(self, flow: http.HTTPFlow, error: GatewayError) -> None:
        """See a request that never became a call."""

    async def attempt_failed(self, addons: AddonManager, failed: AttemptFailed) -> None:
        """See a failed attempt; nobody waits for it."""


UNSEEN = Observation()
"""Of a call at which nobody looks."""

UNOBSERVED = Observer()
"""Of a process in which nobody looks at calls."""
