"""Deployments are told apart as on Azure: the case of a name does not count, anywhere."""

from typing import Any

import pytest
from pydantic import ValidationError

from aoai_gateway.config.models import Config
from aoai_gateway.quota.access import may_use, visible_deployments
from aoai_gateway.quota.effective_policy import effective_policy, quotas_of
from aoai_gateway.routing.backends import RoutingTable


def config(*pools: dict[str, list[str]], **client: Any) -> Config:
    endpoints = [
        {
            "name": f"e{number}",
            "url": f"https://e{number}.example",
            "key": "key",
            "virtual_deployments": [
                {"name": name, "standins": [{"name": standin} for standin in standins]}
                for name, standins in pool.items()
            ],
        }
        for number, pool in enumerate(pools)
    ]
    clients = [{"name": "c", "key": "client-key", **client}]
    return Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": clients})


def test_endpoints_that_spell_a_deployment_differently_are_one_pool():
    made = config({"gpt-4o": ["a", "A"]}, {"GPT-4o": ["b"]})
    assert list(made.virtual_deployments) == ["gpt-4o"]
    table = RoutingTable(made)
    for name in ("gpt-4o", "GPT-4O", "Gpt-4o"):
        assert [backend.key for backend in table.pool(name) or ()] == [("e0", "a"), ("e0", "a"), ("e1", "b")]
    assert table.pool("gpt-4o-mini") is None


@pytest.mark.parametrize("pools", [({"gpt-4o": ["a"]},), ({},)], ids=["virtual", "open"])
def test_what_policies_say_holds_for_every_spelling(pools: tuple[dict[str, list[str]], ...]):
    made = config(
        *pools,
        deployments_allowed=["GPT-4o", "o1*"],
        max_tokens_per_minute={"Gpt-4O": 100},
        request_limits={"deployments": {"gPt-4o": {"n": 2}}},
    )
    client = made.clients[0]
    for asked in ("gpt-4o", "GPT-4O", "gPT-4o"):
        name = made.spelled(asked)
        assert may_use(client, name)
        policy = effective_policy(made, client, name)
        assert policy.has_limit_here
        assert policy.quotas == quotas_of(client), "one account, for each spelling"
        assert policy.request_limits.n == 2
    assert may_use(client, "O1-mini")
    assert not may_use(client, "gpt-4")
    assert visible_deployments(client, list(made.virtual_deployments)) == tuple(made.virtual_deployments)


def test_a_degraded_call_goes_to_the_deployment_however_it_is_spelled():
    made = config(
        {"gpt-4o": ["a"], "mini": ["m"]},
        when_exceeded={"action": "degrade", "deployment": "MINI"},
    )
    assert effective_policy(made, made.clients[0], "gpt-4o").on_exceed.deployment == "mini"


def test_a_name_that_is_not_configured_stays_as_it_is():
    made = config({}, deployments_allowed=["GPT-4o"])
    assert made.spelled("My-Own") == "My-Own"
    assert made.spelled("gpt-4O") == "GPT-4o"


@pytest.mark.parametrize(
    "client",
    [
        {"max_tokens_per_minute": {"gpt-4o": 1, "GPT-4o": 2}},
        {"request_limits": {"deployments": {"gpt-4o": {"n": 1}, "GPT-4o": {"n": 2}}}},
    ],
)
def test_two_spellings_in_one_mapping_are_refused(client: dict[str, Any]):
    with pytest.raises(ValidationError, match="gpt-4o and GPT-4o, which Azure does not tell apart"):
        config({"gpt-4o": ["a"]}, **client)


def test_prices_are_found_by_any_spelling():
    price = {"input": 1, "output": 2}
    made = config({"GPT-4o": ["a"]}).but(prices={"gpt-4o": price})
    assert made.price_of("GPT-4o") is not None
