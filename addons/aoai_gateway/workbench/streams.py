"""An answer as it streams -> the pieces of text in it."""

from __future__ import annotations

from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, mappings, text

LONGEST_EVENT = 1024 * 1024
"""Bytes of an event that is waited for; a longer one is passed over."""

_TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")


class TextReader:
    """Takes the bytes of an event stream as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """Return the text that has come with these bytes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_EVENT:
            self._rest = b""
        return "".join(map(_text_of, lines))


def _text_of(line: bytes) -> str:
    if not line.startswith(b"data:"):
        return ""
    try:
        event = mapping(decode(line[5:].strip()))
    except (Unreadable, RecursionError):
        return ""
    if event.get("type") in _TEXT_DELTAS:
        return text(event.get("delta"))
    if event.get("type") == "content_block_delta":
        return text(mapping(event.get("delta")).get("text"))
    choices = mappings(event.get("choices"))
    if not choices or choices[0].get("index", 0) != 0:
        return ""
    return text(mapping(choices[0].get("delta")).get("content")) or text(choices[0].get("text"))
