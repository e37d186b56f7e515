"""A message of commands on an open connection: its answers, or why there are none, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from aoai_gateway.state.channel import LARGEST_ANSWER, LARGEST_ARRAY, Answers, Channel, ReplyReader


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


type Answer = int | bytes | list[Any] | None

answers: st.SearchStrategy[Answer] = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def written(answer: Answer) -> bytes:
    """Return an answer as Redis writes it."""
    match answer:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % answer
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(answer), answer)
    return b"*%d\r\n" % len(answer) + b"".join(map(written, answer))


@given(st.lists(answers, max_size=5), st.lists(st.integers(0, 400), max_size=8))
def test_pieces_may_end_anywhere(sent: list[Answer], cuts: list[int]) -> None:
    raw = b"".join(map(written, sent))
    reader = ReplyReader()
    ends = sorted(min(cut, len(raw)) for cut in cuts)
    found = [
        answer
        for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)
        for answer in reader.read(raw[start:end])
    ]
    assert found == sent


def test_an_answer_comes_with_its_last_byte() -> None:
    reader = ReplyReader()
    raw = written([1, [b"a\r\nb", None], []])
    for byte in raw[:-1]:
        assert reader.read(bytes([byte])) == []
    assert reader.read(raw[-1:]) == [[1, [b"a\r\nb", None], []]]


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("NOSCRIPT No matching script.", NoScriptError, "No matching script."),
        ("READONLY You can't write against a read only replica.", ReadOnlyError, "You can't write"),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError, "Redis is loading"),
        ("MOVED 3999 127.0.0.1:6381", MovedError, "3999"),
        ("ASK 3999 127.0.0.1:6381", AskError, "3999"),
        ("ERR unknown command", ResponseError, "ERR unknown command"),
        ("MOVED to an unknown place", ResponseError, "MOVED to an"),
        ("", ResponseError, ""),
    ],
)
def test_an_error_is_an_exception_of_redis_py_that_is_not_raised(
    line: str, kind: type[Exception], text: str
) -> None:
    found = ReplyReader().read(f"-{line}\r\n+OK\r\n".encode())
    assert type(found[0]) is kind
    assert text in str(found[0])
    assert found[1:] == [b"OK"]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b":abc\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b":" + b"1" * 10_000 + b"\r\n",
    ],
)
def test_what_is_no_answer_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(InvalidResponse):
        ReplyReader().read(raw)


def in_pieces(raw: bytes, size: int) -> list[Any]:
    """Return the answers in bytes that come so many at a time."""
    reader = ReplyReader()
    return [answer for at in range(0, len(raw), size) for answer in reader.read(raw[at : at + size])]


def too_large() -> list[bytes]:
    """Return answers whose array is not to be read, with what may come before it."""
    headers = [b"*1000000000\r\n", b"*%d\r\n" % (LARGEST_ARRAY + 1), b"~1000000000\r\n", b">1000000000\r\n"]
    before = [
        b"",
        b":1\r\n+OK\r\n$-1\r\n*-1\r\n*0\r\n",
        b"*2\r\n$3\r\nabc\r\n",
        b"$11\r\n*1000000000\r\n",
        b"*2\r\n*3\r\n",
    ]
    return [each + header for each in before for header in headers]


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize("raw", too_large())
def test_no_room_is_made_for_an_array_that_is_larger_than_any(raw: bytes, piece: int) -> None:
    with pytest.raises(InvalidResponse, match="an array of 100000"):
        in_pieces(raw, piece)


def test_an_array_may_not_follow_on_an_answer_that_was_cut_off() -> None:
    reader = ReplyReader()
    assert reader.read(b":1\r\n*10000") == [1]
    with pytest.raises(InvalidResponse):
        reader.read(b"00000\r\n")


@pytest.mark.parametrize("piece", [1, 5, 10_000])
def test_a_text_may_look_like_the_begin_of_an_array(piece: int) -> None:
    text = b"*1000000000\r\n~2000000\r\n$5\r\n"
    raw = written([text, 5, [text, b"*9999999"], b""])
    assert in_pieces(raw, piece) == [[text, 5, [text, b"*9999999"], b""]]
    assert in_pieces(b"+*1234567\r\n", piece) == [b"*1234567"]


def test_the_largest_array_is_read() -> None:
    answer = list(range(LARGEST_ARRAY))
    assert ReplyReader().read(written(answer)) == [answer]


def test_an_answer_is_not_kept_without_bound_until_it_is_whole() -> None:
    with pytest.raises(InvalidResponse, match="an answer of more than 64 MiB"):
        in_pieces(b"$1000000000\r\n" + b"x" * LARGEST_ANSWER, 2**20)
    reader = ReplyReader()
    for _ in range(3):
        assert reader.read(b"$%d\r\n%b\r\n" % (LARGEST_ANSWER // 2, b"x" * (LARGEST_ANSWER // 2)))


@given(st.binary(max_size=60), st.lists(st.sampled_from([b"*", b"$", b"1", b"9999999", b"\r\n", b":", b"~"])))
def test_any_bytes_are_answers_or_an_error(noise: bytes, words: list[bytes]) -> None:
    reader = ReplyReader()
    try:
        for word in (*words, noise):
            assert all(not isinstance(each, list) or len(each) <= LARGEST_ARRAY for each in reader.read(word))
    except InvalidResponse:
        pass
