"""What the goodput benchmark takes for granted: its client, its bound, its arrivals, its relay."""

import asyncio
import random

import pytest

from tests.bench.goodput import CAPACITY, EXHAUSTED, SHARES, arrivals, cost, offline_bound
from tests.bench.relay import Relay
from tests.bench.sdk_like import Ask, call, is_retried, retry_wait


def ask(at: float = 0.0, deadline: float = 20.0, prompt_tokens: int = 800) -> Ask:
    return Ask(0, "critical", at, deadline, prompt_tokens, 200, stream=False)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, 1.5),
        ({"retry-after": "9"}, 9, 9),
        ({"retry-after": "61"}, 0.75, 1.0),
        ({"retry-after": "soon"}, 0.75, 1.0),
        ({}, 0.75, 1.0),
    ],
)
def test_waits_are_those_of_the_sdk(headers, least, most):
    assert least <= retry_wait(headers, 1, random.Random(1)) <= most


def test_what_is_retried():
    assert [is_retried(status, {}) for status in (400, 404, 408, 429, 500, 503)] == [False] * 2 + [True] * 4
    assert not is_retried(429, {"x-should-retry": "false"})
    assert is_retried(400, {"x-should-retry": "true"})


def test_the_same_seed_gives_the_same_calls_and_the_shares_that_are_asked_for():
    asks = arrivals(SHARES, 120, 1)
    assert asks == arrivals(SHARES, 120, 1) != arrivals(SHARES, 120, 2)
    for cls, share in SHARES.items():
        wanted = share * sum(CAPACITY.values()) * 2
        assert wanted <= sum(cost(item) for item in asks if item.cls == cls) < wanted + 2000


def test_what_fits_is_all_within_the_bound():
    asks = [ask(at=i) for i in range(20)]
    assert offline_bound(asks, EXHAUSTED) == sum(map(cost, asks))


def test_nothing_but_the_one_overdraft_is_served_while_all_is_exhausted():
    asks = [ask(deadline=10.0), ask(deadline=10.0)]
    assert offline_bound(asks, dict.fromkeys(CAPACITY, 30.0)) == cost(asks[0])


def test_the_bound_is_what_the_limits_admit():
    """All deployments admit one window's worth at once; the bucket drains for five seconds more."""
    asks = [ask(deadline=5.0 + 2.29) for _ in range(400)]
    limits = sum(CAPACITY.values())
    bound = offline_bound(asks, {})
    assert limits <= bound <= limits + 5.1 * 1000 + cost(asks[0])


def serve(state: str) -> tuple[list[int], int]:
    """What a caller gets through a relay in this state, and what the relay counted."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"usage":{"total_tokens":7}}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async def main() -> tuple[list[int], int]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        relay = Relay(server.sockets[0].getsockname()[1])
        port = await relay.start()
        relay.become(state)  # type: ignore[arg-type]
        outcome = await call(port, "/", "key", ask(deadline=0.3), b"{}")
        assert outcome.tokens == (7 if state == "healthy" else None)
        await relay.stop()
        server.close()
        return outcome.statuses, relay.sent_into_it

    return asyncio.run(main())


def test_a_healthy_relay_relays():
    assert serve("healthy") == ([200], 0)


def test_a_hanging_relay_says_nothing():
    assert serve("hanging") == ([], 1)


def test_a_call_in_flight_dies_with_its_endpoint():
    async def main() -> list[int]:
        asked = asyncio.Event()

        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(never, "127.0.0.1", 0)
        relay = Relay(server.sockets[0].getsockname()[1])
        port = await relay.start()
        calling = asyncio.create_task(call(port, "/", "key", ask(deadline=0.3), b"{}"))
        await asyncio.wait_for(asked.wait(), 5)
        relay.become("resetting")
        outcome = await calling
        await asyncio.wait_for(relay.stop(), 5)
        server.close()
        return outcome.statuses

    assert asyncio.run(main()) == [0]


def test_a_resetting_relay_resets():
    assert serve("resetting") == ([0], 1)
