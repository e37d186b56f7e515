"""Calls that have ended are counted and written down some at a time, all of them, in order, and in time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.admin.metrics import metrics
from aoai_gateway.admin.snapshot import snapshot_at_once
from aoai_gateway.config.sinks import UsageSinks
from aoai_gateway.engine.call import Call
from aoai_gateway.runtime import ended_calls
from aoai_gateway.runtime import gateway as gateway_module
from aoai_gateway.runtime.ended_calls import HELD_BODY, MOST_AT_ONCE, EndedCalls
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.usage.sinks import Sinks
from aoai_gateway.wire.bodies import parse_body
from tests.engine_driver import config, world

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Written:
    """What was written, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[Call]] = []
        self.ended = EndedCalls(self.write)
        self._wrote = asyncio.Event()

    def write(self, calls: Sequence[Call]) -> None:
        self.batches.append(list(calls))
        self._wrote.set()

    async def has_written(self) -> None:
        await asyncio.wait_for(self._wrote.wait(), 60)
        self._wrote.clear()


def calls(count: int, text: str = "") -> list[Call]:
    body = {"model": "gpt", "messages": [{"role": "user", "content": text}]}
    return [world("a").call(body).call for _ in range(count)]


async def test_calls_gather_and_are_written_in_the_order_of_their_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ended_calls, "GATHER_SECONDS", 0.0)
    here, made = Written(), calls(3)
    for call in made[:2]:
        here.ended.add(call)
    assert here.batches == [], "they wait for others"
    await here.has_written()
    here.ended.add(made[2])
    await here.has_written()
    assert here.batches == [made[:2], made[2:]]


async def test_as_many_as_a_batch_holds_do_not_wait() -> None:
    here, made = Written(), calls(MOST_AT_ONCE + 1)
    for call in made:
        here.ended.add(call)
    assert here.batches == [made[:-1]]


async def test_a_large_body_does_not_wait() -> None:
    here, small, large = Written(), *calls(1), *calls(1, "x" * HELD_BODY)
    here.ended.add(small)
    here.ended.add(large)
    assert here.batches == [[small, large]]


async def test_what_was_written_before_its_time_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_calls, "GATHER_SECONDS", 0.0)
    here, made = Written(), calls(1)
    here.ended.add(made[0])
    here.ended.write()
    here.ended.write()
    for _ in range(5):
        await asyncio.sleep(0)
    assert here.batches == [made]


def test_without_an_event_loop_nothing_waits() -> None:
    here, made = Written(), calls(2)
    for call in made:
        here.ended.add(call)
    assert here.batches == [made[:1], made[1:]]


# --- in a gateway ---------------------------------------------------------------------------------------


