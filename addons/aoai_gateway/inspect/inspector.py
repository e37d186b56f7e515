"""The observer of a gateway whose flows a user looks at: it writes on flows what became of their calls.

A failed attempt is shown as a flow of its own, and calls are told by their conversation, where they name one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import eventsequence, http
from mitmproxy.flow import Error

from aoai_gateway.bounded import Recent
from aoai_gateway.inspect.annotate import annotate_attempt, annotate_refusal
from aoai_gateway.inspect.decision_trace import Notes, follow
from aoai_gateway.inspect.put_off import PutOff, can_wait, say
from aoai_gateway.wire.bodies import LARGE_BODY
from aoai_gateway.wire.operations import RESPONSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.engine.call import Call, Setup
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.runtime.plugin_events import Listeners
    from aoai_gateway.runtime.stream_hooks import AttemptFailed
    from aoai_gateway.wire.gateway_error import GatewayError

FLOW_ENDS = ("response", "error")
"""mitmproxy's events at the end of a flow. Without a listener, a failed attempt's flow is not seen."""

BETWEEN = 1e-6
"""Seconds by which a failed attempt follows its call, and the attempt before it, in a flow list."""

MOST_RESPONSES = 10_000
"""Responses whose conversation is remembered."""

LONGEST_CONVERSATION = 128
"""Characters of a conversation's name."""


class Inspector:
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

    def begun(self, call: Call) -> InspectedCall:
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
            await show_attempt(addons, failed)


class InspectedCall:
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


async def show_attempt(addons: AddonManager, failed: AttemptFailed) -> None:
    """Have mitmproxy's addons see the flow of a failed attempt."""
    shown = attempt_flow(failed)
    for hook in eventsequence.iterate(shown):
        await addons.handle_lifecycle(hook)
    if shown.intercepted:
        # It is over; there is nothing to hold.
        shown.resume()


def attempt_flow(failed: AttemptFailed) -> http.HTTPFlow:
    """Make the flow of a failed attempt: the request as sent, less its secrets, and the response."""
    shown = http.HTTPFlow(failed.flow.client_conn, failed.server)
    shown.request = failed.request
    # Flow lists are ordered by this: it stands right after its call, before calls that came meanwhile.
    shown.timestamp_created = failed.flow.timestamp_created + failed.attempt.number * BETWEEN
    if failed.response is not None:
        # The same response may become the call's answer, and be marked as such.
        shown.response = failed.response.copy()
        shown.response.timestamp_end = failed.response.timestamp_end or failed.response.timestamp_start
    else:
        shown.error = Error(failed.attempt.reason)
    annotate_attempt(shown, failed.call, failed.attempt)
    return shown


class Conversations:
    """Tells which calls belong to one conversation, as far as clients say so.

    A client names its conversation in a ``session-id`` header, as a stored ``conversation``, by going on from
    an earlier response (``previous_response_id``), or with a ``prompt_cache_key``. The first of these that a
    call has counts; a call that goes on from a response belongs where that response belonged. A response that
    begins one gives it its own id.
    """

    def __init__(self) -> None:
        self._of_response: Recent[str] = Recent(MOST_RESPONSES)

    def of(self, call: Call) -> str | None:
        """Name the conversation of a call that has ended, for people and for filters; None if it has none."""
        body = call.body
        if body is None:
            return None
        name = call.headers.get("session-id") or body.conversation_id
        if name is None and body.previous_response_id is not None:
            name = self._of_response.get(body.previous_response_id) or body.previous_response_id
        name = _one_line(name or body.prompt_cache_key)
        if call.target.operation is not RESPONSES or call.response_id is None:
            return name
        name = name or _one_line(call.response_id)
        if name is not None:
            self._of_response.put(call.response_id, name)
        return name


def _one_line(name: str | None) -> str | None:
    """What is shown must not look like another line of metadata."""
    return " ".join(name[: 8 * LONGEST_CONVERSATION].split())[:LONGEST_CONVERSATION] or None if name else None
