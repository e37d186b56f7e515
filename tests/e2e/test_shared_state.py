"""Two gateway processes and a real Redis: one budget, one set of breaks, and life without Redis."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.e2e.processes import READY_PATH, WAIT_SECONDS, Gateway, Simulator, eventually
from tests.e2e.raw import Connection, post
from tests.e2e.replay.stage import Caller
from tests.e2e.settings import configuration
from tests.e2e.two import (
    CHAT,
    ENDPOINTS,
    HASTY,
    HELLO,
    HOWS,
    LATE,
    LOST,
    POOLS,
    Two,
    client,
    key_of,
    running_two,
)
from tests.redis_groups import Cluster, Sentinels
from tests.redis_server import RedisServer, require_redis

CALLERS = 64


@pytest.fixture(scope="module")
def counting_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Backends that count prompts as the gateway does, so that nothing is ever owed."""
    folder = tmp_path_factory.mktemp("simulator")
    simulator = Simulator(ENDPOINTS, folder, arguments=["--count", "tiktoken"])
    yield simulator
    simulator.kill()


@pytest.fixture
def simulator(counting_simulator: Simulator) -> Simulator:
    """The simulator as after its start."""
    counting_simulator.reset()
    return counting_simulator


@pytest.fixture(scope="module")
def two(
    counting_simulator: Simulator,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
    home: Path,
) -> Iterator[Two]:
    """Two gateways whose Redis is always there."""
    with running_two(counting_simulator, redis_server, tmp_path_factory.mktemp("two"), home) as two:
        yield two


# --- one budget --------------------------------------------------------------------------------------


def test_sixty_four_callers_share_one_budget_to_the_percent(two: Two) -> None:
    two.steadily("crowd", lambda crowd: share_one_budget(two, crowd))


def share_one_budget(two: Two, crowd: str) -> None:
    limit = 12_000
    begun = time.monotonic()
    served = [0] * CALLERS
    asked = [0] * CALLERS
    together = threading.Barrier(CALLERS)

    def call(number: int) -> None:
        caller = Caller(two.gateways[number % 2].port)
        together.wait()
        refused = 0
        # The first refusals may be due to reservations of calls that turn out to need less.
        while refused < 3:
            asked[number] += 1
            status = caller.post(CHAT, HELLO, key=key_of(crowd)).status
            assert status in (200, 429)
            served[number] += status == 200
            refused += status == 429

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLERS)))
    last = two.call(0, crowd), two.call(1, crowd)
    assert time.monotonic() - begun < 50, "the window must not have moved on, for the sums to mean something"
    found = two.records(crowd, sum(asked) + 2)
    everything = [record for each in found for record in each]
    admitted = [record for record in everything if record["reserved_tokens"] is not None]
    assert max(record["reserved_tokens"] for record in admitted) <= 0.005 * limit
    spent = sum(record["charged_tokens"] for record in admitted)
    assert 0.99 * limit <= spent <= limit
    assert [answer.status for answer in last] == [429, 429]
    left = {int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in last}
    assert left == {limit - spent}, "both know it to the token"
    assert min(served) >= 1, "no client starves"
    shares = Counter(number for number, records in enumerate(found) for r in records if r["charged_tokens"])
    assert min(shares.values()) > 0.2 * sum(shares.values())


def test_what_one_gateway_serves_the_other_knows(two: Two) -> None:
    def play(known: str) -> None:
        begun = time.monotonic()
        answers = [two.call(number, known) for number in range(6)]
        assert [answer.status for answer in answers] == [200] * 5 + [429]
        remaining = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
        assert remaining == [4, 3, 2, 1, 0, 0]
        passed = 1000 * (time.monotonic() - begun)
        assert 60_000 - passed - 1 <= int(answers[-1].headers["retry-after-ms"]) <= 60_000

    two.steadily("known", play)


# --- a wait ------------------------------------------------------------------------------------------


