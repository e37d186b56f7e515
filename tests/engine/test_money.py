"""Budgets in money are booked before a call and settled with what it has cost."""

from __future__ import annotations

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Notice
from aoai_gateway.engine.effects import Cancel, Reserve, Settle
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
    assert booked.tokens >= 800_000
    assert settled.tokens == (60 * 1000 + 40 * 100 + 50 * 2000)  # millionths


def test_what_does_not_fit_is_refused_and_fits_again_once_the_rest_is_settled() -> None:
    here = priced(used(10), used(10), used(300))
    client = rich(max_cost_per_day=1.2)
    statuses = [here.call(client=client, max_tokens=400).call.status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    trace = here.call(client=client, max_tokens=400)
    assert trace.call.error is not None
    assert trace.call.error.code == "budget_exceeded"
    assert "per day has" in trace.call.error.message


def test_a_refusal_takes_the_booking_of_tokens_back() -> None:
    here = priced()
    poor = here.call(client=rich(max_cost_per_day=0, max_tokens_per_minute=1000), max_tokens=400)
    assert poor.call.status == 429
    reserved = [e.reservation.id for _, e in poor.effects if isinstance(e, Reserve)]
    cancelled = [e.reservation.id for _, e in poor.effects if isinstance(e, Cancel)]
    assert cancelled == reserved[:1]


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
