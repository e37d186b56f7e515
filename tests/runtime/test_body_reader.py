"""The gateway's side of the worker, with a real one."""

import asyncio
import gzip
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.runtime import body_reader
from aoai_gateway.runtime.body_reader import BodyReader
from aoai_gateway.runtime.held_bytes import Held, HeldBytes
from aoai_gateway.tokens import Counter
from aoai_gateway.wire.bodies import decode_body, parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.stored import InMemory
from aoai_gateway.wire.targets import parse_target

MIB = 1024 * 1024
CHAT = parse_target("POST", "/openai/v1/chat/completions")


def body(size: int = 300_000, **members: Any) -> bytes:
    document = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "word " * (size // 5)}],
        **members,
    }
    return json.dumps(document).encode()


@asynccontextmanager
async def reading(**how: Any) -> AsyncIterator[BodyReader]:
    reader = BodyReader(**how)
    try:
        yield reader
    finally:
        await reader.close()


def pid(reader: BodyReader) -> int:
    assert reader._shorter.process._process is not None
    return reader._shorter.process._process.pid


def pretending(folder: Path, code: str) -> tuple[str, ...]:
    """A worker that does something else."""
    script = folder / "worker.py"
    script.write_text(textwrap.dedent(code))
    return (sys.executable, str(script))


async def refusal(reader: BodyReader, raw: bytes = b"{}") -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await reader.parse(CHAT, None, raw)
    return caught.value


def test_facts_and_prompt() -> None:
    async def run() -> None:
        raw = body(max_tokens=7, stream=True)
        async with reading() as reader:
            found = await reader.parse(CHAT, "application/json", raw)
            assert (found.model, found.stream, found.max_tokens, found.raw) == ("gpt-4o", True, 7, raw)
            prompt = await reader.read_prompt(CHAT, "gpt-4o", raw)
        here = parse_body(CHAT, None, raw)
        counter = Counter()
        assert counter.count_prompt(prompt()) == counter.count_request(
            "chat.completions", here.parsed, "gpt-4o"
        )

    asyncio.run(run())


def test_what_is_wrong_with_a_body_is_said_and_the_next_one_is_read() -> None:
    async def run() -> None:
        async with reading() as reader:
            error = await refusal(reader, body()[:-1])
            assert (error.status, error.code) == (400, "invalid_body")
            assert (await reader.parse(CHAT, None, body())).model == "gpt-4o"

    asyncio.run(run())


def test_many_at_once_get_their_own() -> None:
    async def run() -> None:
        async with reading() as reader:
            bodies = [body(1000 * n, max_tokens=n) for n in range(1, 30)]
            found = await asyncio.gather(*(reader.parse(CHAT, None, raw) for raw in bodies))
            assert [one.max_tokens for one in found] == list(range(1, 30))

    asyncio.run(run())


def test_a_large_body_does_not_delay_shorter_ones_nor_those_of_other_clients() -> None:
    async def run() -> None:
        async with reading() as reader:
            order: list[str] = []

            async def parse(client: str, size: int) -> None:
                await reader.parse(CHAT, None, body(size), client=client)
                order.append(f"{client} {size}")

            large, short = 4_000_000, 200_000
            await reader.parse(CHAT, None, body(short))
            jobs = [*[("a", large)] * 3, ("b", large), ("b", short)]
            await asyncio.gather(*(parse(*job) for job in jobs))
            assert order == [f"b {short}", f"a {large}", f"b {large}", *[f"a {large}"] * 2]

    asyncio.run(run())


def test_a_worker_that_died_is_replaced() -> None:
    async def run() -> None:
        async with reading() as reader:
            await reader.parse(CHAT, None, body())
            first = pid(reader)
            os.kill(first, signal.SIGKILL)
            assert (await reader.parse(CHAT, None, body())).model == "gpt-4o"
            assert pid(reader) != first

    asyncio.run(run())


def test_it_outlives_the_signals_that_are_for_the_gateway() -> None:
    async def run() -> None:
        async with reading() as reader:
            await reader.parse(CHAT, None, body())
            first = pid(reader)
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(first, number)
            await reader.parse(CHAT, None, body())
            assert pid(reader) == first

    asyncio.run(run())


def test_it_ends_with_the_gateway() -> None:
    async def run() -> None:
        async with reading() as reader:
            await reader.parse(CHAT, None, body())
            process = reader._shorter.process._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 60) == 0

    asyncio.run(run())


