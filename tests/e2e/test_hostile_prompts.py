"""Requests made to keep a gateway busy: answered in bounded time, and no other client waits for them.

A stall is a time in which the gateway's event loop did nothing else. It is measured in the gateway, from the
first byte of a request to the last one of its answer. On a busy machine the loop also waits for a processor;
so a stall counts only as far as the gateway's process used one meanwhile, on any thread. What is left of
the machine's noise is not there every time, and what a request causes is: the best of a few attempts counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aoai_gateway.wire.bodies import LARGE_BODY
from tests.e2e import json_lines
from tests.e2e.processes import Answer, Gateway
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import running
from tests.machine_speed import slowness

ADDONS = Path(__file__).parent / "addons"
CHAT = "/openai/v1/chat/completions"
SIZE = 5 * 1024 * 1024
LONGEST_STALL = 0.020
ATTEMPTS = 5

BOUNDED_SECONDS = 45

FREE_KEY = "key-of-a-client-without-limits"


def message(content: str) -> str:
    """The ``messages`` of one user's message; the content is JSON."""
    return f'[{{"role":"user","content":{content}}}]'


def repeated(item: str, size: int) -> str:
    """A JSON array of one thing again and again."""
    return "[" + ",".join([item] * (size // (len(item) + 1))) + "]"


PROMPTS: dict[str, Callable[[int], str]] = {
    "one unbroken run": lambda size: message('"' + "a" * size + '"'),
    "a run of digits": lambda size: message('"' + "7" * size + '"'),
    "blanks": lambda size: message('"' + " " * size + '"'),
    "lone surrogates": lambda size: message('"' + r"\ud800" * (size // 6) + '"'),
    "special tokens": lambda size: message('"' + "<|endoftext|>" * (size // 13) + '"'),
    "line feeds": lambda size: message('"' + r"\n" * (size // 2) + '"'),
    "emoji": lambda size: message('"' + "🎈" * (size // 4) + '"'),
    "prose": lambda size: message('"' + "The quick brown fox jumps over the lazy dog. " * (size // 45) + '"'),
    "tiny messages": lambda size: repeated('{"role":"user","content":"x"}', size),
    "tiny parts": lambda size: message(repeated('{"type":"text","text":"x"}', size)),
    "empty arrays": lambda size: repeated("[]", size),
    "digits": lambda size: repeated("1", size),
    "a dictionary": lambda size: (
        "[{" + ",".join(f'"k{number}":0' for number in range(size // 11)) + ',"role":"user"}]'
    ),
    "a long fraction": lambda size: "[0." + "9" * size + "]",
}
REFUSED: dict[str, Callable[[int], bytes]] = {
    "nesting": lambda size: b'{"model":"gpt-4o","messages":' + b"[" * size,
    "a long number": lambda size: b'{"model":"gpt-4o","messages":' + b"9" * size + b"}",
    "members": lambda size: b"{" + b",".join(b'"k%d":0' % number for number in range(size // 11)) + b"}",
    "options": lambda size: (
        b'{"model":"gpt-4o","stream_options":{'
        + b",".join(b'"k%d":0' % number for number in range(size // 11))
        + b"}}"
    ),
    "no end": lambda size: b'{"model":"gpt-4o","messages":"' + b"x" * size,
    "no UTF-8": lambda size: b'{"model":"gpt-4o","messages":"' + b"x" * size + b"\xff",
    "no object": lambda size: b"[" + b"1," * (size // 2) + b"1]",
}
SIZES = {"large": SIZE, "just not large": LARGE_BODY - 1024}


class Watched(NamedTuple):
    """A gateway whose event loop is watched."""

    gateway: Gateway
    log: Path

    def longest_stall(self, since: float) -> float:
        """Return the seconds of the longest stall since then, as far as the gateway was busy in it."""
        time.sleep(0.02)  # for the tick that tells of the last stall
        stalls = json_lines.read(self.log)
        return max((min(s["seconds"], s["used"]) for s in stalls if s["end"] >= since), default=0.0)

    def send(self, body: bytes, key: str = CLIENT_KEY, **headers: str) -> tuple[Answer, float, float]:
        """Send a request; returns its answer, the seconds that took, and those of the longest stall."""
        begun = time.monotonic()
        answer = self.gateway.request("POST", CHAT, key=key, body=body, seconds=60, headers=headers)
        seconds = time.monotonic() - begun
        return answer, seconds, self.longest_stall(begun)

    def stalls_no_other_call(self, body: bytes, status: int, key: str = CLIENT_KEY) -> None:
        """Send a request until it has been seen to hold up no other; fails if it always does."""
        worst = []
        for _ in range(ATTEMPTS):
            answer, seconds, stall = self.send(body, key)
            assert answer.status == status, answer.body[:300]
            assert seconds < BOUNDED_SECONDS
            worst.append(round(1000 * stall, 1))
            if stall <= LONGEST_STALL * slowness():
                break
        print(f"{len(body):,} bytes: {seconds:.2f} s, longest stalls {worst} ms")
        assert min(worst) <= 1000 * LONGEST_STALL * slowness(), f"longest stalls: {worst} ms"


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
        clients=[{"name": "t", "key": CLIENT_KEY, **limits}, {"name": "free", "key": FREE_KEY}],
    ) as (gateway, _):
        here = Watched(gateway, log)
        here.send(b"{" + b" " * SIZE + b"}")  # starts what is started when it is first needed
        yield here


def chat(messages: str, **members: str) -> bytes:
    """A body around its messages."""
    more = "".join(f',"{name}":{value}' for name, value in members.items())
    return f'{{"model":"gpt-4o","max_tokens":5,"messages":{messages}{more}}}'.encode()


def test_the_watch_sees_a_stall(watched: Watched) -> None:
    _, _, stall = watched.send(chat(message('"hi"')), **{"x-hold-the-loop": "0.1"})
    assert 0.09 < stall < 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROMPTS)
def test_no_counted_prompt_stalls_other_calls(watched: Watched, name: str, size: str) -> None:
    messages = PROMPTS[name](SIZES[size])
    # Messages that are none hold no prompt; the simulator, before which these would come, is not watched.
    empty = name in ("empty arrays", "digits", "a long fraction", "a dictionary")
    body = chat(messages, n="0") if empty else chat(messages)
    watched.stalls_no_other_call(body, 400)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", REFUSED)
def test_no_refused_prompt_stalls_other_calls(watched: Watched, name: str, size: str) -> None:
    watched.stalls_no_other_call(REFUSED[name](SIZES[size]), 400)


def test_a_prompt_that_is_edited_stalls_no_other_call(watched: Watched) -> None:
    picture = f'{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{"A" * SIZE}"}}}}'
    body = chat(message(f"[{picture}]"), stream="true")
    watched.stalls_no_other_call(body, 200, FREE_KEY)
