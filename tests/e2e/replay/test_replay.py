"""Which backend is asked next, what a break is worth, and what is said when all are out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, NamedTuple

import openai
import pytest

from tests.e2e.conftest import Sdk
from tests.e2e.processes import Answer, eventually
from tests.e2e.replay.stage import (
    DEFAULT_BREAK_SECONDS,
    ERROR_BODY_SECONDS,
    LONGEST_BREAK_SECONDS,
    PAYGO,
    PROMPT,
    PTU,
    SPARE,
    TEXT,
    Caller,
    Lane,
    Stage,
    chat,
    events_of,
    text_of,
    where,
)

ALL = (PTU, PAYGO, SPARE)
RESPONSES = "/openai/v1/responses"


class Timed(NamedTuple):
    """An answer, and the seconds that a caller spent on it."""

    answer: Answer
    seconds: float


def timed(call: Callable[[], Answer]) -> Timed:
    """Have an answer, and know by how much its hints may be shorter than those of a backend."""
    begun = time.monotonic()
    return Timed(call(), time.monotonic() - begun)


def check_hint(told: Timed, seconds: float, slack: float = 0.0) -> None:
    """See that an answer says when a break of so many seconds ends, which began during its call."""
    headers = told.answer.headers
    milliseconds = int(headers["retry-after-ms"])
    assert 1000 * (seconds - told.seconds - slack) - 1 <= milliseconds <= 1000 * seconds
    assert headers["retry-after"] == str(math.ceil(milliseconds / 1000))
    assert "x-should-retry" not in headers


def fail(stage: Stage, kind: str, *backends: str, times: int = 1, **how: Any) -> None:
    for backend in backends:
        stage.fault(kind, backend, times=times, **how)


def check(answer: Answer, backend: str, attempts: int) -> None:
    assert text_of(answer) == TEXT
    assert (where(answer.headers), answer.headers["x-gateway-attempts"]) == (backend, str(attempts))


@pytest.mark.each_host
class TestOrder:
    def test_to_the_next_standin_then_to_the_next_endpoint(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        fail(stage, "429", PTU, PAYGO)
        check(caller.chat(lane, stream=streaming), SPARE, 3)
        assert stage.asked() == [PTU, PAYGO, SPARE]

    @pytest.mark.parametrize("kind", ["429", "429-late-body", "500"])
    def test_a_standin_of_the_same_endpoint_gets_the_same_connection(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool, kind: str
    ) -> None:
        """The failed answer runs out first, so that its connection can be used again."""
        fail(stage, kind, PTU)
        check(caller.chat(lane, stream=streaming), PAYGO, 2)
        # A 500 may be the call's own fault, so it breaks nothing for the next one.
        check(caller.chat(lane, stream=streaming), PTU if kind == "500" else PAYGO, 1)
        assert len({entry["connection"] for entry in stage.entries()}) == 1

    def test_a_failed_answer_that_is_too_long_costs_its_connection(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        fail(stage, "huge-error-body", PTU)
        check(caller.chat(lane), PAYGO, 2)
        first, second = stage.entries()
        assert first["connection"] != second["connection"]

    def test_an_answer_that_does_not_end_is_not_waited_for(
        self, stage: Stage, caller: Caller, streaming: bool
    ) -> None:
        """Its status says all that is needed; for its body there is a limit of time."""
        stage.scripted.answers(b"HTTP/1.1 429 Too Many\r\ncontent-length: 100\r\n\r\n{")
        begun = time.monotonic()
        check(caller.chat(stage.lane("scripted"), stream=streaming), SPARE, 2)
        assert time.monotonic() - begun >= ERROR_BODY_SECONDS

    def test_a_late_body_is_waited_for(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """It holds the code for log and record."""
        fail(stage, "429-late-body", PTU, body_seconds=0.3)
        check(caller.chat(lane), PAYGO, 2)
        first, second = stage.entries()
        assert second["received_at"] - first["answered_at"] >= 0.3
        assert stage.record(lane)["attempts"][0]["reason"] == "429 RateLimitReached"

    def test_with_the_same_prompt_and_another_key(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        fail(stage, "429", PTU, PAYGO)
        caller.chat(lane)
        entries = stage.entries()
        assert len({entry["body_sha256"] for entry in entries}) == 1
        keys = stage.simulator.keys
        sent = [entry["headers"]["api-key"] for entry in entries]
        assert sent == [keys["west"], keys["west"], keys["east"]]


class TestBreaks:
    @pytest.mark.each_host
    def test_what_has_failed_is_skipped_until_its_break_is_over(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        begun = time.monotonic()
        fail(stage, "429", PTU, retry_after_seconds=3)
        check(caller.chat(lane), PAYGO, 2)
        check(stage.caller().chat(lane), PAYGO, 1)
        eventually(lambda: where(caller.chat(lane).headers) == PTU, "the PTU is back")
        assert time.monotonic() - begun > 2.9

    @pytest.mark.each_host
    def test_the_same_connection_uses_a_recovered_backend(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        """A refused connect must not be remembered for as long as the client stays connected."""
        stage.simulator.control("POST", "listening", {"endpoint": "east", "on": False})
        fail(stage, "429", PTU, PAYGO, retry_after_seconds=0.3)
        refused = caller.chat(lane, stream=streaming)
        assert (refused.status, refused.json()["error"]["code"]) == (429, "all_backends_out")
        stage.simulator.control("POST", "listening", {"endpoint": "east", "on": True})
        sock = caller.http.sock
        # The default break is over when SPARE, third in line, answers again.
        fail(stage, "429", PTU, PAYGO, times=-1, retry_after_seconds=0.2)
        eventually(lambda: caller.chat(lane, stream=streaming).status == 200, "it is back")
        assert caller.http.sock is sock
        assert stage.asked()[-1] == SPARE

    def test_a_refusal_of_our_key_breaks_the_endpoint(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        fail(stage, "401", PTU)
        check(caller.chat(lane), SPARE, 2)
        check(caller.chat(lane), SPARE, 1)
        assert stage.asked() == [PTU, SPARE, SPARE]
        assert stage.record(lane, 2)["attempts"][0]["break_ms"] is None
        assert "refuses the gateway's own credential" in stage.gateway.log

    @pytest.mark.parametrize("kind", ["408", "500", "502", "503", "504"])
    def test_a_call_that_breaks_two_backends_is_to_blame_itself(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool, kind: str
    ) -> None:
        fail(stage, kind, *ALL)
        answer = caller.chat(lane, stream=streaming)
        assert answer.status == int(kind)
        assert answer.json()["error"]["type"] == "server_error"
        assert (where(answer.headers), answer.headers["x-gateway-attempts"]) == (SPARE, "3")
        check(caller.chat(lane, stream=streaming), PTU, 1)
        assert stage.asked() == [*ALL, PTU]
        record = stage.record(lane, 2)
        assert record["outcome"] == "ok"

    def test_an_endpoint_that_fails_one_call_is_replaced_for_that_call(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        fail(stage, "500", PTU, PAYGO)
        check(caller.chat(lane, stream=streaming), SPARE, 3)
        check(caller.chat(lane, stream=streaming), PTU, 1)
        assert stage.asked() == [*ALL, PTU]

    def test_a_call_that_two_backends_do_not_answer(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        fail(stage, "hang", *ALL)
        answer = caller.chat(lane, stream=streaming, seconds=0.4)
        assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        check(caller.chat(lane, stream=streaming), PTU, 1)

    def test_a_call_that_two_backends_hang_up_on(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        fail(stage, "reset", *ALL)
        answer = caller.chat(lane, stream=streaming)
        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_disconnected")
        check(caller.chat(lane, stream=streaming), PTU, 1)

    def test_different_failures_of_one_call_break_nothing_for_the_next(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        fail(stage, "500", PTU)
        fail(stage, "503", PAYGO)
        check(caller.chat(lane), SPARE, 3)
        check(caller.chat(lane), PTU, 1)

    def test_background_responses_are_not_created_twice(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        """A 500 may come after the response was stored; only what was certainly refused is sent again."""
        body = {"model": lane.deployment, "input": PROMPT, "background": True}
        fail(stage, "500", PTU)
        answer = caller.post(RESPONSES, body)
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (500, "1")
        assert stage.asked() == [PTU]

    def test_background_responses_are_sent_elsewhere_when_refused(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        body = {"model": lane.deployment, "input": PROMPT, "background": True}
        fail(stage, "429", PTU)
        answer = caller.post(RESPONSES, body)
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (200, "2")

    def test_plain_responses_are(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        fail(stage, "500", PTU)
        answer = caller.post(RESPONSES, {"model": lane.deployment, "input": PROMPT})
        assert (answer.status, answer.headers["x-gateway-attempts"]) == (200, "2")


class TestAllOut:
    def test_the_smallest_remaining_break_is_said(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        for backend, seconds in ((PTU, 40), (PAYGO, 7), (SPARE, 20)):
            fail(stage, "429", backend, retry_after_seconds=seconds)
        told = timed(lambda: caller.chat(lane, stream=streaming))
        answer, error = told.answer, told.answer.json()["error"]
        assert (answer.status, error["code"]) == (429, "all_backends_out")
        assert answer.headers["content-type"] == "application/json"
        check_hint(told, 7)
        for backend in ALL:
            assert f"{backend}-{lane.deployment}: 429 RateLimitReached" in error["message"]
        for secret in (*stage.simulator.keys.values(), *stage.simulator.urls.values()):
            assert secret.removeprefix("http://") not in error["message"]
        assert stage.asked() == list(ALL)

        again = caller.chat(lane, stream=streaming)
        assert again.status == 429
        assert int(again.headers["retry-after-ms"]) < int(answer.headers["retry-after-ms"])
        assert again.headers.get("x-gateway-attempts", "0") == "0"
        assert stage.asked() == list(ALL)  # no backend was asked in vain
        record = stage.record(lane, 2)
        assert (record["outcome"], record["status"], record["attempts"]) == ("backends_out", 429, [])

    def test_a_break_of_less_than_a_second_is_still_a_hint(
        self, stage: Stage, lane: Lane, caller: Caller
    ) -> None:
        fail(stage, "429", *ALL, retry_after_seconds=0.9)
        told = timed(lambda: caller.chat(lane))
        check_hint(told, 0.9)
        assert int(told.answer.headers["retry-after-ms"]) >= 1

    @pytest.mark.each_host
    def test_an_sdk_comes_back_in_time(self, stage: Stage, lane: Lane, sdk: Sdk) -> None:
        fail(stage, "429", *ALL, retry_after_seconds=0.6)
        begun = time.monotonic()
        client = sdk(stage.gateway, "azure", max_retries=1)
        answer = client.chat.completions.create(
            model=lane.deployment, messages=[{"role": "user", "content": PROMPT}]
        )
        assert answer.choices[0].message.content == TEXT
        assert time.monotonic() - begun > 0.4
        assert stage.asked() == [*ALL, PTU]
        assert stage.record(lane, 2)["client_retry"] == 1

    def test_an_sdk_raises_what_it_should(self, stage: Stage, lane: Lane, sdk: Sdk) -> None:
        fail(stage, "429", *ALL, retry_after_seconds=5)
        with pytest.raises(openai.RateLimitError) as limited:
            sdk(stage.gateway, "v1").chat.completions.create(
                model=lane.deployment, messages=[{"role": "user", "content": PROMPT}], stream=True
            )
        assert limited.value.code == "all_backends_out"


class TestHints:
    """How long a break is, by what the backend says: a lane with a single backend tells."""

    FORMS: Mapping[str, tuple[str, float]] = {
        "milliseconds": ("retry-after-ms: 2500\nretry-after: 9", 2.5),
        "seconds": ("retry-after: 4", 4),
        "fractions": ("retry-after: 4.5", 4.5),
        "tokens reset": ("x-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 33", 33),
        "requests reset": ("x-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 12", 12),
        "zero": (
            "retry-after-ms: 0\nretry-after: 1\nx-ratelimit-remaining-tokens: 0\n"
            "x-ratelimit-renewalperiod-tokens: 42",
            42,
        ),
        "nothing": ("", DEFAULT_BREAK_SECONDS),
        "nonsense": ("retry-after: soon\nretry-after-ms: NaN", DEFAULT_BREAK_SECONDS),
        "too soon": ("retry-after-ms: 10", 0.2),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, stage: Stage, caller: Caller, form: str) -> None:
        headers, seconds = self.FORMS[form]
        stage.scripted.answers_with("429 Too Many Requests", headers)
        self.check(timed(lambda: caller.chat(stage.lane("solo"))), seconds)

    def test_date(self, stage: Stage, caller: Caller) -> None:
        date = formatdate(time.time() + 20, usegmt=True)
        stage.scripted.answers_with("429 Too Many Requests", f"retry-after: {date}")
        # A date is whole seconds of the wall's clock, and was made before the call.
        self.check(timed(lambda: caller.chat(stage.lane("solo"))), 20, slack=5)

    def test_in_the_message_alone(self, stage: Stage, caller: Caller) -> None:
        body = b'{"error":{"code":"429","message":"Slow down. Try again in 17 seconds."}}'
        stage.scripted.answers_with("429 Too Many Requests", body=body)
        self.check(timed(lambda: caller.chat(stage.lane("solo"))), 17)

    @pytest.mark.parametrize(
        ("hint", "seconds"), [("retry-after: 75", 75), ("retry-after: 86400", LONGEST_BREAK_SECONDS)]
    )
    def test_longer_than_an_sdk_honours(
        self, stage: Stage, caller: Caller, hint: str, seconds: float
    ) -> None:
        """Beyond a minute SDKs would come back within seconds; they are told not to."""
        stage.scripted.answers_with("429 Too Many Requests", hint)
        answer, took = timed(lambda: caller.chat(stage.lane("solo")))
        assert (answer.status, answer.json()["error"]["code"]) == (429, "all_backends_out")
        assert seconds - took <= int(answer.headers["retry-after"]) <= seconds
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after-ms" not in answer.headers

    def test_an_sdk_does_not_come_back_too_early(self, stage: Stage, sdk: Sdk) -> None:
        stage.scripted.answers_with("429 Too Many Requests", "retry-after: 75")
        client = sdk(stage.gateway, "azure", max_retries=3)
        lane = stage.lane("solo")
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**chat(), model=lane.deployment)
        assert len(stage.records(lane)) <= 1
        assert stage.record(lane)["client_retry"] == 0

    def test_of_a_503(self, stage: Stage, caller: Caller) -> None:
        lane = stage.lane("scripted")
        stage.scripted.answers_with("503 Unavailable", "retry-after: 23")
        caller.chat(lane)
        assert stage.record(lane)["attempts"][0]["break_ms"] == 23_000

    def check(self, told: Timed, seconds: float, slack: float = 0.0) -> None:
        assert (told.answer.status, told.answer.json()["error"]["code"]) == (429, "all_backends_out")
        check_hint(told, seconds, slack)

    @pytest.mark.parametrize(
        ("kind", "seconds"),
        [("429-ms-zero", 60), ("429-no-hints", 60)],
    )
    def test_of_captured_answers(
        self, stage: Stage, lane: Lane, caller: Caller, kind: str, seconds: float
    ) -> None:
        fail(stage, kind, *ALL)
        self.check(timed(lambda: caller.chat(lane)), seconds)


class TestRefusedInA200:
    """Azure has been seen to refuse a call in a stream that had begun with 200."""

    @pytest.mark.each_host
    def test_in_chat(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        fail(stage, "in-200-refusal", PTU)
        answer = caller.chat(lane, stream=True)
        check(answer, PAYGO, 2)
        assert b"error" not in answer.body
        attempt = stage.record(lane)["attempts"][0]
        assert attempt["failure"] == "refused in stream"
        assert attempt["reason"] == "refused in its stream: rate_limit_exceeded"
        assert attempt["break_ms"] == 4000

    @pytest.mark.parametrize("order", ["error-first", "failed-first"])
    @pytest.mark.parametrize("big", [False, True], ids=["small", "big"])
    @pytest.mark.parametrize("seconds", [0, 0.3], ids=["at once", "later"])
    def test_in_responses(
        self, stage: Stage, lane: Lane, caller: Caller, order: str, big: bool, seconds: float
    ) -> None:
        fail(stage, "in-200-refusal", PTU, order=order, big=big, seconds=seconds)
        body = {"model": lane.deployment, "input": PROMPT, "stream": True}
        answer = caller.post(RESPONSES, body)
        assert answer.headers["x-gateway-attempts"] == "2"
        events = [json.loads(data) for data in events_of(answer.body) if data != "[DONE]"]
        types = [event["type"] for event in events]
        assert types.count("response.created") == 1
        assert types[-1] == "response.completed"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert not {"error", "response.failed"} & set(types)
        assert stage.asked() == [PTU, PAYGO]

    def test_by_all(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """Then it is what it would have been: a 429."""
        fail(stage, "in-200-refusal", *ALL, retry_after=6)
        told = timed(lambda: caller.chat(lane, stream=True))
        assert (told.answer.status, told.answer.json()["error"]["code"]) == (429, "all_backends_out")
        check_hint(told, 6)

    def test_without_a_hint(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """Then x-ratelimit-reset-tokens counts, which says 64 s."""
        fail(stage, "in-200-refusal", *ALL, retry_after=0)
        answer, took = timed(lambda: caller.chat(lane, stream=True))
        assert 64 - took <= int(answer.headers["retry-after"]) <= 64

    def test_the_connection_is_given_up(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """Nothing of the refused stream gets into the next."""
        fail(stage, "in-200-refusal", PTU)
        check(caller.chat(lane, stream=True), PAYGO, 2)
        check(caller.chat(lane, stream=True), PAYGO, 1)


@pytest.mark.each_host
class TestUsageRecord:
    def test_of_a_call_that_was_replayed(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        fail(stage, "429", PTU, retry_after_seconds=3)
        headers = {"x-stainless-retry-count": "2"}
        answer = caller.chat(lane, stream=streaming, max_tokens=50, headers=headers)
        record = stage.record(lane)
        varies = {"time", "request_ms", "first_token_ms", "duration_ms", "attempts", "skipped"}
        varies |= {"chunk_gap_p50_ms", "chunk_gap_max_ms", "backend_request_id", "backend_processing_ms"}
        assert {name: value for name, value in record.items() if name not in varies} == {
            "schema": 1,
            "region": record["attempts"][-1]["region"],
            "provisioned": False,
            "service_tier": record["service_tier"],
            "cache_write_tokens": 0,
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
            "delivered_tokens": None,
            "prompt_tokens_counted": None,
            "cost": None,
            "policy": [],
            "refused_by": None,
            "retry_after_ms": None,
            "client_request_id": None,
            "traceparent": None,
            "user": None,
            "run_by": None,
            "utilization": None,
            "fallback": None,
            "service_tier_requested": None,
            "spillover": None,
            "cached_audio_tokens": 0,
            "responses": None,
            "messages_in": None,
            "messages_out": None,
            "close_code": None,
            "closed_by": None,
            "usage_of": None,
            "fallback_refused": None,
            "call": answer.headers["x-gateway-call"],
            "count": 1,
            "address": None,
            "client": "Tester",
            "priority": None,
            "operation": "chat.completions",
            "api": "classic",
            "deployment": lane.deployment,
            "endpoint": f"west-{lane.deployment}",
            "standin": "paygo",
            "model": "gpt-4o-2024-11-20",
            "streaming": streaming,
            "max_tokens": 50,
            "outcome": "ok",
            "status": 200,
            "error": None,
            "finish_reason": "stop",
            "input_tokens": record["input_tokens"],
            "output_tokens": 5,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
            "reserved_tokens": None,
            "charged_tokens": None,
            "clamped": None,
            "degraded": None,
            "dry_run": None,
            "asked_deployment": None,
            "waited_ms": 0.0,
            "in_line_ms": 0.0,
            "client_retry": 2,
            "response_id": record["response_id"],
        }
        assert record["input_tokens"] > 5
        assert (record["first_token_ms"] is not None) is streaming
        assert record["region"] is not None
        assert record["backend_request_id"] == record["attempts"][-1]["request_id"] is not None
        assert 0 < record["duration_ms"] < 10_000
        first, second = record["attempts"]
        assert [(each["backend"], each["cause"]) for each in record["skipped"]] == [
            (f"ptu@west-{lane.deployment}", "break")
        ]
        assert (first["skipped"], second["skipped"]) == ([], record["skipped"])
        assert (first["status"], first["failure"], first["break_ms"]) == (429, "status", 3000)
        assert (second["status"], second["failure"], second["break_ms"]) == (200, None, None)
        if not streaming:
            assert record["response_id"] == answer.json()["id"]
            assert record["input_tokens"] == answer.json()["usage"]["prompt_tokens"]

    def test_one_line_per_call(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        for number in range(5):
            check(caller.chat(lane, stream=number % 2 == 0), PTU, 1)
        stage.record(lane, 5)
        calls = {record["call"] for record in stage.records(lane)}
        assert len(calls) == 5


def test_attempts_are_bounded_by_the_pool(stage: Stage, lane: Lane, sdk: Sdk) -> None:
    """No backend is asked twice for one call."""
    fail(stage, "429-no-hints", *ALL, times=-1)
    client = sdk(stage.gateway, "azure")
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**chat(), model=lane.deployment)
    assert stage.asked() == list(ALL)
