"""Which backend comes next, and when the answer is the answer."""

from __future__ import annotations

import pytest

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.effects import Deliver, Reject, Return
from tests.engine_driver import (
    DROP,
    IDLE_CLOSED,
    KEY_REFUSED,
    NO_CONNECTION,
    OK,
    RESPONSES,
    Answer,
    Behaviour,
    Fail,
    Hang,
    Refuse,
    throttled,
    world,
)

SOON = {"connections": {"timeouts": {"read": 20}}}
"""Endpoints that are given up soon."""

BACKGROUND = {"model": "gpt", "input": "hello", "background": True}


def test_a_success_is_delivered_from_the_first_backend_alone() -> None:
    here = world("a", "b")
    trace = here.call()
    assert trace.sends == ["a@a"]
    assert isinstance(trace.final, Deliver)
    assert trace.call.outcome is Outcome.OK
    assert (trace.call.status, trace.call.skipped) == (200, ())
    assert here.in_break("a") is None


def test_backends_are_tried_in_the_order_written() -> None:
    trace = world("c", "a", "b").script(c=throttled(), a=throttled()).call()
    assert trace.sends == ["c@c", "a@a", "b@b"]
    assert [a.status for a in trace.call.attempts] == [429, 429, 200]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 524, 529, 530, 401, 403])
def test_these_statuses_lead_to_the_next_backend(status: int) -> None:
    here = world("a", "b").script(a=Answer(status))
    trace = here.call()
    assert trace.sends == ["a@a", "b@b"]
    assert trace.call.attempts[0].reason == f"{status} some_code"


@pytest.mark.parametrize("status", [200, 201, 204, 301, 400, 404, 405, 409, 413, 415, 422, 424, 501, 505])
def test_these_statuses_are_the_answer(status: int) -> None:
    here = world("a", "b").script(a=Answer(status))
    trace = here.call()
    assert trace.sends == ["a@a"]
    assert isinstance(trace.final, Deliver)
    assert (trace.call.status, trace.call.outcome) == (status, Outcome.OK)
    assert here.in_break("a") is None


@pytest.mark.parametrize(
    "failure",
    [Fail(kind) for kind in FailureKind if kind not in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM)]
    + [Hang(), Refuse(), Refuse(status=500)],
    ids=repr,
)
def test_failures_without_a_status_lead_to_the_next_backend(failure: Behaviour) -> None:
    here = world("a", "b", endpoint=SOON).script(a=failure)
    trace = here.call(stream=True)
    assert trace.sends == ["a@a", "b@b"]


@pytest.mark.parametrize("failure", [NO_CONNECTION, Fail(FailureKind.TLS), KEY_REFUSED], ids=repr)
def test_what_concerns_an_endpoint_breaks_all_of_it(failure: Behaviour) -> None:
    here = world("ptu@a", "paygo@a", "b").script(a=failure)
    assert here.call().sends == ["ptu@a", "b@b"]
    assert here.in_break("paygo@a") is not None


def test_a_throttled_standin_leaves_its_neighbour_alone() -> None:
    here = world("ptu@a", "paygo@a").script(ptu_at_a=throttled())
    assert here.call().sends == ["ptu@a", "paygo@a"]
    assert here.in_break("paygo@a") is None


def test_backends_in_a_break_are_skipped_until_it_ends() -> None:
    here = world("a", "b").script(a=[throttled(retry_after="5"), OK])
    assert here.call().sends == ["a@a", "b@b"]
    assert here.call().sends == ["b@b"]
    here.now += 10
    assert here.call().sends == ["a@a"]


# --- a call that fails everywhere -------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_the_same_failure_from_a_second_backend_is_the_calls_own(status: int) -> None:
    here = world("a", "b", "c").script(a=Answer(status), b=Answer(status, body=b"of b"))
    trace = here.call()
    assert trace.sends == ["a@a", "b@b"]
    assert isinstance(trace.final, Return)
    assert trace.final.body == b"of b"
    assert (trace.call.status, trace.call.outcome) == (status, Outcome.OK)
    assert [here.in_break(name) for name in "abc"] == [None, None, None]
    assert [a.break_seconds for a in trace.call.attempts] == [None, None]


