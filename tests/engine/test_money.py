"""Budgets in money are booked before a call and settled with what it has cost."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Notice
from aoai_gateway.engine.effects import Cancel, Reserve, Settle
from aoai_gateway.quota.quotas import Quota, Reservation, budget_of
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, World, world

PRICE = {"input": 1000, "output": 2000, "cached_input": 100}
"""Of a million tokens, so a token of an answer costs 0.002."""


def rich(**more: object) -> Client:
    return Client.model_validate({"name": "rich", "key": "k", "max_cost_per_day": 1, **more})


def priced(*answers: Answer) -> World:
    return (
        world("a", prices={"gpt": PRICE}).script(a=list(answers))
        if answers
        else world("a", prices={"gpt": PRICE})
    )


def used(output: int, cached: int = 0) -> Answer:
    return Answer(
        usage=Usage(input_tokens=100, output_tokens=output, total_tokens=100 + output, cached_tokens=cached)
    )


def test_a_call_is_booked_for_the_most_and_settled_with_what_it_cost() -> None:
    trace = priced(used(50, cached=40)).call(client=rich(), max_tokens=400)
    (booked,) = (effect.reservation for _, effect in trace.effects if isinstance(effect, Reserve))
    (settled,) = (effect for _, effect in trace.effects if isinstance(effect, Settle))
    assert booked.cost is not None
    assert booked.cost >= 800_000
    assert settled.cost == (60 * 1000 + 40 * 100 + 50 * 2000)  # millionths


def test_what_does_not_fit_is_refused_and_fits_again_once_the_rest_is_settled() -> None:
    here = priced(used(10), used(10), used(300))
    client = rich(max_cost_per_day=1.2)
    statuses = [here.call(client=client, max_tokens=400).call.status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    trace = here.call(client=client, max_tokens=400)
    assert trace.call.error is not None
    assert trace.call.error.code == "budget_exceeded"
    assert "per day has" in trace.call.error.message


def test_tokens_and_money_are_booked_and_settled_in_one_step() -> None:
    here = priced(used(50))
    trace = here.call(client=rich(max_tokens_per_minute=1000), max_tokens=400)
    (booked,) = (effect.reservation for _, effect in trace.effects if isinstance(effect, Reserve))
    (settled,) = (effect for _, effect in trace.effects if isinstance(effect, Settle))
    assert booked.tokens < 1000
    assert booked.cost == booked.tokens * 1000 + 400 * 1000
    assert (settled.tokens, settled.cost) == (150, 100 * 1000 + 50 * 2000)
    assert trace.call.charged_tokens == 150


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_cost_per_day": 0, "max_tokens_per_minute": 1000}, "budget_exceeded"),
        ({"max_cost_per_day": 10, "max_tokens_per_minute": 0}, "quota_exceeded"),
    ],
)
def test_what_is_refused_for_one_books_nothing_of_the_other(limits: dict[str, float], code: str) -> None:
    here = priced()
    poor = here.call(client=rich(**limits), max_tokens=400)
    assert poor.call.status == 429
    assert poor.call.error is not None
    assert poor.call.error.code == code
    assert not [effect for _, effect in poor.effects if isinstance(effect, Settle | Cancel)]
    assert here.counters.open_reservations == 0
    account = budget_of(rich(max_cost_per_day=10))
    assert account is not None
    looked = Reservation("look", "rich", (account, Quota(None, 1000)), 0)
    assert all(
        standing.remaining == standing.limit for standing in here.counters.peek(looked, here.now).standings
    )


def test_the_clients_own_limits_in_headers_are_those_of_tokens() -> None:
    trace = priced(used(50)).call(client=rich(max_tokens_per_minute=1000), max_tokens=400)
    headers = dict(trace.call.quota_headers)
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    only_money = priced(used(50)).call(client=rich(), max_tokens=400)
    assert only_money.call.quota_headers == ()
    assert only_money.call.reserved_tokens is None
    assert only_money.call.charged_tokens is None


def test_a_call_waits_for_money_that_running_calls_may_give_back() -> None:
    here = priced(used(10), used(10))
    waits = {"when_exceeded": {"action": "wait", "seconds": 5}}
    client = rich(max_cost_per_day=1.0, **waits)
    budget = budget_of(client)
    assert budget is not None
    held = Reservation("running", "rich", (budget,), 0, cost=900_000)
    assert here.counters.reserve(held, here.now + here.unix_offset).admitted
    trace = here.call(client=client, max_tokens=400)
    assert trace.call.status == 429
    assert trace.call.waited > 4
    here.counters.cancel(held, here.now + here.unix_offset)
    assert here.call(client=client, max_tokens=400).call.status == 200


def test_a_budget_degrades_a_call_as_its_policy_says() -> None:
    here = priced(used(10))
    less = {"when_exceeded": {"action": "degrade", "max_tokens": 100}}
    client = rich(max_cost_per_day=1, **less)
    budget = budget_of(client)
    assert budget is not None
    held = Reservation("running", "rich", (budget,), 0, cost=600_000)
    assert here.counters.reserve(held, here.now + here.unix_offset).admitted
    trace = here.call(client=client, max_tokens=400)
    assert trace.call.status == 200
    assert trace.call.edits["max_tokens"] == 100


def test_a_dry_run_books_what_fits() -> None:
    here = priced(used(50))
    client = rich(max_cost_per_day=0, max_tokens_per_minute=1000, dry_run=True)
    trace = here.call(client=client, max_tokens=400)
    assert trace.call.notices[Notice.DRY_RUN] == "budget_exceeded"
    assert trace.call.charged_tokens == 150
    both = priced().call(
        client=rich(max_cost_per_day=0, max_tokens_per_minute=0, dry_run=True), max_tokens=400
    )
    assert both.call.status == 200
    assert "budget_exceeded" in both.call.notices[Notice.DRY_RUN]
    assert "0 tokens per minute" in both.call.notices[Notice.DRY_RUN]


def test_a_call_that_no_backend_served_costs_nothing() -> None:
    here = world("a", prices={"gpt": PRICE}).script(a=[Answer(status=500)] * 3)
    trace = here.call(client=rich(), max_tokens=400)
    assert [type(e) for _, e in trace.effects if isinstance(e, Settle | Cancel)] == [Cancel]


def test_a_deployment_without_a_price_is_refused() -> None:
    trace = world("a").call(client=rich(), max_tokens=4)
    assert trace.call.error is not None
    assert (trace.call.status, trace.call.error.code) == (403, "no_price_configured")


def test_a_dry_run_only_tells() -> None:
    trace = priced().call(client=rich(max_cost_per_day=0, dry_run=True), max_tokens=400)
    assert trace.call.status == 200
    assert trace.call.notices[Notice.DRY_RUN] == "budget_exceeded"
