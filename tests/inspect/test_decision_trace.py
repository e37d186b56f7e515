"""The story of a call: what the engine decided, in words, told from what passes between it and its driver."""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.engine.call import Call
from aoai_gateway.inspect.decision_trace import Notes, follow, tell
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import (
    IDLE_CLOSED,
    NO_CONNECTION,
    OK,
    Answer,
    Behaviour,
    Fail,
    World,
    throttled,
    world,
)


class Told:
    """A world whose calls are followed."""

    def __init__(self, at: World) -> None:
        self.world = at
        self.notes = Notes()
        run = at.engine.run

        def followed(engine: object, call: Call, *arguments: Any) -> Any:
            self.notes = Notes()
            return follow(run(call, *arguments), call, self.notes)

        at.engine.run = MethodType(followed, at.engine)  # type: ignore[method-assign]  # as the proxy does

    def call(self, **how: Any) -> list[str]:
        """Lead a call to its end; gives its story without the spaces before the times."""
        call = self.world.call(**how).call
        return [line.strip() for line in tell(call, self.notes)]


def of(*backends: str, **script: Behaviour) -> Told:
    return Told(world(*backends).script(**script))


def test_a_replayed_stream() -> None:
    usage = Usage(12, 30, 42, cached_tokens=8, reasoning_tokens=5)
    told = of("ptu@a", "b", a=throttled(retry_after="3"), b=Answer(usage=usage))
    assert told.call(stream=True, max_tokens=30) == [
        "0 ms  anybody asks for gpt: chat.completions, streaming, max_tokens 30; 66 bytes",
        "0 ms  attempt 1: ptu@a, which has 600 s to answer",
        "100 ms  attempt 1 failed: 429; break of 3.0 s on ptu@a",
        "100 ms  attempt 2: b@b, which has 600 s to answer",
        "200 ms  b@b answers 200",
        "1,200 ms  answer complete; 12 tokens in (8 cached), 30 out (5 reasoning)",
        "1,200 ms  end: ok, 2 attempts, status 200",
    ]


def test_a_request_that_was_long_in_coming() -> None:
    told = of("ptu@a")
    call = told.world.call().call
    assert "to come" not in tell(call, told.notes)[0]
    call.request_seconds = 2.34
    assert "not streaming; its request took 2.3 s to come; " in tell(call, told.notes)[0]


def test_what_is_passed_over_says_why() -> None:
    told = of("ptu@a", "b", a=throttled(retry_after="3"))
    told.call()
    assert "0 ms  passes over ptu@a: 429 (1.9 s left)" in told.call()


def test_an_endpoint_that_is_out_and_nothing_left() -> None:
    story = of("ptu@a", "b", a=NO_CONNECTION, b=throttled(retry_after="9")).call()
    assert "100 ms  attempt 1 failed: connection refused; break of 10.0 s on all of a" in story
    assert any("answers 429 all_backends_out: No backend" in line for line in story)
    assert story[-1] == "200 ms  end: backends out, 2 attempts, status 429"


def test_a_call_that_is_the_cause_itself() -> None:
    failure = Answer(503, headers={"retry-after": "9"})
    story = of("a", "b", a=failure, b=failure).call()
    assert [line.partition("  ")[2] for line in story[-4:]] == [
        "answers with what b@b said: 503",
        "the break on a@a is taken back: the call is the likely cause",
        "the break on b@b is taken back: the call is the likely cause",
        "end: ok, 2 attempts, status 503",
    ]


def test_a_connection_that_was_closed_meanwhile() -> None:
    story = of("a", a=IDLE_CLOSED).call()
    assert any(line.endswith("on a connection that had been idle") for line in story)
    assert any("attempt 1 once more to a@a, on a new connection" in line for line in story)


