"""Calls whose backend a plugin has a say in, and that must wait for one."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from aoai_gateway.config.models import Client, Priority
from aoai_gateway.engine.call import Outcome
from aoai_gateway.routing.backends import Backend
from aoai_gateway.routing.queue import WaitingQueue
from tests.engine_driver import World, config

BATCH = Client(name="batch", key="key-of-batch", priority="batch")
CRITICAL = Client(name="critical", key="key-of-critical", priority="critical")


def limited(*backends: Any, **batch: Any) -> World:
    classes = [
        {"name": "critical", "wait": {"seconds": 60}},
        {"name": "batch", "wait": {"seconds": 60}, **batch},
    ]
    return World(
        config(
            *backends,
            priorities=tuple(Priority.model_validate(each) for each in classes),
            clients=(CRITICAL, BATCH),
        ),
        random=Random(1),
    )


def agree(candidates: Sequence[Backend]) -> Sequence[Backend]:
    return candidates


@pytest.mark.parametrize("choose", [None, agree])
def test_who_has_waited_for_the_one_request_that_fits_gets_it(choose: Any) -> None:
    here = limited(("a", {"requests_per_minute": 6}))
    assert here.call(client=BATCH).call.outcome is Outcome.OK
    trace = here.call(client=BATCH, choose=choose)
    assert trace.call.queue_wait > 1
    assert trace.sends == ["a@a"]


def test_room_of_a_call_that_was_not_sent_is_free_again() -> None:
    here = limited(("a", {"requests_per_minute": 6, "tokens_per_minute": 1_000}))
    gone = here.call(client=BATCH, choose=agree, gone_at=0, max_tokens=900)
    assert gone.gone
    assert not gone.sends
    trace = here.call(client=BATCH, max_tokens=900)
    assert (trace.sends, trace.call.queue_wait) == (["a@a"], 0)


def test_who_left_when_it_was_released_takes_no_room() -> None:
    here = limited(("a", {"requests_per_minute": 1}))
    here.call(client=BATCH)
    gone = here.call(client=BATCH, choose=agree, gone_at=1)
    assert gone.gone
    assert gone.call.queue_wait > 10
    trace = here.call(client=BATCH)
    assert (trace.sends, trace.call.queue_wait) == (["a@a"], 0)


def test_what_is_owed_stays_owed_while_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    here = limited(("a", {"tokens_per_minute": 1_000}), leave_free=0.5, minimum_share=0.1)
    monkeypatch.setattr(WaitingQueue, "has_deficit", lambda *_: True)
    assert here.call(client=BATCH, max_tokens=450).sends == ["a@a"]
    trace = here.call(client=BATCH, choose=agree, max_tokens=450)
    assert (trace.sends, trace.call.queue_wait) == (["a@a"], 0)


def test_room_is_taken_while_others_are_asked() -> None:
    here = limited(("a", {"tokens_per_minute": 1_000}), ("b", {"tokens_per_minute": 1_000}))
    beside: list[list[str]] = []

    def meanwhile(candidates: Sequence[Backend]) -> Sequence[Backend]:
        beside.append(here.call(client=BATCH, max_tokens=900).sends)
        return candidates

    assert here.call(client=BATCH, max_tokens=900, choose=meanwhile).sends == ["a@a"]
    assert beside == [["b@b"]]


def test_one_that_others_prefer_is_taken_if_it_is_still_to_be_had() -> None:
    here = limited(("a", {"tokens_per_minute": 1_000}), ("b", {"tokens_per_minute": 1_000}))
    assert here.call(client=BATCH, max_tokens=900, choose=lambda found: found[::-1]).sends == ["b@b"]
    trace = here.call(client=BATCH, max_tokens=900)
    assert (trace.sends, trace.call.queue_wait) == (["a@a"], 0), "it was given back"


def test_others_may_want_none_of_them() -> None:
    here = limited(("a", {"requests_per_minute": 6}))
    assert here.call(client=BATCH, choose=lambda _: ()).error.status == 429
    trace = here.call(client=BATCH)
    assert (trace.sends, trace.call.queue_wait) == (["a@a"], 0)
