"""Calls that nothing has been said of on their flows yet: it is said when a flow is looked at.

To put a call into words, for its comment, metadata and story, takes a fifth of what a call takes in all.
Where a flow list shows them, or plugins see flows, it is done at the end of each call. A workbench shows
calls only while a page is open, and asks for each that it shows; so there a call's facts are kept as they
are, as long as its flow is.

They are kept without the call's texts (`Call.forget_texts`): its prompt is read once more, from the flow.

No configuration is kept for the sake of calls that were made under it. When another one is in force, what was
kept before is said little by little, and calls wait for one step of that at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from aoai_gateway.inspect.annotate import annotate
from aoai_gateway.inspect.decision_trace import tell
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from weakref import ReferenceType

    from mitmproxy.http import HTTPFlow, Request

    from aoai_gateway.engine.call import Call, Setup
    from aoai_gateway.inspect.decision_trace import Notes
    from aoai_gateway.wire.request_body import RequestBody

STEP_SECONDS = 0.001
"""The time for which calls of an old configuration are put into words in one step; one of them in any
case."""

PAUSE_SECONDS = 0.01
"""The pause between two such steps: the event loop has calls to serve."""


@dataclass(slots=True)
class Unsaid:
    """The facts of a call. ``had_body``: whether its body could be read."""

    call: Call
    notes: Notes | None
    conversation: str | None
    had_body: bool


class PutOff:
    """Keeps what is to be said of calls for as long as their flows are kept.

    ``in_force`` gives the setup for new calls; ``clock`` tells seconds.
    """

    def __init__(
        self, in_force: Callable[[], Setup | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._in_force = in_force
        self._clock = clock
        self._unsaid: WeakKeyDictionary[HTTPFlow, Unsaid] = WeakKeyDictionary()
        self._setup: Setup | None = None
        """The one that was in force when a call ended last."""
        self._old: deque[ReferenceType[HTTPFlow]] = deque()
        """The flows of calls of other setups, which are said next."""
        self._next: asyncio.TimerHandle | None = None
        """The next step; None: there is nothing to say."""

    def __len__(self) -> int:
        return len(self._unsaid)

    def put(self, flow: HTTPFlow, call: Call, notes: Notes | None, conversation: str | None) -> None:
        """Keep a call that has ended."""
        # Not the setup of the last call that ended: calls that began before a reload end beside later ones.
        in_force = self._in_force()
        if in_force is not self._setup:
            self._setup = in_force
            self._old = deque(self._unsaid.keyrefs())
        if notes is not None:
            notes.forget_texts()
        self._unsaid[flow] = Unsaid(call, notes, conversation, call.body is not None)
        if call.setup is not in_force:
            self._old.append(ref(flow))
        if self._old and self._next is None:
            self._pause()

    def say(self, flow: HTTPFlow) -> None:
        """Write on a flow what was put off, if something was."""
        unsaid = self._unsaid.pop(flow, None)
        if unsaid is None:
            return
        call = unsaid.call
        if unsaid.had_body and call.body is None:
            call.body = _read_again(call, flow.request)
        say(flow, call, unsaid.notes, unsaid.conversation)

    def _pause(self) -> None:
        self._next = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._step)

    def _step(self) -> None:
        """Say something of old calls, and go on after a pause."""
        self._next = None
        end = self._clock() + STEP_SECONDS
        while self._old:
            flow = self._old.popleft()()
            if flow is not None:
                try:
                    self.say(flow)
                except Exception as error:
                    log_exception("while a call was put into words; its flow says nothing of it.", error)
            if self._clock() >= end:
                break
        if self._old:
            self._pause()


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
