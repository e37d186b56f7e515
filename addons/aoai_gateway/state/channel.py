"""Commands and their answers on a connection that redis-py has opened.

redis-py's own way of reading an answer goes through a coroutine for each line of it, and a timer for each
command. Here an answer is read in the turn of the event loop in which it comes, by hiredis, and taken by a
function.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from hiredis import Reader
from redis import exceptions
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

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


_ERRORS: Final[Mapping[str, type[Exception]]] = {
    "ASK": exceptions.AskError,
    "CLUSTERDOWN": exceptions.ClusterDownError,
    "LOADING": exceptions.BusyLoadingError,
    "MASTERDOWN": exceptions.MasterDownError,
    "MOVED": exceptions.MovedError,
    "NOAUTH": exceptions.AuthenticationError,
    "NOPERM": exceptions.NoPermissionError,
    "NOSCRIPT": exceptions.NoScriptError,
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "TRYAGAIN": exceptions.TryAgainError,
}
"""The classes of redis-py for errors by their first word; any other is a ResponseError."""


LARGEST_ARRAY: Final = 99_999
"""Elements of an array: of the breaks of a thousand backends in ten classes there are 30,000."""

LARGEST_ANSWER: Final = 64 * 2**20
"""Bytes of an answer, as it travels: the largest that is asked for are pages of a hundred entries."""

_TOO_LARGE: Final = re.compile(rb"\n[*~>%]\d{6}")
"""How an array begins that has more elements, after the line before, if these are not letters of a text."""

_LENGTH: Final = 7
"""Bytes of such a begin that may have come in the pieces before."""


class ReplyReader:
    """Reads the second version of Redis's protocol (RESP), out of pieces that end anywhere.

    hiredis makes room for an array as soon as its header is there: a billion elements are eight gigabytes at
    once, and each look of the garbage collector at them takes half a minute. So headers are looked at before
    hiredis reads them. What comes is searched for one with too many digits, which costs next to nothing; only
    if it has one, it is walked through, since the same letters may stand in a text.

    Texts and statuses are bytes, numbers int, arrays lists, nothing is None, and an error is an exception,
    which is not raised.
    """

    def __init__(self) -> None:
        self._reader = Reader(protocolError=exceptions.InvalidResponse, replyError=_error, errors="replace")
        self._pieces: list[bytes] = []
        """What came since an element of an answer last ended together with a piece."""
        self._end = b"\n"
        """The last bytes of them, or of the element before."""
        self._size = 0
        """Bytes of the pieces that came since an answer last ended."""

    def read(self, data: bytes) -> list[Any]:
        """Return the answers that are whole now. Raises InvalidResponse on other bytes, or too many."""
        seen = self._end + data
        if _TOO_LARGE.search(seen):
            _check_arrays(b"".join((*self._pieces, data)))
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            raise exceptions.InvalidResponse(f"an answer of more than {LARGEST_ANSWER >> 20} MiB")
        reader = self._reader
        reader.feed(data)
        answers = []
        while (answer := reader.gets()) is not False:  # 0 is an answer
            answers.append(answer)
        if answers:
            self._size = 0
        # Of an element's first byte, hiredis says that it has no more of it.
        if reader.has_data() or not data.endswith(b"\n"):
            self._pieces.append(data)
            self._end = seen[-_LENGTH:]
        elif self._pieces:
            self._pieces.clear()
            self._end = b"\n"
        return answers


def _check_arrays(raw: bytes) -> None:
    """Look at the headers of elements that follow on each other; the last one may be cut off."""
    at = 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        kind, count = raw[at : at + 1], (raw[at + 1 : end] if end >= 0 else raw[at + 1 :].rstrip(b"\r"))
        if not count.isdigit():
            count = b""
        if kind in b"*~>%" and len(count) > len(str(LARGEST_ARRAY)):
            raise exceptions.InvalidResponse(f"an array of {count[:20].decode()} elements")
        if end < 0:
            return
        at = end + 2 + (int(count[:20]) + 2 if kind == b"$" and count else 0)


def _error(text: str) -> Exception:
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    try:
        return exceptions.ResponseError(text) if kind is None else kind(rest)
    except (ValueError, IndexError):  # where to, of one that has moved, cannot be read
        return exceptions.ResponseError(text)
