"""Scripts in Redis, run in batches: questions of about the same time travel together.

A decision takes Redis some ten microseconds, but costs this process several hundred when it travels
alone, and a connection of its own costs several round trips before the first one. So there is one
connection. Questions that come while a batch is on its way wait for it, and go out as the next one.
Everything takes effect in the order in which it was asked: nothing overtakes the booking that it
settles, and in a rush of calls each waits for two turns of the event loop rather than for a pool.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from aoai_gateway.state.store_client import StoreClient

LARGEST_BATCH: Final = 500

type Reply = Sequence[int | bytes]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; `digest` is its SHA-1, by which Redis knows it."""

    text: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Make one of its text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class _Question:
    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int]
    reply: asyncio.Future[Reply]


class Runner:
    """Runs scripts on one connection of a client that nothing else uses, within one event loop.

    Scripts may be run twice when a connection breaks, so running one twice must be running it once.
    In a Cluster, all of their keys must be in one slot.
    """

    def __init__(self, client: StoreClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._waiting: deque[_Question] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Reply:
        """Return what the script returns. Raises what redis-py does, and TimeoutError after `timeout` s."""
        question = _Question(script, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        async with asyncio.timeout(self._timeout):
            return await question.reply

    async def aclose(self) -> None:
        """Stop, and cancel the questions under way."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
        while self._waiting:
            self._waiting.popleft().reply.cancel()

    async def _send(self) -> None:
        while self._waiting:
            batch: list[_Question] = []
            while self._waiting and len(batch) < LARGEST_BATCH:
                question = self._waiting.popleft()
                if not question.reply.done():  # the caller may have given up
                    batch.append(question)
            try:
                async with asyncio.timeout(self._timeout):
                    await self._answer(batch)
            except asyncio.CancelledError:
                for question in batch:
                    question.reply.cancel()
                raise
            except Exception as error:
                # It may have stopped in the middle of an answer, the rest of which is not to be read as the
                # next. Or the store has moved, and the next question must look where to.
                await self._client.drop()
                for question in batch:
                    if not question.reply.done():
                        question.reply.set_exception(error)

    async def _answer(self, batch: list[_Question], *, teach: bool = False) -> None:
        unknown = []
        for question, reply in zip(batch, await self._together(batch, teach), strict=True):
            if isinstance(reply, NoScriptError) and not teach:
                unknown.append(question)
            elif question.reply.done():
                pass
            elif isinstance(reply, Exception):
                question.reply.set_exception(reply)
            else:
                question.reply.set_result(reply)
        if unknown:
            await self._answer(unknown, teach=True)

    async def _together(self, batch: list[_Question], teach: bool) -> list[Reply | Exception]:
        try:
            return await self._execute(batch, teach)
        except RedisTimeoutError:
            raise
        except RedisConnectionError:
            # A connection that the server has closed meanwhile, as one that is no primary any more does.
            await self._client.drop()
            return await self._execute(batch, teach)

    async def _execute(self, batch: list[_Question], teach: bool) -> list[Reply | Exception]:
        """Send a batch; with `teach`, each script's text once: the server was restarted or flushed."""
        taught: set[str] = set()
        async with self._client.redis.pipeline(transaction=False) as pipeline:
            for question in batch:
                # By name: in a Cluster's pipeline the methods are blocked, as keys could be in several slots.
                script, both = question.script, (*question.keys, *question.arguments)
                if teach and script.digest not in taught:
                    taught.add(script.digest)
                    pipeline.execute_command("EVAL", script.text, len(question.keys), *both)
                else:
                    pipeline.execute_command("EVALSHA", script.digest, len(question.keys), *both)
            replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            # In a Cluster a broken connection is the answer to each of its questions.
            if isinstance(reply, (RedisConnectionError, RedisTimeoutError)):
                raise reply
        return replies
