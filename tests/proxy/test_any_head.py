"""Whatever bytes a client sends: no exception, the same however its reads are cut, and nothing that another
reader of HTTP/1.1 would take for another request."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mitmproxy.net.http.http1 import assemble
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import ReceiveHttp, RequestData, RequestHeaders

from aoai_gateway.proxy import heads
from tests.proxy.test_http1 import Connection

LINES = (
    b"POST /openai/v1/chat/completions HTTP/1.1",
    b"GET / HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"POST http://evil.example/x HTTP/1.1",
    b"CONNECT evil.example:443 HTTP/1.1",
    b"POST /a b HTTP/1.1",
    b"POST /a\tHTTP/1.1",
    b"Host: x",
    b"Host: x, y",
    b"host : x",
    b"Content-Length: 5",
    b"Content-Length: 05",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length:",
    b"Content-Length: 99999999999999999999",
    b"content-length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b" folded",
    b"\tfolded: yes",
    b"X: a\x00b",
    b"X: \xff",
    b": nothing",
    b"X",
    b"",
)
ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n")
BODIES = (
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nT: x\r\n\r\n",
    b"0\r\n\r\n",
    b"-1\r\n",
    b"",
)

line = st.sampled_from(LINES) | st.binary(max_size=20)
wild = st.tuples(st.lists(st.tuples(line, st.sampled_from(ENDS)), max_size=6), st.sampled_from(BODIES)).map(
    lambda made: b"".join(text + end for text, end in made[0]) + b"\r\n" + made[1]
)
plausible = st.tuples(
    st.sampled_from(LINES[:5]), st.lists(st.sampled_from(LINES[7:]), max_size=4), st.sampled_from(BODIES)
).map(lambda made: b"\r\n".join([made[0], b"Host: x", *made[1]]) + b"\r\n\r\n" + made[2])
stream = wild | plausible | st.binary(max_size=200)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in pairwise(bounds)]


def received(parts: Sequence[bytes]) -> tuple[list[object], bytes, bool]:
    """What was made of it: requests with their bodies, the answer, and whether the connection was closed."""
    connection = Connection().receive(*parts)
    made: list[object] = []
    for command in connection.commands:
        if isinstance(command, ReceiveHttp):
            event = command.event
            if isinstance(event, RequestHeaders):
                data = event.request.data
                made.append((data.method, data.authority, data.path, data.headers.fields))
            elif isinstance(event, RequestData):
                if made and isinstance(made[-1], bytes):
                    made[-1] += event.data
                else:
                    made.append(event.data)
            else:
                made.append(type(event).__name__)
    return made, connection.sent, connection.closed


@given(stream, st.lists(st.integers(min_value=0, max_value=400), max_size=4))
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", [3, 17, 40])
def test_however_its_reads_are_cut_it_is_the_same(data: bytes, places: list[int]) -> None:
    assert received(cut(data, places)) == received([data] if data else [])


def read_by_h11(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """The head as h11 reads it; None if it refuses it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    return (
        bytes(event.method),
        bytes(event.target),
        [(bytes(name), bytes(value)) for name, value in event.headers],
    )


FRAMING = (b"content-length", b"transfer-encoding")


def check_that_another_reader_agrees(data: bytes) -> None:
    connection = Connection().receive(data)
    events = [c.event for c in connection.commands if isinstance(c, ReceiveHttp)]
    requests = [event.request for event in events if isinstance(event, RequestHeaders)]
    if not requests:
        # What is refused is refused in JSON, or more of it is waited for.
        assert not connection.sent or b"application/json" in connection.sent
        return
    # Empty lines before a request are ignored (RFC 9112 §2.2); h11 does not.
    other = read_by_h11(data.lstrip(b"\r\n"))
    if other is None:
        # h11 wants just one Host, which is looked for later here; all else it must take.
        hosts = [name for name, _ in requests[0].data.headers.fields if name.lower() == b"host"]
        assert len(hosts) != 1
        return
    method, target, fields = other
    request = requests[0].data
    assert assemble._assemble_request_line(request).split(b" ")[:2] == [method, target]
    said = [
        (name.lower(), value.lower()) for name, value in request.headers.fields if name.lower() in FRAMING
    ]
    assert said == [(name, value.lower()) for name, value in fields if name in FRAMING]


@given(plausible | wild)
@example(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
def test_what_is_taken_is_the_same_request_to_another_reader(data: bytes) -> None:
    check_that_another_reader_agrees(data)


@pytest.mark.parametrize("first", LINES)
def test_every_pair_of_odd_lines_is_the_same_to_another_reader(first: bytes) -> None:
    for second in LINES:
        for end in ENDS:
            head = end.join([b"POST / HTTP/1.1", b"Host: x", first, second, b"", b""])
            check_that_another_reader_agrees(head + b"5\r\nhello\r\n0\r\n\r\n")
    check_that_another_reader_agrees(first + b"\r\nHost: x\r\n\r\n")


@given(
    st.lists(st.sampled_from(LINES) | st.binary(max_size=30), min_size=1, max_size=8),
    st.sampled_from(["GET", "HEAD"]),
)
def test_a_head_of_a_backend_is_read_or_refused(lines: list[bytes], method: str) -> None:
    for first in (lines, [b"HTTP/1.1 200 OK", *lines]):
        try:
            head = heads.read_response(first, method)
        except ValueError:
            continue
        named = [name.lower() for name, _ in head.response.data.headers.fields]
        assert sum(named.count(name) for name in FRAMING) <= 1
        assert not any(heads.CONTROL.search(value) for _, value in head.response.data.headers.fields)


@given(stream)
def test_no_command_is_for_another_connection(data: bytes) -> None:
    connection = Connection().receive(data)
    for command in connection.commands:
        if isinstance(command, commands.ConnectionCommand):
            assert command.connection is connection.client
