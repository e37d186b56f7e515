"""The observer of a gateway whose flows a user looks at: it writes on flows what became of their calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.inspect import attempt_flows
from aoai_gateway.inspect.annotate import annotate_refusal
from aoai_gateway.inspect.conversations import Conversations
from aoai_gateway.inspect.decision_trace import Notes, follow
from aoai_gateway.inspect.put_off import PutOff, can_wait, say
from aoai_gateway.runtime.observer import Observation, Observer
from aoai_gateway.wire.bodies import LARGE_BODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.engine.call import Call, Setup
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.runtime.plugin_events import Listeners
    from aoai_gateway.runtime.stream_hooks import AttemptFailed
    from aoai_gateway.wire.gateway_error import GatewayError

FLOW_ENDS = ("response", "error")
"""mitmproxy's events at the end of a flow. Without a listener, a failed attempt's flow is not seen."""


class Inspector(Observer):
    """Writes comments, markers, metadata and stories on flows, and shows failed attempts as flows.

    ``heard``: which events have a listener; ``follows``: whether flows are looked at or saved, so that each
    decision of their calls is worth noting; ``in_force``: gives the setup for new calls.
    """

    def __init__(
        self, heard: Listeners, follows: Callable[[], bool], in_force: Callable[[], Setup | None]
    ) -> None:
        self._heard = heard
        self._follows = follows
        self._conversations = Conversations()
        self._put_off = PutOff(in_force)

    def begun(self, call: Call) -> Observation:
        """Look at a call. Its decisions are noted if they are going to be read."""
        noted = self._follows() or "gateway_call_finished" in self._heard.events
        put_off = self._put_off if self._heard.all_ask else None
        return InspectedCall(call, self._conversations, Notes() if noted else None, put_off)

    def refused(self, flow: http.HTTPFlow, error: GatewayError) -> None:
        """Say on a flow why its request never became a call."""
        annotate_refusal(flow, error)

    def say(self, flow: http.HTTPFlow) -> None:
        """Write on a flow what became of its call, if that was put off."""
        self._put_off.say(flow)

    async def attempt_failed(self, addons: AddonManager, failed: AttemptFailed) -> None:
        """Show a failed attempt as a flow of its own."""
        if not self._heard.events.isdisjoint(FLOW_ENDS):
            await attempt_flows.show(addons, failed)


class InspectedCall(Observation):
    """One call that is looked at.

    ``notes``: takes its decisions, if they are to be told; ``put_off``: takes the call at its end, if nothing
    reads what became of it before it is asked for.
    """

    def __init__(
        self, call: Call, conversations: Conversations, notes: Notes | None, put_off: PutOff | None
    ) -> None:
        self._call = call
        self._conversations = conversations
        self._notes = notes
        self._put_off = put_off

    def follow[T](self, run: EffectGenerator[T]) -> EffectGenerator[T]:
        """Note each effect of the engine, and what came of it."""
        return run if self._notes is None else follow(run, self._call, self._notes)

    def finished(self, flow: http.HTTPFlow) -> None:
        """Write on the flow what became of the call, now or when it is looked at."""
        call, notes = self._call, self._notes
        # Now in any case: what belongs to a conversation follows from the calls before.
        conversation = self._conversations.of(call)
        if self._put_off is not None and can_wait(flow, call, LARGE_BODY):
            self._put_off.put(flow, call, notes, conversation)
        else:
            say(flow, call, notes, conversation)
