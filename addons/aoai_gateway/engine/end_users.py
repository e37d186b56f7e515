"""The end user of a call: the person behind the client.

The client says it itself, in a header or in the body, or its token does. A call without a name counts for one
end user that all of these calls share, so that nothing is won by leaving it out. Names are kept and booked as
pseudonyms. No more of them than a bound have counters of their own; further ones share one, too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.config.policies import UserSource
    from aoai_gateway.engine.call import Call

MOST_USERS = 20_000
"""The most end users of a client alone, in the last day. All clients have twice as many, and leave room for
each other."""

DAY = 86_400.0

LONGEST_NAME = 1024
"""Characters of a name that count."""

ACCOUNT = "user/"
"""How the account of an end user begins; no virtual deployment's name can."""

UNNAMED, OTHERS = "unnamed", "others"


def user_of(call: Call, source: UserSource) -> str | None:
    """Return the name of a call's end user; None if it has none."""
    value: object
    if source.place == "header":
        value = call.headers.get(source.name)
    elif source.place == "claim":
        value = call.claims.get(source.name)
    else:
        names = call.target.operation.dialect.names
        value = _member(call.body.parsed, names.get(source.name, source.name)) if call.body else None
    name = value.strip()[:LONGEST_NAME] if isinstance(value, str) else ""
    return name or None


def _member(body: Mapping[str, Any], name: str) -> object:
    """Return a member of a body, or with a dot in its name the member of an object in it."""
    if name in body:
        return body[name]
    outer, _, inner = name.partition(".")
    found = body.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def pseudonym(client: str, user: str) -> str:
    """Return what stands for an end user in records: the same for the same one of the same client."""
    digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8, key=_key(client))
    return digest.hexdigest()


def shown_user(call: Call) -> str | None:
    """Return the end user as records and flows show it: a pseudonym, or the name if that is configured."""
    if call.user is None:
        return None
    return call.user if call.client.user_in_records == "plain" else pseudonym(call.client.name, call.user)


def _key(client: str) -> bytes:
    return blake2b(client.encode("utf-8", "surrogatepass"), digest_size=32).digest()


class EndUsers:
    """The end users that were seen in the last day."""

    def __init__(self, most: int = MOST_USERS) -> None:
        """``most``: of a client that is alone."""
        self._room = 2 * most
        self._of: Counter[str] = Counter()
        """How many each client has."""
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When each of them was seen last, the earliest first."""

    def __len__(self) -> int:
        return len(self._seen)

    def account(self, client: str, user: str | None, now: float) -> str:
        """Return the name of the account that a call of an end user is booked on."""
        if user is None:
            return ACCOUNT + UNNAMED
        key = (client, pseudonym(client, user))
        if key not in self._seen:
            if not self._make_room(client, now):
                return ACCOUNT + OTHERS
            self._of[client] += 1
        self._seen[key] = now
        self._seen.move_to_end(key)
        return ACCOUNT + key[1]

    def _make_room(self, client: str, now: float) -> bool:
        """Whether a client may have one more; end users that were not seen for a day make room."""
        # It may have as many as are free after that: no client's names use up another one's room.
        while self._of[client] >= self._room - len(self._seen):
            first = next(iter(self._seen))
            if now - self._seen[first] < DAY:
                return False
            del self._seen[first]
            self._of[first[0]] -= 1
            if not self._of[first[0]]:
                del self._of[first[0]]
        return True
