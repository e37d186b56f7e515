"""Scripts in Redis, run in batches: questions of about the same time travel together.

Most of what a decision costs this process is not the decision: to write to a socket, to be woken by its
answer, timers. So there is one connection, and all questions of one turn of the event loop go out together,
under one deadline. Questions that come while a batch is on its way wait for it, and are the next one. Those
that no caller waits for (the end of a call) let some milliseconds pass, in which there is mostly another one.
Everything takes effect in the order in which it was asked: nothing overtakes the booking that it settles,
and in a rush of calls each waits for two turns of the event loop rather than for a pool.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aoai_gateway.state.store_client import packed_words

if TYPE_CHECKING:
    from aoai_gateway.state.store_client import StoreClient

LARGEST_BATCH: Final = 500

LINGER_SECONDS: Final = 0.005
"""For which a question waits for company that no caller waits for."""

type Reply = int | bytes | Sequence[int | bytes]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; `digest` is its SHA-1, by which Redis knows it."""

    text: str
    digest: str
    by_digest: bytes
    by_text: bytes
    """How the first words travel: the command, and what it runs."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Make one of its text."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(text, digest, packed_words(("EVALSHA", digest)), packed_words(("EVAL", text)))


@dataclass(slots=True)
class _Question:
    script: Script
    count: int
    words: bytes
    asked: float
    reply: asyncio.Future[Reply]

    def command(self, *, teach: bool) -> bytes:
        """Return what is sent; with `teach`, the script's text instead of its digest."""
        first = self.script.by_text if teach else self.script.by_digest
        return b"*%d\r\n%b%b" % (self.count + 2, first, self.words)


class Runner:
    """Runs scripts on the connection of a client that nothing else uses, within one event loop.

    ``timeout``: seconds for an answer, from the question on. Scripts may be run twice when a connection
    breaks, so running one twice must be running it once. In a Cluster, all of their keys must be in one slot.
    """

    def __init__(self, client: StoreClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._waiting: deque[_Question] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._start: asyncio.Handle | None = None
        """The turn of the event loop in which what waits is sent."""
        self._starts_at_once = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Reply:
        """Return what the script returns. Raises what redis-py does, and TimeoutError after `timeout` s."""
        words = (len(keys), *keys, *arguments)
        return await self.ask(script, len(words), packed_words(words))

    def ask(self, script: Script, count: int, words: bytes, *, soon: bool = True) -> asyncio.Future[Reply]:
        """Ask what `run` does, now; returns what will have the answer.

        ``words``: so many (``count``) that follow on the script, packed: how many keys, keys, arguments.
        ``soon``: whether a caller waits for it.
        """
        loop = asyncio.get_running_loop()
        question = _Question(script, count, words, loop.time(), loop.create_future())
        self._waiting.append(question)
        if self._sender is None and not self._starts_at_once:
            if soon:
                self._starts_at_once = True
                if self._start is not None:
                    self._start.cancel()
                self._start = loop.call_soon(self._begin)
            elif self._start is None:
                self._start = loop.call_later(LINGER_SECONDS, self._begin)
        return question.reply

    async def aclose(self) -> None:
        """Send what waits, and stop; questions without an answer are cancelled then."""
        if self._start is not None:
            self._begin()
        if self._sender is not None:
            await asyncio.wait({self._sender}, timeout=self._timeout)
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
        while self._waiting:
            self._waiting.popleft().reply.cancel()

    def _begin(self) -> None:
        if self._start is not None:
            self._start.cancel()
        self._start, self._starts_at_once = None, False
        if self._sender is None:
            sender = asyncio.get_running_loop().create_task(self._send())
            if not sender.done():
                self._sender = sender

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._send_batch(self._next_batch())
        finally:
            self._sender = None

    def _next_batch(self) -> list[_Question]:
        batch: list[_Question] = []
        while self._waiting and len(batch) < LARGEST_BATCH:
            question = self._waiting.popleft()
            if not question.reply.done():  # the caller may have given up
                batch.append(question)
        return batch

    async def _send_batch(self, batch: list[_Question]) -> None:
        if not batch:
            return
        try:
            async with asyncio.timeout_at(batch[0].asked + self._timeout):
                await self._answer(batch)
        except asyncio.CancelledError:
            for question in batch:
                question.reply.cancel()
            raise
        except Exception as error:
            # It may have stopped in the middle of an answer, the rest of which is not to be read as the
            # next. Or the store has moved, and the next question must look where to.
            try:
                await self._client.drop()
            finally:
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
        commands = _commands(batch, teach)
        try:
            return await self._client.ask(commands)
        except RedisTimeoutError:
            raise
        except (RedisConnectionError, MovedError):
            # A connection that the server has closed meanwhile, as one that is no primary any more does; or
            # another node has the keys now.
            await self._client.drop()
            return await self._client.ask(commands)


def _commands(batch: list[_Question], teach: bool) -> list[bytes]:
    """Return what is sent; with `teach`, each script's text once: the server was restarted or flushed."""
    if not teach:
        return [question.command(teach=False) for question in batch]
    taught: set[str] = set()
    commands = []
    for question in batch:
        commands.append(question.command(teach=question.script.digest not in taught))
        taught.add(question.script.digest)
    return commands
