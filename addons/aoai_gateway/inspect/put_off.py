"""Calls that nothing has been said of on their flows yet: it is said when a flow is looked at.

To put a call into words, for its comment, metadata and story, takes a fifth of what a call takes in all.
Where a flow list shows them, or plugins see flows, it is done at the end of each call. A workbench shows
calls only while a page is open, and asks for each that it shows; so there a call's facts are kept as they
are, as long as its flow is.

They are kept without the call's texts (`Call.forget_texts`): its prompt is read once more, from the flow.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aoai_gateway.inspect.annotate import annotate
from aoai_gateway.inspect.decision_trace import tell
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from weakref import ReferenceType

    from mitmproxy.http import HTTPFlow, Request

    from aoai_gateway.engine.call import Call, Setup
    from aoai_gateway.inspect.decision_trace import Notes
    from aoai_gateway.wire.request_body import RequestBody

AT_ONCE = 20
"""Calls of an old configuration that are put into words in one turn of the event loop."""


@dataclass(slots=True)
class Unsaid:
    """The facts of a call. ``had_body``: whether its body could be read."""

    call: Call
    notes: Notes | None
    conversation: str | None
    had_body: bool


class PutOff:
    """Keeps what is to be said of calls for as long as their flows are kept."""

    def __init__(self) -> None:
        self._unsaid: WeakKeyDictionary[HTTPFlow, Unsaid] = WeakKeyDictionary()
        self._setup: Setup | None = None

    def __len__(self) -> int:
        return len(self._unsaid)

    def put(self, flow: HTTPFlow, call: Call, notes: Notes | None, conversation: str | None) -> None:
        """Keep a call that has ended."""
        if call.setup is not self._setup:
            # No configuration is kept for the sake of calls that were made under it.
            if self._unsaid:
                self._say_some(iter(self._unsaid.keyrefs()))
            self._setup = call.setup
        if notes is not None:
            notes.forget_texts()
        self._unsaid[flow] = Unsaid(call, notes, conversation, call.body is not None)

    def say(self, flow: HTTPFlow) -> None:
        """Write on a flow what was put off, if something was."""
        unsaid = self._unsaid.pop(flow, None)
        if unsaid is None:
            return
        call = unsaid.call
        if unsaid.had_body and call.body is None:
            call.body = _read_again(call, flow.request)
        say(flow, call, unsaid.notes, unsaid.conversation)

    def _say_some(self, flows: Iterator[ReferenceType[HTTPFlow]]) -> None:
        some = list(islice(flows, AT_ONCE))
        for flow in filter(None, (reference() for reference in some)):
            self.say(flow)
        if some:
            asyncio.get_running_loop().call_soon(self._say_some, flows)


def can_wait(flow: HTTPFlow, call: Call, largest: int) -> bool:
    """Whether a call can be put into words later: its prompt is in its flow, and quickly read again."""
    raw = flow.request.raw_content
    return (
        raw is not None
        and len(raw) <= largest
        and call.session is None
        and call.headers.get("content-encoding") is None
        and flow.is_replay is None  # a run of the workbench, say, which its page waits for
    )


def say(flow: HTTPFlow, call: Call, notes: Notes | None, conversation: str | None) -> None:
    """Write on a flow what became of its call."""
    if notes is not None:
        call.decisions = tell(call, notes)
    annotate(flow, call, conversation)


def _read_again(call: Call, request: Request) -> RequestBody | None:
    """Read a call's body once more, as it came: it could be read before."""
    try:
        return parse_body(call.target, request.headers.get("content-type"), request.raw_content or b"")
    except GatewayError:
        return None
