"""An event stream's stored bytes -> its events, decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, text
from aoai_gateway.wire.sse import SseEvent, SseScanner, parse_fields

MAX_STREAM_BYTES = 8 * 1024 * 1024
"""Of a longer stream only the beginning is read: some tenths of a second on the event loop."""

MAX_EVENTS = 10_000
"""And only so many events, which take some tenths of a second too."""

_PIECE_BYTES = 64 * 1024
_DONE = b"[DONE]"


@dataclass(slots=True)
class Events:
    """A stream's events.

    ``named`` are pairs of an event's name ("" if it has none) and its decoded object; ``done`` whether the
    stream said ``[DONE]``; ``unreadable`` how many events were no JSON objects; ``cut`` whether the last one
    was cut off in its midst; ``unread`` how many bytes were left out.
    """

    named: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    done: bool = False
    unreadable: int = 0
    cut: bool = False
    unread: int = 0

    def notes(self) -> list[str]:
        """Return what is wrong with the stream itself, a line each."""
        notes = []
        if self.unreadable:
            notes.append(f"{self.unreadable:,} of its events are not JSON; they are left out here.")
        if self.cut:
            notes.append("It was cut off in the midst of an event.")
        if self.unread:
            notes.append(f"{self.unread:,} more bytes are not shown here.")
        return notes


LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes of an event that is shown."""


def read_events(data: bytes) -> Events:
    """Read a whole stream, however it ends."""
    events = Events()
    scanner = SseScanner(max_event_bytes=LARGEST_EVENT)
    read = count = 0
    while read < min(len(data), MAX_STREAM_BYTES) and count < MAX_EVENTS:
        for event in scanner.feed(data[read : read + _PIECE_BYTES]):
            _take(events, event)
            count += 1
        read += _PIECE_BYTES
    rest = scanner.finish()
    events.unread = max(0, len(data) - read)
    if rest.strip(b"\r\n"):
        # By the standard this does not count. Some servers leave out the last empty line.
        before = events.unreadable
        _take(events, SseEvent(rest, *parse_fields(rest)))
        if events.unreadable > before:
            events.unreadable, events.cut = before, not events.unread
    return events


def _take(events: Events, event: SseEvent) -> None:
    if not event.data:
        # A comment, a keep-alive; or something that is no event at all, such as a proxy's HTML.
        events.unreadable += event.raw.lstrip().startswith(b"<")
        return
    if event.data.startswith(_DONE):
        events.done = True
        return
    try:
        body = decode(event.data)
    except Unreadable:
        body = None
    if not isinstance(body, dict):
        events.unreadable += 1
        return
    name = (event.event or b"").decode(errors="replace")
    events.named.append((name or text(mapping(body).get("type")), body))
