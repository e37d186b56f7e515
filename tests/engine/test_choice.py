"""Which backends a call may go to at all: sizes, fractions, state, bounds, and others' say."""

from __future__ import annotations

from random import Random

import pytest

from aoai_gateway.config.models import Client, Priority
from aoai_gateway.config.priorities import MayUse
from aoai_gateway.engine.call import Outcome
from aoai_gateway.wire import errors
from tests.engine_driver import (
    OK,
    RESPONSES,
    Answer,
    Draws,
    Hang,
    Refuse,
    World,
    config,
    throttled,
    world,
)

# --- admission ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_body"),
        (b'{"messages":[]}', "missing_deployment"),
        (b'{"model":"gpt","model":"gpt","messages":[]}', "invalid_body"),
        (b'{"model":"unheard-of","messages":[]}', "DeploymentNotFound"),
    ],
)
def test_what_cannot_be_understood_is_rejected_at_once(body: bytes, code: str) -> None:
    trace = world("a").call(body)
    assert (trace.sends, trace.error.code) == ([], code)
    assert trace.call.outcome is Outcome.REJECTED
    assert trace.call.status == trace.error.status
    assert trace.call.error is trace.error


def test_a_deployment_that_is_not_allowed_is_a_403_naming_what_is() -> None:
    client = Client(name="narrow", key="key-of-narrow", deployments_allowed=("other",))
    trace = world("a").call(client=client)
    assert (trace.sends, trace.error.status) == ([], 403)
    assert "other" in trace.error.message


def test_an_unknown_deployment_shows_only_what_the_client_may_use() -> None:
    client = Client(name="narrow", key="key-of-narrow", deployments_allowed=())
    trace = world("a").call(model="unheard-of", client=client)
    assert trace.error.status == 404
    assert "gpt" not in trace.error.message.replace("unheard-of", "")


def test_a_call_keeps_the_configuration_that_it_began_with() -> None:
    here = world("a", "b").script(a=throttled())

    def reload(candidates):  # type: ignore[no-untyped-def]
        here.adopt(config("c", "d"))
        return candidates

    assert here.call(choose=reload).sends == ["a@a", "b@b"]
    assert here.call().sends == ["c@c"]


def test_breaks_survive_a_reload() -> None:
    here = world("a", "b").script(a=throttled())
    here.call()
    here.adopt(config("b", "a"))
    here.script(b=throttled(retry_after_ms="1"))
    assert here.call().sends == ["b@b"]


# --- calls that are too large ------------------------------------------------------------------------


def test_a_call_above_a_declared_limit_skips_that_backend() -> None:
    here = world(("small@a", {"tokens_per_minute": 1_000}), "large@b")
    assert here.call(max_tokens=2_000).sends == ["large@b"]
    assert here.call(max_tokens=500).sends == ["small@a"]


def test_a_call_above_every_declared_limit_says_so_and_is_not_to_be_repeated() -> None:
    trace = world(("small@a", {"tokens_per_minute": 1_000})).call(max_tokens=2_000)
    assert (trace.sends, trace.error.status, trace.error.code) == ([], 429, "larger_than_limits")
    assert "more than the whole limit of any backend" in trace.error.message
    assert dict(trace.error.headers)["x-should-retry"] == "false"


def test_every_completion_that_is_asked_for_counts() -> None:
    here = world(("small@a", {"tokens_per_minute": 1_000}), "large@b")
    assert here.call(max_tokens=400, n=3).sends == ["large@b"]


def test_attachments_are_not_taken_for_text() -> None:
    # Azure counts an image by its size in pixels, at most some thousand tokens.
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 100_000}}
    here = world(("small@a", {"tokens_per_minute": 50_000}), "large@b")
    assert here.call(messages=[{"role": "user", "content": [image]}]).sends == ["small@a"]
    for text in ("to be or not to be " * 40_000, "不是問題" * 100_000):
        assert here.call(messages=[{"role": "user", "content": text}]).sends == ["large@b"]