def test_an_attempt_without_the_usage_that_the_gateway_asks_for() -> None:
    told = of("a")
    told.world.script(a=[Fail(FailureKind.STATUS, fault=Fault.STREAM_OPTIONS), OK])
    assert [line.partition("  ")[2] for line in told.call(stream=True)[1:4]] == [
        "attempt 1: a@a, which has 600 s to answer",
        "a@a does not take the stream_options that the gateway adds: once more without them",
        "attempt 1: a@a, which has 600 s to answer",
    ]


def test_a_client_that_hangs_up() -> None:
    assert of("a").call(gone_at=0)[-2:] == ["10 ms  the client hung up", "10 ms  end: client gone, 1 attempt"]


def quoted(**policy: Any) -> Client:
    return Client(name="Team", key="key-of-team", **policy)


def test_what_is_counted_booked_and_settled() -> None:
    told = of("a", a=Answer(usage=Usage(10, 20, 30)))
    story = told.call(client=quoted(max_tokens_per_minute=1000), max_tokens=100)
    assert any("tokens in the prompt, estimated" in line for line in story)
    (booked,) = [line for line in story if "reserved: up to " in line]
    assert booked.endswith("tokens, prompt and answer")
    assert any("of 1,000 tokens per minute, " in line for line in story)
    assert any(line.partition("  ")[2].startswith("settled: 30 tokens instead of the 1") for line in story)


def test_a_wait_is_told_once() -> None:
    told = of("a")
    client = quoted(max_requests_per_minute=1, when_exceeded={"action": "wait", "seconds": 90})
    told.call(client=client)
    story = told.call(client=client, headers={"x-stainless-read-timeout": "600"})
    assert sum("does not fit" in line for line in story) == 1
    assert sum("held back until now" in line for line in story) == 1
    assert any("of 1 requests per minute, 1 taken, 0 left; fits in 5" in line for line in story)


def test_what_is_refused_over_a_quota() -> None:
    told = of("a")
    client = quoted(max_requests_per_minute=1)
    told.call(client=client)
    story = told.call(client=client)
    assert any("answers 429 quota_exceeded: Your quota of 1 requests per minute" in line for line in story)
    assert story[-1].endswith("end: rejected, no attempt, status 429")


def test_what_limits_change_is_told() -> None:
    story = of("a").call(client=quoted(request_limits={"max_tokens": 10, "action": "clamp"}), max_tokens=99)
    assert "0 ms  its request limits lower what it asks for: max_tokens 99->10" in story


@pytest.mark.parametrize("body", [b"{", b'{"model": "other"}'])
def test_a_call_that_is_no_good(body: bytes) -> None:
    story = of("a").call(body=body)
    assert len(story) == 3
    assert "  answers 40" in story[1]


@pytest.mark.parametrize("announcing_takes", [0.0, 0.25])
def test_times_never_go_back(announcing_takes: float) -> None:
    for told, how in stories():
        told.world.announcing_takes = announcing_takes
        story = told.call(**how)
        times = [float(line.partition(" ms")[0].replace(",", "")) for line in story]
        assert times == sorted(times)


def stories() -> Iterator[tuple[Told, dict[str, Any]]]:
    yield of("a", "b", a=throttled(), b=OK), {}
    yield of("a", "b", a=throttled(), b=throttled()), {}
    yield of("a", "b", a=Answer(500), b=Answer(500)), {"stream": True}
    yield of("a", "b", a=Answer(404), b=Answer(404)), {}
    yield of("a", a=IDLE_CLOSED), {}


def test_nothing_secret_is_told() -> None:
    told = of("a", "b", a=Answer(401))
    text = " ".join(told.call(messages=[{"role": "user", "content": "my-prompt"}]))
    for secret in ("key-of", "my-prompt", "example"):
        assert secret not in text


def test_a_generator_that_is_closed_closes_the_engine() -> None:
    closed = []

    def engine() -> Iterator[Any]:
        try:
            yield OK
        finally:
            closed.append(True)

    at = world("a")
    call = at.call().call
    run = follow(engine(), call, Notes())  # type: ignore[arg-type]  # any generator will do
    next(run)
    run.close()
    assert closed == [True]
