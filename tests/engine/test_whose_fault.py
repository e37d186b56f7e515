"""One client cannot take a backend from the others: not by content, not by impatience, not by leaving."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.effects import Return, Send
from tests.engine_driver import (
    DROP,
    KEY_REFUSED,
    NO_CONNECTION,
    OK,
    Answer,
    Behaviour,
    Fail,
    Hang,
    World,
    throttled,
    world,
)

ANN, BOB = (Client(name=name, key=f"key-of-{name}") for name in ("ann", "bob"))
HTML = Answer(
    403, body=b"<html><head><title>403 Forbidden</title></head><body>Request blocked.</body></html>"
)
JSON = Answer(
    403, body=b'{"error":{"code":"403","message":"Blocked: Access denied due to invalid subscription key"}}'
)
CAUSABLE: list[Behaviour] = [
    HTML,
    JSON,
    DROP,
    Hang(),
    Fail(FailureKind.PROTOCOL),
    *(Answer(status) for status in (401, 408, 500, 502, 503, 504)),
]


def pool(*backends: str) -> World:
    return world(*backends, clients=(ANN, BOB), endpoint={"connections": {"timeouts": {"read": 20}}})


@pytest.mark.parametrize("failure", CAUSABLE, ids=repr)
def test_what_one_clients_calls_may_cause_breaks_nothing_for_others(failure: Behaviour) -> None:
    here = pool("a", "b").script(a=failure)
    for n in range(6):
        assert here.call(client=ANN, user=str(n), stream=True).call.status == 200
    assert here.in_break("a") is None
    here.script(a=OK)
    assert here.call(client=BOB).sends == ["a@a"]


@pytest.mark.parametrize("failure", CAUSABLE, ids=repr)
def test_another_clients_call_that_fails_the_same_way_confirms_it(failure: Behaviour) -> None:
    here = pool("a", "b").script(a=failure)
    here.call(client=ANN, stream=True)
    here.call(client=BOB, stream=True)
    assert here.in_break("a") is not None
    assert here.call(client=BOB, user="next").sends == ["b@b"]


def test_a_client_whose_calls_all_fail_at_a_backend_is_sent_elsewhere() -> None:
    here = pool("a", "b").script(a=Answer(500))
    here.call(client=ANN, user="1")
    here.call(client=ANN, user="2")
    trace = here.call(client=ANN, user="3")
    assert trace.sends == ["b@b"]
    assert [skip.reason for skip in trace.call.skipped] == ["500 some_code (for calls of ann only)"]


def test_a_gateway_with_one_client_needs_a_call_with_other_content() -> None:
    here = world("a", "b").script(a=Answer(500))
    here.call()
    here.call()
    assert here.in_break("a") is None, "the same call again"
    here.call(user="other")
    assert here.in_break("a") is not None


def test_an_answer_in_between_refutes_a_suspicion() -> None:
    here = pool("a", "b").script(a=[Answer(500), OK, Answer(500)])
    here.call(client=ANN)
    here.now += 1
    here.call(client=BOB)
    here.now += 1
    here.call(client=BOB, user="other")
    assert here.in_break("a") is None


def test_a_prompt_that_every_firewall_blocks_gets_the_firewalls_answer() -> None:
    here = pool("a", "b", "c").script(a=HTML, b=HTML, c=HTML)
    trace = here.call(client=ANN)
    assert isinstance(trace.final, Return)
    assert (trace.sends, trace.call.status) == (["a@a", "b@b"], 403)
    assert [here.in_break(name) for name in "abc"] == [None, None, None]


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (KEY_REFUSED, 60),
        (
            Answer(
                403,
                body=b'{"error":{"code":"403","message":"Access denied due to Virtual Network rules."}}',
            ),
            60,
        ),
        (Answer(401, body=b'{"error":{"code":"PermissionDenied","message":"no"}}'), 60),
        (
            Answer(
                401, body=b'{"statusCode":401,"message":"Access denied due to missing subscription key."}'
            ),
            60,
        ),
        (NO_CONNECTION, 10),
        (Fail(FailureKind.TLS), 10),
        (throttled(), 10),
        (Answer(503, headers={"retry-after": "4"}), 4),
    ],
    ids=repr,
)
def test_what_no_call_can_cause_breaks_at_once(failure: Behaviour, seconds: float) -> None:
    here = pool("a", "b").script(a=failure)
    here.call(client=ANN)
    assert here.in_break("a") == pytest.approx(seconds, abs=1.5)


def test_a_probe_after_a_proven_failure_needs_no_witness() -> None:
    here = pool("a", "b").script(a=[NO_CONNECTION, Answer(502)])
    here.call(client=ANN)
    here.now += 11
    assert here.call(client=ANN).sends == ["a@a", "b@b"]
    assert here.in_break("a") == pytest.approx(10, abs=1.5)


# --- impatience --------------------------------------------------------------------------------------


def test_a_deadline_that_the_client_chose_is_held_against_no_backend() -> None:
    here = pool("a", "b").script(a=Hang())
    for n, client in enumerate((ANN, BOB) * 3):
        here.call(client=client, stream=True, user=str(n), headers={"x-stainless-read-timeout": "0.05"})
    assert here.in_break("a") is None


def test_a_client_that_leaves_takes_its_suspicions_with_it() -> None:
    here = pool("a", "b").script(a=Answer(500))
    second = [n for n, (_, e) in enumerate(here.call(client=ANN).effects) if isinstance(e, Send)][1]
    here = pool("a", "b").script(a=Answer(500))
    assert here.call(client=ANN, gone_at=second).gone
    here.call(client=BOB)
    assert here.in_break("a") is None
