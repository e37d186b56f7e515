"""A scanner for server-sent events: bytes in, events out, and every byte accounted for.

Events are cut out of the stream as the HTML standard's "event stream interpretation" has it: lines end with
LF, CR or CRLF, an empty line ends an event, reads may end anywhere. The scanner looks for ends only. What an
event says is parsed into its ``event`` and ``data`` fields; ``raw`` keeps its bytes with its end, so that the
``raw`` of all events and the scanner's ``pending`` are, put together, exactly what was fed.

The common case is one read that holds whole events, separated by LF LF, with one ``data:`` line each. It
costs one ``split`` and no loop over lines.

A CRLF whose two bytes come in different reads may leave its LF at the beginning of the next event's ``raw``.
There it is an empty line before the first field, and means nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Two line ends. The groups are atomic: a CRLF must never count as CR and LF.
_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MAX_EVENT_BYTES = 16 * 1024 * 1024


class SseEvent(NamedTuple):
    """One event as it came.

    ``data`` is empty for what clients do not dispatch: comments, keep-alives, an event without data. Not
    ``whole``: a piece of an event over the scanner's limit, whose fields are not known.
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
        self._tail = b""  # the last two bytes before the next read: a line end could be cut by the border
        self._started = False
        self._seen_cr = False

    @property
    def pending(self) -> bytes:
        """What came after the last event."""
        return b"".join(self._held)

    @property
    def oversized(self) -> bool:
        """Whether the scanner is in the midst of an event that it gives out in pieces."""
        return self._oversized

    @property
    def mid_event(self) -> bool:
        """Whether an event has begun and not ended: a stream that ends now was cut off."""
        return self._oversized or any(piece.strip(b"\r\n") for piece in self._held)

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that ``data`` completes."""
        if self._held:
            if _END.search(self._tail + data) is None:
                return self._hold(data)
            data = self.finish() + data
        elif self._oversized:
            return self._feed_oversized(data)
        if self._seen_cr or b"\r" in data:
            return self._cut_anywhere(data)
        if data.find(b"\n\n") == len(data) - 2 >= 0:
            return [self._event(data, data[:-2])]
        *blocks, rest = data.split(b"\n\n")
        events = [self._event(block + b"\n\n", block) for block in blocks]
        return events + self._hold(rest) if rest else events

    def finish(self) -> bytes:
        """The stream is over: give out, and forget, what is pending."""
        rest = self.pending
        self._held.clear()
        self._held_bytes = 0
        return rest

    def _cut_anywhere(self, data: bytes) -> list[SseEvent]:
        self._seen_cr = True
        events, start = [], 0
        for end in _END.finditer(data):
            events.append(self._event(data[start : end.end()], data[start : end.start()]))
            start = end.end()
        return events + self._hold(data[start:]) if start < len(data) else events

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
        return SseEvent(raw, *parse_fields(block))

    def _hold(self, data: bytes) -> list[SseEvent]:
        self._held.append(data)
        self._held_bytes += len(data)
        self._tail = (self._tail + data)[-2:] if len(self._held) > 1 else data[-2:]
        if self._held_bytes <= self.max_event_bytes:
            return []
        self._oversized = True
        self._started = True
        return [SseEvent(self.finish(), None, b"", whole=False)]

    def _feed_oversized(self, data: bytes) -> list[SseEvent]:
        border = self._tail + data
        end = _END.search(border)
        if end is None:
            self._tail = border[-2:]
            return [SseEvent(data, None, b"", whole=False)]
        cut = end.end() - len(self._tail)
        self._oversized = False
        self._tail = b""
        return [SseEvent(data[:cut], None, b"", whole=False), *self.feed(data[cut:])]


def parse_fields(block: bytes) -> tuple[bytes | None, bytes]:
    """The ``event`` (None if unnamed) and ``data`` fields of one event's lines.

    Several ``data`` lines are joined by LF; comments, ``id``, ``retry`` and unknown fields are left out.
    """
    event: bytes | None = None
    lines: list[bytes] = []
    for line in block.splitlines():  # of bytes: at LF, CR and CRLF, and nowhere else
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ") or None
    return event, b"\n".join(lines)
