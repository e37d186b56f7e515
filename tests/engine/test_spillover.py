"""Answers that Azure spilled over, and service tiers: what they say of a backend, and where calls go."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from aoai_gateway.config.models import Client, Config
from aoai_gateway.engine.effects import Reserve, Settle
from aoai_gateway.engine.engine import Engine
from aoai_gateway.engine.replicated_state import ReplicatedState
from aoai_gateway.inspect.annotate import comment, metadata
from aoai_gateway.inspect.decision_trace import Notes, follow, tell
from aoai_gateway.usage.metrics import Metrics
from aoai_gateway.usage.record import usage_record
from aoai_gateway.wire.hints import RateLimits
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import OK, Answer, World, throttled, world

SPILLED = {
    "x-ms-spillover-from-deployment": "ptu",
    "x-ms-deployment-name": "std",
    "x-ms-spillover-error": "429",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "10",
    "azure-openai-deployment-utilization": "12%",
}
USAGE = Usage(100, 50, 150)
PTU = {"provisioned": True}
ROOMY = {"priorities": [{"name": "all"}], "default_priority": "all"}


def ptu(**parts: Any) -> World:
    return world(("ptu@a", PTU), "std@b", **parts)


def speed(there: World) -> Any:
    return there.engine.speeds.get(there.backend("ptu@a").key)


# --- spilled over --------------------------------------------------------------------------------------


def test_a_spilled_answer_is_told():
    there = ptu().script(a=Answer(headers=SPILLED, usage=USAGE))
    notes = Notes()
    run = there.engine.run
    there.engine.run = lambda asked, *rest: follow(run(asked, *rest), asked, notes)  # type: ignore[method-assign]  # an observer
    call = there.call(stream=True).call
    record = usage_record(call)
    assert record["spillover"] == {"from": "ptu", "to": "std", "error": "429"}
    assert record["attempts"][0]["spillover"] == record["spillover"]
    assert record["provisioned"] is False
    assert "Azure spilled it over to std from ptu, which refused it with 429" in "\n".join(tell(call, notes))
    assert "spilled over from ptu" in comment(call)
    assert metadata(call)["gateway_spillover"] == "ptu"
    metrics = Metrics()
    metrics.finished(call)
    found = {
        (s.name, tuple(s.labels.values())): s.value for m in metrics.registry.collect() for s in m.samples
    }
    assert found["aoai_gateway_spillovers_total", ("ptu@a",)] == 1


def test_an_answer_of_its_own_is_not():
    call = ptu().script(a=Answer(headers={"x-ms-deployment-name": "ptu"}, usage=USAGE)).call().call
    record = usage_record(call)
    assert record["spillover"] is None
    assert record["provisioned"] is True


def test_the_header_of_litellm_counts_too():
    call = ptu().script(a=Answer(headers={"x-ms-is-spilled-over": "true"}, usage=USAGE)).call().call
    assert usage_record(call)["spillover"] == {"from": None, "to": None, "error": None}


@pytest.mark.parametrize("streaming", [True, False])
def test_its_speed_is_not_the_provisioned_ones(streaming: bool):
    there = ptu()
    there.script(a=Answer(headers=SPILLED, usage=USAGE)).call(stream=streaming)
    assert speed(there) is None
    there.script(a=Answer(usage=USAGE)).call(stream=streaming)
    assert speed(there) is not None


def test_its_tokens_and_figures_are_not_the_provisioned_ones():
    there = ptu(**ROOMY)
    capacity = there.engine.scheduler.capacities
    for _ in range(5):
        there.script(a=Answer(headers=SPILLED, usage=Usage(400_000, 0, 400_000), takes=2.0)).call(
            max_tokens=100_000
        )
    known = capacity.known(there.backend("ptu@a"))
    assert known is not None
    assert known.limits(there.now) == (None, None), "no size, and no limit of the standard one"
    assert known.headroom(there.now) is None, "nothing is known of its utilisation"
    assert known._all_tokens == 0


def test_peers_are_told_none_of_them_either():
    there = ptu(**ROOMY)
    shared = ReplicatedState(Random(1))
    there.engine = Engine(Random(1), shared)
    for headers, told in ((SPILLED, [None]), ({"azure-openai-deployment-utilization": "12%"}, [0.12])):
        there.script(a=Answer(headers=headers, usage=USAGE)).call(max_tokens=10)
        answered = [record[-1] for record in shared.journal.take() if record[0] == "answered"]
        assert [RateLimits(*figures).utilization for figures in answered] == told


def test_a_failed_spill_breaks_the_provisioned_one_no_longer_than_without_a_hint():
    there = ptu()
    there.script(a=throttled(retry_after_ms="60000", **{k.replace("-", "_"): v for k, v in SPILLED.items()}))
    call = there.call().call
    assert call.attempts[0].spillover is not None
    assert call.attempts[0].break_seconds == 10
    known = there.engine.scheduler.capacities.known(there.backend("ptu@a"))
    assert known is not None
    assert known._ptu_size.tokens_per_minute is None


def test_a_limit_of_the_standard_one_makes_no_call_too_large():
    there = ptu().script(
        a=throttled(**{k.replace("-", "_"): v for k, v in SPILLED.items()}), b=Answer(usage=USAGE)
    )
    call = there.call(max_tokens=50_000).call
    assert not call.too_small
    assert call.status == 200


# --- service tiers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_tiers_of_standard_deployments_pass_provisioned_ones_over(tier: str):
    there = ptu()
    trace = there.call(service_tier=tier)
    assert trace.sends == ["std@b"]
    (skip,) = trace.call.attempts[0].skipped
    assert (skip.cause, skip.seconds) == ("service tier", None)
    assert there.call(service_tier="auto").sends == ["ptu@a"]
    assert there.call().sends == ["ptu@a"]


def test_where_all_is_provisioned_azure_decides():
    assert world(("ptu@a", PTU)).call(service_tier="flex").sends == ["ptu@a"]


def test_a_class_that_may_not_spill_uses_what_it_may():
    classes = [{"name": "top", "may_use": {"spill": False}}, {"name": "low"}]
    there = ptu(priorities=classes, default_priority="top")
    assert there.call(service_tier="priority").sends == ["ptu@a"]


def test_flex_without_capacity_breaks_the_backend_for_flex_alone():
    out = Answer(429, body=b'{"error":{"code":"resource_unavailable","message":"Resource unavailable"}}')
    there = world("a", "b").script(a=[out, OK])
    assert there.call(service_tier="flex").sends == ["a@a", "b@b"]
    assert there.call(service_tier="flex").sends == ["b@b"]
    assert there.call().sends == ["a@a"]


def test_flex_over_the_quota_that_it_shares_breaks_it_for_all():
    there = world("a", "b").script(a=throttled(retry_after_ms="5000"))
    assert there.call(service_tier="flex").sends == ["a@a", "b@b"]
    assert there.call().sends == ["b@b"]


def test_a_throttle_of_another_tier_breaks_it_for_all():
    out = Answer(429, body=b'{"error":{"code":"no_capacity"}}')
    there = world("a", "b").script(a=out)
    there.call(service_tier="priority")
    assert there.call().sends == ["b@b"]


def test_what_was_asked_for_and_what_was_given_are_in_the_record():
    there = world("a").script(a=Answer(usage=USAGE))
    record = usage_record(there.call(service_tier="priority").call)
    assert (record["service_tier_requested"], record["service_tier"]) == ("priority", None)
    assert usage_record(there.call().call)["service_tier_requested"] is None
    odd = usage_record(there.call(service_tier="x" * 1000 + "\n").call)
    assert odd["service_tier_requested"] is None


def test_a_tier_is_booked_and_priced_as_asked_for_until_the_answer_tells():
    there = world("a").script(a=Answer(usage=USAGE))
    price = {"input": 10, "output": 20, "tiers": {"priority": 2, "flex": 0.5}}
    there.adopt(
        Config.model_validate({**there.config.model_dump(exclude_unset=True), "prices": {"gpt": price}})
    )
    team = Client(name="team", key="key-of-team", max_cost_per_day=100)
    cost = {}
    for tier in ("default", "priority", "flex"):
        trace = there.call(client=team, max_tokens=100, service_tier=tier)
        booked = [e.reservation.cost or 0 for _, e in trace.effects if isinstance(e, Reserve)]
        settled = [e.cost or 0 for _, e in trace.effects if isinstance(e, Settle)]
        cost[tier] = (booked[-1], settled[-1], usage_record(trace.call)["cost"])
    assert cost["priority"] == pytest.approx([2 * each for each in cost["default"]], abs=1)
    assert cost["flex"] == pytest.approx([each / 2 for each in cost["default"]], abs=1)


def test_metrics_tell_both_tiers():
    call = world("a").script(a=Answer(usage=USAGE)).call(service_tier="priority").call
    call.service_tier = "default"
    metrics = Metrics()
    metrics.finished(call)
    call.service_tier = "made-up"
    metrics.finished(call)
    found = {
        tuple(s.labels.values())
        for m in metrics.registry.collect()
        for s in m.samples
        if s.name == "aoai_gateway_service_tiers_total"
    }
    assert found == {("gpt", "priority", "default"), ("gpt", "priority", "(other)")}
    assert metadata(call)["gateway_service_tier"] == "priority -> made-up"
