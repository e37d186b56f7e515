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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aoai_gateway.state.store_client import of_the_keeper, packed_words

if TYPE_CHECKING:
    from aoai_gateway.state.channel import Answers
    from aoai_gateway.state.store_client import StoreClient

LARGEST_BATCH: Final = 500

LINGER_SECONDS: Final = 0.005
"""The time for which a question without a waiting caller waits for others."""

type Reply = int | bytes | Sequence[int | bytes]

type Outcome = Reply | BaseException
"""The answer, or why there is none; CancelledError at the end of the process."""


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


class _Question:
    """One call of a script. ``took`` hears what came of it, in the turn in which the answer comes.

    ``reply``: what a caller waits for, if one does.
    """

    __slots__ = ("asked", "count", "reply", "script", "took", "words")

    def __init__(
        self,
        script: Script,
        count: int,
        words: bytes,
        took: Callable[[Outcome], None],
        reply: asyncio.Future[Reply] | None = None,
    ) -> None:
        self.script = script
        self.count = count
        self.words = words
        self.took: Callable[[Outcome], None] | None = took
        self.reply = reply
        self.asked = asyncio.get_running_loop().time()

    def command(self, *, teach: bool) -> bytes:
        """Return what is sent; with `teach`, the script's text instead of its digest."""
        first = self.script.by_text if teach else self.script.by_digest
        return b"*%d\r\n%b%b" % (self.count + 2, first, self.words)

    def is_given_up(self) -> bool:
        """Whether the caller does not want to know any more, and the script is not to run."""
        return self.reply is not None and self.reply.done()

    def take(self, outcome: Outcome) -> None:
        """Pass on what came of it. A second time does nothing."""
        took, self.took = self.took, None
        if took is None:
            return
        try:
            took(outcome)
        except Exception as error:  # a bug of ours; the rest of the batch has its answers all the same
            told = {"message": "an answer of the shared store could not be taken", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)


def _settle(reply: asyncio.Future[Reply], outcome: Outcome) -> None:
    """Give a caller what it waits for, if it still does."""
    if reply.done():
        pass
    elif isinstance(outcome, asyncio.CancelledError):
        reply.cancel()
    elif isinstance(outcome, BaseException):
        reply.set_exception(outcome)
    else:
        reply.set_result(outcome)


