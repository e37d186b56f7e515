"""Prompts made to keep a gateway busy: counted in bounded time, and nobody else waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Gateway, eventually
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import running

ADDONS = Path(__file__).parent / "addons"
CHAT = "/openai/v1/chat/completions"
SIZE = 5 * 1024 * 1024
LONGEST_STALL = 0.020
ATTEMPTS = 10
"""A stall that counting causes is there every time; one that a busy machine causes is not."""

BOUNDED_SECONDS = 15

_MESSAGE = '{"role":"user","content":"x"}'
PROMPTS = {
    "one unbroken run": '"' + "a" * SIZE + '"',
    "a run of digits": '"' + "7" * SIZE + '"',
    "blanks": '"' + " " * SIZE + '"',
    "lone surrogates": '"' + r"\ud800" * (SIZE // 6) + '"',
    "special tokens": '"' + "<|endoftext|>" * (SIZE // 13) + '"',
    "line feeds": '"' + r"\n" * (SIZE // 2) + '"',
    "emoji": '"' + "🎈" * (SIZE // 4) + '"',
    "prose": '"' + "The quick brown fox jumps over the lazy dog. " * (SIZE // 45) + '"',
}


class Stall(NamedTuple):
    """A time in which the event loop stood still, a prompt was counted, or nothing happened."""

    begin: float
    end: float

    def within(self, other: Stall) -> float:
        """Return for how many seconds it fell into the other."""
        return max(0.0, min(self.end, other.end) - max(self.begin, other.begin))


class Watched(NamedTuple):
    """A gateway whose event loop is watched, and what was seen."""

    gateway: Gateway
    log: Path

    def seen(self, what: str, since: float) -> list[Stall]:
        lines = json_lines.read(self.log)
        return [Stall(e["begin"], e["end"]) for e in lines if e["what"] == what and e["end"] >= since]

    def send(self, messages: str) -> tuple[int, float, Stall, list[Stall]]:
        """Send a prompt; returns the status, the seconds, when it was counted, and the loop's stalls."""
        body = f'{{"model":"gpt-4o","max_tokens":5,"messages":{messages}}}'.encode()
        begun = time.monotonic()
        answer = self.gateway.request("POST", CHAT, key=CLIENT_KEY, body=body, seconds=60)
        seconds = time.monotonic() - begun
        answered = time.monotonic()
        # A tick after the answer tells of all that was before.
        eventually(lambda: self.seen("tick", answered), "the watch has seen the end")
        (counted,) = self.seen("count", begun)
        return answer.status, seconds, counted, self.seen("stall", begun)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("hostile")
    log = folder / "loop.jsonl"
    log.touch()
    limits: dict[str, Any] = {"request_limits": {"prompt_tokens": 1000}, "max_tokens_per_minute": 10_000_000}
    with running(
        "serve",
        folder,
        home,
        addons=[ADDONS / "watch_loop.py"],
        env={"WATCH_LOOP_LOG": str(log)},
        clients=[{"name": "t", "key": CLIENT_KEY, **limits}],
    ) as (gateway, _):
        yield Watched(gateway, log)


def test_the_watch_sees_a_stall(watched: Watched) -> None:
    """Decoding five megabytes is one step for the event loop, so it must be in the log."""
    begun = time.monotonic()
    watched.send(f'[{{"role":"user","content":{PROMPTS["prose"]}}}]')
    assert watched.seen("stall", begun)


@pytest.mark.parametrize("name", PROMPTS)
def test_counting_five_megabytes_stalls_nobody(watched: Watched, name: str) -> None:
    worst = []
    for _ in range(ATTEMPTS):
        status, seconds, counted, stalls = watched.send(f'[{{"role":"user","content":{PROMPTS[name]}}}]')
        assert status == 400
        assert seconds < BOUNDED_SECONDS
        worst.append(max((stall.within(counted) for stall in stalls), default=0.0))
        print(
            f"{name}: {seconds:.2f} s in all, {counted.end - counted.begin:.2f} s counted, the longest stall"
            f" while counting {1000 * worst[-1]:.0f} ms, of all"
            f" {1000 * max((s.end - s.begin for s in stalls), default=0):.0f} ms"
        )
        if worst[-1] <= LONGEST_STALL:
            return
    pytest.fail(f"counting stalled the event loop for {[round(1000 * stall) for stall in worst]} ms")


def test_a_hundred_thousand_messages_are_answered_in_bounded_time(watched: Watched) -> None:
    status, seconds, _, _ = watched.send("[" + ",".join([_MESSAGE] * 100_000) + "]")
    assert status == 400
    assert seconds < BOUNDED_SECONDS
