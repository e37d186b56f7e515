"""Two gateways in one event loop, and what each knows of the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from aoai_gateway.config.priorities import BreakLengths
from aoai_gateway.engine.replicated_state import ReplicatedState
from aoai_gateway.routing.affinity import Untold
from aoai_gateway.routing.breaker import FailedCall
from aoai_gateway.routing.order import RoutingRequest
from aoai_gateway.runtime import peer_sync
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.peer_sync import PeerSync
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import ChangeBatch, Exchange
from tests.engine_driver import DEPLOYMENT, config
from tests.ports import free_port
from tests.redis_server import RedisServer


@dataclass
class Process:
    gateway: Gateway
    shared: ReplicatedState
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
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


def test_they_hear_of_each_other_within_some_milliseconds(redis_server: RedisServer) -> None:
    async def script(one: Process, other: Process) -> None:
        await other.sync.start()
        backend = one.gateway.in_force().table.backends[0]
        now = time.monotonic()
        one.gateway.engine.breaks.open_for(
            FailedCall(backend.key, now, 30.0, "429", "call"), {"default": _LENGTHS}
        )
        await soon(lambda: other.gateway.engine.breaks.on(backend, time.monotonic()))
        brk = other.gateway.engine.breaks.on(backend, time.monotonic())
        assert brk is not None
        assert brk.reason == "429 (at another gateway process, one)"
        assert brk.until == pytest.approx(now + 30.0, abs=0.5)
        other.gateway.engine.breaks.close(backend.key)
        await soon(lambda: one.gateway.engine.breaks.on(backend, time.monotonic()) is None)

    run(redis_server.url, "hear", script)


def test_one_that_is_alone_is_not_woken_by_all_that_it_tells(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells in portions, and hears at once of one that joins it."""

    async def script(one: Process, other: Process) -> None:
        asked, begun = _counted(one.sync._exchange), time.monotonic()
        for number in range(50):
            one.gateway.engine.affinity.remember(f"resp_{number}", "sweden", time.monotonic())
            one.gateway.engine.patience.hung_up("Ann", "default", False, 9.0)
            await asyncio.sleep(0.001)
        await soon(lambda: not one.shared.journal.records and not one.shared.affinity.untold)
        portions = (time.monotonic() - begun) / peer_sync.ALONE_SECONDS + 3
        # What comes while a portion is told follows it at once.
        assert asked["tell"] < 2 * portions
        assert asked["news"] < portions
        monkeypatch.setattr(peer_sync, "ALIVE_SECONDS", 1000.0)  # it does not wait for a sign of life
        await other.sync.start()
        await soon(lambda: "other" in one.sync._heard)

    run(redis_server.url, "alone", script)


def _counted(exchange: Exchange) -> Counter[str]:
    """Count what an exchange is asked from now on."""
    asked: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        ask = getattr(exchange, name)

        def call(*arguments: Any, **named: Any) -> Any:
            asked[name] += 1
            return ask(*arguments, **named)

        return call

    for name in ("tell", "news"):
        setattr(exchange, name, counting(name))
    return asked


def _watched(exchange: Exchange) -> list[str]:
    """Give a list of what an exchange is being told."""
    under_way: list[str] = []

    def watching(name: str) -> Callable[..., Any]:
        tell = getattr(exchange, name)

        async def told(*arguments: Any, **named: Any) -> None:
            under_way.append(name)
            try:
                await tell(*arguments, **named)
            finally:
                under_way.remove(name)

        return told

    for name in ("tell", "tell_homes"):
        setattr(exchange, name, watching(name))
    return under_way


