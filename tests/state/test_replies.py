"""Answers of Redis, in pieces that end anywhere; and what is no answer."""

from __future__ import annotations

from typing import Any

import pytest
from hiredis import Reader
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

from aoai_gateway.state.replies import reply_reader

type Answer = int | bytes | list[Any] | None

answers: st.SearchStrategy[Answer] = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def read(reader: Reader, data: bytes) -> list[Any]:
    """Return the answers that are whole by now."""
    reader.feed(data)
    found = []
    while (answer := reader.gets()) is not False:  # 0 is an answer
        found.append(answer)
    return found


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
    reader = reply_reader()
    ends = sorted(min(cut, len(raw)) for cut in cuts)
    found = [
        answer
        for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)
        for answer in read(reader, raw[start:end])
    ]
    assert found == sent


def test_an_answer_comes_with_its_last_byte() -> None:
    reader = reply_reader()
    raw = written([1, [b"a\r\nb", None], []])
    for byte in raw[:-1]:
        assert read(reader, bytes([byte])) == []
    assert read(reader, raw[-1:]) == [[1, [b"a\r\nb", None], []]]


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("NOSCRIPT No matching script.", NoScriptError, "No matching script."),
        ("READONLY You can't write against a read only replica.", ReadOnlyError, "You can't write"),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError, "Redis is loading"),
        ("MOVED 3999 127.0.0.1:6381", MovedError, "3999"),
        ("ASK 3999 127.0.0.1:6381", AskError, "3999"),
        ("ERR unknown command", ResponseError, "ERR unknown command"),
        ("MOVED to where nobody knows", ResponseError, "MOVED to where"),
        ("", ResponseError, ""),
    ],
)
def test_an_error_is_an_exception_of_redis_py_that_is_not_raised(
    line: str, kind: type[Exception], text: str
) -> None:
    found = read(reply_reader(), f"-{line}\r\n+OK\r\n".encode())
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
        read(reply_reader(), raw)
