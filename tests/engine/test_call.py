"""What a call holds of itself, and what is kept for all calls of a configuration."""

from __future__ import annotations

import gc

import pytest

from aoai_gateway.config.models import Aoai, Client, Config, Endpoint
from aoai_gateway.engine import call
from aoai_gateway.engine.call import Call, Setup
from aoai_gateway.quota.quotas import Quota
from aoai_gateway.routing.backends import RoutingTable
from tests.engine_driver import config, world


def test_calls_that_are_kept_share_what_is_empty() -> None:
    here = world("a")
    one, other = here.call().call, here.call().call
    for each in (one, other):
        each.forget_texts()
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in Call.__slots__}
    own = [name for name, (mine, its) in pairs.items() if gc.is_tracked(mine) and mine is not its]
    assert own == ["attempts"], "the garbage collector looks at nothing else of them"


def setup_of(made: Config) -> Setup:
    return Setup(made, RoutingTable(made))


def test_a_plan_is_made_once_for_each_configuration_client_and_deployment() -> None:
    made = config("a", clients=(Client(name="a", key="a"), Client(name="b", key="b", dry_run=True)))
    here, (a, b) = setup_of(made), made.clients
    assert here.plan(a, "gpt") is here.plan(a, "gpt")
    assert here.plan(b, "gpt").terms.dry_run
    assert here.plan(a, "small").deployment == "small"
    changed = made.but(clients=(a.but(max_tokens_per_minute=5),))
    assert setup_of(changed).plan(changed.clients[0], "gpt").terms.quotas == (Quota(None, 5),)


def test_names_that_callers_make_up_fill_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "MOST_PLANS", 3)
    client = Client(name="a", key="a", max_tokens_per_minute=5)
    here = setup_of(Config(aoai=Aoai(endpoints=(Endpoint(name="e", url="https://e.example/", key="k"),))))
    for number in range(10):
        made_up = here.plan(client, f"{number}")
        assert made_up.deployment == f"{number}"
        assert made_up.terms.quotas == (Quota(None, 5),)
    here.plan(client, "x" * 10_000)
    assert list(here._plans) == [("a", "7"), ("a", "8"), ("a", "9")]
