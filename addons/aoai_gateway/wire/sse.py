"""A scanner for server-sent events: bytes in, events out, and every byte accounted for.

Events are cut out of the stream as the HTML standard's "event stream interpretation" has it: lines end with
LF, CR or CRLF, an empty line ends an event, reads may end anywhere. The scanner looks for ends only. An
event is parsed into its ``event`` and ``data`` fields; ``raw`` keeps its bytes with its end, so that the
``raw`` of all events and the scanner's ``pending`` are, put together, exactly what was fed.

The common case is one read that holds whole events, separated by LF LF, with one ``data:`` line each. It
costs one ``split`` and no loop over lines.

A CRLF whose two bytes come in different reads may leave its LF at the beginning of the next event's ``raw``.
There it is an empty line before the first field, and means nothing.

A backend can send anything, and the scanner runs on the event loop. So each byte is searched once for the
end of an event, however many reads an event takes, and both the lines of one event and the events of one read
are bounded.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

# Two line ends; a CRLF must never count as CR and LF. Written so that it is searched by its first byte.
_END = re.compile(rb"\n(?>\r\n|\n|\r)|\r(?>\n(?>\r\n|\n|\r)|\r\n?)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

LARGE_EVENT = 64 * 1024
"""Bytes of an event that is searched, and not decoded. A read is no larger, so others are rare."""

MAX_EVENT_BYTES = 1024 * 1024
"""The most bytes of an event that is held until it is whole."""

_KEPT_BEGINNING, _KEPT_ENDING = 16 * 1024, 64 * 1024

MOST_LINES = 1_000
"""Lines of one event that are looked at. Azure sends two; an event of more is passed on unread."""

MOST_EVENTS = 1_000
"""Events of one read, beyond which those too short to hold anything are not read one by one."""

_SHORTEST_EVENT = len(b"data:[DONE]")
_BARE_DONE = b"[DONE]"
_SHORT_EVENTS = re.compile(rb"(?>(?:(?!\[DONE\]\n\n)(?>(?:[^\n]|\n(?!\n)){0,10})\n\n)+)")
"""A run of events that are shorter than `_SHORTEST_EVENT`; each byte is looked at once."""


class SseEvent(NamedTuple):
    """One event as it came.

    ``data`` is empty for events that clients do not dispatch: comments, keep-alives, an event without data.
    Not ``whole``: a piece of an event over the scanner's limits, whose fields are not known. The last piece
    of a large one has an excerpt of its data: the first 16 KB and the last 64 KB.
    """

    raw: bytes
    event: bytes | None
    data: bytes
    whole: bool = True


class SseScanner:
    """Cuts a stream into events.

    It keeps what came of an unfinished event, up to ``max_event_bytes``. A larger event is given out in
    pieces (``whole=False``) as they come, until its end: memory stays bounded and nothing is lost.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_event_bytes = max_event_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._oversized = False
        self._beginning = b""
        self._ending = bytearray()
        self._tail = b""  # the last two bytes before the next read: a line end could be cut by the border
        self._started = False
        self._seen_cr = False

    @property
    def pending(self) -> bytes:
        """The bytes after the last event."""
        return b"".join(self._held)

    @property
    def oversized(self) -> bool:
        """Whether the scanner is in the midst of an event that it gives out in pieces."""
        return self._oversized

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that ``data`` completes."""
        if b"\r" in data:
            self._seen_cr = True
        if self._oversized:
            return self._feed_oversized(data)
        if not self._held:
            return self._cut(data)
        end = _END.search(self._tail + data)
        if end is None:
            return self._hold(data)
        cut = end.end() - len(self._tail)
        raw = self.finish() + data[:cut]
        first = self._event(raw, raw[: len(raw) - len(end[0])])
        return [first, *self._cut(data[cut:])]

    def finish(self) -> bytes:
        """Return and clear the pending bytes: the stream is over."""
        rest = self.pending
        self._held.clear()
        self._held_bytes = 0
        return rest

    def _cut(self, data: bytes) -> list[SseEvent]:
        if not self._seen_cr:
            if data.find(b"\n\n") == len(data) - 2 >= 0:
                return [self._event(data, data[:-2])]
            if data.count(b"\n\n") > MOST_EVENTS:
                return self._flood(data)
            *blocks, rest = data.split(b"\n\n")
            events = [self._event(block + b"\n\n", block) for block in blocks]
            return events + self._hold(rest) if rest else events
        ends = [end.span() for end in _END.finditer(data)]
        flood = len(ends) > MOST_EVENTS
        events, start, after = [], 0, 0
        for end, following in ends:
            short = end - after < _SHORTEST_EVENT
            if flood and short and not data.startswith(_BARE_DONE, after, end):
                after = following
                continue
            events.append(self._event(data[start:following], data[after:end]))
            start = after = following
        if start < after:
            events.append(SseEvent(data[start:after], None, b""))
        return events + self._hold(data[after:]) if after < len(data) else events

    def _flood(self, data: bytes) -> list[SseEvent]:
        """Return many events at once: those too short to hold anything go along with the next one."""
        events: list[SseEvent] = []
        start = at = 0
        while at < len(data):
            short = _SHORT_EVENTS.match(data, at)
            at = short.end() if short is not None else at
            end = data.find(b"\n\n", at)
            if end < 0:
                break
            events.append(self._event(data[start : end + 2], data[at:end]))
            start = at = end + 2
        if start < at:
            events.append(SseEvent(data[start:at], None, b""))
        return events + self._hold(data[at:]) if at < len(data) else events

    def _event(self, raw: bytes, block: bytes) -> SseEvent:
        if not self._started:
            self._started = True
            block = block.removeprefix(_BYTE_ORDER_MARK)
        first, _, rest = block.partition(b"\n")
        if not self._seen_cr:  # the two common forms, without a loop
            if not rest and first.startswith(b"data: "):
                return SseEvent(raw, None, first[6:])
            if rest.startswith(b"data: ") and first.startswith(b"event: ") and b"\n" not in rest:
                return SseEvent(raw, first[7:] or None, rest[6:])
        fields = _fields(block)
        return SseEvent(raw, *fields) if fields is not None else SseEvent(raw, None, b"", whole=False)

    def _hold(self, data: bytes) -> list[SseEvent]:
        self._held.append(data)
        self._held_bytes += len(data)
        self._tail = (self._tail + data)[-2:] if len(self._held) > 1 else data[-2:]
        if self._held_bytes <= self.max_event_bytes:
            return []
        self._oversized = True
        self._started = True
        piece = self.finish()
        self._beginning = piece[:_KEPT_BEGINNING]
        self._ending = bytearray(piece[_KEPT_BEGINNING:][-_KEPT_ENDING:])
        return [SseEvent(piece, None, b"", whole=False)]

    def _feed_oversized(self, data: bytes) -> list[SseEvent]:
        border = self._tail + data
        end = _END.search(border)
        if end is None:
            self._tail = border[-2:]
            self._ending += data
            del self._ending[:-_KEPT_ENDING]
            return [SseEvent(data, None, b"", whole=False)]
        cut = end.end() - len(self._tail)
        self._oversized = False
        self._tail = b""
        name, excerpt = parse_fields((self._beginning + self._ending + data[:cut]).rstrip(b"\r\n"))
        self._beginning = b""
        self._ending.clear()
        return [SseEvent(data[:cut], name, excerpt, whole=False), *self.feed(data[cut:])]


def parse_fields(block: bytes) -> tuple[bytes | None, bytes]:
    """The ``event`` (None if unnamed) and ``data`` fields of one event's lines.

    Several ``data`` lines are joined by LF; comments, ``id``, ``retry`` and unknown fields are left out. A
    line ``[DONE]`` without a field's name counts as data, as Microsoft's API simulator ends its streams. Both
    are empty for a block of more than `MOST_LINES` lines.
    """
    return _fields(block.removeprefix(_BYTE_ORDER_MARK)) or (None, b"")


def _fields(block: bytes) -> tuple[bytes | None, bytes] | None:
    event: bytes | None = None
    values: list[bytes] = []
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n", MOST_LINES).replace(b"\r", b"\n", MOST_LINES)
    lines = block.split(b"\n", MOST_LINES)
    if len(lines) > MOST_LINES:
        return None
    for line in lines:
        name, colon, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ") or None
        elif line == _BARE_DONE and not colon:
            values.append(line)
    return event, b"\n".join(values)


# --- the data of one event --------------------------------------------------------------------------------

HEAD = 1_024
"""Bytes of a large event's data in which its type is looked for."""

_TYPE = re.compile(rb'"type"[ \t\r\n]*+:[ \t\r\n]*+"([^"\\]{1,64})"')


def decoded(data: bytes) -> dict[str, Any] | None:
    """The JSON object that an event's data is; None if it is none, or too large to be decoded."""
    if len(data) > LARGE_EVENT:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def type_of(data: bytes) -> bytes:
    """The event's name, from its data: some recorders and proxies drop the ``event`` line."""
    if len(data) > LARGE_EVENT:
        found = _TYPE.search(data[:HEAD])
        return found[1] if found else b""
    kind = (decoded(data) or {}).get("type")
    return kind.encode(errors="replace") if isinstance(kind, str) else b""
