"""``server_replay``: which recorded answer fits which call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.serverplayback import ServerPlayback
from mitmproxy.http import HTTPFlow, Response
from mitmproxy.test import taddons, tflow

from aoai_gateway.inspect import server_replay as recorded

CHAT = "/openai/v1/chat/completions"


@pytest.fixture
def playback() -> Iterator[tuple[ServerPlayback, taddons.context]]:
    stock = ServerPlayback()
    with taddons.context(stock, loadcore=False) as context:
        recorded.install(context.master.addons)
        yield stock, context


def call(body: Any, path: str = CHAT, *, answer: str = "", **metadata: Any) -> HTTPFlow:
    flow = tflow.tflow()
    flow.request.method, flow.request.path = "POST", path
    flow.request.raw_content = json.dumps(body).encode()
    if answer:
        flow.response = Response.make(200, answer)
    flow.metadata = {f"gateway_{name}": value for name, value in metadata.items()}
    return flow


def ask(playback: ServerPlayback, flow: HTTPFlow) -> str | None:
    playback.request(flow)
    return flow.response.text if flow.response else None


def test_it_is_mitmproxys_own_addon(playback: tuple[ServerPlayback, taddons.context]) -> None:
    stock, context = playback
    assert isinstance(stock, recorded.RecordedAnswers)
    assert context.master.addons.get("serverplayback") is stock
    recorded.install(context.master.addons)


@pytest.mark.parametrize(
    "change",
    [
        lambda flow: setattr(flow.request, "host", "contoso.openai.azure.com"),
        lambda flow: setattr(flow.request, "port", 4711),
        lambda flow: setattr(flow.request, "scheme", "https"),
        lambda flow: flow.request.headers.update({"host": "other", "x-stainless-retry-count": "1"}),
        lambda flow: setattr(flow.request, "raw_content", b'{"b":  2,\n "a": 1}'),
    ],
    ids=["host", "port", "scheme", "headers", "order of keys"],
)
def test_where_a_call_went_and_how_it_was_written_does_not_matter(
    playback: tuple[ServerPlayback, taddons.context], change: Callable[[HTTPFlow], None]
) -> None:
    stock, _ = playback
    captured = call({"a": 1, "b": 2}, answer="recorded", outcome="ok")
    change(captured)
    stock.load_flows([captured])
    assert ask(stock, call({"a": 1, "b": 2})) == "recorded"


@pytest.mark.parametrize(
    "other", [call({"a": 2}), call({"a": 1, "stream": True}), call({"a": 1}, "/openai/v1/responses")]
)
def test_another_call_has_no_answer(
    playback: tuple[ServerPlayback, taddons.context], other: HTTPFlow
) -> None:
    stock, context = playback
    stock.load_flows([call({"a": 1}, answer="recorded", outcome="ok")])
    assert ask(stock, other.copy()) is None
    context.configure(stock, server_replay_extra="404")
    told = json.loads(ask(stock, other.copy()) or "")
    assert told["error"]["code"] == "not_recorded"


def test_only_answers_are_offered(
    playback: tuple[ServerPlayback, taddons.context], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stock, _ = playback
    stock.load_flows(
        [
            call({"a": 1}, answer="of an attempt", attempt=1),
            call({"a": 1}, answer="a refusal", outcome="backends_out"),
            call({"a": 1}, answer="recorded", outcome="ok"),
        ]
    )
    assert stock.count() == 1
    assert "1 failed attempts, 1 refused by the gateway" in caplog.text
    assert ask(stock, call({"a": 1})) == "recorded"


def test_what_was_loaded_before_is_looked_through_too() -> None:
    stock = ServerPlayback()
    with taddons.context(stock, loadcore=False) as context:
        attempt = call({"a": 1}, answer="of an attempt", attempt=1)
        stock.load_flows([attempt, call({"a": 1}, answer="recorded", outcome="ok")])
        recorded.install(context.master.addons)
        assert stock.count() == 1


def test_a_host_without_the_addon_has_none_of_it() -> None:
    with taddons.context(loadcore=False) as context:
        recorded.install(context.master.addons)
        assert context.master.addons.get("serverplayback") is None
