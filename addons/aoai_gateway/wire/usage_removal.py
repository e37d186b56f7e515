"""Takes the usage out of a stream's events that the gateway, and not the client, has asked for."""

from __future__ import annotations

from aoai_gateway.wire.json_members import NotJsonError, read_document, without_member
from aoai_gateway.wire.sse import LARGE_EVENT, SseEvent


def without_usage(event: SseEvent) -> bytes:
    """The event's bytes without the ``usage`` member of its data's top level."""
    raw, data = event.raw, event.data
    if len(raw) > LARGE_EVENT and (b'"usage":null' not in raw or raw.count(b'"usage"') > 1):
        return raw  # to find it among others, all of the event would have to be decoded
    before, found, after = raw.partition(b',"usage":null')
    if found and after.find(b'"usage"') < 0 and before.find(b'"usage"') < 0:
        # include_usage puts it at the top level of every chunk; so the only one there is, is that.
        return before + after
    if data not in raw:
        return raw  # data over several lines: no server sends JSON so
    try:
        text = data.decode()
        kept = without_member(text, read_document(text), "usage")
    except (UnicodeDecodeError, NotJsonError):
        return raw
    return raw.replace(data, kept.encode(), 1)
