"""Every fault of the simulator, streaming and not, with a healthy backend beside it."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from aoai_simulator.faults import KINDS
from tests.e2e.conftest import Sdk
from tests.e2e.processes import eventually
from tests.e2e.replay.stage import (
    CONNECT_SECONDS,
    PAYGO,
    PROMPT,
    PTU,
    SPARE,
    TEXT,
    Caller,
    Lane,
    Stage,
    chat,
    text_of,
    where,
)

MESSAGES: Any = [{"role": "user", "content": PROMPT}]
PATIENCE = 10.0
IMPATIENCE = 0.5
"""For how many seconds a client says that it waits: no longer than the test wants to."""

SILENT = ("hang", "slow-first-token")
"""Faults that only a client's patience ends."""

REPLAYED: dict[str, tuple[str, dict[str, Any], str]] = {
    "429": ("429", {}, PAYGO),
    "429 of requests": ("429", {"reason": "requests"}, PAYGO),
    "429 of a PTU": ("429", {"reason": "ptu"}, PAYGO),
    "429 for want of capacity": ("429", {"reason": "capacity"}, PAYGO),
    "429 in the old words": ("429", {"form": "old"}, PAYGO),
    "429 in APIM's words": ("429", {"form": "apim"}, PAYGO),
    "429 before the body": ("429", {"before_body": True}, PAYGO),
    "429 without hints": ("429-no-hints", {}, PAYGO),
    "429 with 0 ms": ("429-ms-zero", {}, PAYGO),
    "429 with a late body": ("429-late-body", {}, PAYGO),
    "429 for a day": ("retry-after-86400", {}, PAYGO),
    "401": ("401", {}, SPARE),
    "403": ("403", {}, SPARE),
    "408": ("408", {}, PAYGO),
    "500": ("500", {}, PAYGO),
    "502": ("502", {}, PAYGO),
    "503": ("503", {}, PAYGO),
    "503 with a hint": ("503", {"retry_after_seconds": 3}, PAYGO),
    "504": ("504", {}, PAYGO),
    "529": ("529", {}, PAYGO),
    "huge error body": ("huge-error-body", {}, PAYGO),
    "reset": ("reset", {}, PAYGO),
    "closed": ("reset", {"how": "fin"}, PAYGO),
    "reset before the body": ("reset", {"before_body": True}, PAYGO),
    "hang": ("hang", {}, PAYGO),
    "hang before the body": ("hang", {"before_body": True}, PAYGO),
    "slow": ("slow-first-token", {"seconds": 5}, PAYGO),
    "refused in a 200": ("in-200-refusal", {}, PAYGO),
}
"""Faults that a client must not notice: the fault, its parameters, and the backend that answers."""

REPLAYED_IF_STREAMING: dict[str, tuple[str, dict[str, Any], str]] = {
    "cut within the preamble": ("cut", {"events": 2}, PAYGO),
    "cut within the first event": ("cut", {"events": 0, "mid_event": True}, PAYGO),
    "ended within the preamble": ("cut", {"events": 2, "how": "clean"}, PAYGO),
}

REPLAYED_IF_WHOLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "cut": ("cut", {}, PAYGO),
    "cut by RST": ("cut", {"how": "rst"}, PAYGO),
    "stall": ("stall", {}, PAYGO),
    "hang after the head": ("hang", {"after_head": True}, PAYGO),
}

UNREPLAYED: dict[str, tuple[str, dict[str, Any]]] = {
    "slow, but not too slow": ("slow-first-token", {"seconds": 0.3}),
    "slow after the head": ("slow-first-token", {"seconds": 0.3, "head_first": True}),
    "closed when idle": ("drop-after-idle", {}),
    "no content type": ("bad-content-type", {}),
    "odd content type": ("bad-content-type", {"content_type": "application/octet-stream"}),
    "CRLF in events": ("malformed-sse", {"form": "crlf"}),
}
"""What looks odd and is none of the gateway's business: the first backend's answer is the answer."""

CUT: dict[str, tuple[str, dict[str, Any]]] = {
    "FIN": ("cut", {"events": 5}),
    "RST": ("cut", {"events": 5, "how": "rst"}),
    "as if complete": ("cut", {"events": 5, "how": "clean"}),
    "in an event": ("cut", {"events": 5, "mid_event": True}),
    "stall": ("stall", {"events": 5}),
}
"""Faults after the first content, which cannot be taken back."""


