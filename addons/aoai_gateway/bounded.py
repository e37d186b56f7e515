"""A memory of what clients and backends name, which they cannot make grow.

Its keys are kept as digests, so that an entry has the same size however long its name is; the number of
entries is bounded, and the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

LONGEST_NAME = 8 * 1024
"""Characters. A longer name is not remembered at all; to hash megabytes would hold the event loop."""

DIGEST_BYTES = 16


class Recent[Value]:
    """Values by name. ``capacity``: how many at most; a value's size is for its owner to bound."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, name: str, value: Value) -> None:
        """Remember a value; it replaces the name's earlier one."""
        key = _digest(name)
        if key is None:
            return
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def get(self, name: str) -> Value | None:
        """Give a name's value, which thereby counts as used; None if it is not known (any more)."""
        key = _digest(name)
        if key is None or key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def forget(self, name: str) -> None:
        """Forget a name, if it is known."""
        key = _digest(name)
        if key is not None:
            self._values.pop(key, None)


def _digest(name: str) -> bytes | None:
    if len(name) > LONGEST_NAME:
        return None
    # JSON can hold half a surrogate pair, which has no UTF-8 of its own.
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
