"""Many callers on one budget: in one process, and in two processes on one Redis."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from random import Random

import pytest

from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState

LIMIT = 200_000
CALL = 1000  # 0.5 % of the limit


def test_64_callers_fill_a_minute_and_no_more():
    """All at once, with settlements in between: what is given back is used, nothing else."""
    state, quota, rng = MemoryState(), Quota("gpt-4o", LIMIT), Random(4)
    booked = {}

    async def caller(number: int) -> None:
        for turn in range(40):
            now = time.time()
            reservation = Reservation(f"{number}.{turn}", "team", (quota,), rng.randint(1, CALL))
            if state.reserve(reservation, now).admitted:
                booked[reservation.id] = reservation.tokens
                await asyncio.sleep(0)
                used = rng.randint(0, reservation.tokens)
                booked[reservation.id] = used
                state.settle(reservation, used, time.time())
                assert sum(booked.values()) <= LIMIT
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(caller(number) for number in range(64)))

    asyncio.run(all_of_them())
    assert 0.99 * LIMIT <= sum(booked.values()) <= LIMIT


@pytest.mark.parametrize("seed", range(3))
def test_64_callers_use_99_percent_of_every_minute(seed):
    """Ten saturated virtual minutes: every window within the limit, the rate within 1 %."""
    state, quota, rng = MemoryState(), Quota("gpt-4o", LIMIT), Random(seed)
    minutes, now, admitted, turn = 10, 1000.0, [], 0
    # The first callers to come find an empty window; measure from when it is full of steady traffic.
    while now < 1000 + 60 * minutes:
        now += rng.expovariate(64)
        turn += 1
        reservation = Reservation(str(turn), "team", (quota,), rng.randint(CALL // 2, CALL))
        if state.reserve(reservation, now).admitted:
            admitted.append((now, reservation.tokens))
            if rng.random() < 0.1:
                state.cancel(reservation, now)
                admitted.pop()
    start = 0
    total = 0
    for stamp, tokens in admitted:
        total += tokens
        while admitted[start][0] <= stamp - 60:
            total -= admitted[start][1]
            start += 1
        assert total <= LIMIT
    assert sum(tokens for _, tokens in admitted) >= 0.99 * LIMIT * minutes


def test_no_client_starves():
    """Equal callers that come back when they were told to get equal shares."""
    state, quota = MemoryState(), Quota("gpt-4o", 20_000)
    due = {number: 1000.0 + number / 100 for number in range(8)}
    served = dict.fromkeys(due, 0)
    turn = 0
    while (now := min(due.values())) < 1000 + 600:
        number = min(due, key=due.__getitem__)
        turn += 1
        decision = state.reserve(Reservation(str(turn), "team", (quota,), 1000), now)
        served[number] += decision.admitted
        due[number] = now + (decision.retry_after or 0.01) + 1e-4 * ((turn * 7) % 13)
    assert sum(served.values()) >= 0.99 * 200
    assert min(served.values()) > 0.5 * max(served.values())


WORKER = """
import asyncio, json, sys
from random import Random
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state.redis import RedisState

async def main(url, name, limit, call):
    state, quota, rng = RedisState(url, timeout=5), Quota("gpt-4o", limit), Random(name)
    total, refused = 0, 0
    async def caller(number):
        nonlocal total, refused
        turn, refusals = 0, 0
        while refusals < 10:
            turn += 1
            asked = rng.randint(call // 2, call)
            quotas = (quota, Quota(None, 2 * limit))
            reservation = Reservation(f"{name}.{number}.{turn}", "team", quotas, asked)
            if (await state.reserve(reservation)).admitted:
                used = rng.randint(asked // 2, asked)
                await state.settle(reservation, used)
                total += used
            else:
                refused += 1
                refusals += 1
    await state.peek(Reservation("warm", "team", (quota,), 0))
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(caller(number) for number in range(32)))
    await state.aclose()
    print(json.dumps({"total": total, "refused": refused}))

url, name, limit, call = sys.argv[1:]
asyncio.run(main(url, name, int(limit), int(call)))
"""


def test_two_processes_share_one_budget(redis_server):
    """2 x 32 callers, all within one minute: together within 1 % of the limit, never above."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, redis_server.url, name, str(LIMIT), str(CALL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for name in ("one", "two")
    ]
    for worker in workers:
        assert worker.stdout.readline() == b"ready\n"
    began = time.monotonic()
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    results = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    assert time.monotonic() - began < 60, "too slow a machine: a second window has begun"
    assert all(worker.returncode == 0 for worker in workers)
    total = sum(result["total"] for result in results)
    assert 0.99 * LIMIT <= total <= LIMIT
    assert all(result["refused"] for result in results)


CRASHING = """
import asyncio, os, signal, sys
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state.redis import RedisState

async def main(url):
    state = RedisState(url, timeout=5, lease=0.5)
    quotas = (Quota("gpt-4o", None, None, 10_000),)
    for number in range(10):
        assert (await state.reserve(Reservation(f"crash{number}", "crashing", quotas, 1000))).admitted
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


def test_a_killed_process_holds_nothing_for_ever(redis_server):
    process = subprocess.run(
        [sys.executable, "-c", CRASHING, redis_server.url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    killed_at = time.time()
    assert process.returncode == -signal.SIGKILL

    async def until_free() -> float:
        state = RedisState(redis_server.url, timeout=5)
        look = Reservation("look", "crashing", (Quota("gpt-4o", None, None, 10_000),), 10_000)
        async with asyncio.timeout(60):
            while not (await state.peek(look)).admitted:  # noqa: ASYNC110 - a lease just ends
                await asyncio.sleep(0.02)
        await state.aclose()
        return time.time() - killed_at

    assert asyncio.run(until_free()) < 20
