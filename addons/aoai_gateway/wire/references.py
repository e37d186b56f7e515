"""References of a call that only one resource can resolve: encrypted reasoning, by its digest.

An item with ``encrypted_content`` comes in an answer of the Responses API and goes back with the next call,
as it is. It is base64, and a key within a JSON string has escaped quotes, so it is found without decoding
its surroundings. A digest holds nothing of the user's.
"""

from __future__ import annotations

import re
from hashlib import blake2b

MOST_ITEMS = 128
"""Of one call or answer that are remembered: the last ones."""

_KEY = re.compile(rb'"encrypted_content"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"')


def references_in(data: bytes) -> tuple[str, ...]:
    """The names of the encrypted items in a JSON text, the last one first."""
    places = [match.end() for match in _KEY.finditer(data)][-MOST_ITEMS:]
    found = []
    for start in reversed(places):
        end = data.find(b'"', start)
        if end > start:
            digest = blake2b(memoryview(data)[start:end], digest_size=16).hexdigest()
            found.append(f"encrypted {digest}")
    return tuple(dict.fromkeys(found))
