"""Two gateways in one event loop, and what each knows of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from aoai_gateway.config.priorities import BreakLengths
from aoai_gateway.engine.told_state import PeerShared
from aoai_gateway.runtime import peer_sync
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.peer_sync import PeerSync
from aoai_gateway.state.exchange import Exchange
from tests.engine_driver import config
from tests.ports import free_port
from tests.redis_server import RedisServer


@dataclass
class Process:
    gateway: Gateway
    shared: PeerShared
    sync: PeerSync


def process(url: str, prefix: str, name: str) -> Process:
    gateway = Gateway()
    shared = gateway.join_peers()
    gateway.adopt(config("ptu@sweden"))
    return Process(gateway, shared, PeerSync(gateway, shared, Exchange(url, prefix, name)))


def run(url: str, prefix: str, script: Callable[[Process, Process], Awaitable[None]]) -> None:
    async def both() -> None:
        one, other = process(url, prefix, "one"), process(url, prefix, "other")
        await one.sync.start()
        try:
            await script(one, other)
        finally:
            await one.sync.close()
            await other.sync.close()

    asyncio.run(both())


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


def test_they_hear_of_each_other_within_some_milliseconds(redis_server: RedisServer) -> None:
    async def script(one: Process, other: Process) -> None:
        await other.sync.start()
        backend = one.gateway.in_force().table.backends[0]
        now = time.monotonic()
        one.gateway.engine.breaks.open_for(backend.key, 30.0, now, "429", "call", {"default": _LENGTHS})
        await soon(lambda: other.gateway.engine.breaks.on(backend, time.monotonic()))
        brk = other.gateway.engine.breaks.on(backend, time.monotonic())
        assert brk is not None
        assert brk.reason == "429 (at another gateway process, one)"
        assert brk.until == pytest.approx(now + 30.0, abs=0.5)
        other.gateway.engine.breaks.close(backend.key)
        await soon(lambda: one.gateway.engine.breaks.on(backend, time.monotonic()) is None)

    run(redis_server.url, "hear", script)


def test_one_that_starts_knows_what_the_others_know(redis_server: RedisServer) -> None:
    async def script(one: Process, other: Process) -> None:
        now = time.monotonic()
        for number in range(3):
            one.gateway.engine.affinity.remember(f"resp_{number}", "sweden", now)
            one.gateway.engine.patience.hung_up("Ann", "default", False, 9.0)
        await soon(lambda: not one.shared.journal.records and not one.shared.affinity.homes)
        await asyncio.sleep(0.05)
        await other.sync.start()
        assert other.gateway.engine.affinity.home("resp_2", time.monotonic()) == "sweden"
        assert other.gateway.engine.patience.of("Ann", "default", False) == 9.0

    run(redis_server.url, "start", script)


def test_one_that_falls_silent_is_forgotten(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_sync, "LOST_SECONDS", 0.2)
    monkeypatch.setattr(peer_sync, "ALIVE_SECONDS", 0.05)

    async def script(one: Process, other: Process) -> None:
        await other.sync.start()
        await soon(lambda: "one" in other.sync._heard)
        await one.sync.close()
        await soon(lambda: "one" not in other.sync._heard)

    run(redis_server.url, "silent", script)


def test_without_a_store_each_begins_alone() -> None:
    async def script(one: Process, other: Process) -> None:
        begun = time.monotonic()
        await other.sync.start()
        assert time.monotonic() - begun < 3.5

    run(f"redis://127.0.0.1:{free_port()}/0", "alone", script)


def test_what_could_not_be_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_sync, "MOST_UNTOLD", 10)
    monkeypatch.setattr(peer_sync, "PAUSE_SECONDS", 0.01)

    async def script(one: Process, other: Process) -> None:
        for number in range(100):
            one.gateway.engine.patience.hung_up(f"client {number}", "default", False, 1.0)
        await soon(lambda: len(one.shared.journal.records) <= 10)

    run(f"redis://127.0.0.1:{free_port()}/0", "bounded", script)


_LENGTHS = BreakLengths(default=10.0, floor=0.2, ceiling=60.0)
