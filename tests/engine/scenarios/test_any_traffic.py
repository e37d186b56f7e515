"""Any traffic, and any behaviour of backends: every call ends, and nothing of any is left.

`Trace.check` and `Traffic.check_nothing_is_left` say what holds. Each seed is another pool, other classes,
other clients and other trouble.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from aoai_simulator.limits import PaygLimits, PtuLimits
from tests.engine.scenarios.azure import Deployment, State
from tests.engine.scenarios.traffic import Traffic, traffic

SECONDS = 60.0
STATES: tuple[State, ...] = ("healthy", "hanging", "resetting", "refusing")


def any_traffic(dice: Random) -> Traffic:
    backends: list[tuple[str, dict[str, Any]]] = []
    azure = {}
    for endpoint in "abc"[: dice.randint(1, 3)]:
        for standin in ("ptu", "paygo")[: dice.randint(1, 2)]:
            name, limit = f"{standin}@{endpoint}", dice.choice([6_000, 30_000, 120_000])
            provisioned = standin == "ptu" and dice.random() < 0.7
            limits = PtuLimits(limit) if provisioned else PaygLimits(limit, dice.choice([None, 30, 600]))
            azure[name] = Deployment(limits, dice.choice([0.05, 1.0]), dice.choice([50.0, 1_000.0]))
            said: dict[str, Any] = {"provisioned": provisioned, "weight": dice.choice([1, 5])}
            if dice.random() < 0.6:
                # What is declared need not be true.
                said["tokens_per_minute"] = limit * dice.choice([1, 1, 1, 2])
            if dice.random() < 0.2:
                said["non_streaming_fraction"] = 0.5
            backends.append((name, said))
    backends[-1][1].pop("non_streaming_fraction", None)
    classes: list[dict[str, Any]] = []
    for name in ("high", "middle", "low")[: dice.randint(1, 3)]:
        one: dict[str, Any] = {"name": name, "leave_free": dice.choice([0, 0, 0.1, 0.5])}
        if dice.random() < 0.8:
            one["wait"] = {"seconds": dice.choice([0.5, 5, 30]), "length": dice.choice([1, 5, 500])}
        if dice.random() < 0.3:
            one["may_use"] = dice.choice([{"provisioned": False}, {"spill": False}])
        one["minimum_share"] = dice.choice([0, 0.1, 0.3])
        one["breaks"] = {"multiplier": dice.choice([0.5, 1, 3])}
        classes.append(one)
    clients: list[dict[str, Any]] = []
    for n in range(dice.randint(1, 4)):
        client: dict[str, Any] = {"name": f"client-{n}", "priority": dice.choice(classes)["name"]}
        client["weight"] = dice.choice([0.5, 1, 3])
        if dice.random() < 0.4:
            client["max_tokens_per_minute"] = 20_000
            action = dice.choice(["reject", "wait"])
            client["when_exceeded"] = {"action": action} | ({"seconds": 5} if action == "wait" else {})
        clients.append(client)
    replay = {"max_attempts": dice.choice([1, 2, 6]), "max_seconds": dice.choice([5, 60])}
    return traffic(
        *backends, azure=azure, classes=classes, clients=clients, replay=replay, seed=dice.randint(0, 99)
    )


def trouble(here: Traffic, dice: Random) -> None:
    for endpoint in here.azure.places:
        for _ in range(dice.randint(0, 3)):
            at, state = dice.uniform(0, SECONDS), dice.choice(STATES)
            here.on(at, lambda endpoint=endpoint, state=state: here.become(endpoint, state))
        here.on(SECONDS, lambda endpoint=endpoint: here.become(endpoint, "resetting"))
        here.on(SECONDS + 1, lambda endpoint=endpoint: here.become(endpoint, "healthy"))
    for deployment in here.azure.deployments.values():
        if dice.random() < 0.5:
            here.on(dice.uniform(0, 20), lambda d=deployment: d.fill(15, here.now))
    if dice.random() < 0.2:
        here.on(dice.uniform(0, SECONDS), lambda: here.jump(dice.choice([10, 4_000])))


def ask(here: Traffic, dice: Random) -> None:
    for _ in range(dice.randint(20, 120)):
        most = dice.choice([20, 200, 3_000])
        here.come(
            dice.choice([dice.uniform(0, SECONDS), float(dice.randint(0, 5))]),
            dice.choice(here.config.clients).name,
            prompt=dice.choice([5, 300, 2_500]),
            most=most,
            completion=dice.randint(1, most),
            stream=dice.random() < 0.5,
            timeout=dice.choice([None, 2.0, 20.0]),
            patience=dice.choice([None, None, 0.01, 1.0, 10.0]),
        )


@pytest.mark.parametrize("seed", range(40))
def test_every_call_ends_and_nothing_is_left(seed: int) -> None:
    dice = Random(seed)
    here = any_traffic(dice)
    trouble(here, dice)
    ask(here, dice)
    here.run()
    here.check_nothing_is_left()
    for caller in here.callers:
        cls = caller.call.cls
        if cls is None:
            continue
        assert caller.call.queue_wait <= cls.wait_seconds + 4_001 * (here.now > here.begun + 3_000) + 10.1
        for attempt in caller.call.attempts:
            provisioned = attempt.backend.standin is not None and attempt.backend.standin.provisioned
            assert cls.may_use_provisioned or not provisioned


@pytest.mark.parametrize("seed", range(4))
def test_the_same_seed_gives_the_same_traffic(seed: int) -> None:
    sends = []
    for _ in range(2):
        dice = Random(seed)
        here = any_traffic(dice)
        trouble(here, dice)
        ask(here, dice)
        here.run()
        sends.append([caller.sends for caller in here.callers])
    assert sends[0] == sends[1]
