"""What people see of a call on its flow, and what is saved with it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from mitmproxy import flowfilter
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow
from mitmproxy.utils import emoji

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Notice, Outcome
from aoai_gateway.inspect import annotate as module
from aoai_gateway.inspect.annotate import (
    annotate,
    annotate_attempt,
    annotate_refusal,
    attempt_comment,
    comment,
    metadata,
)
from aoai_gateway.wire import errors
from aoai_gateway.wire.credential_errors import unauthorized
from aoai_gateway.wire.usage import Usage
from tests.docs.pages import first_cells, page
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
    assert comment(call) == "replayed after ptu@a 429 · anybody: gpt → b@b · 12 tokens in, 30 out"
    flow = tflow.tflow(resp=True)
    annotate(flow, call)
    assert (flow.comment, flow.marked) == (comment(call), ":repeat:")


def test_the_time_to_the_first_token() -> None:
    call = world("a").call(stream=True).call
    call.first_content = call.started + 0.25
    assert comment(call).endswith(" · first token after 250 ms")


@pytest.mark.parametrize(
    ("trace", "says", "marker"),
    [
        (lambda: world("a").call(b"{"), "400 invalid_body · anybody: ?", ":no_entry_sign:"),
        (
            lambda: world("a").script(a=throttled()).call(),
            "429 all_backends_out · tried a@a 429 · anybody: gpt → a@a",
            ":no_entry:",
        ),
        (lambda: world("a").script(a=Answer(404)).call(), "404 · anybody: gpt → a@a", ":warning:"),
        (
            lambda: world("a").script(a=Answer(complete=False)).call(),
            "broken off · anybody: gpt → a@a",
            ":scissors:",
        ),
        (lambda: world("a").call(gone_at=0), "client hung up · anybody: gpt → a@a", ":wave:"),
    ],
)
def test_other_ends(trace: Callable[[], Trace], says: str, marker: str) -> None:
    call = trace().call
    flow = tflow.tflow(resp=True)
    annotate(flow, call)
    assert (flow.comment, flow.marked) == (says, marker)


def limited(**policy: object) -> Client:
    return Client(name="limited", key="key-of-limited", max_requests_per_minute=1, **policy)


def test_what_happens_over_a_quota_is_told_first() -> None:
    at, client = world("a"), limited()
    at.call(client=client)
    call = at.call(client=client).call
    assert comment(call) == "429 quota_exceeded · limited: gpt"
    assert module.marker(call) == ":vertical_traffic_light:"


def test_a_call_that_was_held_back() -> None:
    at, client = world("a"), limited(when_exceeded={"action": "wait", "seconds": 90})
    at.call(client=client)
    call = at.call(client=client, headers={"x-stainless-read-timeout": "600"}).call
    assert re.fullmatch(r"waited 5\d\.\d s · limited: gpt → a@a", comment(call))
    assert module.marker(call) == ":hourglass_flowing_sand:"
    assert int(metadata(call)["gateway_waited_ms"]) > 50_000


def test_a_call_that_was_served_in_a_lesser_way() -> None:
    at = world("a")
    client = limited(when_exceeded={"action": "degrade", "priority": "low"})
    call = at.call(client=client).call
    call.note(Notice.DEGRADED, "max_tokens 800 -> 200")
    assert comment(call).startswith("degraded: max_tokens 800 -> 200 · limited: gpt")
    assert module.marker(call) == ":chart_with_downwards_trend:"
    assert metadata(call)["gateway_degraded"] == "max_tokens 800 -> 200"


def test_a_refusal_before_there_was_a_call() -> None:
    flow = tflow.tflow()
    annotate_refusal(flow, unauthorized())
    assert (flow.comment, flow.marked) == ("401 unknown key", ":no_entry_sign:")
    assert flow.metadata["gateway_outcome"] == "rejected"
    known = tflow.tflow()
    known.metadata["gateway_client"] = "Team 1"
    annotate_refusal(known, errors.body_too_large(1024))
    assert known.comment == "413 request_too_large · Team 1"
    assert saved(known).metadata == known.metadata


def test_every_marker_is_one_glyph_that_mitmproxy_knows() -> None:
    for name in module.MARKERS:
        assert len(emoji.emoji[name]) == 1, "the console shows the first code point only"
    assert len(set(module.MARKERS)) == len(module.MARKERS)


def test_a_users_own_mark_stays() -> None:
    flow = tflow.tflow(resp=True)
    flow.marked = ":red_circle:"
    annotate(flow, replayed().call)
    assert flow.marked == ":red_circle:"


def test_a_failed_attempt() -> None:
    call = replayed().call
    flow = tflow.tflow(resp=True)
    annotate_attempt(flow, call, call.attempts[0])
    assert flow.comment == "attempt 1 failed: 429 · anybody: gpt → ptu@a · break of 3.0 s"
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
    documented = first_cells(page("docs/reference/flow-metadata.md").section("Metadata"))
    for name, value in flow.metadata.items():
        assert type(value) in (str, int, float) or name == "gateway_timeline"
        assert name in documented


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
    text = f"{metadata(trace.call)} {trace.call.attempts!r} {trace.call!r}"
    for secret in ("key-of", "my-prompt"):
        assert secret not in text
    assert "key-of" not in comment(trace.call)


def test_a_comment_begins_with_the_prompt() -> None:
    call = world("a").call(messages=["Hello,\n\x1b[31m\u202e" + "word " * 100]).call
    assert comment(call) == "“Hello, [31mword word word word word wor…” · anybody: gpt → a@a"


def test_a_bug_of_ours_is_marked() -> None:
    call, flow = world("a").call().call, tflow.tflow(resp=True)
    call.outcome = Outcome.ERROR
    annotate(flow, call)
    assert flow.marked == ":boom:"
    assert flow.comment.startswith("bug of the gateway · ")