LIMITS = {"x_ratelimit_limit_tokens": "1000", "retry_after": "30"}


def test_a_throttled_call_above_the_limit_it_is_told_breaks_nothing() -> None:
    here = world("a", "b").script(a=throttled(**LIMITS))
    trace = here.call(max_tokens=2_000)
    assert trace.sends == ["a@a", "b@b"]
    assert here.in_break("a") is None
    assert trace.call.attempts[0].break_seconds is None


def test_a_throttled_call_within_the_limit_opens_a_break() -> None:
    here = world("a", "b").script(a=throttled(**LIMITS))
    here.call(max_tokens=500)
    assert here.in_break("a") == pytest.approx(30, abs=2)


def test_a_refusal_in_the_stream_names_limits_too() -> None:
    limits = {"x-ratelimit-limit-tokens": "1000"}
    here = world("a", "b").script(a=Refuse(headers=limits))
    assert here.call(max_tokens=2_000, stream=True).sends == ["a@a", "b@b"]
    assert here.in_break("a") is None


def test_too_large_for_all_learned_limits_is_told_as_such() -> None:
    trace = world("a").script(a=throttled(**LIMITS)).call(max_tokens=2_000)
    assert trace.error.code == "larger_than_limits"
    assert "2,00" in trace.error.message
    assert dict(trace.error.headers) == {"x-should-retry": "false"}


# --- non_streaming_fraction --------------------------------------------------------------------------


def reserved(*draws: float) -> World:
    return World(config(("ptu@a", {"non_streaming_fraction": 0.3}), "paygo@b"), random=Draws(draws))


@pytest.mark.parametrize(("draw", "first"), [(0.29, "ptu@a"), (0.3, "paygo@b"), (0.0, "ptu@a")])
def test_the_fraction_is_the_chance_of_a_call_that_does_not_stream(draw: float, first: str) -> None:
    assert reserved(draw).call().sends == [first]


def test_streaming_calls_do_not_draw() -> None:
    assert reserved().call(stream=True).sends == ["ptu@a"]


def test_it_is_drawn_once_per_call_and_not_per_attempt() -> None:
    here = reserved(0.9).script(b=Answer(500, body=b"x"))
    trace = here.call()
    assert trace.sends == ["paygo@b"]
    assert trace.call.status == 500


def test_a_fraction_of_nothing_takes_no_call() -> None:
    here = World(config(("ptu@a", {"non_streaming_fraction": 0}), "paygo@b"), random=Random(5))
    assert {here.call().sends[0] for _ in range(50)} == {"paygo@b"}


def test_about_as_many_calls_as_it_says() -> None:
    here = World(config(("ptu@a", {"non_streaming_fraction": 0.3}), "paygo@b"), random=Random(7))
    share = [here.call().sends[0] for _ in range(2_000)].count("ptu@a") / 2_000
    assert share == pytest.approx(0.3, abs=0.04)


# --- affinity ----------------------------------------------------------------------------------------


def first_response(here: World) -> None:
    here.script(a=throttled(), b=Answer(response_id="resp_1"))
    assert here.call({"model": "gpt", "input": "hi"}, path=RESPONSES).sends == ["a@a", "b@b"]
    here.now += 100


CONTINUED = {"model": "gpt", "input": "go on", "previous_response_id": "resp_1"}


def test_a_conversation_goes_on_where_it_is_held() -> None:
    here = world("a", "b")
    first_response(here)
    here.script(a=OK)
    assert here.call(CONTINUED, path=RESPONSES).sends == ["b@b"]


def test_a_conversation_waits_for_its_home() -> None:
    here = world("a", "b", "c")
    first_response(here)
    here.script(a=OK, b=throttled(retry_after="7"))
    trace = here.call(CONTINUED, path=RESPONSES)
    assert trace.sends == ["b@b"]
    assert trace.error.code == "all_backends_out"
    assert dict(trace.error.headers)["retry-after"] == "7"
    assert "held at b" in trace.error.message


