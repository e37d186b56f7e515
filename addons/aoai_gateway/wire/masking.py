"""Known secrets are masked in all messages that pass: a backend that echoes a key must not spread it.

The secrets are known exactly: the keys and tokens in force. So no pattern guesses how a secret looks; each of
them is looked for as it is, percent-encoded, escaped as JSON, and within base64. As many stars take its
place: lengths that were announced stay true, and JSON stays JSON.

All that backends send goes through this, so it must cost next to nothing where there is none, however many
secrets there are. A secret is at least ``shortest`` bytes long; so each occurrence contains one of the places
that are ``shortest - gram + 1`` apart, with ``gram`` bytes of the secret after it. Only these places are
looked at, and the bytes there are looked up in a table of all that can be there: some look-ups for a chunk of
a stream, whether one secret is known or a thousand.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORTEST = 8
"""Characters of a secret that is masked; anything shorter could be a word of an answer."""

LONGEST_STEP = 32
"""Bytes between two places that are looked at; beyond, a larger table would win little."""

AT_ONCE = 64
"""Places that are looked at together."""

_GRAM = 6
_ESCAPED = "\"&'+<>`\\/="
"""Characters that some encoders of JSON write as an escape (.NET: all of these but ``/`` and ``=``; Go:
``&<>``)."""


class KnownSecrets:
    """The secrets to be masked. ``plain``: only as they are, without the forms that an echo could have."""

    def __init__(self, secrets: Iterable[str], *, plain: bool = False) -> None:
        found = {secret for secret in secrets if len(secret) >= SHORTEST}
        forms = (encoded for secret in found for encoded in ([_bytes(secret)] if plain else forms_of(secret)))
        self._forms = frozenset(form for form in forms if len(form) >= SHORTEST)
        self._sorted = sorted(self._forms)
        self._longest = max(map(len, self._forms), default=0)
        shortest = min(map(len, self._forms), default=SHORTEST)
        self._gram = min(_GRAM, shortest // 2)
        self._step = min(shortest - self._gram + 1, LONGEST_STEP)
        self._grams: dict[bytes, tuple[tuple[int, int], ...]] = {}
        """How far before some bytes a secret may begin, and its length, by these bytes."""
        grams: dict[bytes, set[tuple[int, int]]] = {}
        for form in self._forms:
            for offset in range(self._step):
                grams.setdefault(form[offset : offset + self._gram], set()).add((offset, len(form)))
        self._grams = {gram: tuple(places) for gram, places in grams.items()}
        self._known = frozenset(self._grams)
        # Looks at many places in one go, which is all in C: a slice of the data each, and the skipped bytes.
        look, skip = f"{self._gram}s", f"{self._step - self._gram}x"
        self._looks = [struct.Struct((look + skip) * (n - 1) + look if n else "") for n in range(AT_ONCE + 1)]
        self._bytes = frozenset(b"".join(self._forms))
        self._ends = frozenset(bytes([byte]) for byte in self._bytes)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return f"KnownSecrets({len(self._forms)} forms)"

    def mask(self, data: bytes) -> bytes:
        """Return the data with stars in the place of secrets; the same object if there are none."""
        spans = self._spans(data)
        return _starred(data, spans) if spans else data

    def mask_text(self, text: str) -> str:
        """Do the same with a text."""
        data = text.encode("utf-8", "surrogatepass")
        masked = self.mask(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def are_in(self, data: bytes) -> bool:
        """Whether any of them is in the data."""
        return bool(self._spans(data))

    def let_pass(self, data: bytes) -> bool:
        """Whether the data surely holds no secret, nor the beginning of one at its end: a quick look."""
        return data[-1:] not in self._ends and not self._hits(data)

    def _hits(self, data: bytes) -> list[int]:
        """Find the places that are worth a closer look."""
        gram, step, known = self._gram, self._step, self._known
        count = (len(data) - gram) // step + 1  # how many places there are
        if count <= 0 or not known:
            return []
        if count <= AT_ONCE and known.isdisjoint(self._looks[count].unpack_from(data)):
            return []
        hits: list[int] = []
        for first in range(0, count, AT_ONCE):
            some = min(AT_ONCE, count - first)
            if not known.isdisjoint(self._looks[some].unpack_from(data, first * step)):
                places = range(first * step, (first + some) * step, step)
                hits += [place for place in places if data[place : place + gram] in known]
        return hits

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """Find where secrets begin and end."""
        spans = []
        for place in self._hits(data):
            for offset, length in self._grams[data[place : place + self._gram]]:
                start = place - offset
                # At the data's end, the beginning of a secret may be another one.
                whole = start >= 0 and start + length <= len(data)
                if whole and data[start : start + length] in self._forms:
                    spans.append((start, start + length))
        return spans

    def _unfinished(self, data: bytes) -> int:
        """Return the place from which on the data may be the beginning of a secret; else its length."""
        end = len(data)
        known = self._bytes
        if not data or data[-1] not in known:
            return end
        start = end
        for place in range(end - 1, max(end - self._longest, -1), -1):
            if data[place] not in known:
                break
            tail = data[place:]
            at = bisect_left(self._sorted, tail)
            # The form that is the tail itself is a whole one; a longer one may follow it.
            while at < len(self._sorted) and self._sorted[at] == tail:
                at += 1
            if at < len(self._sorted) and self._sorted[at].startswith(tail):
                start = place
        return start


class Screen:
    """Masks the secrets in one body, as its pieces come.

    An end of a piece that may be the beginning of a secret waits for the next one; nothing else does.
    """

    def __init__(self, *secrets: KnownSecrets) -> None:
        first, *others = [each for each in secrets if each] or [KnownSecrets(())]
        self._secrets = first
        self._next = Screen(*others) if others else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take a piece; gives what of the body can go on."""
        secrets = self._secrets
        if self._held:
            data = self._held + data
            self._held = b""
        elif secrets.let_pass(data):
            return data if self._next is None else self._next.feed(data)
        spans = secrets._spans(data)
        start = secrets._unfinished(data)
        if start < len(data):
            # A secret must not be cut where another one may begin, or its end would not be known for one.
            for begin, end in sorted(spans, reverse=True):
                if begin < start < end:
                    start = begin
            self._held = data[start:]
            spans = [span for span in spans if span[0] < start]
            data = data[:start]
        passed = _starred(data, spans) if spans else data
        return self._next.feed(passed) if self._next is not None else passed

    def finish(self) -> bytes:
        """Return what is still held back: the body is over."""
        passed = self._secrets.mask(self._held)
        self._held = b""
        return passed if self._next is None else self._next.feed(passed) + self._next.finish()