class Got:
    """What an SDK's client got."""

    def __init__(
        self, client: openai.OpenAI, lane: Lane, streaming: bool, *, patience: float = PATIENCE
    ) -> None:
        waits = {"x-stainless-read-timeout": str(patience)}
        raw = client.chat.completions.with_raw_response.create(
            model=lane.deployment, messages=MESSAGES, stream=streaming, extra_headers=waits
        )
        self.attempts = int(raw.headers["x-gateway-attempts"])
        self.backend = where(raw.headers)
        answer: Any = raw.parse()
        if streaming:
            choices = [choice for chunk in answer for choice in chunk.choices]
            self.text = "".join(choice.delta.content or "" for choice in choices)
        else:
            self.text = answer.choices[0].message.content


def check_replayed(
    stage: Stage, lane: Lane, sdk: Sdk, streaming: bool, case: tuple[str, dict[str, Any], str]
) -> None:
    kind, how, then = case
    stage.fault(kind, **how)
    patience = IMPATIENCE if kind in SILENT else PATIENCE
    got = Got(sdk(stage.gateway, "azure"), lane, streaming, patience=patience)
    assert got.text == TEXT
    assert (got.attempts, got.backend) == (2, then)
    first, second = stage.entries()
    assert stage.asked() == [PTU, then]
    assert first["fault"] == kind
    assert second["outcome"] == "completed"
    record = stage.record(lane)
    assert record["outcome"] == "ok"
    assert [attempt["backend"].partition("-")[0] for attempt in record["attempts"]] == [PTU, then]


@pytest.mark.parametrize("case", REPLAYED.values(), ids=REPLAYED)
def test_replayed(
    stage: Stage, lane: Lane, sdk: Sdk, streaming: bool, case: tuple[str, dict[str, Any], str]
) -> None:
    check_replayed(stage, lane, sdk, streaming, case)


@pytest.mark.each_host
@pytest.mark.parametrize("name", ["429 with a late body", "401", "reset", "hang", "refused in a 200"])
def test_replayed_on_each_host(stage: Stage, lane: Lane, sdk: Sdk, name: str) -> None:
    """One of each way in which an attempt can fail; all others are tried on one host."""
    check_replayed(stage, lane, sdk, True, REPLAYED[name])


@pytest.mark.parametrize("case", REPLAYED_IF_STREAMING.values(), ids=REPLAYED_IF_STREAMING)
def test_replayed_if_streaming(
    stage: Stage, lane: Lane, sdk: Sdk, case: tuple[str, dict[str, Any], str]
) -> None:
    check_replayed(stage, lane, sdk, True, case)


@pytest.mark.parametrize("case", REPLAYED_IF_WHOLE.values(), ids=REPLAYED_IF_WHOLE)
def test_replayed_if_whole(stage: Stage, lane: Lane, sdk: Sdk, case: tuple[str, dict[str, Any], str]) -> None:
    check_replayed(stage, lane, sdk, False, case)


@pytest.mark.parametrize("case", UNREPLAYED.values(), ids=UNREPLAYED)
def test_unreplayed(stage: Stage, lane: Lane, sdk: Sdk, streaming: bool, case: tuple[str, Any]) -> None:
    kind, how = case
    stage.fault(kind, **how)
    got = Got(sdk(stage.gateway, "azure"), lane, streaming)
    assert (got.text, got.attempts, got.backend) == (TEXT, 1, PTU)
    assert stage.asked() == [PTU]


