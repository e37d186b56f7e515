"""Something else than Redis on Redis's port: noticed in bounded time, said once, and no call fails for it."""

import asyncio
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import pytest

from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state.failover import FailoverState
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState

ANSWERS = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02F",
    "a line without end": b"x" * 200_000,
    "a long line": b"x" * 60_000 + b"\r\n",
    "numbers": b":5\r\n" * 50,
    "no number": b":abc\r\n" * 50,
    "nothing": b"*-1\r\n" * 50,
    "texts": b"*2\r\n$1\r\na\r\n$1\r\nb\r\n" * 50,
    "OK to everything": b"+OK\r\n" * 50,
    "arrays in arrays": b"*1\r\n" * 20_000,
    "more than memory": b"*1000000000\r\n",
    "more than memory, in a text": b"$2000000000\r\n" + b"x" * 1_000_000,
    "silence": b"",
}


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[int]:
    """Answer each question with the same bytes; gives the port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                writer.write(answer)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("kind", ANSWERS)
def test_it_is_noticed_and_said_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(meet(kind, caplog))


async def meet(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(ANSWERS[kind]) as port:
        shared = RedisState(f"redis://127.0.0.1:{port}", timeout=0.3)
        state = FailoverState(shared, MemoryState(), random=Random(1), first_pause=0.01)
        begun = time.monotonic()
        with caplog.at_level(logging.INFO):
            for number in range(5):
                reservation = Reservation(f"call{number}", "team", (Quota("gpt-4o", 1000, 3),), 5)
                decision = state.reserve(reservation, time.time())
                if asyncio.iscoroutine(decision):
                    decision = await decision
                assert decision.admitted == (number < 3), "its own limits hold meanwhile"
            found = state.breaks(time.time())
            assert not (await found if asyncio.iscoroutine(found) else found)
            # Probes fail too, and say no more.
            await asyncio.sleep(0.1)
            await asyncio.wait_for(state.aclose(), 60)
        assert time.monotonic() - begun < 60  # and not for ever
    said = [record.getMessage() for record in caplog.records if record.name.startswith("aoai_gateway")]
    assert len(said) == 1, said
    assert f"redis://127.0.0.1:{port}" in said[0]
    assert len(said[0]) < 400


POISON = {
    "an array": b"*1000000000\r\n",
    "in pieces": b"*2\r\n:1\r\n*10000",
    "a map": b"%1000000000\r\n",
}


@asynccontextmanager
async def poisoned(answer: bytes) -> AsyncIterator[tuple[int, list[int]]]:
    """Speak as Redis does until a script is run; gives the port, and how many each connection has run."""
    runs: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(runs)
        runs.append(0)
        try:
            while data := await reader.read(65536):
                scripts = data.count(b"EVAL")
                runs[number] += scripts
                writer.write(answer if scripts else b"+OK\r\n" * data.count(b"CLIENT"))
                await writer.drain()
                if scripts and not answer.endswith(b"\n"):
                    writer.write(b"00000\r\n")
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], runs


@pytest.mark.parametrize("kind", POISON)
def test_a_store_that_promises_more_than_memory_costs_its_connection(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def meet() -> list[int]:
        async with poisoned(POISON[kind]) as (port, runs):
            state = FailoverState(
                RedisState(f"redis://127.0.0.1:{port}", timeout=5), MemoryState(), random=Random(1)
            )
            for number in count():
                reservation = Reservation(f"call{number}", "team", (Quota("gpt-4o", 1000, 3),), 5)
                decision = state.reserve(reservation, time.time())
                if not asyncio.iscoroutine(decision):
                    break
                assert (await decision).admitted, "by its own limits"
            await asyncio.wait_for(state.aclose(), 20)
            return runs

    tracemalloc.start()
    try:
        with caplog.at_level(logging.INFO):
            runs = asyncio.run(meet())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20
    assert runs[0] == 1, "nothing more is asked on that connection"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("aoai_gateway")]
    assert len(said) == 1
    assert "InvalidResponse: an array of 10000" in said[0]