def test_breaks_are_withdrawn_for_the_same_status_with_any_code() -> None:
    one, other = (
        Answer(500, body=b'{"error":{"code":"one"}}'),
        Answer(500, body=b'{"error":{"code":"other"}}'),
    )
    here = world("a", "b").script(a=one, b=other)
    trace = here.call()
    assert [here.in_break(name) for name in "ab"] == [None, None]
    assert [a.break_seconds for a in trace.call.attempts] == [None, None]


def test_two_different_failures_go_on() -> None:
    here = world("a", "b", "c").script(a=Answer(500), b=Answer(503))
    assert here.call().sends == ["a@a", "b@b", "c@c"]
    assert here.call(user="other").sends == ["a@a", "b@b", "c@c"]
    assert here.in_break("a")
    assert here.in_break("b")


def test_only_the_failure_that_repeats_is_withdrawn() -> None:
    here = world("a", "b", "c", "d").script(
        a=Answer(500), b=Answer(503, headers={"retry-after": "9"}), c=Answer(500)
    )
    trace = here.call()
    assert trace.sends == ["a@a", "b@b", "c@c"]
    assert trace.call.status == 500
    assert here.in_break("a") is None
    assert here.in_break("b") is not None
    assert [a.break_seconds is None for a in trace.call.attempts] == [True, False, True]


@pytest.mark.parametrize(
    "failure", [throttled(), NO_CONNECTION, Fail(FailureKind.TLS), KEY_REFUSED, Refuse()], ids=repr
)
def test_what_no_call_can_cause_is_never_withdrawn(failure: Behaviour) -> None:
    here = world("a", "b", "c").script(a=failure, b=failure)
    assert here.call(stream=True).sends == ["a@a", "b@b", "c@c"]
    assert here.in_break("a")
    assert here.in_break("b")


@pytest.mark.parametrize("failure", [DROP, Answer(503)], ids=repr)
def test_an_endpoint_that_takes_its_standins_along_is_not_the_calls_fault(failure: Behaviour) -> None:
    here = world("ptu@a", "paygo@a", "b").script(a=failure)
    trace = here.call()
    assert trace.sends == ["ptu@a", "paygo@a", "b@b"]
    assert trace.call.status == 200
    here.call(user="other")
    assert here.in_break("ptu@a")
    assert here.in_break("paygo@a")


def test_where_there_is_no_other_endpoint_a_second_standin_tells() -> None:
    here = world("one@a", "two@a", "three@a").script(a=Answer(500))
    assert here.call().sends == ["one@a", "two@a"]
    assert here.in_break("one@a") is None


def test_another_calls_break_is_not_withdrawn() -> None:
    here = world("a", "b").script(a=Answer(500, body=b"x"), b=[OK, OK, Answer(500, body=b"x")])
    here.call()
    here.call(user="other")
    here.now += 0.001
    left = here.in_break("a")
    assert left is not None
    trace = here.call()
    assert (trace.sends, trace.call.status) == (["b@b"], 500)
    assert here.in_break("a") is not None
    assert here.in_break("b") is None


def test_without_a_second_backend_the_failure_is_the_answer() -> None:
    here = world("a").script(a=Answer(500, body=b"only"))
    trace = here.call()
    assert isinstance(trace.final, Return)
    assert trace.final.body == b"only"
    assert here.in_break("a") is None


def test_two_timeouts_are_a_504() -> None:
    here = world("a", "b", "c", endpoint=SOON).script(a=Hang(), b=Hang())
    trace = here.call(stream=True)
    assert trace.sends == ["a@a", "b@b"]
    assert (trace.error.status, trace.error.code) == (504, "upstream_timeout")
    assert trace.call.outcome is Outcome.BACKENDS_OUT
    assert [here.in_break(name) for name in "ab"] == [None, None]


@pytest.mark.parametrize("kind", [FailureKind.DROPPED, FailureKind.PROTOCOL])
def test_two_broken_answers_are_a_502(kind: FailureKind) -> None:
    here = world("a", "b", "c").script(a=Fail(kind, reason="in one way"), b=Fail(kind, reason="in another"))
    trace = here.call()
    assert (trace.error.status, trace.error.code) == (502, "upstream_disconnected")
    assert [a.break_seconds for a in trace.call.attempts] == [None, None]


