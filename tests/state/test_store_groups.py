"""Redis behind Sentinels and as a Cluster: the same answers, and a failover that costs calls only time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from random import Random

import pytest
from redis.crc import key_slot

from aoai_gateway.config.shared_store import ANSWER_SECONDS, SharedStore, StoreAddress
from aoai_gateway.quota.quotas import Decision, Quota, Reservation
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import ChangeBatch, Exchange
from aoai_gateway.state.failover import FailoverState
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState
from aoai_gateway.state.store_client import StoreClient, packed
from tests.e2e.processes import eventually
from tests.ports import free_port
from tests.redis_groups import MASTER, Cluster, Group, Sentinels
from tests.redis_server import RedisServer, require_redis

PREFIX = "gw"
DAILY = (Quota("gpt-4o", 100_000, 1000, 1_000_000), Quota(None, None, 2000))

names = (f"call-{number}" for number in count())


def call(tokens: int = 10, client: str = "a {odd} team") -> Reservation:
    return Reservation(next(names), client, DAILY, tokens)


def spent(decision: Decision) -> list[int]:
    """What is booked of each limit: tokens per minute, requests, tokens per day, requests in total."""
    return [standing.limit - standing.remaining for standing in decision.standings]


@contextlib.contextmanager
def running[G: Group](group: G) -> Iterator[G]:
    try:
        group.start()
        yield group
    finally:
        group.stop()


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    require_redis()
    with running(Sentinels(tmp_path_factory.mktemp("sentinels"))) as group:
        yield group


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_redis()
    with running(Cluster(tmp_path_factory.mktemp("cluster"), PREFIX)) as group:
        yield group


@pytest.fixture(params=["sentinels", "cluster"])
def group(request: pytest.FixtureRequest) -> Group:
    """Servers that all tests of one kind share; each test has clients of its own."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def store_of(group: Group) -> SharedStore:
    return SharedStore.model_validate(group.state)


def with_state(store: StoreAddress, story: Callable[[RedisState], Awaitable[None]]) -> None:
    async def run() -> None:
        state = RedisState(store, prefix=PREFIX, timeout=5)
        try:
            await story(state)
        finally:
            await state.aclose()

    asyncio.run(run())


# --- the same answers ------------------------------------------------------------------------------------


def test_decisions_and_breaks_are_those_of_one_redis(group: Group) -> None:
    async def story(state: RedisState) -> None:
        kept, taken_back = call(100), call(50)
        assert (await state.reserve(kept)).admitted
        assert spent(await state.reserve(taken_back)) == [150, 2, 150, 2]
        await state.renew([kept])
        await state.settle(kept, 70)
        await state.cancel(taken_back)
        assert spent(await state.peek(call(0))) == [70, 1, 70, 1]
        await state.open_break("sweden/gpt-4o", "batch", 5, note="slow")
        ((found, left),) = (await state.breaks()).items()
        assert (found, left.note) == (("sweden/gpt-4o", "batch"), "slow")
        await state.close_break("sweden/gpt-4o", "batch")
        assert await state.breaks() == {}

    with_state(store_of(group), story)


