"""The names of deployments in answers: a client sees the one that it asked for, not the standin's.

In the Responses API, and at some other servers, ``model`` is the name of the deployment, which the gateway
itself put into the request. There it is replaced; a model's own name (``gpt-4o-2024-08-06``) stays, and so
does every other byte. Only the answer's own ``model`` counts, that of the ``response`` or ``message`` in an
event, or of an entry of a list: one deeper down, in metadata or in the definition of a tool, is the client's.

A string within JSON has its quotes escaped, so ``"model":"…"`` is never text. How deep it stands, the braces
around it tell, mostly by a count; else the text is read token by token, within a bound. What lies beyond the
bound stays as it came.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_TOKENS = 20_000
"""Tokens of one answer or event that are read one by one: some milliseconds."""

MOST_MODELS = 1_000
"""Members named ``model`` that are looked at in one of them."""

SHORT_END = 4_096
"""Bytes of an end that is read instead of what stands before it."""

_KEY = b'"model"'
_ITS_OWN = ([b""], [b"", b"response"], [b"", b"message"], [b"", b"[data", b""])
"""Around a member that counts: the whole object, an event's response or message, or an entry of a list."""
_MODEL = re.compile(rb'"model"[ \t\r\n]*+:[ \t\r\n]*+"([^"\\]{1,256})"')
_DATA = re.compile(rb"(?:\A|[\r\n])(?:\xef\xbb\xbf)?data:")
_TOKEN = re.compile(
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(?:[ \t\r\n]*+:[ \t\r\n]*+([{\[]))?|[{}\[\]]',
    re.DOTALL,
)
"""A string, with the container whose key it is; or a bracket."""


class ModelNames:
    """Replaces names. ``names``: by the real deployment's, in lower case, the one that the client knows."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {real.encode(): json.dumps(shown).encode() for real, shown in names.items()}

    def __bool__(self) -> bool:
        """Whether there is anything to replace."""
        return bool(self._names)

    def in_answer(self, body: bytes) -> bytes:
        """Return an answer that is JSON with the name replaced; the same object if there is none."""
        return self._replace(body, 0) if body.find(_KEY) >= 0 else body

    def in_event(self, raw: bytes) -> bytes:
        """Return the bytes of an event, of which the data is JSON, with the name replaced."""
        if raw.find(_KEY) < 0:
            return raw
        data = 0 if raw.startswith(b"data:") else None
        if data is None:
            found = _DATA.search(raw)
            data = found.end() if found is not None else None
        return raw if data is None else self._replace(raw, data)

    def _replace(self, text: bytes, start: int) -> bytes:
        found = list(self._found(text, start))
        own = _own(text, start, [each.span() for each, _ in found])
        pieces: list[bytes] = []
        done = 0
        for each, shown in found:
            if each.start() in own:
                pieces += (text[done : each.start(1) - 1], shown)
                done = each.end(1) + 1
        return b"".join((*pieces, text[done:])) if pieces else text

    def _found(self, text: bytes, start: int) -> Iterator[tuple[re.Match[bytes], bytes]]:
        at = text.find(_KEY, start)
        for _ in range(MOST_MODELS):
            if at < 0:
                return
            found = _MODEL.match(text, at)
            shown = self._names.get(found[1].lower()) if found is not None else None
            if found is not None and shown is not None:
                yield found, shown
            at = text.find(_KEY, at + len(_KEY))


def _own(text: bytes, start: int, spans: list[tuple[int, int]]) -> set[int]:
    """Return where those of the members begin that count, see `_ITS_OWN`."""
    if len(spans) == 1:
        at, end = spans[0]
        if text.count(b"{", start, at) == 1 or text.count(b"}", end) == 1:
            return {at}  # braces in strings only add to these counts
        if len(text) - end <= min(SHORT_END, at - start) and _closes(text, end) == 1:
            return {at}
    return _read_own(text, start, {at for at, _ in spans}) if spans else set()


def _closes(text: bytes, at: int) -> int:
    """Return how many more objects and lists are closed than opened from there on."""
    closed = 0
    for token in _TOKEN.finditer(text, at):
        if token[1] is None:
            closed += 1 if token[0] in b"}]" else -1
        elif token[2] is not None:
            closed -= 1
    return closed


def _read_own(text: bytes, start: int, places: set[int]) -> set[int]:
    """Return the same, by the keys of the objects and lists around each place."""
    holders: list[bytes] = []
    own: set[int] = set()
    last = max(places)
    for number, token in enumerate(_TOKEN.finditer(text, start)):
        at = token.start()
        if at > last or number >= MOST_TOKENS:
            break
        if token[2] is not None:
            holders.append(token[1] if token[2] == b"{" else b"[" + token[1])
        elif token[1] is None:
            if token[0] in b"{[":
                holders.append(b"")
            elif holders:
                holders.pop()
        elif at in places and holders in _ITS_OWN:
            own.add(at)
    return own
