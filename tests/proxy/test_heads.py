"""Heads: a client's must be exact, a backend's are repaired where that is safe."""

from __future__ import annotations

import pytest

from aoai_gateway.proxy.heads import (
    UNTIL_CLOSED,
    length_of,
    read_request,
    read_response,
    stays_open,
)

POST = b"POST /openai/v1/chat/completions HTTP/1.1"


def lines(head: bytes) -> list[bytes]:
    return head.split(b"\n")


# --- a client's --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"\r", b"GET evil", b"post / HTTP/1.1", b"Post / HTTP/1.1", b"POST  / HTTP/1.1", b"POST /\t HTTP/1.1",
        b"POST / HTTP/1.1 ",
        b" POST / HTTP/1.1", b"POST / a HTTP/1.1", b"POST /\x00 HTTP/1.1", b"POST /\xff HTTP/1.1",
        b"POST / HTTP/2.0", b"POST / HTTP/0.9", b"POST / HTTP/1.2", b"POST / http/1.1", b"POST /", b"",
        b"PRI * HTTP/2.0", b"POST /\x0b HTTP/1.1", b"PO(ST / HTTP/1.1", b"POST / HTTP/1.1\r",
    ],
)  # fmt: skip
def test_a_request_line_is_exact(first: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_request([first, b"Host: x"])


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding:\x0cchunked", b"Transfer-Encoding: chunked\x0b",
        b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: identity", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        b"Transfer-Encoding:", b"Transfer-Encoding: ,",
        b"Transfer-Encoding: chunked\nContent-Length: 2", b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t:x",
        b"Content-Length:\x0b2", b"Content-Length: +2", b"Content-Length: -2", b"Content-Length: 1_0",
        b"Content-Length: 2, 2", b"Content-Length: 2\nContent-Length: 2", b"Content-Length: 0x2",
        b"Content-Length: 2 2", b"Content-Length: 02", b"Content-Length:", b"Content-Length: \xb2",
        b"Content-Length: " + b"9" * 401, b"Content-Length : 2", b"Content-Length: 2.0",
        b"X: a\rb", b"X: a\x00b", b"X: a\x7fb", b"X: a\r", b" X: folded", b"X: a\n b", b"X: a\n\tb",
        b"X : a", b"X\t: a", b": a", b"X", b"X(Y): a", b"X\xe9: a", b"X\x00: a", b"\tX: a", b"X\r: a",
    ],
)  # fmt: skip
def test_a_field_that_two_parsers_could_read_differently_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_request([POST, b"Host: x", *lines(field)])


@pytest.mark.parametrize(
    ("field", "size"),
    [
        (b"X: y", 0), (b"Content-Length: 0", 0), (b"content-length:12", 12), (b"Content-Length: \t12 ", 12),
        (b"Transfer-Encoding: chunked", None), (b"transfer-encoding:CHUNKED", None),
        (b"X: tab\there \xe9", 0),
    ],
)  # fmt: skip
def test_the_size_of_a_requests_body(field: bytes, size: int | None) -> None:
    assert read_request([POST, b"Host: x", field])[1] == size


