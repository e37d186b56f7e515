"""The worker's side of the pipe."""

import io
import json
import pickle
from typing import Any

import pytest

from aoai_gateway.runtime import body_worker as worker
from aoai_gateway.runtime.body_jobs import FRAME, Bug, Job, Parse
from aoai_gateway.runtime.body_worker import serve
from aoai_gateway.wire.targets import parse_target

CHAT = parse_target("POST", "/openai/v1/chat/completions")


def request(job: object, raw: bytes) -> bytes:
    packed = pickle.dumps(job)
    return FRAME.pack(len(packed), len(raw)) + packed + raw


def answers(*requests: bytes) -> list[Any]:
    out = io.BytesIO()
    serve(io.BytesIO(b"".join(requests)), out)
    out.seek(0)
    read = []
    while head := out.read(FRAME.size):
        size, _ = FRAME.unpack(head)
        read.append(pickle.loads(out.read(size)))
    return read


def test_one_answer_for_each_body_in_order() -> None:
    models = ["a", "b", "東京"]
    found = answers(*(request(Parse(CHAT, None), json.dumps({"model": m}).encode()) for m in models))
    assert [body.model for body in found] == models


def test_a_request_that_breaks_off_is_the_end() -> None:
    whole = request(Parse(CHAT, None), b"{}")
    assert len(answers(whole, whole[:5])) == 1


def test_a_bug_is_told_without_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(job: Job, raw: bytes) -> None:
        raise ValueError(raw.decode())

    monkeypatch.setattr(worker, "perform", perform)
    bug, other = answers(*[request(Parse(CHAT, None), b'{"x":"secret"}')] * 2)
    assert isinstance(bug, Bug)
    assert "ValueError" in bug.where
    assert "test_body_worker.py" in bug.where
    assert "secret" not in bug.where
    assert other == bug