def test_a_failed_body_that_does_not_end_is_not_handed_out() -> None:
    trace = world("a").script(a=Answer(500, body=None)).call()
    assert (trace.error.status, trace.call.status) == (502, 502)


def test_a_caller_cannot_empty_the_pool() -> None:
    here = world("a", "b", "c")
    here.script(a=Answer(500), b=Answer(500), c=Answer(500))
    for _ in range(20):
        here.call()
    here.script(a=OK, b=OK, c=OK)
    assert here.call().sends == ["a@a"]


# --- connections that were used before ---------------------------------------------------------------


def test_a_reused_connection_that_was_closed_is_no_failure() -> None:
    here = world("a", "b").script(a=[IDLE_CLOSED, OK])
    trace = here.call()
    assert trace.sends == ["a@a", "a@a"]
    assert [send.fresh for send in trace.sent] == [False, True]
    assert (len(trace.call.attempts), trace.call.attempts[0].resent) == (1, True)
    assert trace.call.attempts[0].failure is None
    assert trace.announced == []
    assert here.in_break("a") is None


def test_it_is_sent_again_only_once() -> None:
    here = world("a", "b").script(a=[IDLE_CLOSED, DROP])
    assert here.call().sends == ["a@a", "a@a", "b@b"]


def test_a_new_connection_that_drops_is_a_failure() -> None:
    assert world("a", "b").script(a=DROP).call().sends == ["a@a", "b@b"]


# --- calls that create state -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [throttled(), NO_CONNECTION, Fail(FailureKind.TLS), Answer(401)], ids=repr
)
def test_a_call_that_creates_state_goes_on_if_it_was_not_taken(failure: Behaviour) -> None:
    trace = world("a", "b").script(a=failure).call(BACKGROUND, path=RESPONSES)
    assert trace.sends == ["a@a", "b@b"]


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_call_that_creates_state_is_not_repeated_after(status: int) -> None:
    trace = world("a", "b").script(a=Answer(status)).call(BACKGROUND, path=RESPONSES)
    assert trace.sends == ["a@a"]
    assert isinstance(trace.final, Return)
    assert trace.call.status == status


@pytest.mark.parametrize(
    ("failure", "status"), [(DROP, 502), (Hang(), 504), (Fail(FailureKind.PROTOCOL), 502)]
)
def test_a_call_that_creates_state_is_not_repeated_if_its_fate_is_unknown(
    failure: Behaviour, status: int
) -> None:
    here = world("a", "b").script(a=failure)
    trace = here.call(BACKGROUND, path=RESPONSES)
    assert trace.sends == ["a@a"]
    assert here.in_break("a") is None
    assert isinstance(trace.final, Reject)
    assert trace.call.status == status


def test_a_call_that_creates_state_goes_out_on_a_connection_that_cannot_have_been_idle() -> None:
    # On a reused one it would be unknown whether a drop came before or after the call was taken.
    trace = world("a", "b").script(a=[IDLE_CLOSED, OK]).call(BACKGROUND, path=RESPONSES)
    assert [send.fresh for send in trace.sent] == [True]


def test_a_stored_response_is_replayed_like_any_call() -> None:
    body = {"model": "gpt", "input": "hello", "store": True}
    assert world("a", "b").script(a=Answer(500)).call(body, path=RESPONSES).sends == ["a@a", "b@b"]


# --- whose credential --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_the_clients_own_token_refused_is_its_answer(status: int) -> None:
    here = world("a", "b").script(a=Answer(status, body=b"no"))
    trace = here.call(own_token=True)
    assert trace.sends == ["a@a"]
    assert isinstance(trace.final, Return)
    assert (trace.final.body, trace.call.status) == (b"no", status)
    assert here.in_break("a") is None


def test_our_key_refused_everywhere_is_no_401_for_the_client() -> None:
    here = world("a", "b").script(a=KEY_REFUSED, b=KEY_REFUSED)
    trace = here.call()
    assert (trace.error.status, trace.error.code) == (429, "all_backends_out")
    assert here.in_break("a") == pytest.approx(60, abs=0.5)
