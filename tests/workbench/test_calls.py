"""Which calls are shown, for how long, and how pages hear of them."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from mitmproxy.addons.view import View
from mitmproxy.http import HTTPFlow
from mitmproxy.test import taddons, tflow

from aoai_gateway.workbench import calls as module
from aoai_gateway.workbench.calls import Calls, Feed, News
from aoai_gateway.workbench.rows import MOST_ERROR, MOST_READ, Rows, read_digest
from aoai_gateway.workbench.runs import Run
from aoai_gateway.workbench.shape import as_json


def call(content: Any = "Hello", *, size: int = 0, **metadata: Any) -> HTTPFlow:
    flow = tflow.tflow(resp=True)
    flow.live = False
    flow.request.method, flow.request.path = "POST", "/openai/v1/chat/completions"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], "pad": "x" * size}
    flow.request.content = json.dumps(body).encode()
    flow.metadata.update(metadata)
    return flow


def test_calls_are_kept_and_told() -> None:
    calls, feed = Calls(), Feed(News())
    calls.feeds.add(feed)
    flow = call()
    calls.request(flow)
    calls.response(flow)
    assert [each.id for each in calls] == [flow.id]
    assert feed.take(10) == ([flow.id], [])
    assert feed.take(10) == ([], [])


def test_what_is_no_call_is_not_shown() -> None:
    calls, other = Calls(), call()
    other.request.path = "/favicon.ico"
    calls.response(other)
    assert len(calls) == 0


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("POST", "/openai/v1/audio/transcriptions", "audio.transcriptions"),
        ("POST", "/openai/deployments/d/images/generations?api-version=1", "images.generations"),
        ("POST", "/openai/v1/batches", "batches.create"),
        ("POST", "/anthropic/v1/messages", "messages"),
        ("GET", "/openai/v1/models", ""),
        ("POST", "/openai/v1/something/new", ""),
        ("GET", "/", ""),
    ],
)
def test_every_kind_of_call_is_shown(method: str, path: str, operation: str) -> None:
    calls, flow = Calls(), call()
    flow.request.method, flow.request.path = method, path
    calls.response(flow)
    assert len(calls) == bool(operation)
    assert Rows().row(flow, None)["operation"] == operation


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 3)
    calls, feed = Calls(), Feed(News())
    calls.feeds.add(feed)
    flows = [call(str(number)) for number in range(5)]
    for flow in flows:
        calls.response(flow)
    assert [each.id for each in calls] == [each.id for each in flows[2:]]
    changed, gone = feed.take(10)
    assert (changed, gone) == ([each.id for each in flows[2:]], [each.id for each in flows[:2]])


def test_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 25_000)
    calls = Calls()
    for _ in range(10):
        calls.response(call(size=10_000))
    assert len(calls) == 2
    calls.response(call(size=100_000))
    assert len(calls) == 1, "the latest one stays, at any size"


def test_failed_attempts_belong_to_their_call() -> None:
    calls = Calls()
    flow, failed = call(gateway_call="c1"), call(gateway_call="c1", gateway_attempt=1)
    calls.request(flow)
    calls.response(failed)
    calls.response(failed)
    assert len(calls) == 1
    assert calls.attempts_of(flow) == [failed]


def test_attempts_of_calls_that_have_another_id_by_now_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 2)
    calls = Calls()
    for number in range(5):
        calls.response(call(gateway_call=f"c{number}", gateway_attempt=1))
    known = [number for number in range(5) if calls.attempts_of(call(gateway_call=f"c{number}"))]
    assert known == [3, 4]


def test_in_mitmweb_a_call_stays_as_long_as_it_is_in_the_flow_list() -> None:
    view = View()
    with taddons.context(view):
        calls, flows = Calls(view), [call(), call()]
        for flow in flows:
            view.add([flow])
            calls.response(flow)
        view.remove([flows[0]])
        assert [each.id for each in calls] == [flows[1].id]
        view.clear()
        assert len(calls) == 0


def test_a_feed_waits_for_news() -> None:
    async def scenario() -> None:
        news = News()
        feed = Feed(news)
        assert not await news.wait(0)
        feed.tell("a")
        assert await news.wait(60)
        feed.tell("a", gone=True)
        assert feed.take(5) == ([], ["a"])
        assert not await news.wait(0)

    asyncio.run(scenario())


def test_all_pages_that_follow_a_run_hear_of_it_at_once() -> None:
    async def scenario() -> None:
        run, pages = Run("r", []), [News(), News()]
        run.followers.update(pages)
        run.tell()
        for page in pages:
            assert await page.wait(0.1)
            page.heard()
        run.tell()
        assert [await page.wait(0.1) for page in pages] == [True, True]

    asyncio.run(scenario())


def test_a_page_that_was_closed_waits_for_nothing_more() -> None:
    async def scenario() -> None:
        news = News()
        waiting = asyncio.create_task(news.wait(60))
        await asyncio.sleep(0)
        news.close()
        assert await asyncio.wait_for(waiting, 60)
        news.heard()
        assert await news.wait(0.1)
        assert news.closed

    asyncio.run(scenario())


def test_a_row_says_what_became_of_a_call() -> None:
    flow = call(
        [{"type": "text", "text": "Where is\nmy order?"}],
        gateway_client="Bot",
        gateway_deployment="gpt-4o",
        gateway_backend="ptu@sweden",
        gateway_attempts=2,
        gateway_duration_ms=1200,
        gateway_tokens_in=5,
        gateway_run_by="Ada",
    )
    row = Rows().row(flow, None)
    assert (row["prompt"], row["client"], row["attempts"], row["by"]) == (
        "Where is my order?",
        "Bot",
        2,
        "Ada",
    )
    assert (row["state"], row["status"], row["cost"]) == ("done", 200, None)
    assert json.loads(as_json(row)) == row


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": {"code": "content_filter", "message": "No."}}', "content_filter"),
        (b'{"error": {"code": "400", "type": "invalid_request_error"}}', "invalid_request_error"),
        (b'{"type": "error", "error": {"type": "overloaded_error"}}', "overloaded_error"),
        (b'{"error": {"code": 400}}', ""),
        (b'{"error": "wrong"}', ""),
        (b"<html>", ""),
        (b"", ""),
        (b'{"error": {"code": "' + b"x" * MOST_ERROR + b'"}}', ""),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, ""),
    ],
)
def test_a_row_names_the_error_of_a_backend(body: bytes, told: str) -> None:
    flow = call("Hello")
    assert flow.response is not None
    flow.response.content = body
    assert Rows().row(flow, None)["error"] == "", "it was answered"
    flow.response.status_code = 400
    assert Rows().row(flow, None)["error"] == told


def test_a_row_is_read_anew_when_the_prompt_was_edited() -> None:
    rows, flow = Rows(), call("before")
    assert rows.row(flow, None)["prompt"] == "before"
    flow.request.content = flow.request.content.replace(b"before", b"after")
    assert rows.row(flow, None)["prompt"] == "after"


def test_states_of_a_call() -> None:
    rows, flow = Rows(), call()
    flow.response = None
    assert rows.row(flow, None)["state"] == "running"
    flow.intercepted = True
    assert rows.row(flow, None)["state"] == "held"


def test_turns_of_one_conversation_have_one_thread() -> None:
    def thread(*messages: tuple[str, str]) -> str:
        body = {"messages": [{"role": role, "content": text} for role, text in messages]}
        return read_digest(json.dumps(body).encode()).thread

    first = thread(("system", "s"), ("user", "a"))
    assert first == thread(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert first != thread(("system", "s"), ("user", "other"))


def test_the_cache_marks_that_claude_code_moves_do_not_part_a_thread() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    hello = {"type": "text", "text": "hello"}

    def thread(*messages: dict[str, Any], marked: dict[str, Any] | None = None) -> str:
        body = {"system": [{"type": "text", "text": "s", **(marked or {})}], "messages": messages}
        return read_digest(json.dumps(body).encode()).thread

    first = thread({"role": "user", "content": [{**hello, **mark}]}, marked=mark)
    more = {"role": "user", "content": [{"type": "text", "text": "more", **mark}]}
    assert first == thread({"role": "user", "content": [hello]}, {"role": "assistant", "content": "b"}, more)
    assert first != thread(more)


@pytest.mark.parametrize(
    ("parts", "prompt"),
    [
        (["<system-reminder>\nThe date is known.\n</system-reminder>\n\n", "hi there"], "hi there"),
        (["<environment>x</environment>"], "<environment>x</environment>"),
        (["<b>bold</b> words", "and more"], "<b>bold</b> words and more"),
        (["what is this?", "<document>x</document>"], "what is this?"),
    ],
)
def test_what_a_program_puts_around_a_users_words_is_no_prompt(parts: list[str], prompt: str) -> None:
    content = [{"type": "text", "text": part} for part in parts]
    body = {"messages": [{"role": "user", "content": content}]}
    assert read_digest(json.dumps(body).encode()).prompt == prompt


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        (b"", ""), (b"{", "(no JSON)"), (b"[]", ""), (b"null", ""), (b'{"messages": 1}', ""),
        (b'{"input": {"a": 1}}', ""), (b"[" * 9999, "(no JSON)"), (b"\xff", "(no JSON)"),
        (b'{"messages": [null, 7, {"role": "user", "content": [{"text": 5}, "x"]}]}', ""),
    ],
)  # fmt: skip
def test_a_digest_of_any_bytes(raw: bytes, prompt: str) -> None:
    assert read_digest(raw).prompt == prompt


def test_a_prompt_that_is_large_when_it_is_decoded_is_not_read_for_a_line() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "a" * MOST_READ}]}).encode()
    assert read_digest(gzip.compress(body), "gzip").prompt == "(no JSON)"


def test_a_prompt_of_megabytes_is_not_read_for_a_line() -> None:
    assert read_digest(b"x" * 2_500_000).prompt == "(a prompt of 2.5 MB)"
