"""What a client's policies come to at one virtual deployment."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.models import Client, Config
from aoai_gateway.quota.effective_policy import REJECT, EffectivePolicy, OnExceed, effective_policy, quotas_of
from aoai_gateway.quota.quotas import Quota
from aoai_gateway.quota.request_limits import NO_LIMITS, RequestLimits


def config(*clients: dict[str, Any], groups: tuple[dict[str, Any], ...] = (), virtual: bool = True) -> Config:
    deployments = [{"name": name, "standins": [{"name": name}]} for name in ("big", "small", "other")]
    endpoints = [
        {"name": name, "url": f"https://{name}.example", "key": "k"} for name in ("sweden", "france", "spain")
    ]
    if virtual:
        endpoints = [{**each, "virtual_deployments": deployments} for each in endpoints]
    return Config.model_validate({"aoai": {"endpoints": endpoints}, "groups": groups, "clients": clients})


def of(deployment: str = "big", **policy: object) -> EffectivePolicy:
    made = config({"name": "Team", "key": "t", **policy})
    return effective_policy(made, made.clients[0], deployment)


def test_without_policies_there_are_no_limits() -> None:
    assert of() == EffectivePolicy("Team", "big")
    assert of().quotas == ()
    assert of().has_limit_here
    assert of().allows_endpoint("anything")


# --- quotas ------------------------------------------------------------------------------------------------


def test_a_number_is_a_quota_over_all() -> None:
    assert of(max_tokens_per_minute_in_k=0.5, max_requests_per_minute=60).quotas == (
        Quota(None, tokens_per_minute=500, requests_per_minute=60),
    )


def test_a_limit_of_nothing_is_a_limit() -> None:
    assert of(max_tokens_per_minute=0).quotas == (Quota(None, tokens_per_minute=0),)


def test_per_deployment_and_in_total_at_once() -> None:
    policy: dict[str, Any] = {
        "max_tokens_per_minute": {"big": 5, "total": 9},
        "max_requests_per_minute": {"small": 3, "total": 4},
        "max_tokens_per_day": 100,
        "max_tokens_per_month": {"big": 1000, "small": 2000},
    }
    over_all = Quota(None, 9, 4, 100)
    assert of("big", **policy).quotas == (Quota("big", 5, None, None, 1000), over_all)
    assert of("small", **policy).quotas == (Quota("small", None, 3, None, 2000), over_all)
    assert of("big", **policy).has_limit_here
    assert not of("other", **policy).has_limit_here  # per month, it has none


@pytest.mark.parametrize(
    ("limit", "here"),
    [
        (5, True),
        ({"big": 5}, True),
        ({"small": 5}, False),
        ({"small": 5, "total": 6}, True),
        ({"total": 6}, True),
        ({}, False),
    ],
)
@pytest.mark.parametrize(
    "key",
    [
        "max_tokens_per_minute",
        "max_tokens_per_minute_in_k",
        "max_requests_per_minute",
        "max_tokens_per_day",
        "max_tokens_per_month",
    ],
)
def test_whether_there_is_a_limit_here(key: str, limit: object, here: bool) -> None:
    assert of(**{key: limit}).has_limit_here is here


def test_another_limit_opens_nothing() -> None:
    assert not of(max_tokens_per_minute={"small": 5}, max_requests_per_minute=5).has_limit_here


# --- endpoints, request limits, groups ---------------------------------------------------------------------


def test_endpoints_are_those_that_exist() -> None:
    made = of(endpoints_allowed="s*, italy")
    assert made.endpoints == {"sweden", "spain"}
    assert made.allows_endpoint("spain")
    assert not made.allows_endpoint("france")
    assert of(endpoints_allowed=()).endpoints == frozenset()


def test_request_limits_are_those_of_the_deployment() -> None:
    limits = {
        "max_tokens": {"ceiling": 5, "default": 4},
        "n": 2,
        "best_of": 3,
        "action": "clamp",
        "deployments": {"b*": {"max_tokens": 9, "prompt_tokens": 7, "action": "reject"}},
    }
    assert of("small", request_limits=limits).request_limits == RequestLimits(5, 4, 2, 3, None, True)
    assert of("big", request_limits=limits).request_limits == RequestLimits(9, None, 2, 3, 7, False)
    assert of(request_limits={}).request_limits == of().request_limits == NO_LIMITS


def test_a_group_is_part_of_it() -> None:
    made = config(
        {"name": "a", "key": "a", "group": "G"},
        {"name": "b", "key": "b", "group": "G", "max_tokens_per_minute": {"big": 1}, "dry_run": False},
        groups=(
            {"name": "G", "max_tokens_per_minute_in_k": 5, "dry_run": True, "endpoints_allowed": "spain"},
        ),
    )
    first, second = (effective_policy(made, client, "big") for client in made.clients)
    assert (first.quotas, first.dry_run) == ((Quota(None, 5000),), True)
    assert (second.quotas, second.dry_run) == ((Quota("big", 1),), False)
    assert first.endpoints == second.endpoints == {"spain"}


# --- when exceeded -----------------------------------------------------------------------------------------


def test_what_happens_on_exceeding() -> None:
    assert of().on_exceed == of(when_exceeded="reject").on_exceed == REJECT
    assert of(when_exceeded={"action": "wait", "seconds": 20}).on_exceed == OnExceed("wait", 20.0)
    lesser = {"action": "degrade", "deployment": "small", "max_tokens": 500, "priority": "batch"}
    assert of(when_exceeded=lesser).on_exceed == OnExceed("degrade", 0.0, "small", 500, "batch")


@pytest.mark.parametrize(
    "policy",
    [
        {"deployments_allowed": "big, other"},
        {"max_tokens_per_minute": {"big": 5, "other": 5}},
    ],
)
def test_no_client_is_degraded_to_a_deployment_that_it_may_not_use(policy: dict[str, object]) -> None:
    lesser = {"action": "degrade", "deployment": "small", "max_tokens": 500}
    assert of(when_exceeded=lesser, **policy).on_exceed == OnExceed("degrade", max_tokens=500)


def test_no_client_is_degraded_to_a_deployment_that_no_endpoint_of_theirs_serves() -> None:
    endpoints = [
        {
            "name": endpoint,
            "url": f"https://{endpoint}.example",
            "key": "k",
            "virtual_deployments": [{"name": name, "standins": [{"name": name}]}],
        }
        for endpoint, name in (("sweden", "big"), ("france", "small"))
    ]
    lesser = {"action": "degrade", "deployment": "small", "max_tokens": 500}
    clients = [
        {"name": name, "key": name, "endpoints_allowed": allowed, "when_exceeded": lesser}
        for name, allowed in (("a", "sweden"), ("b", "sweden, france"))
    ]
    made = Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": clients})
    ways_out = [effective_policy(made, client, "big").on_exceed for client in made.clients]
    assert ways_out == [OnExceed("degrade", 0.0, None, 500), OnExceed("degrade", 0.0, "small", 500)]


def test_no_client_is_degraded_to_the_deployment_that_it_asks_for() -> None:
    lesser = {"action": "degrade", "deployment": "small"}
    assert of("small", when_exceeded=lesser).on_exceed == OnExceed("degrade")
    assert of("big", when_exceeded=lesser).on_exceed == OnExceed("degrade", deployment="small")


def test_all_quotas_of_a_client() -> None:
    limits = {"max_tokens_per_minute": {"b": 2, "a": 1, "total": 3}, "max_requests_per_minute": 4}
    client = Client(name="x", key="k", **limits)
    assert quotas_of(client) == (
        Quota(None, tokens_per_minute=3, requests_per_minute=4),
        Quota("a", tokens_per_minute=1),
        Quota("b", tokens_per_minute=2),
    )
    assert quotas_of(Client(name="x", key="k")) == ()
