"""Answers of Redis, in pieces that end anywhere; and what is no answer."""

from __future__ import annotations

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

from aoai_gateway.state.replies import LARGEST_ANSWER, LARGEST_ARRAY, ReplyReader

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
