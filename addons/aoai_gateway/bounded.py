"""Tables that cannot grow without end.

:class:`Bounded` is for keys of our own making. :class:`Recent` is for names that clients and backends send:
its keys are kept as digests, so that an entry has the same size however long its name is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from hashlib import blake2b

LONGEST_NAME = 8 * 1024
"""Characters. A longer name is not remembered at all; to hash megabytes would hold the event loop."""

DIGEST_BYTES = 16


class Bounded[Key: Hashable, Value]:
    """Values by key; the least recently used go first.

    ``capacity``: how many at most; a value's size is for its owner to bound.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def values(self) -> Iterator[Value]:
        """Iterate over the values, the least recently used first."""
        return iter(self._values.values())

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Iterate over the keys and their values, the least recently used first."""
        return iter(self._values.items())

    def put(self, key: Key, value: Value) -> None:
        """Remember a value; it replaces the key's earlier one."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """Return a key's value, which thereby counts as used; None if it is not known (any more)."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def peek(self, key: Key) -> Value | None:
        """Return a key's value, which does not count as used; None if it is not known (any more)."""
        return self._values.get(key)

    def take(self, most: int) -> list[tuple[Key, Value]]:
        """Return so many keys at most with their values, the least recently used first, and forget them."""
        return [self._values.popitem(last=False) for _ in range(min(most, len(self._values)))]

    def pop(self, key: Key) -> Value | None:
        """Return a key's value and forget the key; None if it is not known (any more)."""
        return self._values.pop(key, None)

    def forget(self, key: Key) -> None:
        """Forget a key, if it is known."""
        self._values.pop(key, None)


class Recent[Value]:
    """Values by name, as in :class:`Bounded`."""

    def __init__(self, capacity: int) -> None:
        self._values: Bounded[bytes, Value] = Bounded(capacity)

    def __len__(self) -> int:
        return len(self._values)

    def put(self, name: str, value: Value) -> None:
        """Remember a value; it replaces the name's earlier one."""
        if (key := digest_of(name)) is not None:
            self._values.put(key, value)

    def get(self, name: str) -> Value | None:
        """Return a name's value, which thereby counts as used; None if it is not known (any more)."""
        key = digest_of(name)
        return None if key is None else self._values.get(key)


def digest_of(name: str) -> bytes | None:
    """Return the `DIGEST_BYTES` under which a name is remembered; None if it is too long for that."""
    if len(name) > LONGEST_NAME:
        return None
    # JSON can hold half a surrogate pair, which has no UTF-8 of its own.
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
