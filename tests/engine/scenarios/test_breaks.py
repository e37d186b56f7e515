"""Breaks of each class, and what happens after them: probes, back-off, and who is back when."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from aoai_gateway.routing.recovery import MOST_UNHEARD
from aoai_simulator.limits import PaygLimits
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Traffic, traffic

CRITICAL = {
    "name": "critical",
    "breaks": {"multiplier": 0.5, "floor_seconds": 0.1, "ceiling_seconds": 60},
    "wait": {"seconds": 100},
}
STANDARD = {"name": "standard", "wait": {"seconds": 100}}
BATCH = {"name": "batch", "breaks": {"multiplier": 2, "ceiling_seconds": 120}, "wait": {"seconds": 100}}
CLASSES = ("critical", "standard", "batch")


def pool(*names: str, classes: Any = (CRITICAL, STANDARD, BATCH), **limits: PaygLimits) -> Traffic:
    """Backends without a declared capacity: the gateway learns of it when they refuse."""
    azure = {f"{name}@{name}": Deployment(limits.get(name, PaygLimits()), speed=1e4) for name in names}
    return traffic(*names, azure=azure, classes=classes)


def test_each_class_comes_back_after_a_break_of_its_own_length() -> None:
    here = pool("a")
    here.become("a", "refusing")
    here.on(1, lambda: here.become("a", "healthy"))
    failing = here.call("batch")
    for cls in CLASSES:
        here.come(0.5, cls)
    here.run()
    assert failing.call.attempts[0].breaks == {"critical": 5, "standard": 10, "batch": 20}
    firsts = {cls: here.of(cls)[-1].sent_at for cls in CLASSES}
    assert firsts == pytest.approx({"critical": 5, "standard": 10, "batch": 20}, abs=0.01)
    here.check_nothing_is_left()


def test_after_a_break_a_probe_of_each_class_goes_first_the_highest_before_the_others() -> None:
    here = pool("a", classes=[{**each, "breaks": {}} for each in (CRITICAL, STANDARD)])
    here.become("a", "refusing")
    here.on(5, lambda: here.become("a", "healthy"))
    here.call("critical")
    for n in range(20):
        here.come(0.5 + n / 100, "standard")
        here.come(0.6 + n / 100, "critical")
    here.run()
    sends = sorted(
        (at - here.begun, c.call.client.name)
        for c in here.callers
        for at, _ in c.sends
        if at > here.begun + 1
    )
    at = sends[0][0]
    assert at == pytest.approx(10, abs=0.1)
    assert [cls for when, cls in sends if when < at + 0.1] == ["critical"]
    follow = next(when for when, _ in sends if when > at + 0.1)
    assert at + 0.3 < follow < at + 0.5, "when the probe has its answer"
    others = [cls for when, cls in sends if when < follow + 0.1]
    assert others == ["critical"] * 20 + ["standard"], "then all of its class, and the probe of the next one"
    after = [when for when, _ in sends[21:]]
    assert follow + 0.3 < after[0] < follow + 0.5
    assert after[-1] < after[0] + 0.1
    assert all(c.ok for c in here.callers[1:])
    here.check_nothing_is_left()


@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_that_hangs_after_it_lacked_room_costs_each_call_some_seconds_at_most(stream: bool) -> None:
    room = PaygLimits(600_000)
    here = pool("a", "b", classes=[{**STANDARD, "breaks": {}}], a=room, b=room)
    for n in range(6):
        here.come(n * 0.2, "standard", stream=stream)
    here.on(2, lambda: here.azure.deployments["a@a"].fill(4, here.now))
    here.on(2, lambda: here.azure.deployments["b@b"].fill(12, here.now))
    here.on(3, lambda: here.become("a", "hanging"))
    for n in range(80):
        here.come(2.5 + n * 0.005, "standard", stream=stream)
    here.run(60)
    sent = here.azure.places["a"].sent_into
    assert 2 <= len(sent) <= MOST_UNHEARD, "until it was found silent"
    assert max(sent) - min(sent) < 4
    assert all(caller.ok for caller in here.callers)
    into = [sum(at in sent for at, name in caller.sends if name == "a@a") for caller in here.callers]
    assert max(into) == 1, "no call is sent into it twice"
    here.check_nothing_is_left()


def test_a_backend_that_never_answered_and_hangs_is_sent_a_bounded_number_of_calls() -> None:
    room = PaygLimits(600_000)
    here = pool("a", "b", classes=[{**CRITICAL, "breaks": {}}, {**STANDARD, "breaks": {}}], a=room, b=room)
    here.azure.deployments["a@a"].fill(4, here.now)
    here.azure.deployments["b@b"].fill(40, here.now)
    here.call("standard")
    here.on(1, lambda: here.become("a", "hanging"))
    for n in range(100):
        here.come(4 + n * 0.1, CLASSES[n % 2])
    here.run(20)
    sent = here.azure.places["a"].sent_into
    first = [at for at in sent if at < here.begun + 8]
    assert len(first) == MOST_UNHEARD, "nothing is known that would show it to be silent"
    assert 2 <= len(sent) - len(first) <= 4, "then one of each class each lease"
    here.become("a", "healthy")
    here.run()
    lost = [caller for caller in here.callers if not caller.ok]
    assert len(lost) == len(sent), "those that were sent into it, each once, wait for their deadlines"
    assert all(caller.sends[-1][0] in sent for caller in lost)
    here.check_nothing_is_left()


def test_a_success_closes_for_its_class_only() -> None:
    here = pool("a", classes=[{**CRITICAL, "breaks": {}}, {**STANDARD, "breaks": {}}])
    here.become("a", "refusing")
    here.on(5, lambda: here.become("a", "healthy"))
    here.call("critical")
    here.come(10.1, "critical")
    here.run(11)
    backend = here.backend("a")
    assert here.callers[-1].ok
    assert [here.engine.breaks.is_half_open(backend, cls) for cls in ("critical", "standard")] == [
        False,
        True,
    ]
    for _ in range(3):
        here.call("standard", most=2_000)
        here.call("critical", most=2_000)
    here.run(11.01)
    assert sum(bool(c.sends) for c in here.of("standard")) == 1
    assert sum(bool(c.sends) for c in here.of("critical")[2:]) == 3
    here.run()
    here.check_nothing_is_left()


def test_probes_that_fail_back_off_up_to_the_ceiling() -> None:
    here = pool("a", classes=[{**CRITICAL, "breaks": {"ceiling_seconds": 16}}])
    here.become("a", "refusing")
    # A client that asks every second, against what it is told.
    for n in range(100):
        here.come(n, "critical", patience=0.9)
    here.run()
    tries = [at - here.begun for c in here.callers for at, _ in c.sends]
    gaps = [later - sooner for sooner, later in pairwise(tries)]
    assert gaps == pytest.approx([10, 16, 16, 16, 16, 16], abs=1.1)
    assert len(here.azure.places["a"].sent_into) == len(tries) == 7, "of a hundred calls"


def test_a_probe_whose_client_hangs_up_lets_the_next_one_go() -> None:
    here = pool("a", classes=[{**CRITICAL, "breaks": {}}])
    here.become("a", "refusing")
    here.on(1, lambda: here.become("a", "healthy"))
    here.call("critical")
    here.come(10.1, "critical", patience=0.2)
    here.come(10.2, "critical")
    here.run()
    probe, following = here.callers[1:]
    assert probe.trace.gone
    assert following.ok
    assert following.sent_at == pytest.approx(10.3, abs=0.01)
    here.check_nothing_is_left()


def test_a_break_of_one_standin_leaves_its_neighbour() -> None:
    azure = {"one@a": Deployment(PaygLimits(60_000)), "two@a": Deployment()}
    here = traffic("one@a", "two@a", azure=azure, classes=[STANDARD])
    azure["one@a"].fill(30, here.now)
    for n in range(10):
        here.come(n, "standard")
    here.run()
    assert [c.sends[-1][1] for c in here.callers] == ["two@a"] * 10
    assert azure["one@a"].refusals == 1
    here.check_nothing_is_left()


def test_a_call_that_finds_the_rest_only_full_keeps_the_break_of_what_is_down() -> None:
    azure = {"a@a": Deployment(), "b@b": Deployment(PaygLimits(1_000))}
    here = traffic(
        "a",
        ("b", {"tokens_per_minute": 1_000}),
        azure=azure,
        classes=[{"name": "standard"}],
    )
    here.become("a", "resetting")
    assert here.backend("a")
    here.call("standard", prompt=600, most=200)
    here.run(1)
    assert here.callers[-1].sends[-1][1] == "b@b"
    here.run(11)
    late = here.call("standard", prompt=600, most=199)
    here.run(12)
    assert late.call.status == 502
    assert here.engine.breaks.on(here.backend("a"), here.now, "standard"), "it is down, for every client"
    here.run()
    here.check_nothing_is_left()