class Runner:
    """Runs scripts on the connection of a client that nothing else uses, within one event loop.

    ``timeout``: seconds for an answer, from the question on. Scripts may be run twice when a connection
    breaks, so running one twice must be running it once. In a Cluster, all of their keys must be in one slot.
    """

    def __init__(self, client: StoreClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._waiting: deque[_Question] = deque()
        self._is_urgent = False
        """Whether a caller waits for one of them."""
        self._start: asyncio.Handle | None = None
        """The turn of the event loop in which what waits is sent; ``_starts_at_once``: the next one."""
        self._starts_at_once = False
        self._under_way: list[_Question] = []
        """The batch that is sent; until its answers have come, what waits stays where it is."""
        self._mending: asyncio.Task[None] | None = None
        """What does for it what is more than to send it and to pass on its answers."""
        self._look: asyncio.TimerHandle | None = None
        """When it is looked next whether the batch under way is overdue; it is not before."""
        self._emptied: asyncio.Future[None] | None = None
        """Has a result, at the end, when nothing waits any more."""
        self._is_closed = False

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Reply:
        """Return what the script returns. Raises what redis-py does, and TimeoutError after `timeout` s."""
        words = (len(keys), *keys, *arguments)
        return await self.ask(script, len(words), packed_words(words))

    def ask(self, script: Script, count: int, words: bytes) -> asyncio.Future[Reply]:
        """Ask what `run` does, now; returns what will have the answer.

        ``words``: so many (``count``) that follow on the script, packed: how many keys, keys, arguments.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        question = _Question(script, count, words, partial(_settle, reply), reply)
        if self._is_closed:
            question.take(asyncio.CancelledError())
            return reply
        self._waiting.append(question)
        self._is_urgent = True
        if not (self._starts_at_once or self._is_busy()):
            self._starts_at_once = True
            if self._start is not None:
                self._start.cancel()
            self._start = loop.call_soon(self._begin)
        return reply

    def tell(self, script: Script, count: int, words: bytes, took: Callable[[Outcome], None]) -> None:
        """Ask without waiting. ``took`` is given the answer, or an exception; CancelledError at the end."""
        loop = asyncio.get_running_loop()
        question = _Question(script, count, words, took)
        if self._is_closed:
            loop.call_soon(question.take, asyncio.CancelledError())
            return
        self._waiting.append(question)
        if self._start is None and not self._is_busy():
            self._start = loop.call_later(LINGER_SECONDS, self._begin)

    async def aclose(self) -> None:
        """Send what waits, and stop; questions without an answer are cancelled then."""
        self._emptied = asyncio.get_running_loop().create_future()
        self._begin()
        await asyncio.wait({self._emptied}, timeout=self._timeout)
        for handle in (self._start, self._look):
            if handle is not None:
                handle.cancel()
        self._is_closed = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait({self._mending})
        for question in (*self._under_way, *self._waiting):
            question.take(asyncio.CancelledError())
        self._under_way = []
        self._waiting.clear()

    def _is_busy(self) -> bool:
        """Whether a batch is on its way; what waits follows on it."""
        return bool(self._under_way)

    def _begin(self) -> None:
        """Send what waits, unless a batch is on its way."""
        if self._is_busy():
            return
        if self._start is not None:
            self._start.cancel()
        self._start, self._starts_at_once = None, False
        batch = self._next_batch()
        if not batch:
            if self._emptied is not None and not self._emptied.done():
                self._emptied.set_result(None)
            return
        self._under_way = batch
        channel = self._client.channel
        if channel is None:
            self._mend(None)
            return
        if self._look is None:
            self._look = asyncio.get_running_loop().call_at(self._overdue(batch), self._see)
        channel.send(b"".join(_commands(batch, teach=False)), len(batch), self._answered)

    def _next_batch(self) -> list[_Question]:
        batch: list[_Question] = []
        while self._waiting and len(batch) < LARGEST_BATCH:
            question = self._waiting.popleft()
            if not question.is_given_up():
                batch.append(question)
        self._is_urgent = bool(self._waiting)
        return batch

    def _overdue(self, batch: list[_Question]) -> float:
        return batch[0].asked + self._timeout

    def _see(self) -> None:
        """Give up the batch under way, if it is overdue. One timer does for all batches of its time."""
        loop = asyncio.get_running_loop()
        self._look = None
        if not self._under_way or self._mending is not None:  # which has its own bound
            return
        if loop.time() < self._overdue(self._under_way):
            self._look = loop.call_at(self._overdue(self._under_way), self._see)
        else:
            self._answered(TimeoutError())

    def _answered(self, answers: Answers) -> None:
        if isinstance(answers, Exception) or any(isinstance(answer, Exception) for answer in answers):
            self._mend(answers)
            return
        batch, self._under_way = self._under_way, []
        for question, answer in zip(batch, answers, strict=True):
            question.take(answer)
        self._go_on()

    def _go_on(self) -> None:
        """Send what has come meanwhile: at once if a caller waits for it."""
        if self._is_urgent or self._emptied is not None:
            self._begin()
        elif self._waiting and self._start is None:
            self._start = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._begin)

    def _mend(self, answers: Answers | None) -> None:
        mending = asyncio.get_running_loop().create_task(self._mended(self._under_way, answers))
        if not mending.done():
            self._mending = mending

    async def _mended(self, batch: list[_Question], answers: Answers | None) -> None:
        """Connect, connect anew, or teach scripts, as far as there is time; then pass on what came of it."""
        try:
            async with asyncio.timeout_at(self._overdue(batch)):
                await self._answer(batch, answers)
        except Exception as error:
            # It may have stopped in the middle of an answer, the rest of which is not to be read as the
            # next. Or the store has moved, and the next question must look where to.
            try:
                await self._client.drop()
            finally:
                for question in batch:
                    question.take(error)
        finally:
            self._mending = None
            if not self._is_closed:
                self._under_way = []
                self._go_on()

    async def _answer(self, batch: list[_Question], answers: Answers | None, *, teach: bool = False) -> None:
        unknown = []
        for question, answer in zip(batch, await self._together(batch, answers, teach), strict=True):
            if isinstance(answer, NoScriptError) and not teach:
                unknown.append(question)
            else:
                question.take(answer)
        if unknown:
            await self._answer(unknown, None, teach=True)

    async def _together(self, batch: list[_Question], answers: Answers | None, teach: bool) -> list[Outcome]:
        """Return the answers of the store, if these (``answers``) do not do."""
        commands = _commands(batch, teach=teach)
        try:
            if answers is None:
                return await self._client.ask(commands)
            if isinstance(answers, Exception):
                raise answers
            return of_the_keeper(answers)
        except RedisTimeoutError:
            raise
        except (RedisConnectionError, MovedError):
            # A connection that the server has closed meanwhile, as one that is no primary any more does; or
            # another node has the keys now.
            await self._client.drop()
            return await self._client.ask(commands)


def _commands(batch: list[_Question], *, teach: bool) -> list[bytes]:
    """Return what is sent; with `teach`, each script's text once: the server was restarted or flushed."""
    if not teach:
        return [question.command(teach=False) for question in batch]
    taught: set[str] = set()
    commands = []
    for question in batch:
        commands.append(question.command(teach=question.script.digest not in taught))
        taught.add(question.script.digest)
    return commands
