"""Failed attempts as flows of their own, and the calls of one conversation."""

from __future__ import annotations

from mitmproxy.addons.view import View
from mitmproxy.test import taddons, tflow

from aoai_gateway.inspect import inspector
from aoai_gateway.inspect.inspector import Conversations, attempt_flow
from aoai_gateway.runtime.stream_hooks import AttemptFailed
from tests.engine_driver import NO_CONNECTION, OK, RESPONSES, Answer, World, world


def test_failed_attempts_stand_below_their_call_when_calls_overlap() -> None:
    call = world("a", "b", "c").script(a=NO_CONNECTION, b=NO_CONNECTION, c=OK).call().call
    view = View()
    with taddons.context(view):
        own, other = tflow.tflow(), tflow.tflow()
        other.timestamp_created = own.timestamp_created + 0.5
        view.add([own, other])
        failed = [
            attempt_flow(AttemptFailed(own, call, attempt, own.request.copy(), None, own.server_conn))
            for attempt in call.attempts[:2]
        ]
        view.add([failed[0]])
        view.add([failed[1]])
        assert list(view) == [own, *failed, other]


def named(known: Conversations, at: World, answer: str = "", **how: object) -> str | None:
    at.script(a=Answer(response_id=answer or None))
    return known.of(at.call(**how).call)  # type: ignore[arg-type]  # as `World.call` takes them


def test_a_chain_of_responses_is_one_conversation() -> None:
    known, at = Conversations(), world("a")
    chain = [
        named(known, at, "resp_1", path=RESPONSES),
        named(known, at, "resp_2", path=RESPONSES, previous_response_id="resp_1"),
        named(known, at, "resp_3", path=RESPONSES, previous_response_id="resp_2"),
    ]
    assert chain == ["resp_1"] * 3
    assert named(known, at, "resp_9", path=RESPONSES) == "resp_9"


def test_a_chain_whose_begin_is_forgotten() -> None:
    known, at = Conversations(), world("a")
    assert named(known, at, "resp_2", path=RESPONSES, previous_response_id="resp_1") == "resp_1"
    assert named(known, at, "resp_3", path=RESPONSES, previous_response_id="resp_2") == "resp_1"


def test_what_the_client_says() -> None:
    known, at = Conversations(), world("a")
    assert named(known, at, prompt_cache_key="agent-7") == "agent-7"
    assert named(known, at, headers={"session-id": "s-1"}, prompt_cache_key="agent-7") == "s-1"
    assert named(known, at, "resp_1", path=RESPONSES, prompt_cache_key="agent-8") == "agent-8"
    assert named(known, at, "resp_2", path=RESPONSES, previous_response_id="resp_1") == "agent-8"


def test_a_chat_without_a_name_has_none() -> None:
    known, at = Conversations(), world("a")
    assert named(known, at, "chatcmpl-1") is None
    assert known.of(at.call(b"{").call) is None


def test_a_name_cannot_look_like_other_metadata() -> None:
    known, at = Conversations(), world("a")
    assert named(known, at, prompt_cache_key="x\ngateway_client: Boss") == "x gateway_client: Boss"
    assert len(named(known, at, prompt_cache_key="x" * 999) or "") == inspector.LONGEST_CONVERSATION


def test_memory_is_bounded(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(inspector, "MOST_RESPONSES", 2)
    known, at = Conversations(), world("a")
    for number in range(4):
        named(known, at, f"resp_{number}", path=RESPONSES, prompt_cache_key="k")
    assert len(known._of_response) == 2