@lru_cache(maxsize=4)
def known(secrets: frozenset[str]) -> KnownSecrets:
    """Return what masks these secrets; for a thousand of them that takes a fifth of a second, once."""
    return KnownSecrets(secrets)


def masked(data: bytes, secrets: Iterable[KnownSecrets]) -> bytes:
    """Return the data with stars in the place of all these secrets; the same object if there are none."""
    for each in secrets:
        data = each.mask(data)
    return data


def are_in(data: bytes, secrets: Iterable[KnownSecrets]) -> bool:
    """Whether any of these secrets is in the data."""
    return any(each.are_in(data) for each in secrets)


def forms_of(secret: str) -> set[bytes]:
    """Return the forms in which a harmless peer may write a secret: as it is, and encoded."""
    raw = _bytes(secret)
    found = {raw} if _NEVER_ESCAPED.fullmatch(secret) else _escaped(secret)
    for lead in (b"", b"x", b"xy"):  # base64 depends on where in its groups of three a secret begins
        begins = (0, 2, 3)[len(lead)]
        ends = (len(lead) + len(raw)) * 8 // 6
        encoded = base64.b64encode(lead + raw)[begins:ends]
        found |= {encoded, encoded.translate(_URLSAFE)}
    return found


def _escaped(secret: str) -> set[bytes]:
    raw = _bytes(secret)
    found = {raw, _bytes(json.dumps(secret)[1:-1]), _bytes(secret.replace("/", "\\/"))}
    for width in ("04x", "04X"):
        found.add(_bytes("".join(f"\\u{ord(c):{width}}" if c in _ESCAPED[:8] else c for c in secret)))
        found.add(_bytes("".join(f"\\u{ord(c):{width}}" if c in _ESCAPED else c for c in secret)))
    # An error often quotes another one: JSON in JSON.
    found |= {_bytes(json.dumps(form.decode("utf-8", "surrogatepass"))[1:-1]) for form in list(found)}
    percent = quote(raw, safe="")
    return found | {_bytes(percent), _bytes(_lower_escapes(percent)), _bytes(quote(raw, safe="/"))}


_NEVER_ESCAPED = re.compile(r"[A-Za-z0-9._~-]*", re.ASCII)
_URLSAFE = bytes.maketrans(b"+/", b"-_")


def _lower_escapes(percent: str) -> str:
    parts = percent.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _starred(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    starred = bytearray(data)
    for begin, end in spans:
        starred[begin:end] = b"*" * (end - begin)
    return bytes(starred)
