"""Work that goes on after its answer, in virtual time: its booking stays open until a look at its end."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.config.prices import Price
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.effects import Settle
from aoai_gateway.engine.settlement import LONGEST, Unfinished, UnfinishedWork
from aoai_gateway.quota.calendar import period
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.quota.window import microseconds
from aoai_gateway.usage.record import cost_of, usage_record
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import DEPLOYMENT, RESPONSES, Answer, Trace, World, world

NAME = "resp_0123456789"
QUEUED = Answer(response_id=NAME, state="queued")
USAGE = Usage(10, 400, 410)
COMPLETED = Answer(response_id=NAME, state="completed", usage=USAGE)
MONEY = {"prices": {DEPLOYMENT: Price(input=1.0, output=1000.0)}}


def team(name: str = "team", **limits: Any) -> Client:
    return Client(name=name, key=f"key-of-{name}", **(limits or {"max_tokens_per_day": 10_000}))


def ask(there: World, client: Client, **members: Any) -> Trace:
    body = {"model": DEPLOYMENT, "input": "hi", "background": True, "max_output_tokens": 1000, **members}
    return there.call(body, path=RESPONSES, client=client)


def look(there: World, client: Client, name: str = NAME) -> Trace:
    return there.call(b"", method="GET", path=f"{RESPONSES}/{name}", client=client)


def charged(there: World) -> int:
    """Tokens of the day that are settled."""
    today = period("day", microseconds(there.now + there.unix_offset))
    return sum(tokens for _, _, of, tokens in there.counters.settled() if of == today)


def test_a_background_response_is_charged_when_its_end_is_looked_at() -> None:
    there = world("a").script(a=[QUEUED, Answer(response_id=NAME, state="in_progress"), COMPLETED])
    client = team()
    asked = ask(there, client)
    assert there.counters.open_reservations == 1
    assert asked.call.charged_tokens is None
    look(there, client)
    assert there.counters.open_reservations == 1
    looked = look(there, client)
    assert there.counters.open_reservations == 0
    assert charged(there) == 410
    assert looked.call.charged_tokens == 410
    record = usage_record(looked.call)
    assert record["usage_of"] == asked.call.id
    assert (record["input_tokens"], record["output_tokens"]) == (10, 400)
    assert record["deployment"] == DEPLOYMENT
    assert usage_record(asked.call)["output_tokens"] is None


def test_its_tokens_are_told_and_charged_once() -> None:
    there = world("a").script(a=[QUEUED, COMPLETED])
    client = team()
    ask(there, client)
    look(there, client)
    again = look(there, client)
    assert again.call.usage is None
    assert usage_record(again.call)["usage_of"] is None
    assert charged(there) == 410


def test_as_long_as_it_goes_on_its_booking_counts() -> None:
    there = world("a").script(a=[Answer(response_id=f"resp_{n}", state="queued") for n in range(3)])
    client = team(max_tokens_per_minute=2_500)
    outcomes = [ask(there, client).call.outcome for _ in range(3)]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.REJECTED]


def test_a_look_by_another_client_tells_and_charges_nothing() -> None:
    there = world("a").script(a=[QUEUED, COMPLETED])
    ask(there, team())
    other = look(there, team("other"))
    assert other.call.usage is None
    assert there.counters.open_reservations == 1
    look(there, team())
    assert charged(there) == 410


def test_without_a_look_it_is_charged_like_an_answer_that_was_not_waited_for() -> None:
    there = world("a").script(a=QUEUED)
    ask(there, team())
    work = there.engine.shared.unfinished
    work.expire(there.now + LONGEST - 10)
    assert there.counters.open_reservations == 1
    there.now += LONGEST
    there.counters.renew([], there.now + there.unix_offset)
    work.expire(there.now)
    assert len(work) == 0
    assert 1000 < charged(there) < 1100


def test_at_the_end_of_the_gateway_all_of_it_is_charged() -> None:
    there = world("a").script(a=QUEUED)
    ask(there, team())
    there.engine.shared.unfinished.close()
    assert there.counters.open_reservations == 0
    assert 1000 < charged(there) < 1100


def test_the_oldest_is_charged_where_there_is_too_much() -> None:
    work, settled = UnfinishedWork(2), list[Settle]()
    work.settle = settled.append
    bookings = [Reservation(f"call {n}", "team", (Quota(None, 1000),), 100) for n in range(3)]
    for number, booking in enumerate(bookings):
        going_on = Unfinished(booking.id, DEPLOYMENT, 0.0, 10, True, booking, unseen=(50 + number, None))
        work.begin("team", f"resp_{number}", going_on)
    assert settled == [Settle(bookings[0], 50)]
    assert not work.goes_on("team", "resp_0")
    assert work.goes_on("team", "resp_2")


@pytest.mark.parametrize(
    ("state", "costs"), [("failed", False), ("expired", False), ("cancelled", True), ("incomplete", True)]
)
def test_an_end_without_usage_costs_its_prompt_unless_it_failed(state: str, costs: bool) -> None:
    there = world("a").script(a=[QUEUED, Answer(response_id=NAME, state=state)])
    client = team()
    asked = ask(there, client)
    assert asked.call.prompt is not None
    look(there, client)
    assert there.counters.open_reservations == 0
    assert charged(there) == (asked.call.prompt.tokens if costs else 0)


def test_a_budget_in_money_pays_when_its_end_is_looked_at() -> None:
    there = world("a", **MONEY).script(a=[QUEUED, COMPLETED])
    client = team(max_cost_per_day=10.0)
    asked = ask(there, client)
    assert cost_of(asked.call) is None
    looked = look(there, client)
    assert cost_of(looked.call) == pytest.approx(0.40001)
    assert charged(there) == 400_010


def test_without_quotas_the_record_has_its_tokens() -> None:
    there = world("a").script(a=[QUEUED, COMPLETED])
    asked = ask(there, Client(name="free", key="key-of-free"))
    looked = look(there, Client(name="free", key="key-of-free"))
    assert looked.call.usage == USAGE
    assert looked.call.usage_of == asked.call.id
    assert looked.call.charged_tokens is None


def test_what_has_ended_with_its_answer_is_settled_as_ever() -> None:
    there = world("a").script(a=COMPLETED)
    asked = ask(there, team(), background=False)
    assert there.counters.open_reservations == 0
    assert asked.call.charged_tokens == 410
    assert look(there, team()).call.usage is None


def test_a_background_stream_that_is_left_is_charged_when_its_end_is_looked_at() -> None:
    there = world("a").script(a=[Answer(response_id=NAME, complete=False), COMPLETED])
    client = team()
    asked = ask(there, client, stream=True)
    assert asked.call.outcome is Outcome.TRUNCATED
    assert there.counters.open_reservations == 1
    assert look(there, client).call.usage_of == asked.call.id
    assert charged(there) == 410


def test_a_background_stream_that_tells_of_its_failure_is_over() -> None:
    there = world("a").script(a=Answer(response_id=NAME, failed="failed in its stream: server_error"))
    asked = ask(there, team(), stream=True)
    assert asked.call.outcome is Outcome.TRUNCATED
    assert there.counters.open_reservations == 0
    assert not asked.call.goes_on


RUN = "run_0123456789"
RUNS = "/openai/v1/threads/thread_1/runs"


def test_a_run_that_is_continued_is_paid_for_by_the_call_that_gets_its_end() -> None:
    waits = Answer(response_id=RUN, state="requires_action")
    ended = Answer(response_id=RUN, state="completed", usage=USAGE)
    there = world("a").script(a=[waits, waits, ended])
    client = team()
    started = there.call({"model": DEPLOYMENT, "assistant_id": "asst_1"}, path=RUNS, client=client)
    assert started.call.goes_on
    path = f"{RUNS}/{RUN}/submit_tool_outputs"
    there.call({"tool_outputs": []}, path=path, client=client)
    assert there.counters.open_reservations == 1
    there.call({"tool_outputs": []}, path=path, client=client)
    assert there.counters.open_reservations == 0
    assert charged(there) == 410