def test_a_rush_of_many_clients_is_answered_in_its_order(group: Group) -> None:
    async def story(state: RedisState) -> None:
        group.primary().ask("SCRIPT FLUSH")
        calls = [call(10, f"rush {number % 7}") for number in range(700)]
        decisions = await asyncio.gather(*map(state.reserve, calls))
        assert [spent(each)[1] for each in decisions] == [number // 7 + 1 for number in range(700)]

    with_state(store_of(group), story)


def test_processes_hear_each_other(group: Group) -> None:
    async def run() -> None:
        one, other = (Exchange(store_of(group), PREFIX, name) for name in ("one", "other"))
        try:
            await one.tell([["a", 1]], 100.5, number=1)
            assert ChangeBatch("one", 100.5, [["a", 1]], 1) in await other.news(wait=False)
            waiting = asyncio.create_task(other.news(wait=True))
            await one.tell([["b"]], 100.5, number=2)
            assert await waiting == [ChangeBatch("one", 100.5, [["b"]], 2)]
            await one.tell_homes([("d1", "sweden", 5.0)])
            assert ("d1", "sweden", 5.0) in [home async for some in other.homes() for home in some]
            await other.follow()
        finally:
            await one.aclose()
            await other.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("prefix", ["gw", "{gw}", "}gw", "a{}b", "two words"])
def test_in_a_cluster_all_keys_of_a_prefix_share_a_slot(cluster: Cluster, prefix: str) -> None:

    async def story() -> None:
        state = RedisState(store_of(cluster), prefix=prefix, timeout=5)
        exchange = Exchange(store_of(cluster), prefix, "one")
        before = {(server.port, key) for server in cluster.servers for key in server.ask("KEYS *")}
        try:
            for client in ("one", "two {x}"):
                assert (await state.reserve(call(client=f"{client} of {prefix}"))).admitted
            await state.open_break("sweden", "batch", 5)
            await exchange.tell([], 1.0)
            await exchange.tell_homes([("d", "e", 1.0)])
        finally:
            await state.aclose()
            await exchange.aclose()
        now = {(server.port, key) for server in cluster.servers for key in server.ask("KEYS *")}
        new = {key for port, key in now - before}
        assert len({key_slot(key) for key in new}) == 1
        assert len(new) >= 2 or prefix == "gw"

    asyncio.run(story())


def test_a_cluster_can_be_lost_and_found_any_number_of_times(cluster: Cluster) -> None:
    """redis-py counts the connections that it hands out, a hundred for each node."""

    async def story() -> None:
        client = StoreClient(store_of(cluster), key=f"{{{PREFIX}}}:any", connect_seconds=5, answer_seconds=5)
        for _ in range(120):
            assert await client.ask([packed("EXISTS", f"{{{PREFIX}}}:any")]) == [0]
            await client.drop()
        await client.aclose()

    asyncio.run(story())


def test_a_cluster_is_not_asked_for_all_of_its_commands(cluster: Cluster) -> None:
    """The answer is long, and the event loop would stand still while it is read."""

    async def story() -> None:
        for server in cluster.servers:
            server.ask("CONFIG RESETSTAT")
        exchange = Exchange(store_of(cluster), PREFIX, "one")
        state = RedisState(store_of(cluster), prefix=PREFIX, timeout=5)
        try:
            assert (await state.reserve(call())).admitted
            await exchange.tell([], 1.0)
            await exchange.news(wait=False)
            await exchange.follow()
        finally:
            await exchange.aclose()
            await state.aclose()
        asked = {name for server in cluster.servers for name in server.ask("INFO", "commandstats")}
        assert "cmdstat_cluster|slots" in asked
        assert not {name for name in asked if name.startswith("cmdstat_command")}

    asyncio.run(story())


# --- a failover ------------------------------------------------------------------------------------------


class Watched:
    """A failover state and what it says, for calls one after the other."""

    def __init__(self, store: StoreAddress) -> None:
        self.local = MemoryState()
        self.state = FailoverState(
            RedisState(store, prefix=PREFIX), self.local, random=Random(1), first_pause=0.05
        )
        self.longest = 0.0

    async def call(self, client: str, tokens: int = 10) -> bool:
        """Reserve and settle one call; returns whether it was admitted."""
        reservation, begun = call(tokens, client), time.monotonic()
        answer = self.state.reserve(reservation, time.time())
        decision = answer if isinstance(answer, Decision) else await answer
        self.longest = max(self.longest, time.monotonic() - begun)
        ended = self.state.settle(reservation, tokens, time.time())
        if ended is not None:
            await ended
        return decision.admitted

    async def until(self, *, degraded: bool, client: str, seconds: float = 100) -> int:
        """Make calls until the state is so; returns how many were admitted."""
        admitted = 0
        async with asyncio.timeout(seconds):
            while (self.state.degraded_since is not None) != degraded:
                admitted += await self.call(client)
                await asyncio.sleep(0.02)
        return admitted

    async def spent(self, client: str) -> list[int]:
        """What the store says of a client."""
        answer = self.state.peek(call(0, client), time.time())
        assert not isinstance(answer, Decision), "the store is asked"
        return spent(await answer)

    async def will_have_spent(self, client: str, expected: list[int]) -> None:
        """See that the store hears of everything: the last of it is told just after the return."""
        deadline = time.monotonic() + 20
        while (found := await self.spent(client)) != expected:
            assert time.monotonic() < deadline, (found, expected)
            await asyncio.sleep(0.02)


async def has_followed(group: Group) -> None:
    """Wait until the replica has all that the primary has."""
    primary = await asyncio.to_thread(group.primary)
    _, offset, _ = primary.ask("ROLE")

    def is_there() -> bool:
        _, _, replicas = primary.ask("ROLE")
        return [int(offset_there) >= offset for _, _, offset_there in replicas] == [True]

    await asyncio.to_thread(eventually, is_there, "a replica with everything")


@pytest.mark.parametrize("how", ["killed", "stunned"])
def test_a_failover_costs_calls_some_time_and_nothing_else(
    group: Group, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = f"failover {how}"

    async def story() -> None:
        watched = Watched(store_of(group))
        running = call(1000, client)
        try:
            answer = watched.state.reserve(running, time.time())
            assert not isinstance(answer, Decision)
            assert (await answer).admitted
            calls = sum([await watched.call(client) for _ in range(20)])
            assert await watched.spent(client) == [1200, 21, 1200, 21]
            await has_followed(group)
            async with primary_lost(group, how) as old:
                calls += await watched.until(degraded=True, client=client)
                calls += await watched.until(degraded=False, client=client)
                assert await asyncio.to_thread(group.primary) is not old
                # What ran and what ended meanwhile is known there: nothing was lost, nothing counts twice.
                await watched.will_have_spent(client, [1000 + 10 * calls, calls + 1] * 2)
            assert calls > 21
            ended = watched.state.settle(running, 500, time.time())
            assert ended is not None
            await ended
            assert await watched.spent(client) == [500 + 10 * calls, calls + 1] * 2
            assert watched.longest < ANSWER_SECONDS + 5, (
                "each call waits for one time-out; nothing else would end it"
            )
        finally:
            await watched.state.aclose()

    with caplog.at_level(logging.INFO, "aoai_gateway"):
        asyncio.run(story())
    lost, back = (record.getMessage() for record in caplog.records if record.name.endswith("failover"))
    assert lost.startswith("Shared state lost, ")
    assert back.startswith("Shared state is back after ")
    assert all(str(address) in lost for address in store_of(group).address.split(","))


@contextlib.asynccontextmanager
async def primary_lost(group: Group, how: str) -> AsyncIterator[RedisServer]:
    """Lose the primary; it follows its successor afterwards, also when a test fails: others use the group."""
    server = await asyncio.to_thread(group.primary)
    lose, bring_back = (server.stun, server.wake) if how == "stunned" else (server.stop, server.start)
    lose()
    try:
        yield server
    finally:
        bring_back()
        await asyncio.to_thread(group.take_back, server)


def test_a_resharding_fails_no_call(cluster: Cluster) -> None:
    client = "resharded"

    async def story() -> None:
        watched = Watched(store_of(cluster))
        try:
            calls = sum([await watched.call(client) for _ in range(20)])
            owner = cluster.primary()
            other = next(s for s in cluster.servers if s is not owner and s.ask("ROLE")[0] == b"master")
            moving = cluster.move(cluster.slot, other)
            while await asyncio.to_thread(next, moving, "moved") is None:
                calls += await watched.call(client)
            assert cluster.primary() is other
            calls += await watched.until(degraded=False, client=client)
            calls += await watched.call(client)
            await watched.will_have_spent(client, [10 * calls, calls] * 2)
            assert watched.longest < ANSWER_SECONDS + 5
            for _ in cluster.move(cluster.slot, owner):
                pass
        finally:
            await watched.state.aclose()

    asyncio.run(story())


def test_peers_are_heard_again_after_a_failover(group: Group) -> None:
    async def story() -> None:
        one, other = (Exchange(store_of(group), PREFIX, name) for name in ("first", "second"))
        try:
            await one.tell([["before"]], 1.0, number=1)
            assert ChangeBatch("first", 1.0, [["before"]], 1) in await other.news(wait=False)
            await has_followed(group)
            async with primary_lost(group, "killed"), asyncio.timeout(60):
                await repeated(lambda: one.tell([["after"]], 1.0, number=2))
                await repeated(other.follow)
                heard: list[ChangeBatch] = []
                while ChangeBatch("first", 1.0, [["after"]], 2) not in heard:
                    heard = await repeated(lambda: other.news(wait=True))
        finally:
            await one.aclose()
            await other.aclose()

    asyncio.run(story())


async def repeated[T](ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer; each failure comes in time, and is of the one kind that is expected."""
    while True:
        begun = time.monotonic()
        try:
            return await ask()
        except StateUnavailableError:
            assert time.monotonic() - begun < 5, "nothing else would end it"
            await asyncio.sleep(0.1)


# --- what is wrong ---------------------------------------------------------------------------------------


def reason(store: StoreAddress) -> str:
    """Return what is said of a store that does not answer."""

    async def run() -> str:
        state = RedisState(store, prefix=PREFIX)
        try:
            with pytest.raises(StateUnavailableError) as caught:
                await state.reserve(call())
        finally:
            await state.aclose()
        return str(caught.value)

    return asyncio.run(run())


def test_an_unknown_master_is_named(sentinels: Sentinels) -> None:
    state = {"sentinel": sentinels.state["sentinel"] | {"master": "theirmaster"}}
    said = reason(SharedStore.model_validate(state))
    assert said.endswith(
        "/theirmaster/0: no Sentinel names a primary that is up; is the name of the master right?"
    )


def test_a_stunned_sentinel_is_passed_over_in_time(sentinels: Sentinels) -> None:
    first = sentinels.sentinels[0]
    first.stun()
    try:

        async def story() -> None:
            state = RedisState(store_of(sentinels), prefix=PREFIX, timeout=5)
            try:
                assert (await state.reserve(call())).admitted
            finally:
                await state.aclose()

        asyncio.run(story())
    finally:
        first.wake()


def test_a_node_of_a_cluster_is_no_single_server(cluster: Cluster) -> None:
    owner = cluster.owner_of(key_slot(b"{a%20%7Bodd%7D%20team}"))
    other = next(server for server in cluster.servers if server is not owner)
    said = reason(f"redis://127.0.0.1:{other.port}")
    assert said.endswith(': it is a part of a Cluster: write "state: {cluster: …}"')


def test_a_single_server_is_no_cluster(redis_server: RedisServer) -> None:
    said = reason(SharedStore(cluster=(f"127.0.0.1:{redis_server.port}",)))
    assert said.startswith(f"redis+cluster://127.0.0.1:{redis_server.port}: RedisClusterException: ")
    assert said.endswith("Cluster mode is not enabled on this node")


@pytest.mark.parametrize("kind", ["host", "cluster", "sentinel"])
def test_where_nothing_listens(kind: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    state = {
        "host": {"host": address},
        "cluster": {"cluster": [address]},
        "sentinel": {"sentinel": {"master": MASTER, "hosts": [address]}},
    }[kind]
    said = reason(SharedStore.model_validate(state))
    assert address in said
    assert "ConnectionError" in said or "Connect call failed" in said
