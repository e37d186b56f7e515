"""Commands and their answers on a connection that redis-py has opened.

redis-py's own way of reading an answer goes through a coroutine for each line of it, and a timer for each
command. Here an answer is read in the turn of the event loop in which it comes, and taken by a function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from aoai_gateway.state.replies import ReplyReader

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

type Answers = list[Any] | Exception
"""The answers to all commands of a message, or why there are none."""

CLOSED = "Connection closed by server."


class Channel(asyncio.Protocol):
    """Sends one message of commands after the other, each when the one before has its answers.

    It stands before the protocol that redis-py has given the connection, which goes on hearing of the
    connection's end.
    """

    def __init__(self, transport: asyncio.WriteTransport, before: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._before = before
        self._replies = ReplyReader()
        self._taken: Callable[[Answers], None] | None = None
        self._count = 0
        self._answers: list[Any] = []

    @classmethod
    def on(cls, connection: AbstractConnection) -> Channel:
        """Take over a connection that redis-py has opened and signed in on."""
        writer = connection._writer  # redis-py gives it in no other way
        assert writer is not None
        transport = writer.transport
        channel = cls(transport, transport.get_protocol())
        transport.set_protocol(channel)
        return channel

    @property
    def is_open(self) -> bool:
        """Whether something can be sent, as far as is known here."""
        return not self._transport.is_closing()

    def send(self, message: bytes, count: int, taken: Callable[[Answers], None]) -> None:
        """Send so many commands (``count``); ``taken`` is given their answers, once and never at once.

        What is not answered in time is to be dropped together with the connection: nothing here is bounded.
        """
        if self._taken is not None:
            raise RuntimeError("the message before is not answered")
        self._taken, self._count, self._answers = taken, count, []
        self._transport.write(message)

    async def ask(self, message: bytes, count: int) -> list[Any]:
        """Send so many commands, and return their answers. If it is cancelled, drop the connection."""
        asked: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

        def take(answers: Answers) -> None:
            if asked.done():
                return
            if isinstance(answers, Exception):
                asked.set_exception(answers)
            else:
                asked.set_result(answers)

        self.send(message, count, take)
        return await asked

    def close(self) -> None:
        """Take no more answers, and close the connection."""
        self._taken = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read answers."""
        try:
            self._answers += self._replies.read(data)
        except RedisError as error:
            self._end(error)
            return
        if self._taken is None or len(self._answers) > self._count:
            self._end(RedisConnectionError("an answer that nothing was asked for"))
        elif len(self._answers) == self._count:
            taken, self._taken = self._taken, None
            taken(self._answers)

    def eof_received(self) -> bool | None:
        """The server has closed the connection."""
        return None  # then the transport closes, too

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that there will be no answers."""
        if isinstance(self._before, asyncio.Protocol):
            self._before.connection_lost(exc)
        self._end(RedisConnectionError(CLOSED if exc is None else f"{CLOSED} {exc}"))

    def _end(self, error: Exception) -> None:
        taken, self._taken = self._taken, None
        self._transport.abort()
        if taken is not None:
            taken(error)
