"""The stream's table of states, as a whole. What each step does is for `test_layer.py`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from mitmproxy.proxy.layers.http import RequestProtocolError

from aoai_gateway.proxy.delivery import Delivery
from aoai_gateway.proxy.downstream_request import RequestSteps
from aoai_gateway.proxy.session_steps import SessionSteps
from aoai_gateway.proxy.stream import GatewayStream
from aoai_gateway.proxy.stream_events import STEPS, Crashed, DeadlinePassed, State


@pytest.mark.parametrize("step", sorted(set(STEPS.values())))
def test_every_step_is_a_method_that_takes_an_event(step: str) -> None:
    part, _, name = step.rpartition(".")
    parts = {"": GatewayStream, "request": RequestSteps, "delivery": Delivery, "sessions": SessionSteps}
    method = getattr(parts[part], name)
    assert inspect.isgeneratorfunction(method)
    assert len(inspect.signature(method).parameters) == 2


@pytest.mark.parametrize("state", State)
def test_a_bug_is_told_in_every_state(state: State) -> None:
    assert STEPS[state, Crashed] == "fail_closed"


def test_a_hang_up_is_heard_in_every_state_that_has_a_client_waiting() -> None:
    deaf = {state for state in State if (state, RequestProtocolError) not in STEPS}
    # The stream is made by the event of its head, and at the end there is nothing left to stop.
    assert deaf == {State.REQUEST_HEAD, State.OVER}


def test_what_sets_a_deadline_hears_of_it() -> None:
    hears = {state for state, event in STEPS if event is DeadlinePassed}
    assert hears == {
        State.REQUEST_BODY,
        State.SWALLOWING,
        State.ATTEMPT,
        State.DELIVERING,
        State.OPENING,
        State.SESSION,
    }


def test_the_documentation_has_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "concepts" / "architecture.md"
    told: dict[str, list[str]] = {}
    for line in page.read_text().splitlines():
        if row := re.fullmatch(r"\| `([A-Z_]+)` \| .* \| .* \| (.*) \|", line):
            told[row[1]] = re.findall(r"`([\w.]+)`", row[2])
    everywhere = {"fail_closed", "client_gone"}
    assert told == {
        state.name: [step for (of, _), step in STEPS.items() if of is state and step not in everywhere]
        for state in State
    }
