"""Tokens are counted beside the gateway where it has no encodings, and what is wrong there is told once."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from aoai_gateway.tokens import Count, Counter
from aoai_gateway.workbench import counting
from aoai_gateway.workbench.counting import Counting, CountMessages, CountPrompt
from tests.encodings import encodings

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is order 4711?"}]
BODY = json.dumps({"messages": MESSAGES}).encode()
PROMPT = CountPrompt("chat.completions", ("gpt-4o", None))
EACH = CountMessages("chat.completions", "gpt-4o", 10)


async def counted(by: Counting) -> list[Sequence[Count]]:
    return [await by.count(PROMPT, BODY), await by.count(EACH, BODY)]


def test_the_numbers_are_the_same_beside_the_gateway_as_in_it() -> None:
    async def scenario() -> None:
        beside, within = Counting(Counter()), Counting(Counter(encodings()))
        try:
            assert await counted(beside) == await counted(within)
            assert [count.exact for count in await beside.count(EACH, BODY)] == [True, True]
            nested = b'{"messages":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
            assert all(count.tokens < 10 for count in await beside.count(PROMPT, nested))
        finally:
            await beside.done()

    asyncio.run(scenario())


def test_a_damaged_rank_file_is_told_once_however_often_the_process_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "o200k_base.tiktoken").write_bytes(b"damaged")

    async def scenario() -> None:
        by = Counting(Counter(), str(tmp_path), idle_seconds=0)
        try:
            for _ in range(2):
                assert (await by.count(EACH, BODY))[0].exact
                while by._process._process is not None:  # noqa: ASYNC110 - it ends after a while
                    await asyncio.sleep(0.01)
        finally:
            await by.done()

    asyncio.run(asyncio.wait_for(scenario(), 100))
    assert caplog.text.count("is damaged") == 1


def test_a_process_that_fails_is_told_once_and_not_tried_for_each_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = tmp_path / "started"
    program = f"open({str(started)!r}, 'a').write('x')"
    monkeypatch.setattr(counting, "_COMMAND", (sys.executable, "-c", program))

    async def scenario() -> None:
        by = Counting(Counter())
        for _ in range(3):
            assert [count.exact for count in await by.count(EACH, BODY)] == [False, False]
        await by.done()

    asyncio.run(scenario())
    assert len(started.read_text()) == 2, "what has ended is tried once more, as it may have been idle"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "tokens for the workbench" in caplog.text
