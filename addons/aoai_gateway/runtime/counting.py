"""Counts tokens of prompts and answers: a short text at once, a long one in a thread, by turns of clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aoai_gateway.tokens import cost_hint
from aoai_gateway.wire import errors
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aoai_gateway.engine.effects import CountDelivered, CountTokens
    from aoai_gateway.runtime.body_reader import BodyReader
    from aoai_gateway.runtime.fair_turns import FairThreads
    from aoai_gateway.tokens import Count, Counter

COUNT_SECONDS = 60.0
"""The time in which a long prompt or answer has its turn and is counted. 100 MB take some seconds."""


class TokenCounting:
    """Counts without blocking the event loop. ``reader`` reads prompts of bodies that are not kept whole."""

    def __init__(self, counter: Counter, reader: BodyReader, threads: FairThreads) -> None:
        self.counter = counter
        self._reader = reader
        self._threads = threads

    def count_tokens(self, effect: CountTokens, client: str) -> Count | Awaitable[Count]:
        """Count a prompt: a small one at once, a large one in a thread.

        What is awaited raises GatewayError (503) if there is too much to count.
        """
        counter, body = self.counter, effect.body
        if not body.whole:
            return self._counted(self._count_large(effect, client))
        operation = effect.target.operation.prompt_form
        if cost_hint(len(body.raw)):
            return counter.count_request(operation, body.parsed, effect.model)
        size = len(body.raw)
        work = self._threads.run(client, size, counter.count_request, operation, body.parsed, effect.model)
        return self._counted(work)

    def count_delivered(self, effect: CountDelivered, client: str) -> Count | Awaitable[Count]:
        """Count an answer's text: a short one at once, a long one in a thread."""
        delivered = effect.delivered
        if cost_hint(delivered.kept_bytes):
            return self.counter.count_delivered(delivered, effect.model)
        return self._count_long_answer(effect, client)

    async def _count_long_answer(self, effect: CountDelivered, client: str) -> Count:
        delivered, counter = effect.delivered, self.counter
        work = self._threads.run(
            client, delivered.kept_bytes, counter.count_delivered, delivered, effect.model
        )
        try:
            return await self._counted(work)
        except GatewayError:
            # The client has its answer, and is to be charged for it.
            return counter.estimate_delivered(delivered)

    async def _counted(self, counting: Awaitable[Count]) -> Count:
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                return await counting
        except TimeoutError:
            raise errors.unavailable("The gateway has too many long texts to count.") from None

    async def _count_large(self, effect: CountTokens, client: str) -> Count:
        """Have a body read once more for its prompt; the result is no more than can be counted."""
        raw = effect.body.raw
        read = await self._reader.read_prompt(effect.target, effect.model, raw, client)
        return await self._threads.run(client, len(raw), lambda: self.counter.count_prompt(read()))