def test_close_ends_a_worker_at_any_task(tmp_path: Path) -> None:
    async def run() -> None:
        async with reading(command=pretending(tmp_path, "import time; time.sleep(60)")) as reader:
            process = await reader._shorter.process.running()
            await reader.close()
            assert process.returncode == -signal.SIGKILL

    asyncio.run(run())


def test_a_body_that_takes_it_down_gets_a_503(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        code = "import sys; sys.stdin.buffer.read(100); sys.exit(1)"
        async with reading(command=pretending(tmp_path, code)) as reader:
            error = await refusal(reader, body())
        assert (error.status, error.code) == (503, "unavailable")

    asyncio.run(run())
    assert "large requests failed" in caplog.text


def test_a_worker_that_cannot_be_started_is_a_503(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with reading(command=(str(tmp_path / "absent"),)) as reader:
            assert (await refusal(reader)).status == 503

    asyncio.run(run())
    assert "absent" in caplog.text


def test_what_takes_too_long_is_given_up_with_its_worker(tmp_path: Path) -> None:
    async def run() -> None:
        command = pretending(tmp_path, "import time; time.sleep(60)")
        async with reading(command=command, patience=0.2) as reader:
            assert (await refusal(reader)).status == 503
            assert reader._shorter.process._process is None

    asyncio.run(run())


def test_a_body_of_a_client_that_hung_up_is_not_read() -> None:
    async def run() -> None:
        async with reading() as reader:
            with pytest.raises(GatewayError):
                await reader.parse(CHAT, None, body(), wanted=lambda: False)
            assert reader._shorter.process._process is None

    asyncio.run(run())


def test_it_is_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOAI_KEY", "key-of-an-endpoint")
    seen = tmp_path / "environment"

    async def run() -> None:
        code = f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text(str(dict(os.environ)))"
        async with reading(command=pretending(tmp_path, code)) as reader:
            await refusal(reader)

    asyncio.run(run())
    assert "PYTHONPATH" in seen.read_text()
    assert "key-of-an-endpoint" not in seen.read_text()


def test_a_bug_in_it_is_a_bug_here(tmp_path: Path) -> None:
    async def run() -> None:
        code = """
            import pickle, sys
            from aoai_gateway.runtime.body_worker import FRAME, Bug
            sys.stdin.buffer.read(FRAME.size)
            answer = pickle.dumps(Bug("KeyError; somewhere.py:3"))
            sys.stdout.buffer.write(FRAME.pack(len(answer), 0) + answer)
        """
        async with reading(command=pretending(tmp_path, code)) as reader:
            with pytest.raises(RuntimeError, match="KeyError; somewhere"):
                await reader.parse(CHAT, None, b"{}")

    asyncio.run(run())


async def parse_coded(
    reader: BodyReader, held: Held, raw: bytes, wanted: Callable[[], bool] = lambda: True, most: int = 8 * MIB
) -> RequestBody:
    coded = gzip.compress(raw, mtime=0)
    return await reader.parse(CHAT, None, coded, wanted, client="a", coding="gzip", most=most, held=held)


@pytest.mark.parametrize("size", [1_000, 100_000, 3 * MIB])
def test_of_a_coded_body_its_text_is_held(size: int) -> None:
    async def run() -> None:
        held, raw = Held(HeldBytes(), "a", 64 * MIB), body(size)
        async with reading() as reader:
            found = await parse_coded(reader, held, raw)
        assert (found.model, found.raw, found.coded) == ("gpt-4o", raw, gzip.compress(raw, mtime=0))
        assert held.size == len(raw)

    asyncio.run(run())


def test_texts_that_wait_to_be_read_are_held() -> None:
    async def run() -> None:
        bodies, raw = HeldBytes(), body(3 * MIB)
        async with reading() as reader:

            async def waiting() -> asyncio.Task[RequestBody]:
                """Let a body be decoded, and wait then."""
                asked = 0
                decoded = asyncio.Event()

                def wanted() -> bool:
                    nonlocal asked
                    asked += 1
                    if asked > 1 and reader._threads._turns.is_idle:
                        decoded.set()
                    return True

                job = asyncio.create_task(parse_coded(reader, Held(bodies, "a", 30 * MIB), raw, wanted))
                await asyncio.wait({job, asyncio.create_task(decoded.wait())}, return_when="FIRST_COMPLETED")
                return job

            async with reader._longer.turns.turn("another", 1):
                jobs = [await waiting() for _ in range(4)]
                assert bodies.total == 4 * len(raw)
                with pytest.raises(GatewayError) as refused:
                    await parse_coded(reader, Held(bodies, "a", 30 * MIB), raw)
                assert refused.value.status == 503
                assert bodies.total == 4 * len(raw)
            assert {found.model for found in await asyncio.gather(*jobs)} == {"gpt-4o"}

    asyncio.run(run())


def test_room_is_taken_before_a_text_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(HeldBytes(), "a", 64 * MIB)
    rooms: list[tuple[int, int]] = []

    def decode(raw: bytes, coding: str, most: int) -> bytes:
        rooms.append((most, held.size))
        return decode_body(raw, coding, most)

    monkeypatch.setattr(body_reader, "decode_body", decode)

    async def run() -> None:
        async with reading() as reader:
            with pytest.raises(GatewayError) as refused:
                await parse_coded(reader, held, body(3 * MIB), most=2 * MIB)
        assert refused.value.status == 413
        assert f"{2 * MIB:,} bytes" in refused.value.message

    asyncio.run(run())
    assert [most for most, _ in rooms] == [64 * 1024, 256 * 1024, MIB, 2 * MIB]
    assert all(most == size for most, size in rooms)
    assert held.size == 0


def test_a_body_for_whose_text_there_is_just_room_is_read() -> None:
    async def run() -> None:
        raw = body(3 * MIB)
        held = Held(HeldBytes(), "a", 2 * len(raw))
        async with reading() as reader:
            assert (await parse_coded(reader, held, raw)).raw == raw
            held.release()
            held.grow(1)
            with pytest.raises(GatewayError) as refused:
                await parse_coded(reader, held, raw)
        assert (refused.value.status, held.size) == (503, 1)

    asyncio.run(run())


def test_what_waits_to_be_decoded_takes_no_room() -> None:
    async def run() -> None:
        held = Held(HeldBytes(), "a", 64 * MIB)
        async with reading() as reader:
            async with (
                reader._threads._turns.turn("a", 1),
                reader._threads._turns.turn("a", 1),
            ):
                job = asyncio.create_task(parse_coded(reader, held, body(1_000)))
                await asyncio.sleep(0)
                assert held.size == 0
            assert (await job).model == "gpt-4o"

    asyncio.run(run())


@pytest.mark.parametrize("after", [0, 1], ids=["before it is decoded", "after that"])
def test_of_a_client_that_hung_up_no_text_is_kept(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    decoded: list[int] = []

    def decode(raw: bytes, coding: str, most: int) -> bytes:
        decoded.append(most)
        return decode_body(raw, coding, most)

    monkeypatch.setattr(body_reader, "decode_body", decode)

    async def run() -> None:
        held = Held(HeldBytes(), "a", 64 * MIB)
        async with reading() as reader:
            with pytest.raises(GatewayError):
                await parse_coded(reader, held, body(1_000), wanted=lambda: len(decoded) < after)
            assert reader._shorter.process._process is None
        assert held.size == 0
        assert len(decoded) == after


def test_the_lines_of_a_batch_are_read_part_by_part() -> None:
    line = b'{"body": {"model": "gpt-4o", "input": "%s"}}\n' % (b"word " * 20_000)
    data = b"head" + line * 10

    async def run() -> None:
        async with reading() as reader:
            found = await reader.read_file(InMemory(data), (4, len(data)))
            assert (found.model, found.first, found.count, found.fault) == ("gpt-4o", 1, 10, None)
            sent = b"".join(found.renamed(InMemory(data), "other").blocks())
            assert sent == data.replace(b'"gpt-4o"', b'"other"')
            more = data + b"{}\n" + line
            fault = (await reader.read_file(InMemory(more), (4, len(more)))).fault
            assert fault is not None
            assert fault.message.startswith("Line 11 of the batch's input file names no deployment")
            empty = (await reader.read_file(InMemory(b"\n"), (0, 1))).fault
            assert empty is not None
            assert empty.code == "empty_file"
            with pytest.raises(GatewayError, match="hung up"):
                await reader.read_file(InMemory(data), (4, len(data)), lambda: False)

    asyncio.run(run())