def test_chunks_are_not_for_http_1_0() -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_request([b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"])
    assert read_request([b"POST / HTTP/1.0", b"Content-Length: 2"])[1] == 2


@pytest.mark.parametrize(
    ("version", "connection", "open_"),
    [
        (b"HTTP/1.1", b"", True), (b"HTTP/1.1", b"Close", False), (b"HTTP/1.1", b"te, close", False),
        (b"HTTP/1.0", b"", False), (b"HTTP/1.0", b"Keep-Alive", True), (b"HTTP/1.0", b"x, keep-alive", True),
        (b"HTTP/1.0", b"keep-alive, close", False),
    ],
)  # fmt: skip
def test_whether_a_connection_is_kept(version: bytes, connection: bytes, open_: bool) -> None:
    assert stays_open(version, [(b"Connection", connection)]) is open_


# --- a backend's -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "size", "reusable"),
    [
        (b"X: y", UNTIL_CLOSED, False),
        (b"Content-Length: 5", 5, True),
        (b"Content-Length: 005", 5, True),
        (b"Content-Length: 5\nContent-Length: 5", 5, True),
        (b"Content-Length: 5, 5", 5, True),
        (b"Content-Length : 5", 5, True),
        (b"Transfer-Encoding: chunked", None, True),
        (b"Transfer-Encoding: Chunked", None, True),
        (b"Transfer-Encoding : chunked", None, True),
        (b"Transfer-Encoding: chunked\nConnection: Close", None, False),
        (b"Transfer-Encoding: identity", UNTIL_CLOSED, False),
        (b"Transfer-Encoding: identity\nContent-Length: 5", 5, False),
        (b"Transfer-Encoding: chunked\nContent-Length: 5", None, False),
        (b"Content-Length: 5\nContent-Length: 6\nTransfer-Encoding: chunked", None, False),
    ],
)
def test_how_an_answer_is_framed(field: bytes, size: int | None, reusable: bool) -> None:
    head = read_response([b"HTTP/1.1 200 OK", *lines(field)], "POST")
    assert (head.size, head.reusable) == (size, reusable)
    fields = head.response.headers.fields
    said = [f for f in fields if f[0].lower() in (b"content-length", b"transfer-encoding")]
    assert len(said) == (0 if size == UNTIL_CLOSED else 1)
    assert length_of(fields) == (size if size != UNTIL_CLOSED else None)


@pytest.mark.parametrize(
    ("field", "size", "reusable"),
    [
        (b"X: y", UNTIL_CLOSED, False),
        (b"Content-Length: 5", 5, False),
        (b"Content-Length: 5\nConnection: Keep-Alive", 5, True),
        (b"Transfer-Encoding: chunked\nConnection: keep-alive", None, False),
    ],
)
def test_how_an_answer_of_http_1_0_is_framed(field: bytes, size: int | None, reusable: bool) -> None:
    head = read_response([b"HTTP/1.0 200 OK", *lines(field)], "POST")
    assert (head.size, head.reusable) == (size, reusable)


@pytest.mark.parametrize(
    ("status", "method"), [(b"204", "POST"), (b"304", "GET"), (b"200", "HEAD"), (b"103", "POST")]
)
def test_answers_without_a_body(status: bytes, method: str) -> None:
    for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        assert read_response([b"HTTP/1.1 " + status + b" x", field], method).size == 0


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 5, 6", b"Content-Length: +5", b"Content-Length: 5\x0b", b"Content-Length:",
        b"Content-Length: 5\nContent-Length: 6", b"Content-Length: " + b"9" * 401, b"Content-Length: 1_0",
        b"Transfer-Encoding: gzip", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        b" X: folded first", b"no colon", b": no name", b"X Y: z", b"X\r: z",
    ],
)  # fmt: skip
def test_what_cannot_be_repaired_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_response([b"HTTP/1.1 200 OK", *lines(field)], "POST")


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/2 200 OK", b"ICY 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000", b"HTTP/1.1 abc", b"200 OK"],
)
def test_what_is_no_status_line_is_refused(first: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_response([first, b"Content-Length: 0"], "POST")


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"HTTP/1.1 200", ""), (b"HTTP/1.1 200 ", ""), (b"HTTP/1.1  200 OK", "OK"),
        (b"HTTP/1.1 200 a\rb", "a b"), (b"HTTP/1.1 200 a b\r", "a b "),
    ],
)  # fmt: skip
def test_reason_phrases(first: bytes, reason: str) -> None:
    assert read_response([first, b"Content-Length: 0"], "POST").response.reason == reason


def test_values_are_repaired() -> None:
    head = read_response(
        [b"HTTP/1.1 200 OK", b"X: a\rb", b"Y: c\x00d", b"Z : e", b"W: f", b"\t  g", b"Content-Length: 0"],
        "POST",
    )
    fields = head.response.headers
    assert [fields[name] for name in "XYZW"] == ["a b", "c d", "e", "f g"]
