"""What an answer teaches whose client leaves before its end."""

from __future__ import annotations

import math

import pytest

from aoai_gateway.engine.answer_times import BYTES_PER_TOKEN, learn_cut_off
from aoai_gateway.engine.call import Session
from aoai_gateway.engine.effects import ClientGone, Ended
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.usage import Usage
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Caller, Traffic, traffic
from tests.engine_driver import DEPLOYMENT

STANDARD = {"name": "standard", "wait": {"seconds": 60}}
SPEED = 100.0
BOUND = 4_000


def known(*, stream: bool) -> Traffic:
    """A client that has had six answers of 100 tokens, at 100 tokens a second."""
    here = traffic(
        "paygo", azure={"paygo@paygo": Deployment(first_token=0.0, speed=SPEED)}, classes=[STANDARD]
    )
    for n in range(6):
        here.come(2 * n, "standard", most=BOUND, completion=100, stream=stream)
    here.run()
    assert likely(here) == 100
    here.begun = here.now
    return here


def likely(here: Traffic) -> int | None:
    return here.engine.shared.answer_lengths.likely("standard", DEPLOYMENT, BOUND)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_end_shows_that_its_answer_is_longer(stream: bool) -> None:
    here = known(stream=stream)
    here.come(0, "standard", most=BOUND, completion=2_000, stream=stream, patience=5.0)
    here.run()
    assert here.callers[-1].trace.gone
    assert likely(here) == pytest.approx(2 * 5.0 * SPEED, rel=0.1)
    here.check_nothing_is_left()


def gone(here: Traffic, *, stalled: bool = False, session: bool = False, **told: object) -> int | None:
    """Let a client leave 0.1 s after its call was sent, when so much of the answer was told."""
    here.come(0, "standard", most=BOUND, completion=100, stream=True)
    here.run()
    caller: Caller = here.callers[-1]
    call = caller.call
    attempt = call.attempt
    assert attempt is not None
    call.session = Session() if session else None
    now = attempt.started + 0.1
    so_far = Ended(now, complete=False, **told) if told else None
    learn_cut_off(here.engine.shared, call, attempt, ClientGone(now, so_far, stalled=stalled))
    return likely(here)


def delivered(tokens: int) -> Delivered:
    text = Delivered("chat.completions")
    text.read(b'{"choices":[{"delta":{"content":"%s"}}]}' % (b"x" * round(tokens * BYTES_PER_TOKEN)))
    return text


def test_what_was_delivered_tells_more_than_the_time_that_passed() -> None:
    here = known(stream=True)
    assert gone(here, delivered=delivered(300)) == 600
    assert gone(here, usage=Usage(output_tokens=450), delivered=delivered(20)) == 900


def test_without_either_the_time_tells() -> None:
    assert gone(known(stream=True), delivered=Delivered("chat.completions")) == 100, "0.1 s are 10 tokens"


@pytest.mark.parametrize("but", [{"stalled": True}, {"session": True}, {"finish_reason": "stop"}])
def test_these_do_not_leave_before_the_end(but: dict[str, object]) -> None:
    here = known(stream=True)
    assert gone(here, delivered=delivered(300), **but) == math.ceil(likely(here) or 0) == 100
