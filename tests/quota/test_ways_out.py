"""Contracts: where a client's way out leads, and where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.models import Aoai, Client, Config, Endpoint, Standin, VirtualDeployment
from aoai_gateway.quota.effective_policy import effective_policy


def endpoint(name: str, *deployments: str, **more: Any) -> Endpoint:
    virtual = tuple(VirtualDeployment(name=d, standins=(Standin(name=d),)) for d in deployments)
    return Endpoint(name=name, url=f"https://{name}.example/", key="k", virtual_deployments=virtual, **more)


ENDPOINTS = (endpoint("one", "big", "small"), endpoint("two", "big"), endpoint("off", "tiny", enabled=False))


def way_out(other: str, **policy: Any) -> str | None:
    """Where a call for ``big`` that does not fit is led."""
    client = Client(name="t", key="k", when_exceeded={"action": "degrade", "deployment": other}, **policy)
    return effective_policy(
        Config(aoai=Aoai(endpoints=ENDPOINTS), clients=(client,)), client, "big"
    ).on_exceed.deployment


@pytest.mark.parametrize(
    "policy",
    [{}, {"deployments_allowed": "big, small"}, {"endpoints_allowed": "one"}, {"max_tokens_per_minute": 5}],
)
def test_a_call_is_degraded_to_another_deployment(policy: dict[str, Any]) -> None:
    assert way_out("small", **policy) == "small"


@pytest.mark.parametrize(
    ("other", "policy"),
    [
        ("big", {}),
        ("small", {"deployments_allowed": "big"}),
        ("small", {"endpoints_allowed": "two"}),
        ("small", {"max_tokens_per_minute": {"big": 5}}),
        ("tiny", {}),
        ("unheard-of", {}),
    ],
)
def test_a_call_is_not_degraded_to_what_would_refuse_it(other: str, policy: dict[str, Any]) -> None:
    assert way_out(other, **policy) is None