def make_older(server: RedisServer, two: Two, client: str, seconds: float) -> None:
    """Move what a client has booked into the past, so that a test need not wait for a minute."""
    with redis.Redis.from_url(server.url) as store:
        # A call is settled a moment after its answer; what it used beyond its booking is booked then.
        leases = f"{two.prefix}:{{{client}}}:leases"
        eventually(lambda: not store.exists(leases), "all calls settled")
        window = f"{two.prefix}:{{{client}}}:*:window"
        for bucket, stamp in store.zrange(window, 0, -1, withscores=True):
            store.zadd(window, {bucket: stamp - seconds * 1e6})


def test_a_call_waits_until_there_is_room(two: Two, redis_server: RedisServer) -> None:
    def play(patient: str) -> None:
        assert two.call(0, patient).status == 200
        make_older(redis_server, two, patient, 55)
        begun = time.monotonic()
        assert two.call(1, patient).status == 200
        assert time.monotonic() - begun < 30
        (_, (record,)) = two.records(patient, 2)
        assert 0 < record["waited_ms"] < 30_000
        assert record["charged_tokens"] > 0

    two.steadily("patient", play)


def test_of_two_that_wait_for_one_place_one_is_refused_and_told_how_long_it_waited(
    two: Two, redis_server: RedisServer
) -> None:
    def play(hasty: str) -> None:
        assert two.call(0, hasty).status == 200
        make_older(redis_server, two, hasty, 58)
        begun = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda number: two.call(number, hasty), range(2)))
        refused, served = sorted(answers, key=lambda answer: -answer.status)
        assert (refused.status, served.status) == (429, 200)
        error = refused.json()["error"]
        assert error["code"] == "quota_exceeded"
        # The place was free after two seconds, and used a moment later: it stays so for a minute. So it is
        # no use to wait for as long as the client may.
        waited = re.search(r"The call has waited for (\d\.\d) s", error["message"])
        assert waited
        assert 0 < float(waited.group(1)) < min(HASTY["seconds"], time.monotonic() - begun + 0.05)
        assert 50_000 < int(refused.headers["retry-after-ms"]) <= 60_000

    two.steadily("hasty", play)


def test_who_hangs_up_while_waiting_has_nothing_booked(
    two: Two, redis_server: RedisServer, simulator: Simulator
) -> None:
    def play(leaving: str) -> None:
        simulator.reset()
        assert two.call(0, leaving).status == 200
        make_older(redis_server, two, leaving, 52)
        with Connection(two.gateways[1]) as connection:
            connection.send(post(CHAT, json.dumps(HELLO).encode(), key=key_of(leaving)))
            eventually(lambda: calls_at(two.gateways[1]) == 1, "the call is waiting")
        (_, (gone,)) = two.records(leaving, 2)
        assert (gone["outcome"], gone["reserved_tokens"]) == ("client_gone", None)
        make_older(redis_server, two, leaving, 9)
        assert two.call(1, leaving).status == 200
        assert len(simulator.requests()) == 2

    two.steadily("leaving", play)


def calls_at(gateway: Gateway) -> int:
    """How many calls it has under way."""
    return int(gateway.request("GET", READY_PATH).json()["calls"])


# --- one set of breaks -------------------------------------------------------------------------------


def available(gateway: Gateway, backend: str) -> bool:
    backends = gateway.request("GET", READY_PATH).json()["backends"]
    return next(b["available"] for b in backends if b["name"] == backend)  # type: ignore[no-any-return]


def test_a_break_is_seen_by_the_other_gateway(two: Two, simulator: Simulator) -> None:
    simulator.fault("429", deployment="told-1", retry_after_seconds=60)
    assert two.call(0, "team", model="told").headers["x-gateway-backend"] == "told-2@norway"
    eventually(lambda: not available(two.gateways[1], "told-1@norway"), "a break at the other", 50)
    simulator.reset()
    assert two.call(1, "team", model="told").headers["x-gateway-backend"] == "told-2@norway"
    assert [entry["deployment"] for entry in simulator.requests()] == ["told-2"]


