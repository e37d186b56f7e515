"""Two gateway processes and a real Redis: one budget, one set of breaks, and life without Redis."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e import json_lines
from tests.e2e.processes import READY_PATH, Answer, Gateway, Simulator, eventually
from tests.e2e.raw import Connection, post
from tests.e2e.replay.stage import Caller
from tests.redis_server import RedisServer

CHAT = "/openai/v1/chat/completions"
TEXT = "It was answered after all, in ten words or so."
HELLO = {
    "model": "gpt-4o",
    "max_tokens": 20,
    "messages": [{"role": "user", "content": f"say: {TEXT}"}],
}
CALLERS = 64

LOST = "Shared state lost"
BACK = "Shared state is back"


def key_of(client: str) -> str:
    return f"key-of-{client}-41d0"


def client(name: str, **limits: Any) -> dict[str, Any]:
    return {"name": name, "key": key_of(name), **limits}


@pytest.fixture(params=["serve"])
def host(request: pytest.FixtureRequest) -> str:
    """What is shared does not depend on the host; two processes of one are enough."""
    return str(request.param)


@pytest.fixture
def simulator(start_simulator: Callable[..., Simulator]) -> Simulator:
    """Backends that count prompts as the gateway does, so that nothing is ever owed."""
    return start_simulator(arguments=["--count", "tiktoken"])


class Two:
    """Two gateways before one simulator and one Redis."""

    def __init__(
        self,
        start: Callable[..., Gateway],
        simulator: Simulator,
        server: RedisServer,
        folder: Path,
        clients: list[dict[str, Any]],
    ) -> None:
        self.prefix = f"two-{folder.name}"
        self._logs = {name: folder / f"usage-{name}.jsonl" for name in ("north", "south")}
        self.gateways = [
            start(
                simulator,
                name=name,
                clients=clients,
                usage_log=str(log),
                state=server.url,
                state_prefix=self.prefix,
            )
            for name, log in self._logs.items()
        ]

    def call(self, number: int, client: str, **body: Any) -> Answer:
        """Send a call to one of the two."""
        return self.gateways[number % 2].request("POST", CHAT, key=key_of(client), json_body=HELLO | body)

    def states(self) -> list[str]:
        """What each says of its counters."""
        return [gateway.request("GET", READY_PATH).json()["state"] for gateway in self.gateways]

    def wait_for_state(self, state: str, seconds: float = 15) -> None:
        """Wait until both say so."""
        eventually(lambda: all(s.startswith(state) for s in self.states()), f"{state} counters", seconds)

    def records(self, count: int) -> list[list[dict[str, Any]]]:
        """The usage records of each, once there are so many in all."""

        def read() -> list[list[dict[str, Any]]]:
            found = [json_lines.read(log) for log in self._logs.values()]
            return found if sum(map(len, found)) >= count else []

        return eventually(read, f"{count} records")  # type: ignore[no-any-return]


@pytest.fixture
def start_two(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> Callable[..., Two]:
    """Return a function that starts two gateways before a Redis: ``(server, *clients)``."""

    def start(server: RedisServer, *clients: dict[str, Any]) -> Two:
        return Two(start_gateway, simulator, server, tmp_path, list(clients))

    return start


# --- one budget --------------------------------------------------------------------------------------


def test_sixty_four_callers_share_one_budget_to_the_percent(
    start_two: Callable[..., Two], redis_server: RedisServer
) -> None:
    limit = 12_000
    two = start_two(redis_server, client("team", max_tokens_per_minute=limit), client("other"))
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
            status = caller.post(CHAT, HELLO, key=key_of("team")).status
            assert status in (200, 429)
            served[number] += status == 200
            refused += status == 429

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLERS)))
    last = two.call(0, "team"), two.call(1, "team")
    assert time.monotonic() - begun < 50, "the window must not have moved on, for the sums to mean something"
    found = two.records(sum(asked) + 2)
    everything = [record for each in found for record in each]
    admitted = [record for record in everything if record["reserved_tokens"] is not None]
    assert max(record["reserved_tokens"] for record in admitted) <= 0.005 * limit
    spent = sum(record["charged_tokens"] for record in admitted)
    assert 0.99 * limit <= spent <= limit
    assert [answer.status for answer in last] == [429, 429]
    left = {int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in last}
    assert left == {limit - spent}, "both know it to the token"
    assert min(served) >= 1, "nobody starves"
    shares = Counter(number for number, records in enumerate(found) for r in records if r["charged_tokens"])
    assert min(shares.values()) > 0.2 * sum(shares.values())


def test_what_one_gateway_serves_the_other_knows(
    start_two: Callable[..., Two], redis_server: RedisServer
) -> None:
    two = start_two(redis_server, client("team", max_requests_per_minute=5, max_tokens_per_day=100_000))
    assert two.states() == ["shared", "shared"]
    answers = [two.call(number, "team") for number in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    remaining = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert remaining == [4, 3, 2, 1, 0, 0]
    assert 55_000 < int(answers[-1].headers["retry-after-ms"]) <= 60_000


# --- a wait ------------------------------------------------------------------------------------------


def make_older(server: RedisServer, two: Two, client: str, seconds: float) -> None:
    """Move what a client has booked into the past, so that a test need not wait for a minute."""
    with redis.Redis.from_url(server.url) as store:
        window = f"{two.prefix}:{{{client}}}:*:window"
        for bucket, stamp in store.zrange(window, 0, -1, withscores=True):
            store.zadd(window, {bucket: stamp - seconds * 1e6})


PATIENT = client("patient", max_requests_per_minute=1, when_exceeded={"action": "wait", "seconds": 10})


def test_a_call_waits_until_there_is_room(start_two: Callable[..., Two], redis_server: RedisServer) -> None:
    two = start_two(redis_server, PATIENT)
    assert two.call(0, "patient").status == 200
    make_older(redis_server, two, "patient", 57.5)
    begun = time.monotonic()
    assert two.call(1, "patient").status == 200
    assert 1 < time.monotonic() - begun < 5
    (_, (record,)) = two.records(2)
    assert 1000 < record["waited_ms"] < 3000
    assert record["charged_tokens"] > 0


def test_of_two_that_wait_for_one_place_one_is_refused_and_told_how_long_it_waited(
    start_two: Callable[..., Two], redis_server: RedisServer
) -> None:
    two = start_two(redis_server, PATIENT)
    assert two.call(0, "patient").status == 200
    make_older(redis_server, two, "patient", 57.5)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda number: two.call(number, "patient"), range(2)))
    refused, served = sorted(answers, key=lambda answer: -answer.status)
    assert (refused.status, served.status) == (429, 200)
    error = refused.json()["error"]
    assert error["code"] == "quota_exceeded"
    assert "The call has waited for" in error["message"]
    # It has asked until its 10 s were over; the place was taken in the third second, for a minute.
    assert "waited for 10.0 s" in error["message"]
    assert 50_000 < int(refused.headers["retry-after-ms"]) < 56_000


def test_who_hangs_up_while_waiting_has_nothing_booked(
    start_two: Callable[..., Two], redis_server: RedisServer, simulator: Simulator
) -> None:
    two = start_two(redis_server, PATIENT)
    assert two.call(0, "patient").status == 200
    make_older(redis_server, two, "patient", 57)
    with Connection(two.gateways[1]) as connection:
        connection.send(post(CHAT, json.dumps(HELLO).encode(), key=key_of("patient")))
        time.sleep(0.5)
    (_, (gone,)) = two.records(2)
    assert (gone["outcome"], gone["reserved_tokens"]) == ("client_gone", None)
    assert two.call(1, "patient").status == 200
    assert len(simulator.requests()) == 2


# --- one set of breaks -------------------------------------------------------------------------------


def available(gateway: Gateway, backend: str) -> bool:
    backends = gateway.request("GET", READY_PATH).json()["backends"]
    return next(b["available"] for b in backends if b["name"] == backend)  # type: ignore[no-any-return]


def test_a_break_is_seen_by_the_other_gateway(
    start_two: Callable[..., Two], redis_server: RedisServer, simulator: Simulator
) -> None:
    two = start_two(redis_server, client("team"))
    simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=30)
    assert two.call(0, "team").headers["x-gateway-backend"] == "gpt-4o-paygo@sweden"
    begun = time.monotonic()
    eventually(lambda: not available(two.gateways[1], "gpt-4o-ptu@sweden"), "a break at the other", 5)
    assert time.monotonic() - begun < 1.5
    simulator.reset()
    assert two.call(1, "team").headers["x-gateway-backend"] == "gpt-4o-paygo@sweden"
    assert [entry["deployment"] for entry in simulator.requests()] == ["gpt-4o-paygo"]


def test_a_break_that_a_call_had_caused_itself_ends_everywhere(
    start_two: Callable[..., Two], redis_server: RedisServer, simulator: Simulator
) -> None:
    two = start_two(redis_server, client("team"))
    simulator.fault("503", times=2)
    assert two.call(0, "team").status == 503
    simulator.clear_faults()
    time.sleep(1.2)  # the others look twice a second; a break that was told would be known by now
    for gateway in two.gateways:
        assert available(gateway, "gpt-4o-ptu@sweden")
        assert available(gateway, "gpt-4o-paygo@sweden")


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
            thread.join(30)


def lines_with(gateway: Gateway, words: str) -> int:
    return sum(words in line for line in gateway.log.splitlines())


@pytest.mark.parametrize("how", ["killed", "stunned"])
def test_no_request_fails_when_redis_is_lost_and_comes_back(
    start_two: Callable[..., Two], own_redis: RedisServer, how: str
) -> None:
    two = start_two(
        own_redis,
        client("busy", max_tokens_per_minute=10_000_000),
        client("team", max_requests_per_minute=4),
        client("later", max_requests_per_minute=4),
    )
    assert own_redis.process is not None
    with load(two, "busy") as seen:
        eventually(lambda: seen[200] > 50, "some calls")
        assert two.states() == ["shared", "shared"]
        if how == "killed":
            own_redis.stop()
        else:
            own_redis.process.send_signal(signal.SIGSTOP)
        two.wait_for_state("degraded since 20")
        served = seen[200]
        # Each counts alone, and the whole limit.
        assert [two.call(number, "team").status for number in range(8)] == [200] * 8
        assert [two.call(number, "team").status for number in range(2)] == [429] * 2
        eventually(lambda: seen[200] > served + 50, "calls without Redis")
        if how == "killed":
            own_redis.start()
        else:
            own_redis.process.send_signal(signal.SIGCONT)
        two.wait_for_state("shared")
        served = seen[200]
        # Both have told what they admitted alone; from now on there is one budget.
        assert [two.call(number, "team").status for number in range(2)] == [429] * 2
        assert [two.call(number, "later").status for number in range(6)] == [200] * 4 + [429] * 2
        eventually(lambda: seen[200] > served + 50, "calls with Redis")
    assert set(seen) == {200}, seen
    for gateway in two.gateways:
        assert lines_with(gateway, LOST) == 1, gateway.log
        assert lines_with(gateway, BACK) == 1, gateway.log
        assert "Traceback" not in gateway.log


def test_a_gateway_can_start_without_redis(start_two: Callable[..., Two], own_redis: RedisServer) -> None:
    own_redis.stop()
    two = start_two(own_redis, client("team", max_requests_per_minute=4))
    assert [two.call(number, "team").status for number in range(4)] == [200] * 4
    two.wait_for_state("degraded since 20")
    own_redis.start()
    two.wait_for_state("shared")
    assert two.call(0, "team").status == 429


def test_the_log_names_redis_without_its_password(
    start_gateway: Callable[..., Gateway], simulator: Simulator, own_redis: RedisServer
) -> None:
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.config_set("requirepass", "s3cret-of-redis")
    url = own_redis.url.replace("redis://", "redis://:s3cret-of-redis@")
    gateway = start_gateway(simulator, clients=[client("team", max_requests_per_minute=5)], state=url)
    body = {"key": key_of("team"), "json_body": HELLO}
    assert gateway.request("POST", CHAT, **body).status == 200
    assert gateway.request("GET", READY_PATH).json()["state"] == "shared"
    own_redis.stop()
    assert gateway.request("POST", CHAT, **body).status == 200
    gateway.wait_until(lambda: LOST in gateway.log, "without Redis")
    assert f"127.0.0.1:{own_redis.port}" in gateway.log
    assert "s3cret" not in gateway.log


# --- a crash -----------------------------------------------------------------------------------------


def test_what_a_crashed_gateway_held_comes_back_when_its_lease_ends(
    start_two: Callable[..., Two], redis_server: RedisServer, simulator: Simulator
) -> None:
    two = start_two(redis_server, client("team", max_tokens_per_day=1000))
    simulator.fault("hang")
    begun = time.time()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(two.call, 0, "team", max_tokens=900)
        eventually(lambda: simulator.active()["in_flight"] == 1, "a call under way")
        os.kill(two.gateways[0].pid, signal.SIGKILL)
        assert lost.exception(10) is not None
    refused = two.call(1, "team", max_tokens=500)
    assert refused.status == 429
    with redis.Redis.from_url(redis_server.url) as store:
        leases = f"{two.prefix}:{{team}}:leases"
        ((held, until),) = store.zrange(leases, 0, -1, withscores=True)
        assert 0 < until / 1e6 - begun < 121
        store.zadd(leases, {held: (time.time() - 1) * 1e6})  # as if that time had passed
    assert two.call(1, "team", max_tokens=500).status == 200
