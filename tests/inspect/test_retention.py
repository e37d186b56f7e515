"""Which flows go when there are too many, and which stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from mitmproxy import exceptions
from mitmproxy.addons.view import View
from mitmproxy.flow import Flow
from mitmproxy.http import HTTPFlow
from mitmproxy.test import taddons, tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from aoai_gateway.inspect.annotate import FAILED, REPLAYED
from aoai_gateway.inspect.retention import FIRST_MESSAGES, Retention, surplus


class List:
    """A flow list with the addon in it."""

    def __init__(self, context: taddons.context) -> None:
        self.view = View()
        self.looked_at: Flow | None = None
        self.kept = Retention(self.view, lambda flow: flow is self.looked_at)
        self.context = context
        context.master.addons.add(self.view, self.kept)
        self.resolved = 0
        resolve = self.view.resolve

        def counting(spec: str) -> list[Flow]:
            self.resolved += 1
            return list(resolve(spec))

        self.view.resolve = counting  # type: ignore[method-assign]

    def bound(self, flows: int) -> None:
        self.context.options.update(gateway_keep_flows=flows)

    def add(self, *, call: str = "", attempt: bool = False, live: bool = False, marked: str = "") -> HTTPFlow:
        flow = tflow.tflow(resp=True)
        flow.live, flow.marked = live, marked
        if call:
            flow.metadata["gateway_call"] = call
        if attempt:
            flow.metadata["gateway_attempt"] = 1
        self.view.requestheaders(flow)
        self.kept.requestheaders(flow)
        return flow

    @property
    def flows(self) -> list[Flow]:
        return list(self.view._store.values())


@pytest.fixture
def shown() -> Iterator[List]:
    with taddons.context(loadcore=False) as context:
        yield List(context)


def test_there_are_never_more_than_the_bound_and_never_many_less(shown: List) -> None:
    shown.bound(100)
    counts = []
    added = []
    for _ in range(1000):
        added.append(shown.add())
        counts.append(shown.view.store_count())
    assert max(counts) == 100
    assert min(counts[100:]) >= 95
    assert shown.flows == added[-len(shown.flows) :]
    # Nothing else holds on to them.
    assert len(shown.view.settings) <= 100
    assert len(shown.view) == len(shown.flows)


def test_a_small_bound_is_kept_to(shown: List) -> None:
    shown.bound(1)
    last = [shown.add() for _ in range(10)][-1]
    assert shown.flows == [last]


def test_the_default_is_a_bound(shown: List) -> None:
    for _ in range(2100):
        shown.add()
    assert 1900 <= shown.view.store_count() <= 2000


def test_zero_keeps_all_and_a_lower_bound_takes_effect_at_once(shown: List) -> None:
    shown.bound(0)
    flows = [shown.add() for _ in range(3000)]
    assert shown.flows == flows
    shown.bound(10)
    assert shown.flows == flows[-10:]


def test_less_than_nothing_is_refused(shown: List) -> None:
    with pytest.raises(exceptions.OptionsError, match="gateway_keep_flows"):
        shown.bound(-1)


@pytest.mark.parametrize(
    "protect",
    [
        lambda flow: setattr(flow, "marked", ":grapes:"),
        lambda flow: setattr(flow, "live", True),
        lambda flow: flow.intercept(),
    ],
    ids=["marked by a person", "under way", "held"],
)
def test_what_is_needed_stays_and_is_not_ended(shown: List, protect: Callable[[Flow], None]) -> None:
    shown.bound(10)
    needed = shown.add()
    protect(needed)
    for _ in range(50):
        shown.add()
    assert needed in shown.flows
    assert needed.error is None
    assert shown.view.store_count() <= 10


def test_what_is_looked_at_stays(shown: List) -> None:
    shown.bound(10)
    shown.looked_at = shown.add()
    for _ in range(50):
        shown.add()
    assert shown.looked_at in shown.flows


@pytest.mark.parametrize("marker", [FAILED, REPLAYED, ":no_entry:", ":scissors:", ":boom:"])
def test_our_own_markers_keep_nothing(shown: List, marker: str) -> None:
    shown.bound(10)
    flow = shown.add(marked=marker)
    for _ in range(10):
        shown.add()
    assert flow not in shown.flows


def test_a_call_goes_with_its_attempts(shown: List) -> None:
    shown.bound(20)
    for number in range(100):
        call = f"call {number}"
        shown.add(call=call)
        for _ in range(number % 3):
            shown.add(call=call, attempt=True)
        there = [str(flow.metadata["gateway_call"]) for flow in shown.flows]
        if number % 3 == 2:
            # All of a call, or nothing of it.
            assert all(there.count(name) == 1 + int(name.split()[1]) % 3 for name in there)
    assert len(shown.flows) <= 20


def test_an_attempt_that_a_user_marked_keeps_its_call(shown: List) -> None:
    shown.bound(10)
    final = shown.add(call="kept")
    attempt = shown.add(call="kept", attempt=True, marked="x")
    for _ in range(30):
        shown.add()
    assert {final, attempt} <= set(shown.flows)


def test_a_copy_of_an_old_call_is_new(shown: List) -> None:
    shown.bound(10)
    shown.add(call="old")
    for _ in range(8):
        shown.add()
    copy = shown.add(call="old")
    for _ in range(5):
        shown.add()
    assert copy in shown.flows


def test_many_that_are_needed_are_not_looked_through_for_each_new_one(shown: List) -> None:
    shown.bound(100)
    for _ in range(500):
        shown.add(marked="x")
    assert shown.view.store_count() == 500
    assert shown.resolved <= 1 + 400 // 5
    shown.resolved = 0
    for _ in range(500):
        shown.add()
    assert shown.resolved <= 1 + 500 // 5
    assert shown.view.store_count() <= 500 + 6


def test_flows_of_one_call_are_chosen_together() -> None:
    flows = [tflow.tflow() for _ in range(4)]
    for flow, call in zip(flows, "abab", strict=True):
        flow.live = False
        flow.metadata["gateway_call"] = call
    assert surplus(flows, 1, lambda flow: False) == [flows[0], flows[2]]
    assert surplus(flows, 1, lambda flow: flow is flows[2]) == [flows[1], flows[3]]
    assert surplus(flows, 0, lambda flow: False) == []
    assert surplus(flows, 9, lambda flow: True) == []


# --- realtime ------------------------------------------------------------------------------------------


def test_a_long_session_keeps_its_begin_and_its_end(shown: List) -> None:
    shown.context.options.update(gateway_keep_messages=100)
    flow = tflow.twebsocketflow()
    assert flow.websocket is not None
    flow.websocket.messages.clear()
    most = 0
    for number in range(5000):
        flow.websocket.messages.append(WebSocketMessage(Opcode.TEXT, True, b"%d" % number))
        shown.kept.websocket_message(flow)
        most = max(most, len(flow.websocket.messages))
    assert most == FIRST_MESSAGES + 100
    numbers = [int(message.content) for message in flow.websocket.messages]
    assert numbers[:FIRST_MESSAGES] == list(range(FIRST_MESSAGES))
    assert numbers[FIRST_MESSAGES:] == list(range(5000 - len(numbers) + FIRST_MESSAGES, 5000))
    assert len(numbers) >= FIRST_MESSAGES + 90
    assert flow.metadata["gateway_messages_gone"] == 5000 - len(numbers)


def test_a_session_is_kept_whole_if_told_so(shown: List) -> None:
    shown.context.options.update(gateway_keep_messages=0)
    flow = tflow.twebsocketflow()
    assert flow.websocket is not None
    flow.websocket.messages.clear()
    for _ in range(3000):
        flow.websocket.messages.append(WebSocketMessage(Opcode.TEXT, True, b"x"))
        shown.kept.websocket_message(flow)
    assert len(flow.websocket.messages) == 3000
    assert "gateway_messages_gone" not in flow.metadata
