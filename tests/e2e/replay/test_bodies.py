"""Bodies that are large, chunked, compressed, refused halfway, or follow each other without a pause."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.conftest import Kind, Sdk
from tests.e2e.raw import Connection
from tests.e2e.replay.stage import PAYGO, PROMPT, PTU, SPARE, TEXT, Caller, Lane, Stage, chat, text_of, where
from tests.e2e.settings import CLIENT_KEY

MEGABYTE = 1 << 20


def with_image(size: int, *, stream: bool = False) -> dict[str, Any]:
    """A body of about so many bytes; an image, because so much text is more than a model's context."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * (size // 8)}}
    content = [image, {"type": "text", "text": PROMPT}]
    return {"messages": [{"role": "user", "content": content}], "stream": stream}


def head(lane: Lane, *fields: str, key: str = CLIENT_KEY) -> bytes:
    lines = [f"POST {lane.path} HTTP/1.1", "host: gateway", f"api-key: {key}", *fields]
    return "\r\n".join([*lines, "content-type: application/json", "", ""]).encode()


class TestTenMegabytes:
    @pytest.mark.each_host
    def test_are_passed_on_byte_for_byte(
        self, stage: Stage, lane: Lane, caller: Caller, streaming: bool
    ) -> None:
        body = json.dumps(with_image(10 * MEGABYTE, stream=False), indent=1).encode()
        if streaming:
            # With this the gateway has nothing to add to the body.
            body = body.replace(b'"stream": false', b'"stream":true,"stream_options":{"include_usage":true}')
        answer = caller.post(lane.path, body)
        assert text_of(answer) == TEXT
        (entry,) = stage.entries()
        assert entry["body_bytes"] == len(body) > 10 * MEGABYTE
        assert entry["body_sha256"] == hashlib.sha256(body).hexdigest()

    @pytest.mark.parametrize("kind", ["azure", "v1"])
    def test_of_an_sdk(self, stage: Stage, lane: Lane, sdk: Sdk, kind: Kind) -> None:
        answer = sdk(stage.gateway, kind).chat.completions.create(
            model=lane.deployment, **with_image(10 * MEGABYTE)
        )
        assert answer.choices[0].message.content == TEXT

    @pytest.mark.parametrize("fault", ["429", "500", "reset"])
    @pytest.mark.parametrize("early", [False, True], ids=["read", "unread"])
    def test_are_sent_again(self, stage: Stage, lane: Lane, caller: Caller, fault: str, early: bool) -> None:
        """Also when the first backend answers before it has read them."""
        stage.fault(fault, before_body=early)
        answer = caller.post(lane.path, with_image(10 * MEGABYTE, stream=True))
        assert (text_of(answer), where(answer.headers)) == (TEXT, PAYGO)
        assert stage.asked() == [PTU, PAYGO]
        assert stage.entries()[1]["body_bytes"] > 10 * MEGABYTE
        assert stage.record(lane)["attempts"][0]["failure"] == ("dropped" if fault == "reset" else "status")

    def test_are_not_taken_for_text(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """A refusal that names a limit of 5,000 tokens is no reason to say that the call exceeds it."""
        for backend in (PTU, PAYGO, SPARE):
            stage.fault("429-ms-zero", backend)
        answer = caller.post(lane.path, with_image(10 * MEGABYTE))
        assert (answer.status, answer.json()["error"]["code"]) == (429, "all_backends_out")

    @pytest.mark.each_host
    def test_in_chunks(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        body = json.dumps(with_image(10 * MEGABYTE)).encode()

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        caller.http.request(
            "POST",
            lane.path,
            body=pieces(),
            headers={"api-key": CLIENT_KEY, "content-type": "application/json"},
            encode_chunked=True,
        )
        assert text_of(caller.answer()) == TEXT
        (entry,) = stage.entries()
        assert entry["body_sha256"] == hashlib.sha256(body).hexdigest()
        assert entry["headers"]["content-length"] == str(len(body))
        assert "transfer-encoding" not in entry["headers"]

    @pytest.mark.each_host
    def test_of_an_unknown_client_are_refused_in_the_middle(self, stage: Stage, lane: Lane) -> None:
        """The answer does not wait for the body, and who sends all of it first still gets to read it."""
        length = f"content-length: {10 * MEGABYTE}"
        with Connection(stage.gateway) as connection:
            connection.send(head(lane, length, key="unknown") + b"x" * MEGABYTE)
            reply = connection.reply()
            assert (reply.status, reply.error["code"]) == (401, "401")
            assert reply.headers["connection"] == "close"
            connection.send(b"x" * (9 * MEGABYTE))
            assert connection.rest() == b""
        with Connection(stage.gateway) as connection:
            connection.send(head(lane, length, key="unknown"))
            connection.send(b"x" * (10 * MEGABYTE))
            assert connection.reply().status == 401
        assert stage.entries() == []


@pytest.mark.parametrize("sizes", [[1], [7, 1, 1, 900], [1000]], ids=["bytes", "odd", "one"])
def test_small_bodies_in_chunks(stage: Stage, lane: Lane, streaming: bool, sizes: list[int]) -> None:
    body = json.dumps(chat(stream=streaming)).encode()
    data, rest, number = b"", body, 0
    while rest:
        size = sizes[number % len(sizes)]
        piece, rest, number = rest[:size], rest[size:], number + 1
        data += b"%x\r\n%s\r\n" % (len(piece), piece)
    with Connection(stage.gateway) as connection:
        connection.send(head(lane, "transfer-encoding: chunked") + data + b"0\r\n\r\n")
        reply = connection.reply()
    assert reply.status == 200
    if not streaming:
        assert stage.entries()[0]["body_sha256"] == hashlib.sha256(body).hexdigest()


class TestLargeAnswers:
    WORDS = "word " * 20_000

    def test_arrive_whole(self, stage: Stage, lane: Lane, caller: Caller, streaming: bool) -> None:
        answer = caller.chat(lane, stream=streaming, prompt=f"say: {self.WORDS}")
        assert text_of(answer).rstrip() == self.WORDS.rstrip()

    @pytest.mark.each_host
    def test_arrive_after_a_replay(self, stage: Stage, lane: Lane, caller: Caller, streaming: bool) -> None:
        stage.fault("429")
        answer = caller.chat(lane, stream=streaming, prompt=f"say: {self.WORDS}")
        assert (text_of(answer).rstrip(), where(answer.headers)) == (self.WORDS.rstrip(), PAYGO)


class TestCompression:
    ACCEPTS = {"accept-encoding": "gzip"}  # noqa: RUF012 - a constant

    @pytest.fixture(autouse=True)
    def _compressing(self, stage: Stage) -> None:
        stage.simulator.control("POST", "settings", {"gzip": True})

    def test_passes_through(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        answer = caller.chat(lane, headers=self.ACCEPTS)
        assert answer.headers["content-encoding"] == "gzip"
        document = json.loads(gzip.decompress(answer.body))
        assert document["choices"][0]["message"]["content"] == TEXT
        record = stage.record(lane)
        assert record["input_tokens"] == document["usage"]["prompt_tokens"]
        assert record["finish_reason"] == "stop"

    def test_is_not_forced_on_a_client(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        answer = caller.chat(lane)
        assert "content-encoding" not in answer.headers
        assert text_of(answer) == TEXT

    @pytest.mark.each_host
    def test_of_streams_is_declined(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        """A compressed stream could not be read as it passes: no refusal in it, no usage, no broken end."""
        answer = caller.chat(lane, stream=True, headers=self.ACCEPTS)
        assert "content-encoding" not in answer.headers
        assert text_of(answer) == TEXT
        assert stage.record(lane)["output_tokens"] == 5

    @pytest.mark.parametrize("kind", ["azure", "v1"])
    def test_of_refusals_hides_nothing(
        self, stage: Stage, lane: Lane, sdk: Sdk, streaming: bool, kind: Kind
    ) -> None:
        stage.fault("429", PTU)
        stage.fault("429-late-body", PAYGO)
        client = sdk(stage.gateway, kind)
        answer: Any = client.chat.completions.create(model=lane.deployment, **chat(stream=streaming))
        if streaming:
            text = "".join(choice.delta.content or "" for chunk in answer for choice in chunk.choices)
        else:
            text = answer.choices[0].message.content
        assert text == TEXT
        reasons = [attempt["reason"] for attempt in stage.record(lane)["attempts"]]
        assert reasons == ["429 RateLimitReached", "429 RateLimitReached", None]

    def test_of_a_failure_that_is_returned(self, stage: Stage, lane: Lane, caller: Caller) -> None:
        stage.fault("500", PTU)
        stage.fault("500", PAYGO)
        stage.fault("500", SPARE)
        answer = caller.chat(lane, headers=self.ACCEPTS)
        assert (answer.status, answer.headers["content-encoding"]) == (500, "gzip")
        assert json.loads(gzip.decompress(answer.body))["error"]["code"] == "InternalServerError"

    @pytest.mark.each_host
    def test_that_no_call_asked_for(self, stage: Stage, caller: Caller) -> None:
        """A backend that compresses its stream all the same: it is decompressed as it comes."""
        packed = gzip.compress(b"data: [DONE]\n\n")
        stage.scripted.answers(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(packed), packed)
        )
        answer = caller.chat(stage.lane("scripted"), stream=True)
        assert (answer.status, answer.body) == (200, b"data: [DONE]\n\n")
        assert "content-encoding" not in answer.headers


class TestPipelining:
    """Requests that do not wait for each other's answers get them in order, one at a time."""

    @pytest.mark.parametrize("streams", [[False] * 3, [True] * 3, [True, False, True]], ids=str)
    @pytest.mark.parametrize("fault", [None, "429", "429-late-body", "500", "reset", "in-200-refusal"])
    def test_in_order(self, stage: Stage, lane: Lane, streams: list[bool], fault: str | None) -> None:
        if fault is not None:
            stage.fault(fault)
        data = b""
        for number, stream in enumerate(streams):
            body = json.dumps(chat(stream=stream, prompt=f"say: answer{number}")).encode()
            data += head(lane, f"content-length: {len(body)}") + body
        with Connection(stage.gateway) as connection:
            connection.send(data)
            for number, _ in enumerate(streams):
                reply = connection.reply()
                assert reply.status == 200
                assert b"answer%d" % number in reply.body
        entries = [entry for entry in stage.entries() if entry["outcome"] != "reset"]
        assert all(earlier["ended_at"] <= later["received_at"] for earlier, later in pairwise(entries))

    @pytest.mark.each_host
    def test_behind_one_that_is_refused(self, stage: Stage, lane: Lane) -> None:
        bad, good = b"{", json.dumps(chat()).encode()
        with Connection(stage.gateway) as connection:
            connection.send(head(lane, f"content-length: {len(bad)}") + bad)
            connection.send(head(lane, f"content-length: {len(good)}") + good)
            assert connection.reply().status == 400
            assert connection.reply().status == 200