@pytest.mark.parametrize("case", CUT.values(), ids=CUT)
def test_a_stream_that_breaks_off_is_an_error(
    stage: Stage, lane: Lane, sdk: Sdk, case: tuple[str, Any]
) -> None:
    """Never a silent end that looks complete."""
    kind, how = case
    stage.fault(kind, **how)
    client = sdk(stage.gateway, "azure")
    stream = client.chat.completions.create(model=lane.deployment, messages=MESSAGES, stream=True)
    chunks: list[Any] = []
    with pytest.raises(openai.APIError) as broken_off:
        chunks.extend(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert TEXT.startswith(text)
    assert 0 < len(text) < len(TEXT)
    assert broken_off.value.code == "upstream_disconnected"
    assert stage.asked() == [PTU]
    record = stage.record(lane)
    assert (record["outcome"], record["status"]) == ("truncated", 200)


def test_a_stream_of_responses_that_breaks_off_is_an_error(stage: Stage, lane: Lane, sdk: Sdk) -> None:
    stage.fault("cut", events=8)
    client = sdk(stage.gateway, "v1")
    stream = client.responses.create(model=lane.deployment, input=PROMPT, stream=True)
    got: list[Any] = []
    with pytest.raises(openai.APIError) as broken_off:
        got.extend(stream)
    assert "response.output_text.delta" in [event.type for event in got]
    assert broken_off.value.code == "upstream_disconnected"


@pytest.mark.each_host
def test_a_head_without_a_stream_is_an_error(stage: Stage, lane: Lane, caller: Caller) -> None:
    """A backend that shows its head may be thinking: from then on the client waits with the gateway."""
    stage.fault("hang", after_head=True)
    answer = caller.chat(lane, stream=True)
    assert answer.status == 200
    assert b'"upstream_disconnected"' in answer.body
    assert stage.asked() == [PTU]


@pytest.mark.each_host
@pytest.mark.parametrize("form", ["bad-json", "bad-utf8", "html"])
def test_what_is_no_event_passes_as_it_came(stage: Stage, lane: Lane, caller: Caller, form: str) -> None:
    """Whatever a backend says in its stream, the gateway does not change it."""
    body = chat(stream=True, stream_options={"include_usage": True})
    stage.fault("malformed-sse", times=2, form=form, events=4)
    through = caller.post(lane.path, body)
    direct = stage.direct(PTU, body)
    assert through.status == 200
    assert without_ids(through.body) == without_ids(direct.body)


def without_ids(stream: bytes) -> list[bytes]:
    return [re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", line) for line in stream.splitlines()]


def test_content_filter_is_the_callers_answer(stage: Stage, lane: Lane, sdk: Sdk, streaming: bool) -> None:
    stage.fault("content_filter")
    with pytest.raises(openai.BadRequestError) as refused:
        Got(sdk(stage.gateway, "azure"), lane, streaming)
    error: Any = refused.value.body
    assert error["code"] == "content_filter"
    assert error["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert refused.value.response.headers["x-gateway-attempts"] == "1"
    assert stage.asked() == [PTU]
    assert Got(sdk(stage.gateway, "azure"), lane, streaming).backend == PTU  # and it is in no break


@pytest.mark.each_host
def test_refused_connections(stage: Stage, lane: Lane, sdk: Sdk, streaming: bool) -> None:
    stage.simulator.control("POST", "listening", {"endpoint": "west", "on": False})
    got = Got(sdk(stage.gateway, "azure"), lane, streaming)
    assert (got.text, got.attempts, got.backend) == (TEXT, 2, SPARE)
    assert stage.asked() == [SPARE]
    assert stage.record(lane)["attempts"][0]["failure"] == "connect"


def test_black_hole(stage: Stage, lane: Lane, sdk: Sdk, streaming: bool) -> None:
    """Nobody answers: all of the endpoint is in a break, its other standin is not tried."""
    silently = {"endpoint": "west", "on": False, "silently": True}
    stage.simulator.control("POST", "listening", silently)
    got = Got(sdk(stage.gateway, "azure"), lane, streaming)
    assert (got.text, got.attempts, got.backend) == (TEXT, 2, SPARE)
    first = stage.record(lane)["attempts"][0]
    assert (first["failure"], first["reason"]) == ("connect", f"no connection within {CONNECT_SECONDS:g} s")


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("when", ["answer", "request"])
def test_a_stale_connection_is_no_fault(
    stage: Stage, lane: Lane, caller: Caller, streaming: bool, when: str, how: str
) -> None:
    """A backend may close a connection that idles: once more to the same backend, without a break."""
    stage.fault("drop-after-idle", when=when, how=how)
    for number in range(2):
        answer = caller.chat(lane, stream=streaming)
        assert text_of(answer) == TEXT
        assert (answer.headers["x-gateway-attempts"], where(answer.headers)) == ("1", PTU)
        if number == 0 and when == "answer":
            eventually(lambda: stage.connections("west") == 0, "the backend has hung up")
            assert stage.gateway.is_ready()  # and so it has seen what came before this
    entries = stage.entries()
    completed = [entry for entry in entries if entry["outcome"] == "completed"]
    assert [entry["outcome"] for entry in entries if entry not in completed] == (
        ["dropped"] if when == "request" else []
    )
    assert len({entry["connection"] for entry in completed}) == 2
    (attempt,) = stage.record(lane, 2)["attempts"]
    assert attempt["break_ms"] is None
    assert attempt["resent"] is (when == "request")


@pytest.mark.each_host
@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"HTTP/1.1 103 Hints\r\n\r\n"],
    ids=["another protocol", "malformed header", "early hints"],
)
def test_what_is_no_answer(stage: Stage, caller: Caller, streaming: bool, answer: bytes) -> None:
    stage.scripted.answers(answer, close=True)
    got = caller.chat(stage.lane("scripted"), stream=streaming)
    assert (text_of(got), got.headers["x-gateway-attempts"], where(got.headers)) == (TEXT, "2", SPARE)


def test_every_fault_is_tried() -> None:
    """A fault that is added to the simulator belongs in here."""
    tables: list[dict[str, Any]] = [REPLAYED, REPLAYED_IF_STREAMING, REPLAYED_IF_WHOLE, UNREPLAYED, CUT]
    tried = {case[0] for table in tables for case in table.values()}
    assert set(KINDS) - tried == {"content_filter"}