def test_a_break_that_a_call_had_caused_itself_ends_everywhere(two: Two, simulator: Simulator) -> None:
    simulator.fault("503", times=2)
    assert two.call(0, "team", model="untold").status == 503
    simulator.clear_faults()
    time.sleep(1.2)  # the others look twice a second; a break that was told would be known by now
    for gateway in two.gateways:
        assert available(gateway, "untold-1@norway")
        assert available(gateway, "untold-2@norway")


# --- without Redis -----------------------------------------------------------------------------------


@contextmanager
def load(two: Two, client: str) -> Iterator[Counter[int | str]]:
    """Keep both busy with a few callers; yields the statuses and failures of their calls."""
    seen: Counter[int | str] = Counter()
    over = threading.Event()

    def call(number: int) -> None:
        caller = Caller(two.gateways[number % 2].port)
        while not over.is_set():
            try:
                status: int | str = caller.post(CHAT, HELLO, key=key_of(client)).status
            except Exception as error:
                status = repr(error)
                caller = Caller(two.gateways[number % 2].port)
            seen[status] += 1
            over.wait(0.01)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


@pytest.fixture(scope="module")
def two_and_their_redis(
    counting_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory, home: Path
) -> Iterator[tuple[Two, RedisServer]]:
    require_redis()
    folder = tmp_path_factory.mktemp("unsteady")
    server = RedisServer(folder)
    server.start()
    try:
        with running_two(counting_simulator, server, folder, home) as two:
            yield two, server
    finally:
        server.stop()


@pytest.fixture
def unsteady(two_and_their_redis: tuple[Two, RedisServer]) -> Iterator[tuple[Two, RedisServer]]:
    """Two gateways and a Redis that a test may take from them; afterwards it is there again in any case."""
    two, server = two_and_their_redis
    yield two, server
    if server.process is None:
        server.start()
    else:
        server.wake()
    two.wait_for_state("shared")


@pytest.mark.parametrize("how", HOWS)
def test_no_request_fails_when_redis_is_lost_and_comes_back(
    unsteady: tuple[Two, RedisServer], simulator: Simulator, how: str
) -> None:
    two, server = unsteady
    assert server.process is not None
    team = f"team {how}"

    def share(later: str) -> None:
        assert [two.call(number, later).status for number in range(6)] == [200] * 4 + [429] * 2

    before = two.lines_with(LOST)
    with load(two, "busy") as seen:
        eventually(lambda: seen[200] > 50, "some calls")
        two.wait_for_state("shared")
        if how == "killed":
            server.stop()
        else:
            server.stun()
        two.wait_for_state("degraded since 20")
        served, begun = seen[200], time.monotonic()
        # Each counts alone, and the whole limit.
        assert [two.call(number, team).status for number in range(8)] == [200] * 8
        assert [two.call(number, team).status for number in range(2)] == [429] * 2
        eventually(lambda: seen[200] > served + 50, "calls without Redis")
        if how == "killed":
            server.start()
        else:
            server.wake()
        two.wait_for_state("shared")
        served = seen[200]
        # Both have told what they admitted alone; from now on there is one budget.
        again = [two.call(number, team).status for number in range(2)]
        assert again == [429] * 2 or time.monotonic() - begun > 50, "its minute is not over"
        two.steadily(f"later {how}", share)
        eventually(lambda: seen[200] > served + 50, "calls with Redis")
    assert set(seen) == {200}, seen
    two.wait_for_state("shared")
    two.wait_until_all_is_told()
    for lines, earlier in zip(two.said(LOST), before, strict=True):
        losses = lines[earlier:]
        assert losses
        # Where the machine is busy, Redis is late at other times, too.
        assert len([loss for loss in losses if LATE not in loss]) <= 1, "each is told once"
    for gateway in two.gateways:
        assert "Traceback" not in gateway.log


