"""Deployments whose calls all fail, those of any client."""

from __future__ import annotations

import logging

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Outcome
from aoai_gateway.runtime.failing import (
    FEWEST_ALONE,
    FEWEST_CALLS,
    FORGOTTEN_SECONDS,
    MOST_DEPLOYMENTS,
    FailingDeployments,
)
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.trouble import troubles
from tests.engine_driver import config, world


class Watched:
    """Ends calls as their engine ended them, with what is changed of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.failing = FailingDeployments()
        self.world = world("a", "b")
        self.caplog = caplog
        self.now = 1000.0
        caplog.set_level(logging.INFO)

    def end(
        self,
        status: int,
        outcome: Outcome = Outcome.BACKENDS_OUT,
        client: str = "Ann",
        deployment: str = "gpt",
    ) -> list[str]:
        call = self.world.call().call
        call.client = Client(name=client, key="key-of-a-client")
        call.status, call.outcome, call.deployment = status, outcome, deployment
        self.now += 1
        self.failing.note(call, self.now)
        events = [r.event for r in self.caplog.records if hasattr(r, "event")]
        self.caplog.clear()
        return [event for event in events if event.startswith("deployment.")]


def test_calls_of_two_clients_that_all_fail_are_one_line_and_the_next_answer_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = Watched(caplog)
    events = [here.end(502, client="Ann" if n % 2 else "Bob") for n in range(30)]
    assert events[: FEWEST_CALLS - 1] == [[]] * (FEWEST_CALLS - 1)
    assert [event for found in events for event in found] == ["deployment.failing"]
    assert list(here.failing.names(here.now)) == ["gpt"]
    assert here.end(200, Outcome.OK) == ["deployment.recovered"]
    assert list(here.failing.names(here.now)) == []
    assert here.end(200, Outcome.OK) == []


def test_one_client_alone_has_to_fail_more_often(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    events = [here.end(500, Outcome.OK) for _ in range(FEWEST_ALONE)]
    assert events == [[]] * (FEWEST_ALONE - 1) + [["deployment.failing"]]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(429, Outcome.BACKENDS_OUT), (429, Outcome.REJECTED), (499, Outcome.CLIENT_GONE), (500, Outcome.ERROR)],
)
def test_ends_that_say_nothing_of_backends_count_neither_way(
    status: int, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    here = Watched(caplog)
    for n in range(2 * FEWEST_ALONE):
        assert here.end(status, outcome, client=f"client {n}") == []
    for n in range(FEWEST_CALLS - 1):
        assert here.end(502, client=f"client {n}") == []
    assert here.end(status, outcome) == []
    assert here.end(502) == ["deployment.failing"]


@pytest.mark.parametrize("status", [200, 400, 404])
def test_any_answer_of_a_backend_ends_it(status: int, caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    for n in range(FEWEST_CALLS - 1):
        here.end(502, client=f"client {n}")
    assert here.end(status, Outcome.OK) == []
    assert here.end(502) == []


def test_it_is_forgotten_when_no_call_comes_any_more(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    for n in range(FEWEST_CALLS):
        here.end(502, client=f"client {n}")
    assert list(here.failing.names(here.now + FORGOTTEN_SECONDS)) == ["gpt"]
    assert list(here.failing.names(here.now + FORGOTTEN_SECONDS + 1)) == []


def test_it_is_told_again_when_it_fails_after_a_long_time_in_which_no_probe_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = Watched(caplog)
    for again in range(2):
        here.now += again * 2 * FORGOTTEN_SECONDS
        events = [here.end(502, client=f"client {n}") for n in range(FEWEST_CALLS)]
        assert events == [[]] * (FEWEST_CALLS - 1) + [["deployment.failing"]]


def test_names_of_long_ago_leave_room_for_those_of_now(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    for n in range(MOST_DEPLOYMENTS):
        here.end(502, deployment=f"made up {n}")
    events = [here.end(502, client=f"client {n}") for n in range(FEWEST_CALLS)]
    assert events == [[]] * FEWEST_CALLS, "there is no room"
    here.now += FORGOTTEN_SECONDS
    events = [here.end(502, client=f"client {n}") for n in range(FEWEST_CALLS)]
    assert events[-1] == ["deployment.failing"]


def test_calls_for_no_deployment_count_for_none(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    for n in range(2 * FEWEST_ALONE):
        assert here.end(502, client=f"client {n}", deployment="") == []


@pytest.mark.parametrize(("deployment", "subject"), [("gpt", "gpt"), ("made up by a client", "a deployment")])
def test_it_is_trouble_and_strangers_read_no_word_of_a_client(deployment: str, subject: str) -> None:
    gateway = Gateway()
    gateway.adopt(config("a", "b"))
    made = world("a", "b")
    for n in range(FEWEST_CALLS):
        call = made.call().call
        call.client = Client(name=f"client {n}", key="key-of-a-client")
        call.status, call.outcome, call.deployment = 502, Outcome.BACKENDS_OUT, deployment
        gateway.write_down(call)
    (found,) = troubles(gateway)
    assert (found.kind, found.text) == ("failing", f"{deployment} fails: its backends answer no call")
    assert found.for_strangers() == f"{subject} fails: its backends answer no call"
