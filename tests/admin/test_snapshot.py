"""The whole state as a document."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from aoai_gateway.admin.controls import Controls
from aoai_gateway.admin.snapshot import snapshot
from aoai_gateway.config.models import Config
from aoai_gateway.config.priorities import BreakLengths, PriorityClass
from aoai_gateway.quota.quotas import Decision, Reservation
from aoai_gateway.routing.breaker import FailedCall
from aoai_gateway.routing.order import RoutingRequest
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.state.memory import MemoryState
from tests.docs.pages import page, rows
from tests.engine_driver import DEPLOYMENT, Answer, config, world

type Make = Callable[[Config], Gateway]

PRIORITIES = [{"name": "critical"}, {"name": "batch"}]


def taken(gateway: Gateway) -> dict[str, Any]:
    document = asyncio.run(snapshot(gateway))
    assert json.loads(json.dumps(document)) == document
    return document


def named(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


def test_a_gateway_without_a_configuration() -> None:
    document = taken(Gateway())
    assert document["gateway"]["status"] == "starting"
    assert document["backends"] == document["clients"] == []


def test_the_members_are_those_that_are_documented(gateway_with: Make) -> None:
    document = taken(gateway_with(config("a@one")))
    told = page("docs/reference/admin-api.md").section("The state")
    meanings = {row[0].strip("`"): row[1] for row in rows(told)}
    assert list(document) == list(meanings)
    for key in ("gateway", "by_hand", "identities"):
        assert all(f"`{name}`" in meanings[key] for name in document[key]), key
    for key in ("endpoints", "backends", "clients", "deployments"):
        assert all(f"`{name}`" in meanings[key] for name in document[key][0]), key


def test_no_key_and_no_address_is_in_it(gateway_with: Make) -> None:
    text = json.dumps(taken(gateway_with(config("a@one", "b@two"))))
    assert "key-of-" not in text
    assert ".example" not in text


def test_breaks_by_class(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", "b@one").but(priorities=PRIORITIES))
    lengths = {"critical": BreakLengths(10, 1, 60, 0.5), "batch": BreakLengths(10, 1, 60, 2)}
    now = time.monotonic()
    gateway.engine.breaks.open_for(FailedCall(("one", "a"), now, 10, "429 RateLimitReached", "call"), lengths)
    document = taken(gateway)
    found = named(document["backends"])
    critical, batch = found["a@one"]["classes"]
    assert critical["break"]["seconds_left"] == pytest.approx(5, abs=0.5)
    assert batch["break"]["seconds_left"] == pytest.approx(20, abs=0.5)
    assert batch["break"].pop("since").endswith("Z")
    assert batch["break"] | {"seconds_left": 0} == {
        "reason": "429 RateLimitReached",
        "seconds_left": 0,
        "whole_endpoint": False,
        "by_hand": False,
    }
    assert (critical["on_probation"], batch["on_probation"]) == (True, True)
    assert (found["a@one"]["status"], found["b@one"]["status"]) == ("break", "ok")
    assert named(document["deployments"])[DEPLOYMENT]["available"] == 1
    assert document["priorities"] == ["critical", "batch"]


def test_what_only_the_highest_class_may_try_again_is_not_available(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", "b@one").but(priorities=PRIORITIES))
    lengths = {"critical": BreakLengths(10, 1, 60, 0.5), "batch": BreakLengths(10, 1, 60, 2)}
    then = time.monotonic() - 10
    gateway.engine.breaks.open_for(
        FailedCall(("one", "a"), then, 10, "429 RateLimitReached", "call"), lengths
    )
    document = taken(gateway)
    critical, batch = named(document["backends"])["a@one"]["classes"]
    assert (critical["break"], critical["on_probation"]) == (None, True)
    assert batch["break"] is not None
    assert named(document["deployments"])[DEPLOYMENT]["available"] == 1


def test_a_break_of_the_whole_endpoint_and_by_hand(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", "b@two"))
    Controls(gateway).open_break("one", 60, "why not")
    document = taken(gateway)
    (cls,) = named(document["backends"])["a@one"]["classes"]
    assert (cls["break"]["whole_endpoint"], cls["break"]["by_hand"]) == (True, True)
    assert named(document["endpoints"])["one"]["break"]["reason"] == "by hand: why not"
    assert named(document["endpoints"])["two"]["break"] is None


def test_what_is_off_and_who_switched_it_off(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", ("b@one", {"enabled": False}), "c@two"))
    controls = Controls(gateway)
    controls.switch("endpoint", "two", on=False)
    controls.switch("client", "anybody", on=False)
    document = taken(gateway)
    backends = named(document["backends"])
    assert {name: each["switched_off"] for name, each in backends.items()} == {
        "a@one": None,
        "b@one": "configuration",
        "c@two": "by hand",
    }
    assert backends["c@two"]["status"] == "off"
    assert document["clients"][0]["switched_off"] == "by hand"
    assert document["by_hand"]["switched_off"] == [
        {"kind": "endpoint", "name": "two"},
        {"kind": "client", "name": "anybody"},
    ]
    assert named(document["deployments"])[DEPLOYMENT]["pool"] == ["a@one"]


def test_calls_in_flight_are_counted_where_they_are(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", "b@one"))
    call = world("a@one").call().call
    call.attempts[0].ended = None
    gateway.begun(call)
    document = taken(gateway)
    assert {name: each["in_flight"] for name, each in named(document["backends"]).items()} == {
        "a@one": 1,
        "b@one": 0,
    }
    assert document["endpoints"][0]["in_flight"] == 1
    assert document["clients"][0]["in_flight"] == 1
    assert document["deployments"][0]["in_flight"] == 1
    assert document["gateway"]["in_flight"] == 1


def test_who_waits(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one").but(priorities=PRIORITIES))
    now = time.monotonic()
    batch: PriorityClass = gateway.config.priority_class("batch")
    for number, ago in enumerate((3.0, 1.0)):
        request = RoutingRequest(
            f"call {number}", "anybody", batch, (), DEPLOYMENT, DEPLOYMENT, arrived=now - ago
        )
        assert gateway.engine.scheduler.join(request, {}, max_length=9)
        gateway.calls[request.call_id] = world("a@one").call().call
    document = taken(gateway)
    queue = document["deployments"][0]["line"]
    assert queue["waiting"] == 2
    assert queue["longest_wait_seconds"] == pytest.approx(3, abs=0.5)
    assert [(each["priority"], each["waiting"]) for each in queue["classes"]] == [("batch", 2)]
    for each in (document["gateway"], document["clients"][0]):
        assert (each["waiting"], each["in_flight"]) == (2, 0)
    assert document["deployments"][0]["in_flight"] == 0


def test_headroom_and_limits(gateway_with: Make) -> None:
    gateway = gateway_with(config(("a@one", {"tokens_per_minute": 1000}), "b@one"))
    backend = gateway.in_force().table.backends[0]
    before = named(taken(gateway)["backends"])
    assert (before["a@one"]["headroom"], before["a@one"]["tokens_per_minute"]) == (None, 1000)
    gateway.engine.scheduler.capacities.of(backend, DEPLOYMENT).begin("call", 250, time.monotonic())
    found = named(taken(gateway)["backends"])
    assert found["a@one"]["headroom"] == 0.75
    assert found["b@one"]["headroom"] is found["b@one"]["tokens_per_minute"] is None


def with_quotas() -> Config:
    quotas = {"max_tokens_per_minute": {DEPLOYMENT: 100, "total": 500}, "max_requests_per_minute": 7}
    return config("a@one").but(clients=[{"name": "Team", "key": "k", **quotas}])


def booked(gateway: Gateway) -> None:
    from aoai_gateway.quota.effective_policy import quotas_of

    (client,) = gateway.config.clients
    state: Any = gateway.state
    assert state.reserve(Reservation("call", "Team", quotas_of(client), 40), gateway.unix_time()).admitted


def test_quotas(gateway_with: Make) -> None:
    gateway = gateway_with(with_quotas())
    booked(gateway)
    for _ in range(2):
        quotas = taken(gateway)["clients"][0]["quotas"]  # looking books nothing
        assert [(q["deployment"], q["kind"], q["used"], q["limit"], q["remaining"]) for q in quotas] == [
            (None, "tokens_per_minute", 40, 500, 460),
            (None, "requests_per_minute", 1, 7, 6),
            (DEPLOYMENT, "tokens_per_minute", 40, 100, 60),
        ]
        assert all(0 < q["reset_seconds"] <= 60 for q in quotas)


def test_quotas_in_a_store_that_must_be_awaited(gateway_with: Make) -> None:
    class Elsewhere(MemoryState):
        async def peek(self, reservation: Reservation, now: float) -> Decision:  # type: ignore[override]
            return super().peek(reservation, now)

    gateway = gateway_with(with_quotas())
    gateway.state = Elsewhere()
    booked(gateway)
    assert [quota["used"] for quota in taken(gateway)["clients"][0]["quotas"]] == [40, 1, 40]


def test_a_store_that_does_not_answer_costs_only_the_quotas(
    gateway_with: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(MemoryState):
        async def peek(self, reservation: Reservation, now: float) -> Decision:  # type: ignore[override]
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("aoai_gateway.admin.quota_usage.SECONDS", 0.01)
    gateway = gateway_with(with_quotas())
    gateway.state = Silent()
    assert taken(gateway)["clients"][0]["quotas"] == []


def test_traffic_of_backends_and_clients(gateway_with: Make) -> None:
    gateway = gateway_with(config("a@one", "b@one"))
    trace = world("a@one", "b@one").script(a=Answer(500)).call()
    gateway.write_down(trace.call)
    document = taken(gateway)
    found = named(document["backends"])
    assert sum(found["a@one"]["recent"]["attempts"]) == 1
    assert sum(document["clients"][0]["recent"]["calls"]) == 1
    assert sum(document["traffic"]["calls"]) == 1