class Kept:
    """In the place of a sink."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def put(self, records: list[dict[str, Any]]) -> None:
        self.records += records


@dataclass
class Heard:
    """In the place of the addons that listen."""

    events: frozenset[str]

    @property
    def calls_are_wanted(self) -> bool:
        return "gateway_call_finished" in self.events


def gateway_that_keeps(*heard: str) -> tuple[Gateway, Kept]:
    gateway, kept = Gateway(), Kept()
    gateway.adopt(config("a"))
    gateway.sinks.adopt(config("a"))
    listeners: Any = Heard(frozenset(heard))
    gateway.heard = listeners
    gateway.sinks.for_records["kept"] = kept  # type: ignore[assignment]
    return gateway, kept


async def test_what_reads_of_calls_finds_all_that_have_ended() -> None:
    gateway = Gateway()
    gateway.adopt(config("a"))
    gateway.write_down(*calls(1))
    assert b"aoai_gateway_calls_total{" not in gateway.metrics.text()
    assert b"aoai_gateway_calls_total{" in await metrics(gateway)
    gateway.write_down(*calls(1))
    assert sum(snapshot_at_once(gateway)["traffic"]["calls"]) == 2


async def test_a_request_that_became_no_call_is_written_after_the_calls_before_it() -> None:
    gateway, kept = gateway_that_keeps()
    (call,) = calls(1)
    gateway.write_down(call)
    gateway.answered_early(gateway_module.EarlyAnswer(401, "401"))
    assert [each["call"] for each in kept.records] == [call.id, None]


async def test_a_call_that_cannot_be_written_takes_no_others_along(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway, kept = gateway_that_keeps()
    made = calls(3)
    record = gateway_module.usage_record

    def fail(call: Call) -> dict[str, Any]:
        if call is made[1]:
            raise ValueError("".join(["sec", "ret"]))
        return record(call)

    monkeypatch.setattr(gateway_module, "usage_record", fail)
    with caplog.at_level(logging.ERROR):
        for call in made:
            gateway.write_down(call)
        gateway.catch_up()
    assert [each["call"] for each in kept.records] == [made[0].id, made[2].id]
    assert "its record is lost" in caplog.text
    assert "secret" not in caplog.text


async def test_a_record_that_no_line_can_hold_is_lost_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gateway = Gateway()
    gateway.adopt(config("a"))
    listeners: Any = Heard(frozenset())
    gateway.heard = listeners
    log = tmp_path / "usage.jsonl"
    gateway.sinks.adopt(config("a").but(usage_log=str(log)))
    made = calls(3)
    record = gateway_module.usage_record
    odd = {"odd": object()}
    monkeypatch.setattr(
        gateway_module, "usage_record", lambda call: record(call) | (odd if call is made[1] else {})
    )
    for call in made:
        gateway.write_down(call)
    gateway.catch_up()
    gateway.sinks.close(gateway.sinks.take_all())
    found = [json.loads(line)["call"] for line in log.read_text().splitlines()]
    assert found == [made[0].id, made[2].id]
    assert "its record is lost" in caplog.text


@pytest.mark.parametrize("heard", [(), ("gateway_call_finished",)])
async def test_texts_are_let_go_once_they_are_written_down_unless_a_plugin_has_the_call(
    heard: tuple[str, ...],
) -> None:
    gateway, kept = gateway_that_keeps(*heard)
    (call,) = calls(1, "a long text")
    call.body = parse_body(call.target, "application/json", b'{"stream": true, "service_tier": "flex"}')
    call.headers = {"x-request-id": "from the client"}
    gateway.write_down(call)
    assert call.body is not None, "its record is not made yet"
    gateway.catch_up()
    (record,) = kept.records
    assert (record["streaming"], record["service_tier_requested"]) == (True, "flex")
    assert record["client_request_id"] == "from the client"
    assert (call.body is None, not call.headers) == ((False, False) if heard else (True, True))


async def test_a_plugin_has_the_record_at_once_and_its_own() -> None:
    gateway, kept = gateway_that_keeps("gateway_call_finished")
    (call,) = calls(1)
    record = gateway.write_down(call)
    assert record["call"] == call.id
    record["call"] = record["attempts"][0]["backend"] = "changed"
    gateway.catch_up()
    assert kept.records[0]["call"] == call.id
    assert kept.records[0]["attempts"][0]["backend"] == "a@a"


async def test_lines_are_made_once_for_all_sinks_that_take_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from aoai_gateway.usage import sinks as module

    made: list[str] = []
    line_of = module.line_of

    def noted(record: Any) -> bytes:
        made.append(record["call"])
        return line_of(record)

    monkeypatch.setattr(module, "line_of", noted)
    sinks = Sinks()
    paths = [str(tmp_path / name) for name in ("one", "two")]
    sinks.adopt(
        config("a").but(
            usage_log=paths[0], usage_sinks=UsageSinks.model_validate({"jsonl": {"path": paths[1]}})
        )
    )
    sinks.put([{"call": "1"}, {"call": "2"}])
    sinks.close(sinks.take_all())
    assert made == ["1", "2"]
    assert [(tmp_path / name).read_text().count("\n") for name in ("one", "two")] == [2, 2]
