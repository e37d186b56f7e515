"""The event scanner: nothing lost, nothing added, and the same events however the reads are cut."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.sse import SseEvent, SseScanner, parse_fields

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
LINES = st.sampled_from(
    [
        "data: a",
        "data:b",
        "data:  c",
        "data",
        "data:",
        "event: e",
        "event:",
        "event: ",
        "id: 1",
        "retry: 5",
        ": comment",
        ":",
        "x",
    ]
) | st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines and empty lines with any mixture of line ends."""
    lines = draw(st.lists(LINES | st.just(""), max_size=14))
    same = draw(st.none() | ENDS)
    text = "".join(line + (same or draw(ENDS)) for line in lines)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode() + draw(st.binary(max_size=3))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders)]


def dispatched(events: list[SseEvent]) -> list[tuple[bytes | None, bytes]]:
    return [(event.event, event.data) for event in events if event.data]


def is_mid_event(scanner: SseScanner) -> bool:
    """Whether an event has begun and not ended: a stream that ends now was cut off."""
    return scanner.oversized or bool(scanner.pending.strip(b"\r\n"))


def by_the_book(data: bytes) -> list[tuple[bytes | None, bytes]]:
    """The standard's algorithm, line by line over the whole of a finished stream."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _ = text.split(b"\n")
    got, block = [], []
    for line in lines:
        if line:
            block.append(line)
            continue
        event, parts = None, []
        for field in block:
            name, _, value = field.partition(b":")
            value = value[1:] if value[:1] == b" " else value
            if name == b"event":
                event = value or None
            elif name == b"data":
                parts.append(value)
        if b"\n".join(parts):
            got.append((event, b"\n".join(parts)))
        block = []
    return got


@given(streams(), st.lists(st.integers(min_value=0), max_size=12))
def test_every_byte_is_accounted_for(data: bytes, places: list[int]) -> None:
    scanner = SseScanner()
    events = [event for piece in cut(data, places) for event in scanner.feed(piece)]
    assert b"".join(event.raw for event in events) + scanner.pending == data


@given(streams(), st.lists(st.integers(min_value=0), max_size=12))
def test_the_events_are_the_standards(data: bytes, places: list[int]) -> None:
    scanner = SseScanner()
    events = [event for piece in cut(data, places) for event in scanner.feed(piece)]
    assert dispatched(events) == by_the_book(data)


@given(streams(), st.integers(1, 20), st.lists(st.integers(min_value=0), max_size=12))
def test_a_bound_on_events_loses_nothing_either(data: bytes, limit: int, places: list[int]) -> None:
    scanner = SseScanner(max_event_bytes=limit)
    events = []
    for piece in cut(data, places):
        events += scanner.feed(piece)
        assert len(scanner.pending) <= limit
    assert b"".join(event.raw for event in events) + scanner.pending == data


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_comes_with_the_byte_that_ends_it(end: bytes) -> None:
    scanner = SseScanner()
    stream = b"event: x" + end + b"data: 1" + end + end
    events = [event for byte in stream for event in scanner.feed(bytes([byte]))]
    assert dispatched(events) == [(b"x", b"1")]
    assert not is_mid_event(scanner)


def test_an_event_at_a_carriage_return_does_not_wait_for_a_line_feed() -> None:
    scanner = SseScanner()
    assert dispatched(scanner.feed(b"data: 1\r\n\r")) == [(None, b"1")]
    assert dispatched(scanner.feed(b"\ndata: 2\r\n\r\n")) == [(None, b"2")]


def test_several_events_in_one_read_and_one_in_several() -> None:
    scanner = SseScanner()
    assert dispatched(scanner.feed(b"data: 1\n\ndata: 2\n\nda")) == [(None, b"1"), (None, b"2")]
    assert scanner.pending == b"da"
    assert scanner.feed(b"ta: 3\n") == []
    assert dispatched(scanner.feed(b"\n")) == [(None, b"3")]
    assert scanner.pending == b""


def test_an_empty_name_is_no_name() -> None:
    assert dispatched(SseScanner().feed(b"event: \ndata: 1\n\n")) == [(None, b"1")]


def test_one_byte_is_not_an_event() -> None:
    scanner = SseScanner()
    assert scanner.feed(b"d") == []
    assert scanner.feed(b"") == []
    assert is_mid_event(scanner)


def test_mid_event() -> None:
    scanner = SseScanner()
    assert not is_mid_event(scanner)
    scanner.feed(b"data: 1\n")
    assert is_mid_event(scanner)
    scanner.feed(b"\n\n")
    assert not is_mid_event(scanner), "an empty line more is no event"


def test_a_byte_order_mark_is_passed_on_but_not_read() -> None:
    scanner = SseScanner()
    (event,) = scanner.feed(b"\xef\xbb\xbfdata: 1\n\n")
    assert (event.data, event.raw[:3]) == (b"1", b"\xef\xbb\xbf")
    assert scanner.feed(b"\xef\xbb\xbfdata: 2\n\n")[0].data == b"", "only at the beginning of the stream"


def test_line_separators_of_unicode_are_content() -> None:
    data = '{"a":"\u2028\u0085\x0b\x0c\x1c"}'
    scanner = SseScanner()
    (event,) = scanner.feed(f"data: {data}\n\n".encode())
    assert json.loads(event.data, strict=False) == json.loads(data, strict=False)
    assert parse_fields(f"data: {data}\r: x".encode())[1] == data.encode()


def test_an_oversized_event_passes_in_pieces_and_the_next_is_read_again() -> None:
    scanner = SseScanner(max_event_bytes=10)
    assert scanner.feed(b"data: 123") == []
    (first,) = scanner.feed(b"4567")
    assert (first.raw, first.whole, first.data) == (b"data: 1234567", False, b"")
    assert is_mid_event(scanner)
    (second,) = scanner.feed(b"89\n")
    assert not second.whole
    last, following = scanner.feed(b"\ndata: x\n\n")
    assert (last.raw, last.whole) == (b"\n", False)
    assert (following.data, following.whole) == (b"x", True)
    assert not is_mid_event(scanner)


def test_work_is_linear_in_a_slow_large_event() -> None:
    """Sixteen thousand reads of one event: joined once, not once per read."""
    scanner = SseScanner(max_event_bytes=20_000_000)
    piece = b"x" * 1000
    scanner.feed(b"data: ")
    for _ in range(16_000):
        assert scanner.feed(piece) == []
    (event,) = scanner.feed(b"\n\n")
    assert len(event.data) == 16_000_000
