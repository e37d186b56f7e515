"""Calls to Claude in virtual time: what is booked and charged for them, and what its overload means."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.models import Client, Priority
from aoai_gateway.config.prices import Price
from aoai_gateway.engine.answer_times import is_foretold
from aoai_gateway.engine.effects import Reserve, Settle
from aoai_gateway.engine.money import usage_cost
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.usage import Usage, read_usage
from tests.engine_driver import Answer, Refuse, World, world

MESSAGES = "/anthropic/v1/messages"
COUNT = f"{MESSAGES}/count_tokens"
BODY: dict[str, Any] = {"model": "gpt", "max_tokens": 300, "messages": [{"role": "user", "content": "Hello"}]}
CLASSES = {"priorities": (Priority(name="high"), Priority(name="low"))}
USAGE = read_usage({"input_tokens": 40, "cache_read_input_tokens": 60, "output_tokens": 20})


def client(**policy: Any) -> Client:
    return Client(name="team", key="key-of-team", **policy)


def call(here: World, path: str = MESSAGES, **more: Any) -> Any:
    return here.call(**{"body": BODY, "path": path, **more})


def test_the_prompt_and_its_bound_are_booked_and_the_usage_is_charged() -> None:
    here = world("a").script(a=Answer(usage=USAGE))
    trace = call(here, client=client(max_tokens_per_minute=1000))
    (reserved,) = [effect.reservation.tokens for _, effect in trace.effects if isinstance(effect, Reserve)]
    assert 301 < reserved < 330
    assert [effect.tokens for _, effect in trace.effects if isinstance(effect, Settle)] == [120]


def test_a_count_of_tokens_costs_none() -> None:
    here = world("a")
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    trace = call(here, COUNT, body=body, client=client(max_tokens_per_minute=1000, max_requests_per_minute=5))
    assert [effect.tokens for _, effect in trace.effects if isinstance(effect, Settle)] == [0]


def test_a_bound_is_clamped_and_added() -> None:
    limits = {"max_tokens": 100, "action": "clamp"}
    here = world("a")
    for body in (BODY, {name: value for name, value in BODY.items() if name != "max_tokens"}):
        trace = call(here, body=body, client=client(request_limits=limits))
        assert trace.call.edits == {"max_tokens": 100}
        assert b'"max_tokens":100' in trace.call.body.edited(max_tokens=100).replace(b": ", b":")


@pytest.mark.parametrize("failure", [Answer(529), Refuse(status=529)])
def test_overload_is_want_of_capacity(failure: Any) -> None:
    """It breaks at once, as no call can cause it, and is replayed also for a call that leaves state
    behind."""
    here = world("a", "b").script(a=failure)
    assert call(here, stream=True).sends == ["a@a", "b@b"]
    assert here.in_break("a") is not None
    there = world("a", "b").script(a=Answer(529))
    background = {"model": "gpt", "input": "hello", "background": True}
    assert there.call(body=background, path="/openai/v1/responses").sends == ["a@a", "b@b"]


def test_when_all_are_overloaded_the_last_answer_is_the_clients() -> None:
    here = world("a", "b").script(a=Answer(529), b=Answer(529))
    trace = call(here)
    assert trace.error.status == 429
    assert "529" in trace.error.message


def test_the_cache_has_prices_of_its_own() -> None:
    price = Price(input=3, output=15, cached_input=0.3, cache_write=3.75)
    usage = read_usage(
        {
            "input_tokens": 100,
            "cache_creation_input_tokens": 1000,
            "cache_read_input_tokens": 10_000,
            "output_tokens": 10,
        }
    )
    assert usage is not None
    cost = usage_cost(price, usage, "standard")
    assert cost == pytest.approx((100 * 3 + 1000 * 3.75 + 10_000 * 0.3 + 10 * 15) / 1e6)


@pytest.mark.parametrize(
    ("thinking", "foretold"),
    [(None, True), ({"type": "disabled"}, True), ({"type": "adaptive"}, False), ({"type": "enabled"}, False)],
)
def test_a_call_that_asks_to_think_takes_as_long_as_it_takes(thinking: Any, foretold: bool) -> None:
    trace = call(world("a"), body={**BODY, **({"thinking": thinking} if thinking else {})})
    assert is_foretold(trace.call) is foretold


def test_of_a_stream_that_broke_off_the_prompt_is_the_backends_count() -> None:
    ended = call(world("a"), stream=True).call
    ended.usage, ended.delivered = None, Delivered("messages")
    ended.take_delivered(5)
    assert (ended.usage, ended.delivered_tokens) == (None, 5)
    ended.delivered.prompt = Usage(900, 0, 900, cached_tokens=800)
    ended.take_delivered(7)
    assert ended.usage == Usage(900, 7, 907, cached_tokens=800)
    assert ended.delivered_tokens == 7


# --- limits of backends ------------------------------------------------------------------------------


def test_a_bound_that_is_never_reached_makes_no_call_too_large() -> None:
    """Libraries ask for the most that a model can write, unless told otherwise: 64,000 and more."""
    here = world(("small@a", {"tokens_per_minute": 20_000}), **CLASSES)
    trace = call(here, body={**BODY, "max_tokens": 128_000})
    assert trace.sends == ["small@a"]


def test_what_was_written_counts_against_the_limit_once_it_is_known() -> None:
    usage = read_usage({"input_tokens": 40, "output_tokens": 19_500})
    here = world(("small@a", {"tokens_per_minute": 20_000}), "b", **CLASSES).script(a=Answer(usage=usage))
    body = {**BODY, "max_tokens": 128_000}
    assert call(here, body=body).sends == ["small@a"]
    assert call(here, body=body).sends == ["b@b"]


def test_a_refusal_is_not_blamed_on_a_bound_that_does_not_count() -> None:
    limits = {"anthropic-ratelimit-tokens-limit": "20000", "retry-after": "30"}
    here = world("a", "b").script(a=Answer(429, headers=limits))
    assert call(here, body={**BODY, "max_tokens": 128_000}).sends == ["a@a", "b@b"]
    assert here.in_break("a") is not None
