"""A message of commands on an open connection: its answers, or why there are none, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError

from aoai_gateway.state.channel import Answers, Channel


class Wire(asyncio.Transport):
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


class Before(asyncio.Protocol):
    """The protocol of redis-py."""

    lost: BaseException | str | None = "not yet"

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc


class Line:
    """A channel, with both of its ends."""

    def __init__(self) -> None:
        self.wire, self.before = Wire(), Before()
        self.channel = Channel(self.wire, self.before)
        self.taken: list[Answers] = []

    def send(self, count: int) -> None:
        self.channel.send(b"*1\r\n$4\r\nPING\r\n" * count, count, self.taken.append)


def test_a_message_has_all_of_its_answers_at_once() -> None:
    line = Line()
    line.send(3)
    line.channel.data_received(b"+PONG\r\n:1")
    assert line.taken == []
    line.channel.data_received(b"\r\n-NOSCRIPT none\r\n")
    ((first, second, third),) = line.taken
    assert (first, second, type(third)) == (b"PONG", 1, NoScriptError)
    line.send(1)
    line.channel.data_received(b":2\r\n")
    assert line.taken[1] == [2]
    assert line.channel.is_open


def test_the_next_message_may_be_sent_as_soon_as_the_answers_are_there() -> None:
    line = Line()
    line.channel.send(b"first", 1, lambda _: line.send(1))
    line.channel.data_received(b":1\r\n")
    line.channel.data_received(b":2\r\n")
    assert line.taken == [[2]]


def test_a_message_waits_for_the_one_before() -> None:
    line = Line()
    line.send(1)
    with pytest.raises(RuntimeError):
        line.send(1)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (lambda channel: channel.connection_lost(None), RedisConnectionError),
        (lambda channel: channel.connection_lost(ConnectionResetError()), RedisConnectionError),
        (lambda channel: channel.data_received(b"HTTP/1.1 400 Bad Request\r\n"), InvalidResponse),
        (lambda channel: channel.data_received(b":1\r\n:2\r\n:3\r\n"), RedisConnectionError),
    ],
)
def test_what_ends_the_connection_is_told_once(
    event: Callable[[Channel], None], error: type[Exception]
) -> None:
    line = Line()
    line.send(2)
    event(line.channel)
    line.channel.connection_lost(None)
    (told,) = line.taken
    assert type(told) is error
    assert not line.channel.is_open
    assert line.before.lost != "not yet", "redis-py waits for it when it disconnects"


def test_what_comes_unasked_ends_the_connection() -> None:
    line = Line()
    line.channel.data_received(b":1\r\n")
    assert not line.channel.is_open


def test_late_answers_of_a_closed_channel_go_nowhere() -> None:
    line = Line()
    line.send(1)
    line.channel.close()
    line.channel.data_received(b":1\r\n")
    line.channel.connection_lost(None)
    assert line.taken == []


def play(story: Callable[[Line], Awaitable[None]]) -> None:
    async def main() -> None:
        await story(Line())

    asyncio.run(main())


def test_answers_can_be_awaited() -> None:
    async def story(line: Line) -> None:
        asked = asyncio.ensure_future(line.channel.ask(b"two", 2))
        await asyncio.sleep(0)
        assert line.wire.sent == [b"two"]
        line.channel.data_received(b":1\r\n:2\r\n")
        assert await asked == [1, 2]
        lost = asyncio.ensure_future(line.channel.ask(b"one", 1))
        await asyncio.sleep(0)
        line.channel.connection_lost(None)
        with pytest.raises(RedisConnectionError):
            await lost

    play(story)


def test_who_gives_up_waiting_spoils_nothing() -> None:
    async def story(line: Line) -> None:
        asked = asyncio.ensure_future(line.channel.ask(b"one", 1))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        line.channel.data_received(b":1\r\n")
        assert line.channel.is_open

    play(story)