def test_all_standins_at_home_may_continue() -> None:
    here = world("a", "x@b", "y@b")
    here.script(a=throttled(), x_at_b=Answer(response_id="resp_1"))
    here.call({"model": "gpt", "input": "hi"}, path=RESPONSES)
    here.script(x_at_b=throttled())
    assert here.call(CONTINUED, path=RESPONSES).sends == ["x@b", "y@b"]


def test_an_unknown_conversation_takes_its_chance() -> None:
    assert world("a", "b").call(CONTINUED, path=RESPONSES).sends == ["a@a"]


def test_a_home_that_left_the_pool_is_no_home() -> None:
    here = world("a", "b")
    first_response(here)
    here.adopt(config("a", "c"))
    here.script(a=OK)
    assert here.call(CONTINUED, path=RESPONSES).sends == ["a@a"]


def test_an_answer_that_broke_off_makes_no_backend_a_home() -> None:
    here = world("a", "b").script(a=throttled(), b=Answer(response_id="resp_1", complete=False))
    here.call({"model": "gpt", "input": "hi"}, path=RESPONSES)
    assert here.engine.affinity.home("resp_1", here.now) is None


def test_only_what_can_be_continued_is_remembered() -> None:
    here = world("a").script(a=Answer(response_id="chatcmpl-1"))
    here.call()
    assert here.engine.affinity.home("chatcmpl-1", here.now) is None


# --- bounds ------------------------------------------------------------------------------------------


def test_the_number_of_attempts_is_bounded() -> None:
    names = [f"e{n}" for n in range(8)]
    here = world(*names, replay={"max_attempts": 3}).script(**dict.fromkeys(names, throttled()))
    trace = here.call()
    assert len(trace.sends) == 3
    assert trace.error.code == "all_backends_out"


def test_the_time_for_all_attempts_is_bounded() -> None:
    slow = Answer(429, after=50)
    here = world("a", "b", "c", "d", replay={"max_seconds": 120}).script(a=slow, b=slow, c=slow, d=slow)
    assert here.call().sends == ["a@a", "b@b", "c@c"]


def test_the_first_attempt_is_made_with_any_bounds() -> None:
    assert world("a", replay={"max_seconds": 0.001, "max_attempts": 1}).call().sends == ["a@a"]


# --- all are out -------------------------------------------------------------------------------------


def test_all_out_tells_the_smallest_remaining_break_and_every_reason() -> None:
    here = world("a", "b").script(a=throttled(retry_after="30"), b=throttled(retry_after="3"))
    trace = here.call()
    assert (trace.error.status, trace.call.outcome) == (429, Outcome.BACKENDS_OUT)
    assert dict(trace.error.headers) == {"retry-after-ms": "3000", "retry-after": "3"}
    assert "a@a: 429" in trace.error.message
    assert "b@b: 429" in trace.error.message
    for secret in ("key-of", "https", "example"):
        assert secret not in trace.error.message


def test_all_out_from_the_start_sends_nothing() -> None:
    here = world("a").script(a=throttled(retry_after="9"))
    here.call()
    here.now += 4
    trace = here.call()
    assert trace.sends == []
    assert dict(trace.error.headers)["retry-after-ms"] == "5000"
    assert [skip.backend.name for skip in trace.call.skipped] == ["a@a"]


def test_a_backend_whose_break_has_ended_meanwhile_can_be_asked_at_once() -> None:
    here = world("a", "b").script(a=throttled(retry_after_ms="1"), b=Answer(429, after=5))
    trace = here.call()
    assert here.in_break("a") is None
    assert dict(trace.error.headers) == {"retry-after-ms": "1", "retry-after": "1"}


def test_an_empty_pool_is_out() -> None:
    here = world(("a", {"enabled": False}))
    assert here.call().error.code == "all_backends_out"


