"""Tokens of long texts, which are counted in threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from aoai_gateway.engine.effects import CountDelivered, CountTokens
from aoai_gateway.runtime import counting
from aoai_gateway.runtime.body_reader import BodyReader
from aoai_gateway.runtime.counting import TokenCounting
from aoai_gateway.runtime.fair_turns import FairThreads
from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.counting import ESTIMATE
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenCounting]:
    """Counting whose threads have all something to do that does not end, and that waits a moment only."""
    counter, threads, free = Counter(), FairThreads(), threading.Event()
    monkeypatch.setattr(counting, "COUNT_SECONDS", 0.01)
    monkeypatch.setattr(counter, "count_request", lambda *_: free.wait(30))
    monkeypatch.setattr(counter, "count_delivered", lambda *_: free.wait(30))
    yield TokenCounting(counter, BodyReader(), threads)
    free.set()
    threads.close()


def test_a_prompt_whose_turn_does_not_come_is_refused(busy: TokenCounting) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": "word " * 10_000}]}).encode()
    chat = parse_target("POST", "/openai/deployments/gpt-4o/chat/completions")
    body = parse_body(chat, "application/json", raw)

    async def counted() -> Any:
        return await busy.count_tokens(CountTokens(chat, body, "gpt-4o"), "team")  # type: ignore[misc]

    with pytest.raises(GatewayError, match="too many long texts") as refused:
        asyncio.run(counted())
    assert refused.value.status == 503


def test_an_answer_whose_turn_does_not_come_is_estimated(busy: TokenCounting) -> None:
    answer = json.dumps({"choices": [{"message": {"content": "word " * 10_000}}]}).encode()
    delivered = Delivered.of_answer("chat.completions", answer)

    async def counted() -> Any:
        return await busy.count_delivered(CountDelivered(delivered, "gpt-4o"), "team")  # type: ignore[misc]

    count = asyncio.run(counted())
    assert (count.exact, count.encoding) == (False, ESTIMATE)
    assert 10_000 <= count.tokens <= 20_000
