"""The views as mitmproxy sees them: which one it chooses, and what its console does with them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from mitmproxy import contentviews as stock
from mitmproxy import exceptions, http, websocket
from mitmproxy.contentviews._registry import ContentviewRegistry
from mitmproxy.test import taddons, tflow
from wsproto.frame_protocol import Opcode

from aoai_gateway.inspect.views import contentviews as ours
from aoai_gateway.tokens import Counter
from tests.inspect.views.samples import answer, echo

CHAT = "/openai/v1/chat/completions"
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello\\nthere"}]}'


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContentviewRegistry]:
    """mitmproxy's own views, and ours, for one test."""
    registry = ContentviewRegistry()
    for view in stock.registry.values():
        registry.register(view)
    monkeypatch.setattr(stock, "registry", registry)
    ours.register(Counter(), {"gpt-4o": "gpt-4o"}.get)
    with taddons.context():
        yield registry


def flow(
    path: str = CHAT,
    body: bytes = BODY,
    reply: bytes = b"{}",
    kind: str = "application/json",
    status: int = 200,
) -> http.HTTPFlow:
    made = tflow.tflow(resp=True)
    made.request = http.Request.make(
        "POST", f"http://gw.example{path}", body, {"content-type": "application/json"}
    )
    made.response = http.Response.make(status, reply, {"content-type": kind})
    return made


def chosen(made: http.HTTPFlow, message: http.Message | websocket.WebSocketMessage) -> str | None:
    return stock.prettify_message(message, made, registry=stock.registry).view_name


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        "/openai/v1/responses",
        "/openai/v1/embeddings?api-version=preview",
        "/openai/deployments/gpt-4o/completions?api-version=2024-10-21",
        "/apim/prefix/openai/deployments/gpt-4o/chat/completions",
    ],
)
def test_they_are_chosen_for_azure_openais_traffic(path: str) -> None:
    made = flow(path)
    assert chosen(made, made.request) == "Prompt"
    assert made.response is not None
    assert chosen(made, made.response) == "Completion"


@pytest.mark.parametrize(
    ("made", "request_by", "response_by"),
    [
        (flow("/v1/chat/completions"), "JSON", "JSON"),
        (flow("/openai/v1/models"), "JSON", "JSON"),
        (flow("/openai/v1/chat/completions-archive"), "JSON", "JSON"),
        (flow("/search?q=/openai/v1/responses"), "JSON", "JSON"),
        (flow(CHAT, b"[1]", b"<html></html>", "text/html"), "JSON", "XML/HTML"),
        (flow(CHAT, BODY, b"", "text/event-stream"), "Prompt", "Raw"),
        (flow(CHAT, BODY, b"data: [DONE]\n\n", "text/event-stream"), "Prompt", "Completion"),
        (flow(CHAT, b'{"query": "a\\nb"}', b'{"error": {}}', status=400), "Prompt", "Completion"),
    ],
)
def test_and_for_nothing_else(made: http.HTTPFlow, request_by: str, response_by: str) -> None:
    assert made.response is not None
    assert (chosen(made, made.request), chosen(made, made.response)) == (request_by, response_by)


def test_an_error_of_the_gateway_for_any_path() -> None:
    made = flow("/openai/v1/files", reply=b'{"error": {"code": "not_built"}}', status=501)
    assert made.response is not None
    assert chosen(made, made.response) == "JSON"
    made.metadata["gateway_call"] = "1"
    assert chosen(made, made.response) == "Completion"


def test_realtime_messages() -> None:
    made = flow("/openai/v1/realtime?model=gpt")
    told = websocket.WebSocketMessage(Opcode.TEXT, True, b'{"type": "response.create"}')
    heard = websocket.WebSocketMessage(Opcode.TEXT, False, b'{"type": "response.done"}')
    assert (chosen(made, told), chosen(made, heard)) == ("Prompt", "Completion")
    elsewhere = flow("/socket")
    assert "Prompt" not in (chosen(elsewhere, told), chosen(elsewhere, heard))


def test_what_is_seen() -> None:
    made = flow(
        reply=answer("chat/completions", {"model": "gpt-4o", "messages": echo("Hi"), "stream": True}),
        kind="text/event-stream; charset=utf-8",
    )
    made.metadata.update(gateway_deployment="gpt-4o", gateway_first_content_ms=40)
    seen = stock.prettify_message(made.request, made, registry=stock.registry)
    assert (seen.syntax_highlight, seen.description) == ("yaml", "")
    assert "content: |-\n    Hello\n    there\n" in seen.text
    assert made.response is not None
    seen = stock.prettify_message(made.response, made, registry=stock.registry)
    assert seen.syntax_highlight == "none"
    assert seen.text.startswith("stop · first token after 40 ms\n")
    assert seen.text.endswith("\nHi\n")


def test_a_compressed_answer_is_seen_too() -> None:
    made = flow(reply=answer("chat/completions", {"model": "gpt-4o", "messages": echo("Hi")}))
    assert made.response is not None
    made.response.encode("gzip")
    seen = stock.prettify_message(made.response, made, registry=stock.registry)
    assert (seen.view_name, seen.description) == ("Completion", "[decoded gzip]")
    assert seen.text.endswith("\nHi\n")


def test_an_edit_in_the_console() -> None:
    made = flow()
    seen = stock.prettify_message(made.request, made, "Prompt", registry=stock.registry)
    assert stock.reencode_message(seen.text, made.request, made, "Prompt") == BODY
    changed = stock.reencode_message(seen.text.replace("there", "you"), made.request, made, "Prompt")
    assert json.loads(changed)["messages"][0]["content"] == "Hello\nyou"


def test_an_edit_that_is_refused_is_told_in_the_console() -> None:
    made = flow()
    for kind in (exceptions.CommandError, ValueError):
        with pytest.raises(kind, match="Nothing was changed: line 2"):
            stock.reencode_message("model: gpt-4o\nn: .5", made.request, made, "Prompt")


def test_registering_again_changes_nothing(registry: ContentviewRegistry) -> None:
    before = registry["prompt"], registry["completion"]
    ours.register(Counter(), {}.get)
    assert (registry["prompt"], registry["completion"]) == before


def test_a_view_that_is_asked_for_by_name_takes_any_message() -> None:
    made = flow("/other", b"name=value", b"plain text", "text/plain")
    assert made.response is not None
    for message in (made.request, made.response):
        for name in ("Prompt", "Completion"):
            seen = stock.prettify_message(message, made, name, registry=stock.registry)
            assert seen.syntax_highlight != "error"
