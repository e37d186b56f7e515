"""Which flows of a dump file are calls, and what of them is sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import Headers, HTTPFlow, Response
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from aoai_gateway.inspect import capture as rules
from aoai_gateway.rerun.calls import CaptureError, read_session

ANSWER = {"choices": [{"finish_reason": "stop", "message": {"content": "Hi"}}], "usage": {"prompt_tokens": 1}}


def flow(
    path: str = "/openai/v1/chat/completions",
    body: dict[str, Any] | None = None,
    *,
    status: int = 200,
    content: bytes | None = None,
    **metadata: Any,
) -> HTTPFlow:
    made = tflow.tflow(resp=True)
    made.request.method, made.request.path = "POST", path
    made.request.headers = Headers(
        [(b"Host", b"gw"), (b"content-type", b"application/json"), (b"x-kept", b"1"), (b"x-kept", b"2"),
         (b"Accept-Encoding", b"br"), (b"Api-Key", b"from-elsewhere")]
    )  # fmt: skip
    asked = {"model": "gpt-4o", "messages": []} if body is None else body
    made.request.raw_content = json.dumps(asked).encode()
    given = json.dumps(ANSWER).encode() if content is None else content
    made.response = Response.make(status, given, {"content-type": "application/json"})
    made.request.timestamp_start, made.response.timestamp_end = 100.0, 100.75
    made.metadata = {f"gateway_{name}": value for name, value in metadata.items()}
    return made


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(*flows: HTTPFlow) -> Path:
        path = tmp_path / "calls.flows"
        with path.open("wb") as file:
            writer = FlowWriter(file)
            for one in flows:
                writer.add(one)
        return path

    return write


def test_only_answered_calls_are_taken(save: Callable[..., Path]) -> None:
    good = flow(outcome="ok", call="1", client="Demo")
    other = [
        flow(attempt=1, call="1"),
        flow(outcome="rejected", status=403),
        flow(outcome="backends_out", status=429),
        flow(outcome="truncated"),
        flow(outcome="client_gone"),
        flow(status=401),
        flow("/elsewhere"),
        flow("/openai/v1/files"),
        flow(outcome="ok", content=b""),
        flow(outcome="ok", body={"messages": []}),
    ]
    session = read_session(save(*other, good))
    assert [call.flow for call in session.calls] == [good.id]
    assert session.left_out == {
        rules.ATTEMPT: 1,
        rules.REFUSED: 3,
        rules.UNFINISHED: 2,
        rules.ELSE: 2,
        rules.NOT_KEPT: 1,
        "calls that the gateway would refuse": 1,
    }


def test_an_error_of_a_backend_is_an_answer(save: Callable[..., Path]) -> None:
    (call,) = read_session(save(flow(outcome="ok", status=400, content=b'{"error": {"code": "x"}}'))).calls
    assert call.then.answer.status == 400


def test_what_another_proxy_has_captured_will_do(save: Callable[..., Path]) -> None:
    (call,) = read_session(save(flow())).calls
    assert call.client == ""
    assert call.then.answer.text == "Hi"
    assert call.then.total == 0.75


def test_no_credential_and_no_header_of_the_connection_is_sent_again(save: Callable[..., Path]) -> None:
    (call,) = read_session(save(flow())).calls
    assert call.headers == (("content-type", "application/json"), ("x-kept", "1"), ("x-kept", "2"))
    assert "from-elsewhere" not in repr(call)


@pytest.mark.parametrize(
    ("path", "target", "model"),
    [
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions", "mini"),
        (
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            "/openai/deployments/mini/chat/completions?api-version=2024-10-21",
            "gpt-4o",
        ),
    ],
)
def test_another_deployment_is_named_where_the_api_wants_it(
    save: Callable[..., Path], path: str, target: str, model: str
) -> None:
    (call,) = read_session(save(flow(path)), deployment="mini").calls
    assert call.target == target
    assert json.loads(call.body)["model"] == model
    assert call.deployment == "gpt-4o"
    (same,) = read_session(save(flow(path))).calls
    assert same.target == path
    assert same.body == json.dumps({"model": "gpt-4o", "messages": []}).encode()


def test_a_stream_is_asked_for_its_tokens(save: Callable[..., Path]) -> None:
    asked = {"model": "gpt-4o", "messages": [], "stream": True}
    noted = {"tokens_in": 7, "tokens_out": 9, "first_content_ms": 120, "outcome": "ok"}
    events = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
    streamed = flow(body=asked, content=events, **noted)
    assert streamed.response is not None
    streamed.response.headers["content-type"] = "text/event-stream"
    (call,) = read_session(save(streamed)).calls
    assert call.streaming
    assert json.loads(call.body)["stream_options"] == {"include_usage": True}
    then = call.then
    assert (then.answer.input_tokens, then.answer.output_tokens, then.first_token) == (7, 9, 0.12)
    old = "/openai/deployments/gpt-4o/chat/completions?api-version=2023-05-15"
    (call,) = read_session(save(flow(old, asked, content=events))).calls
    assert "stream_options" not in json.loads(call.body)


def test_a_limit_and_a_filter(save: Callable[..., Path]) -> None:
    path = save(*(flow(outcome="ok", client=name) for name in "aabbb"))
    assert len(read_session(path, limit=2).calls) == 2
    wanted = read_session(path, wanted=lambda f: f.metadata["gateway_client"] == "b", limit=9)
    assert [call.client for call in wanted.calls] == ["b", "b", "b"]
    assert not wanted.left_out


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file"):
        read_session(tmp_path / "nothing")
    with pytest.raises(CaptureError, match="directory"):
        read_session(tmp_path)
    (tmp_path / "x").write_text("listen: {}")
    with pytest.raises(CaptureError, match="no capture"):
        read_session(tmp_path / "x")


def test_of_a_damaged_file_the_good_part_is_taken(save: Callable[..., Path]) -> None:
    path = save(flow(), flow())
    path.write_bytes(path.read_bytes()[:-50])
    session = read_session(path)
    assert len(session.calls) == 1
    assert list(session.left_out) == ["unreadable (the file is damaged from there on)"]
