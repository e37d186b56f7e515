"""The short way of a stream: the same bytes as on the usual way, and only where nothing can be overtaken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import h11
import pytest
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from aoai_gateway.engine.call import Outcome
from aoai_gateway.proxy.delivery import MOST_CHUNKS, whole_chunks
from aoai_gateway.runtime.stream_hooks import GatewayAskHook
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect, over_plain_http

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
KEY = "key-of-anybody"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


END = [chunk(event("", finish_reason="stop")), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]
LAST = b"".join(END)


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(**parts: Any) -> Connection:
            return connect(over_plain_http(config("a", "b", **parts)), tctx.options)

        yield make


@pytest.fixture
def here(made: Callable[..., Connection]) -> Connection:
    here = made()
    begin(here)
    return here


def begin(here: Connection) -> None:
    here.ask(stream=True)
    here.answer("a", HEAD + chunk(event("first")))


def offer(here: Connection, data: bytes) -> bool:
    """Have a read of the backend's socket taken, as the socket's relay does it."""
    taken = here.layer.take(data, here.server("a"))
    if taken is not None:
        here.received += taken.sent
    return taken is not None


def read(here: Connection, data: bytes) -> bool:
    """Have a read taken, or else given to the layers."""
    took = offer(here, data)
    if not took:
        here.answer("a", data)
    return took


# --- chunks ----------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_whole_chunks_are_read_as_h11_reads_them(contents: list[bytes]) -> None:
    data = b"".join(map(chunk, contents))
    assert whole_chunks(data) == b"".join(contents)


@given(st.binary(max_size=60) | st.text("0123456789abcdefABCDEF;=\r\n x", max_size=40).map(str.encode))
def test_what_is_taken_h11_takes_too(data: bytes) -> None:
    taken = whole_chunks(data)
    if taken is None:
        return
    buffer, reader, found = ReceiveBuffer(), ChunkedReader(), b""
    buffer += data
    while (part := reader(buffer)) is not None:
        assert isinstance(part, h11.Data)
        found += part.data
    assert found == taken
    assert len(buffer) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        chunk(b"x") + b"0\r\n\r\n",
        b"1;a=b\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\n" + b"x" * 16 + b"\r\n",
        b"\r\n1\r\nx\r\n",
        b"1\nx\n",
        b"2\r\nx\r\n",
        b"1\r\nxy\r\n",
        chunk(b"x")[:-1],
        chunk(b"x") + b"1",
        b"00000001\r\nx\r\n",
        chunk(b"x") * (MOST_CHUNKS + 1),
    ],
)
def test_all_but_whole_plain_chunks_are_for_the_layers(data: bytes) -> None:
    assert whole_chunks(data) is None


# --- a stream --------------------------------------------------------------------------------------------


def test_a_chunk_takes_the_short_way(here: Connection) -> None:
    here.received = b""
    assert offer(here, chunk(event("second")))
    assert here.received == chunk(event("second"))
    here.answer("a", LAST)
    assert unframed(here.received) == event("second") + unframed(LAST)
    assert here.at_rest


def by_the_layers(here: Connection, data: bytes) -> None:
    here.answer("a", data)


def unframed(body: bytes) -> bytes:
    buffer, reader, found = ReceiveBuffer(), ChunkedReader(), b""
    buffer += body
    while isinstance(part := reader(buffer), h11.Data):
        found += part.data
    return found


@given(cuts=st.lists(st.integers(1, 900), max_size=12), words=st.integers(1, 6))
def test_however_reads_are_cut_the_client_gets_the_same(cuts: list[int], words: int) -> None:
    whole = b"".join(chunk(event(f"word {n} {KEY if n % 2 else ''}")) for n in range(words)) + LAST
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    reads = [whole[start:end] for start, end in pairwise(places)]
    seen = []
    with taddons.context(Proxyserver()) as tctx:
        for way in (read, by_the_layers):
            plain = config("a", "b")
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            here = connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)
            begin(here)
            (call,) = here.gateway.calls.values()
            for data in reads:
                way(here, data)
            seen.append((unframed(here.result()[1]), call.outcome, call.finish_reason, str(call.delivered)))
    assert seen[0] == seen[1]
    assert seen[0][0].endswith(b"data: [DONE]\n\n")
    assert seen[0][1] is Outcome.OK


def test_half_a_chunk_is_finished_on_the_usual_way_first(here: Connection) -> None:
    data = chunk(event("second"))
    assert not read(here, data[:9])
    assert not offer(here, chunk(event("third")))
    assert not read(here, data[9:])
    assert offer(here, chunk(event("third")))


def test_a_silent_stream_is_given_up_as_before(made: Callable[..., Connection]) -> None:
    here = made(replay={"idle_seconds": 5})
    begin(here)
    for _ in range(4):
        here.run_timers(3)
        assert offer(here, chunk(event("more")))
    here.run_timers(6)
    assert b"upstream_disconnected" in here.received


def test_a_stream_that_is_cut_says_so(here: Connection) -> None:
    assert offer(here, chunk(event("second")))
    here.hang_up("a")
    assert b"upstream_disconnected" in here.received


def test_a_client_that_has_left_gets_nothing(here: Connection) -> None:
    server = here.server("a")
    here.hang_up()
    assert here.layer.take(chunk(event("second")), server) is None


def test_only_the_stream_of_the_connection_takes_it(here: Connection) -> None:
    other = type(here.server("a"))(address=("b.example", 80))
    assert here.layer.take(chunk(event("second")), other) is None


def test_an_answer_that_an_addon_changes_takes_the_usual_way(here: Connection) -> None:
    (stream,) = here.layer.streams.values()
    response = stream._here.flow.response
    assert response is not None
    response.stream = bytes.upper  # type: ignore[assignment]  # mitmproxy takes bytes, too
    assert not read(here, chunk(event("second")))
    assert b"SECOND" in here.received


def test_a_held_stream_takes_the_usual_way(made: Callable[..., Connection]) -> None:
    here = made()
    here.gateway.is_held = lambda flow: True  # type: ignore[method-assign]
    begin(here)
    assert not offer(here, chunk(event("second")))


def test_a_stream_that_waits_for_an_answer_is_not_overtaken(here: Connection) -> None:
    here.takes_time = GatewayAskHook
    (stream,) = here.layer.streams.values()
    assert stream.lane is not None
    stream._paused = object()  # type: ignore[assignment]
    assert not offer(here, chunk(event("second")))
    stream._paused = None
    assert offer(here, chunk(event("second")))


def test_a_client_with_tls_takes_the_usual_way(here: Connection) -> None:
    here.client.tls = True
    assert not offer(here, chunk(event("second")))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_each_client_gets_its_framing(made: Callable[..., Connection], version: str) -> None:
    here = made()
    here.ask(stream=True, version=version)
    here.answer("a", HEAD + chunk(event("first")))
    here.received = b""
    assert offer(here, chunk(event("second")) + chunk(event("third")))
    both = event("second") + event("third")
    assert here.received == (both if version == "1.0" else chunk(both))


def test_a_stream_with_its_length_takes_the_usual_way(made: Callable[..., Connection]) -> None:
    here = made()
    here.ask(stream=True)
    here.answer("a", HEAD.replace(b"transfer-encoding: chunked", b"content-length: 9999") + event("first"))
    assert not offer(here, chunk(event("second")))


def test_known_secrets_are_masked(made: Callable[..., Connection]) -> None:
    here = made()
    begin(here)
    secret = here.gateway.config.aoai.endpoints[0].key
    assert secret is not None
    data = event(f"it is {secret.get_secret_value()}!")
    here.received = b""
    for at in range(0, len(data), 7):
        offer(here, chunk(data[at : at + 7]))
    read(here, LAST)
    assert secret.get_secret_value().encode() not in unframed(here.received)
    assert b"it is ***" in unframed(here.received)


def test_the_call_ends_as_on_the_usual_way(here: Connection) -> None:
    calls = list(here.gateway.calls.values())
    assert offer(here, END[0] + END[1])
    read(here, END[2])
    assert [call.outcome for call in calls] == [Outcome.OK]
    assert here.at_rest
    assert here.layer.take(chunk(b"x"), here.server("a")) is None