def test_one_that_starts_knows_what_the_others_know(redis_server: RedisServer) -> None:
    async def script(one: Process, other: Process) -> None:
        now, under_way = time.monotonic(), _watched(one.sync._exchange)
        for number in range(3):
            one.gateway.engine.affinity.remember(f"resp_{number}", "sweden", now)
            one.gateway.engine.patience.hung_up("Ann", "default", False, 9.0)
        await soon(lambda: not one.shared.journal.records and not one.shared.affinity.untold)
        await soon(lambda: not under_way)
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
        await asyncio.wait_for(other.sync.start(), 10 * peer_sync.CATCH_UP_SECONDS)

    run(f"redis://127.0.0.1:{free_port()}/0", "alone", script)


# --- a store that does not answer ------------------------------------------------------------------------


class Store:
    """A store in this process: its answers can be refused, before or after it has taken what it was told."""

    def __init__(self) -> None:
        self.told: list[ChangeBatch] = []
        self.kept: list[tuple[str, str, float]] = []
        self.refuses = ""
        self.asked = 0


class Line:
    """One process's part in the exchange through a `Store`."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name, self._read = store, name, 0

    async def tell(self, records: Sequence[Any], unix_offset: float, number: int | None = None) -> None:
        self._store.asked += 1
        if self._store.refuses != "before":
            self._store.told.append(
                ChangeBatch(self._name, unix_offset, json.loads(json.dumps(records)), number)
            )
        self._refuse()

    async def tell_homes(self, homes: Sequence[tuple[str, str, float]]) -> None:
        self._store.asked += 1
        if self._store.refuses != "before":
            self._store.kept += homes
        self._refuse()

    def _refuse(self) -> None:
        if self._store.refuses:
            raise StateUnavailableError("no answer")

    async def homes(self) -> AsyncIterator[list[tuple[str, str, float]]]:
        yield list(reversed(self._store.kept))

    async def news(self, *, wait: bool) -> list[ChangeBatch]:
        if wait:
            await asyncio.sleep(0.001)
        news = [told for told in self._store.told[self._read :] if told.process != self._name]
        self._read = len(self._store.told)
        return news

    async def follow(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_sync, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(peer_sync, "ALIVE_SECONDS", 0.01)


def beside(script: Callable[[Process, Process, Store], Awaitable[None]]) -> None:
    """Run a script of two processes that are connected by a `Store`."""

    async def both() -> None:
        store = Store()
        processes = []
        for name in ("one", "other"):
            gateway = Gateway()
            shared = gateway.join_peers()
            gateway.adopt(config("ptu@sweden"))
            line: Any = Line(store, name)
            processes.append(Process(gateway, shared, PeerSync(gateway, shared, line)))
            await processes[-1].sync.start()
        try:
            await script(processes[0], processes[1], store)
        finally:
            for each in processes:
                await each.sync.close()

    asyncio.run(both())


async def asked_again(store: Store, times: int = 5) -> None:
    before = store.asked
    await soon(lambda: store.asked >= before + times)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("refuses", ["before", "after"])
def test_what_a_store_did_not_take_is_told_once_it_answers_and_counts_once(refuses: str) -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        store.refuses = refuses
        heard: list[tuple[Any, ...]] = []
        other.gateway.engine.patience.hung_up = lambda *record: heard.append(record)  # type: ignore[method-assign]  # listens
        one.gateway.engine.patience.hung_up("Ann", "default", False, 9.0)
        await asked_again(store)
        one.gateway.engine.patience.hung_up("Bob", "default", False, 8.0)
        await asked_again(store)
        store.refuses = ""
        await soon(lambda: len(heard) >= 2)
        await asked_again(store, 10)
        assert [record[0] for record in heard] == ["Ann", "Bob"]

    beside(script)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("refuses", ["before", "after"])
def test_homes_that_a_store_did_not_take_are_kept_once_it_answers(refuses: str) -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        store.refuses = refuses
        one.gateway.engine.affinity.remember("resp_1", "sweden", time.monotonic())
        await asked_again(store)
        one.gateway.engine.affinity.remember("resp_2", "sweden", time.monotonic())
        await asked_again(store)
        store.refuses = ""
        await soon(lambda: not one.shared.affinity.untold)
        third = Gateway()
        third_shared = third.join_peers()
        third.adopt(config("ptu@sweden"))
        line: Any = Line(store, "third")
        third_sync = PeerSync(third, third_shared, line)
        await third_sync.start()
        await third_sync.close()
        for name in ("resp_1", "resp_2"):
            assert third.engine.affinity.home(name, time.monotonic()) == "sweden"

    beside(script)


@pytest.mark.usefixtures("quick")
def test_what_waits_for_a_store_is_bounded_and_its_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        one.shared.journal._most = 10
        one.shared.affinity.untold = Untold(10)
        store.refuses = "before"
        for number in range(100):
            one.gateway.engine.patience.hung_up(f"client {number}", "default", False, 1.0)
            one.gateway.engine.affinity.remember(f"resp_{number}", "sweden", time.monotonic())
            assert len(one.shared.journal.records) <= 10
            assert len(one.shared.affinity.untold) <= 10
            if number % 20 == 0:
                await asked_again(store)
        store.refuses = ""
        await soon(lambda: ["lost"] in [record for told in store.told for record in told.records])
        records = [record for told in store.told for record in told.records]
        assert [record[1] for record in records if record[0] == "hung up"][-5:] == [
            f"client {number}" for number in range(95, 100)
        ], "the newest are kept"
        await soon(lambda: not one.shared.affinity.untold)
        assert len(store.kept) == 10
        assert not one.shared.journal.has_dropped

    beside(script)


@pytest.mark.usefixtures("quick")
def test_a_process_that_could_not_be_heard_tells_again_of_its_waiting_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_sync, "LOST_SECONDS", 0.05)

    async def script(one: Process, other: Process, store: Store) -> None:
        now = time.monotonic()
        waiting = waiting_call(one, "call", now)
        assert one.shared.scheduler.join(waiting, {}, max_length=10)
        await soon(lambda: "call" in other.shared.scheduler.elsewhere)
        store.refuses = "before"
        await soon(lambda: "call" not in other.shared.scheduler.elsewhere)
        store.refuses = ""
        await soon(lambda: "call" in other.shared.scheduler.elsewhere)
        await soon(lambda: other.shared.scheduler._queues[waiting.queue_name].requests)
        one.shared.scheduler.close(waiting, time.monotonic())
        await soon(lambda: "call" not in other.shared.scheduler.elsewhere)

    beside(script)


def waiting_call(process: Process, call_id: str, now: float) -> RoutingRequest:
    setup = process.gateway.in_force()
    (cls,) = setup.config.priority_classes
    pool = setup.table.pool(DEPLOYMENT)
    return RoutingRequest(call_id, "Ann", cls, pool, DEPLOYMENT, DEPLOYMENT, arrived=now)


@pytest.mark.usefixtures("quick")
def test_one_record_that_cannot_be_applied_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        one.shared.journal.write("hung up", "too few")
        one.shared.journal.write("home", "no digest", "sweden", 1.0)
        one.gateway.engine.affinity.remember("resp_1", "sweden", time.monotonic())
        await soon(lambda: other.gateway.engine.affinity.home("resp_1", time.monotonic()))

    beside(script)
    assert caplog.text.count("was passed over") == 1


@pytest.mark.usefixtures("quick")
def test_a_batch_that_cannot_be_told_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        one.shared.journal.write("hung up", object())
        await asked_again(store)
        one.gateway.engine.affinity.remember("resp_1", "sweden", time.monotonic())
        await soon(lambda: other.gateway.engine.affinity.home("resp_1", time.monotonic()))

    beside(script)


@pytest.mark.usefixtures("quick")
def test_what_was_seen_last_is_told_at_the_end() -> None:
    async def script(one: Process, other: Process, store: Store) -> None:
        one.gateway.engine.affinity.remember("resp_1", "sweden", time.monotonic())
        await one.sync.close()
        assert len(store.kept) == 1

    beside(script)


_LENGTHS = BreakLengths(default=10.0, floor=0.2, ceiling=60.0)
