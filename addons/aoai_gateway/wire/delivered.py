"""The text that a model has delivered, kept so that it can be counted where no usage comes.

Usage comes with the last chunk of a stream, if at all: an old api-version has none, and a client that hangs
up does not wait for it. Then the delivered text has to be counted: text, reasoning, refusals, the names and
arguments of tool calls, transcripts of audio. The pieces are kept as they stand in the JSON, and decoded at
the end, once. Only a bound of them is kept; of the rest, the length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aoai_gateway.wire.usage import Usage

MOST_KEPT = 256 * 1024
"""Bytes that are kept: more than 50,000 tokens of English prose. Beyond, the kept ones' ratio is used."""

MOST_SCANNED = 64 * 1024
"""Bytes of one event or answer in which strings are looked for; the rest counts as text."""

_MOST_STRINGS = 1_000

# The keys, by operation, whose strings are what a model delivers.
_TEXT_KEYS: Mapping[str, tuple[bytes, ...]] = {
    "chat.completions": (
        b'"name"',
        b'"content"',
        b'"arguments"',
        b'"reasoning_content"',
        b'"reasoning"',
        b'"refusal"',
        b'"input"',
        b'"transcript"',
    ),
    "completions": (b'"text"',),
    "responses": (b'"delta"',),
    "messages": (b'"text"', b'"thinking"', b'"partial_json"', b'"name"'),
}
_ANSWER_KEYS: Mapping[str, tuple[bytes, ...]] = {
    **_TEXT_KEYS,
    "responses": (b'"name"', b'"text"', b'"arguments"', b'"refusal"', b'"input"', b'"transcript"'),
}
_PLAIN_DELTA = b'"delta":{"content":"'
# A string may lack its end: the scan ends somewhere.
_STRING_VALUE = re.compile(rb'[ \t\r\n]*+:[ \t\r\n]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)', re.DOTALL)


class Delivered:
    """The text of one answer. ``beyond``: bytes of it that are not kept.

    ``prompt``: the usage of its prompt, where a stream tells it before the answer.
    """

    __slots__ = ("_kept", "_keys", "beyond", "prompt")

    def __init__(self, operation_name: str) -> None:
        self._keys = _TEXT_KEYS.get(operation_name, ())
        self._kept = bytearray()
        self.beyond = 0
        self.prompt: Usage | None = None

    def __repr__(self) -> str:
        return f"Delivered({len(self._kept)} bytes, {self.beyond} beyond)"

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._kept or self.beyond)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept."""
        return len(self._kept)

    @classmethod
    def of_answer(cls, operation_name: str, body: bytes) -> Delivered:
        """The text of an answer that is no stream."""
        found = cls(operation_name)
        found._keys = _ANSWER_KEYS.get(operation_name, ())
        found.read(body)
        return found

    def text(self) -> str:
        """Return the kept pieces as one text. Takes about a millisecond at most."""
        kept = bytes(self._kept)
        try:
            text = json.loads(b'"' + kept + b'"', strict=False)
        except ValueError:  # half an escape, or bytes that are no UTF-8
            return kept.decode(errors="replace")
        assert isinstance(text, str)
        return text

    def read(self, data: bytes) -> None:
        """Add what one event's data, or an answer's body, delivers."""
        start = data.find(_PLAIN_DELTA) + len(_PLAIN_DELTA)
        if start >= len(_PLAIN_DELTA):  # the common chunk: a delta of nothing but text
            end = data.find(b'"', start)
            piece = data[start:end]
            if data[end + 1 : end + 2] == b"}" and piece.find(b"\\") < 0:
                self._add(piece)
                return
        if len(data) > MOST_SCANNED and self._keys:
            self.beyond += len(data) - MOST_SCANNED
            data = data[:MOST_SCANNED]
        left = _MOST_STRINGS
        for key in self._keys:
            at = data.find(key)
            while at >= 0 and left:
                left -= 1
                at += len(key)
                value = _STRING_VALUE.match(data, at)
                if value is not None:
                    self._add(value[1])
                    at = value.end()
                at = data.find(key, at)

    def _add(self, piece: bytes) -> None:
        room = MOST_KEPT - len(self._kept)
        if len(piece) > room:
            self.beyond += len(piece) - room
            piece = piece[:room]
        self._kept += piece
