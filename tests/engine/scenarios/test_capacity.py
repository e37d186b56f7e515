"""Scarce capacity: who may use what of it, and what is left free for whom."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_simulator.limits import PaygLimits, PtuLimits
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Caller, Traffic, traffic

LIMIT = 60_000
PTU: Any = ("ptu@a", {"tokens_per_minute": LIMIT, "provisioned": True})
PAYGO: Any = ("paygo@a", {"tokens_per_minute": LIMIT})


def both(*classes: dict[str, Any], seed: int = 1) -> Traffic:
    azure = {
        "ptu@a": Deployment(PtuLimits(LIMIT), speed=1e4),
        "paygo@a": Deployment(PaygLimits(LIMIT, LIMIT * 6 // 1000), speed=1e4),
    }
    return traffic(PTU, PAYGO, azure=azure, classes=classes, seed=seed)


def where(callers: list[Caller]) -> list[str]:
    return [c.sends[-1][1] for c in callers if c.sends]


def test_provisioned_first_then_spill() -> None:
    here = both({"name": "standard"})
    for n in range(80):
        here.come(n / 100, "standard", prompt=900, most=90)
    here.run()
    found = where(here.callers)
    spills = found.index("paygo@a")
    assert 55 <= spills <= 62, "when the bucket is as good as full"
    assert all(c.ok for c in here.callers)
    assert here.azure.refusals == 0
    here.check_nothing_is_left()


def test_a_class_that_may_not_spill_waits_for_what_is_provisioned() -> None:
    here = both({"name": "spills"}, {"name": "stays", "may_use": {"spill": False}, "wait": {"seconds": 30}})
    for n in range(62):
        here.come(n / 100, "spills", prompt=900, most=90)
    for _ in range(5):
        here.come(0.7, "stays", prompt=900, most=90)
    here.run()
    stays = here.of("stays")
    assert all(c.ok for c in stays)
    assert where(stays) == ["ptu@a"] * 5
    assert max(c.call.queue_wait for c in stays) > 3
    assert "paygo@a" in where(here.of("spills"))


def test_a_class_may_be_kept_off_what_is_provisioned() -> None:
    here = both({"name": "batch", "may_use": {"provisioned": False}})
    for n in range(20):
        here.come(n / 10, "batch")
    here.run()
    assert set(where(here.callers)) == {"paygo@a"}


def test_only_what_is_beside_provisioned_standins_is_there_to_spill_to() -> None:
    here = traffic(
        PAYGO,
        azure={"paygo@a": Deployment(PaygLimits(LIMIT))},
        classes=[{"name": "stays", "may_use": {"spill": False}}],
    )
    here.call("stays")
    here.run()
    assert here.callers[0].ok


@pytest.mark.parametrize("backend", [PTU, PAYGO], ids=["provisioned", "pay as you go"])
def test_a_low_class_leaves_the_last_share_free_while_nothing_else_runs(backend: Any) -> None:
    name = backend[0]
    azure = {name: Deployment(PtuLimits(LIMIT) if name == "ptu@a" else PaygLimits(LIMIT), speed=1e5)}
    here = traffic(
        backend,
        azure=azure,
        classes=[{"name": "critical"}, {"name": "batch", "leave_free": 0.3, "wait": {"seconds": 60}}],
    )
    for n in range(200):
        here.come(n / 10, "batch", prompt=900, most=100, completion=100)
    fullest = 0.0

    def look() -> None:
        nonlocal fullest
        headroom = here.engine.scheduler.capacities.of(here.backend(name), "gpt").headroom(here.now)
        fullest = max(fullest, 1 - (headroom or 0.0))

    for n in range(2_500):
        here.on(n / 100, look)
    # What is left free is there at once, while others wait.
    for n in range(12):
        here.come(25 + n / 100, "critical", prompt=900, most=100)
    here.run(30)
    assert 0.65 < fullest <= 0.72
    assert all(c.ok and c.call.queue_wait == 0 for c in here.of("critical"))
    assert here.azure.refusals == 0, "and no call was ever refused by the backend"
    here.run()
    here.check_nothing_is_left()


def test_who_does_not_wait_is_shed_and_told_so() -> None:
    here = traffic(
        PAYGO,
        azure={"paygo@a": Deployment(PaygLimits(LIMIT), speed=1e5)},
        classes=[{"name": "critical"}, {"name": "batch", "leave_free": 0.3}],
    )
    for n in range(60):
        here.come(n / 10, "batch", prompt=900, most=100)
    here.run()
    shed = [c for c in here.callers if not c.ok]
    assert 15 <= len(shed) <= 20
    assert {c.code for c in shed} == {"shed"}
    assert here.azure.refusals == 0
    assert 50 <= float(shed[0].headers["retry-after"]) <= 60, "when the first ones leave the window"


def test_calls_that_cannot_all_fit_are_never_sent_at_the_same_time() -> None:
    """They look at the backend in the same instant; each counts for the next."""
    here = both({"name": "standard", "wait": {"seconds": 70}})
    for _ in range(150):
        here.come(1, "standard", prompt=900, most=100)
    here.run()
    assert all(c.ok for c in here.callers)
    assert here.azure.refusals == 0
    here.check_nothing_is_left()


def test_what_was_reserved_and_not_used_is_given_to_who_waits() -> None:
    here = traffic(
        PAYGO,
        azure={"paygo@a": Deployment(PaygLimits(LIMIT), speed=1e4)},
        classes=[{"name": "standard", "wait": {"seconds": 30}}],
    )
    for _ in range(20):
        here.come(0, "standard", prompt=100, most=5_900, completion=10)
    here.run()
    assert all(c.ok for c in here.callers)
    assert max(c.sent_at for c in here.callers) < 2, "as soon as the first ones have ended"
    here.check_nothing_is_left()


def test_who_finds_no_room_beside_what_others_ask_may_come_again() -> None:
    here = traffic(
        ("payg", {"tokens_per_minute": 60_000}),
        azure={"payg@payg": Deployment(PaygLimits(60_000, 3_600))},
        classes=[{"name": "critical"}, {"name": "batch"}],
    )
    for n in range(60):
        here.come(n / 2, "critical", prompt=400, most=400)
    here.come(29.9, "batch", most=30_000)
    here.run()
    (shed,) = here.of("batch")
    assert not shed.sends
    assert shed.headers.get("x-should-retry") != "false"
    assert 1 <= float(shed.headers["retry-after"]) <= 60