# --- what others want --------------------------------------------------------------------------------


def test_others_may_reorder() -> None:
    trace = world("a", "b").call(choose=lambda candidates: candidates[::-1])
    assert trace.sends == ["b@b"]


def test_others_may_veto() -> None:
    trace = world("a", "b").call(choose=lambda candidates: [b for b in candidates if b.name != "a@a"])
    assert trace.sends == ["b@b"]


def test_they_are_asked_before_every_attempt() -> None:
    asked: list[list[str]] = []

    def choose(candidates):  # type: ignore[no-untyped-def]
        asked.append([b.name for b in candidates])
        return candidates

    world("a", "b").script(a=throttled()).call(choose=choose)
    assert asked == [["a@a", "b@b"], ["b@b"]]


def test_they_may_refuse() -> None:
    trace = world("a").call(choose=lambda _: errors.forbidden("Not today."))
    assert (trace.sends, trace.error.status, trace.call.outcome) == ([], 403, Outcome.REJECTED)


def test_a_veto_of_all_is_all_out() -> None:
    trace = world("a").call(choose=lambda _: [])
    assert (trace.sends, trace.error.code) == ([], "all_backends_out")


def test_they_cannot_bring_back_what_was_tried_or_is_out() -> None:
    here = world("a", "b").script(a=throttled())
    both = here.setup.table.backends
    assert here.call(choose=lambda _: both).sends == ["a@a", "b@b"]


# --- the client hangs up -----------------------------------------------------------------------------


@pytest.mark.parametrize("gone_at", range(6))
def test_a_client_that_hangs_up_ends_the_call(gone_at: int) -> None:
    # Choose, Send, Drain, (Announce,) Choose, Send, Deliver
    here = world("a", "b").script(a=throttled())
    points = [0, 1, 2, 4, 5, 6]
    trace = here.call(choose=lambda candidates: candidates, gone_at=points[gone_at])
    assert trace.gone
    assert trace.call.outcome is Outcome.CLIENT_GONE
    assert len(trace.effects) == points[gone_at] + 1
    assert here.in_break("b") is None


def test_a_client_that_hangs_up_during_a_hang_breaks_nothing() -> None:
    here = world("a", "b").script(a=Hang())
    here.call(stream=True, gone_at=0)
    assert here.in_break("a") is None


def test_a_client_that_hangs_up_during_the_resend() -> None:
    from tests.engine_driver import IDLE_CLOSED

    trace = world("a", "b").script(a=IDLE_CLOSED).call(gone_at=1)
    assert trace.sends == ["a@a", "a@a"]
    assert trace.call.outcome is Outcome.CLIENT_GONE


def test_a_fraction_does_not_keep_a_call_from_its_home() -> None:
    here = World(config(("ptu@a", {"non_streaming_fraction": 0.3}), "paygo@b"), random=Draws([0.9, 0.9]))
    here.engine.affinity.remember("resp_1", "a", here.now)
    assert here.call(CONTINUED, path=RESPONSES).sends == ["ptu@a"]


def test_a_fraction_does_not_keep_a_class_from_the_only_ones_that_it_may_use() -> None:
    configuration = config(
        ("paygo@a", {"non_streaming_fraction": 0.3}),
        ("ptu@b", {"provisioned": True}),
        priorities=(Priority(name="low", may_use=MayUse(provisioned=False)),),
    )
    assert World(configuration, random=Draws([0.9])).call().sends == ["paygo@a"]


def test_who_does_not_wait_is_not_told_that_its_time_in_line_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world("a")

    def slowly(now: float) -> list[object]:
        here.now += 0.002  # as long as it takes
        return []

    monkeypatch.setattr(here.engine.scheduler, "is_free", lambda _: False)
    monkeypatch.setattr(here.engine.scheduler, "serve_waiting", slowly)
    trace = here.call()
    assert (trace.sends, trace.error.code) == ([], "all_backends_out")