@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
def test_no_request_fails_when_another_server_takes_the_place_of_one_that_is_lost(
    simulator: Simulator, tmp_path: Path, home: Path, kind: str
) -> None:
    require_redis()
    servers = Sentinels(tmp_path) if kind == "sentinels" else Cluster(tmp_path, f"two-{tmp_path.name}")
    try:
        servers.start()
        with running_two(simulator, servers, tmp_path, home) as two:
            with load(two, "busy") as seen:
                eventually(lambda: seen[200] > 50, "some calls")
                two.wait_for_state("shared")
                servers.primary().stop()
                two.wait_for_state("degraded since 20")
                served = seen[200]
                two.wait_for_state("shared")
                assert seen[200] > served, "calls went on meanwhile"
                served = seen[200]

                def share(known: str) -> None:
                    assert [two.call(number, known).status for number in range(6)] == [200] * 5 + [429]

                # One budget again, at the server that has taken its place.
                two.steadily("known", share)
                eventually(lambda: seen[200] > served + 50, "calls with Redis")
            assert set(seen) == {200}, seen
            two.wait_for_state("shared")
            two.wait_until_all_is_told()
            assert min(two.lines_with(LOST)) >= 1
            for gateway in two.gateways:
                assert "Traceback" not in gateway.log
    finally:
        servers.stop()


def test_a_gateway_can_start_without_redis(
    simulator: Simulator, own_redis: RedisServer, tmp_path: Path, home: Path
) -> None:
    own_redis.stop()
    with running_two(simulator, own_redis, tmp_path, home) as two:
        begun = time.monotonic()
        assert [two.call(number, "team killed").status for number in range(4)] == [200] * 4
        two.wait_for_state("degraded since 20")
        own_redis.start()
        two.wait_for_state("shared")
        again = two.call(0, "team killed").status
        assert again == 429 or time.monotonic() - begun > 50, "its minute is not over"


def test_the_log_names_redis_without_its_password(
    simulator: Simulator, own_redis: RedisServer, tmp_path: Path, home: Path
) -> None:
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.config_set("requirepass", "s3cret-of-redis")
    url = own_redis.url.replace("redis://", "redis://:s3cret-of-redis@")
    clients = [client("team", max_requests_per_minute=5)]
    config = configuration(simulator.urls, simulator.keys, pools=POOLS, clients=clients, state=url)
    gateway = Gateway("serve", config, tmp_path, home=home)
    try:
        tell_of_its_loss(gateway, own_redis)
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def tell_of_its_loss(gateway: Gateway, own_redis: RedisServer) -> None:
    body = {"key": key_of("team"), "json_body": HELLO}
    assert gateway.request("POST", CHAT, **body).status == 200
    eventually(lambda: gateway.request("GET", READY_PATH).json()["state"] == "shared", "shared counters")
    own_redis.stop()
    assert gateway.request("POST", CHAT, **body).status == 200
    gateway.wait_until(lambda: LOST in gateway.log, "without Redis")
    assert f"127.0.0.1:{own_redis.port}" in gateway.log
    assert "s3cret" not in gateway.log


# --- a crash -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("same_day")
def test_what_a_crashed_gateway_held_comes_back_when_its_lease_ends(
    two: Two, redis_server: RedisServer, simulator: Simulator
) -> None:
    def play(crashing: str) -> None:
        simulator.reset()
        with ThreadPoolExecutor(1) as pool, two.another(f"doomed-{crashing}") as doomed:
            simulator.fault("hang")
            begun = time.time()
            body = HELLO | {"max_tokens": 900}
            lost = pool.submit(doomed.request, "POST", CHAT, key=key_of(crashing), json_body=body)
            eventually(lambda: simulator.active()["in_flight"] == 1, "a call under way")
            doomed.kill()
            assert lost.exception(WAIT_SECONDS) is not None
        refused = two.call(1, crashing, max_tokens=500)
        assert refused.status == 429
        with redis.Redis.from_url(redis_server.url) as store:
            leases = f"{two.prefix}:{{{crashing}}}:leases"
            ((held, until),) = store.zrange(leases, 0, -1, withscores=True)
            assert 0 < until / 1e6 - begun < 130
            store.zadd(leases, {held: (time.time() - 1) * 1e6})  # as if that time had passed
        assert two.call(1, crashing, max_tokens=500).status == 200

    two.steadily("crashing", play)
