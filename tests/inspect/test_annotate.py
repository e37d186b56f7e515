"""What people see of a call on its flow, and what is saved with it."""

from __future__ import annotations

import io

import pytest
from mitmproxy import flowfilter
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow

from aoai_gateway.call import Outcome
from aoai_gateway.inspect import annotate as module
from aoai_gateway.inspect.annotate import annotate, annotate_attempt, attempt_comment, comment, metadata
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import IDLE_CLOSED, OK, Answer, Hang, Trace, throttled, world


def saved(flow: HTTPFlow) -> HTTPFlow:
    """Write a flow to a dump file, and read it again."""
    file = io.BytesIO()
    FlowWriter(file).add(flow)
    file.seek(0)
    (read,) = FlowReader(file).stream()
    assert isinstance(read, HTTPFlow)
    return read


def replayed() -> Trace:
    usage = Usage(input_tokens=12, output_tokens=30, total_tokens=42)
    return world("ptu@a", "b").script(a=throttled(retry_after="3"), b=Answer(usage=usage)).call()


def test_a_plain_success() -> None:
    call = world("a").call().call
    assert comment(call) == "anybody: gpt → a@a"
    flow = tflow.tflow(resp=True)
    annotate(flow, call)
    assert flow.marked == ""


def test_a_replayed_call_tells_what_came_before() -> None:
    call = replayed().call
    assert comment(call) == "anybody: gpt → b@b; attempt 2 (after ptu@a 429); 12 tokens in, 30 out"
    flow = tflow.tflow(resp=True)
    annotate(flow, call)
    assert (flow.comment, flow.marked) == (comment(call), ":repeat:")


def test_the_time_to_the_first_token() -> None:
    call = world("a").call(stream=True).call
    call.first_content = call.started + 0.25
    assert comment(call).endswith("; first token after 250 ms")


@pytest.mark.parametrize(
    ("trace", "says", "marker"),
    [
        (lambda: world("a").call(b"{"), "anybody: ?; 400 invalid_body", ""),
        (
            lambda: world("a").script(a=throttled()).call(),
            "anybody: gpt → a@a; 429 all_backends_out",
            ":no_entry:",
        ),
        (lambda: world("a").script(a=Answer(404)).call(), "anybody: gpt → a@a; 404", ""),
        (
            lambda: world("a").script(a=Answer(complete=False)).call(),
            "anybody: gpt → a@a; truncated",
            ":scissors:",
        ),
        (lambda: world("a").call(gone_at=0), "anybody: gpt → a@a; client gone", ""),
    ],
)
def test_other_ends(trace, says: str, marker: str) -> None:  # type: ignore[no-untyped-def]
    call = trace().call
    flow = tflow.tflow(resp=True)
    annotate(flow, call)
    assert (flow.comment, flow.marked) == (says, marker)


def test_a_users_own_mark_stays() -> None:
    flow = tflow.tflow(resp=True)
    flow.marked = ":red_circle:"
    annotate(flow, replayed().call)
    assert flow.marked == ":red_circle:"


def test_a_failed_attempt() -> None:
    call = replayed().call
    flow = tflow.tflow(resp=True)
    annotate_attempt(flow, call, call.attempts[0])
    assert flow.comment == "attempt 1 of anybody: gpt → ptu@a failed: 429; break of 3.0 s"
    assert flow.marked == ":x:"
    assert flow.metadata["gateway_attempt"] == 1
    assert flow.metadata["gateway_call"] == call.id


def test_an_attempt_without_a_break() -> None:
    trace = world("a", "b").script(a=Hang(), b=Hang()).call(stream=True)
    assert "break" not in attempt_comment(trace.call, trace.call.attempts[0])


def test_metadata_survives_a_dump_file() -> None:
    for call in (replayed().call, world("a").call(b"{").call, world("a").call(gone_at=0).call):
        flow = tflow.tflow(resp=True)
        annotate(flow, call)
        read = saved(flow)
        assert read.metadata == flow.metadata == metadata(call)
        assert (read.comment, read.marked) == (flow.comment, flow.marked)
        for attempt in call.attempts:
            shown = tflow.tflow(err=True)
            annotate_attempt(shown, call, attempt)
            assert saved(shown).metadata == shown.metadata


def test_metadata_is_plain_and_documented() -> None:
    call, flow = replayed().call, tflow.tflow(resp=True)
    annotate(flow, call)
    annotate_attempt(flow, call, call.attempts[0])
    assert module.__doc__ is not None
    for name, value in flow.metadata.items():
        assert type(value) in (str, int, float)
        assert f"\n{name} " in module.__doc__


def test_an_attempt_is_found_by_its_call() -> None:
    call = replayed().call
    own, shown, other = tflow.tflow(), tflow.tflow(), tflow.tflow()
    annotate(own, call)
    annotate_attempt(shown, call, call.attempts[0])
    wanted = flowfilter.parse(f'~meta "{call.id}"')
    assert wanted is not None
    assert [bool(wanted(flow)) for flow in (own, shown, other)] == [True, True, False]


def test_nothing_secret_is_on_a_flow() -> None:
    trace = world("a", "b").script(a=[IDLE_CLOSED, Answer(401)], b=OK).call(messages=["my-prompt"])
    text = f"{comment(trace.call)} {metadata(trace.call)} {trace.call.attempts!r} {trace.call!r}"
    for secret in ("key-of", "my-prompt"):
        assert secret not in text


def test_a_bug_of_ours_is_marked() -> None:
    call, flow = world("a").call().call, tflow.tflow(resp=True)
    call.outcome = Outcome.ERROR
    annotate(flow, call)
    assert flow.marked == ":boom:"
    assert flow.comment.endswith("; error")
