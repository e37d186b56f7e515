"""Breaks: the time for which a backend is skipped.

A break is opened by a failed attempt, for the backend or, where the cause concerns all of it (no
connection, TLS, our own key refused), for the whole endpoint. It remembers the call that opened it,
because one call must not be able to empty a pool: when a second backend fails in the same way, the
cause is the call, and its breaks are withdrawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.routing.backends import Backend

type Scope = tuple[str, str | None]
"""Endpoint name and standin name; None as the standin stands for the whole endpoint."""


@dataclass(frozen=True, slots=True)
class Break:
    """One break. ``since`` and ``until`` are on the caller's clock, in seconds."""

    since: float
    until: float
    reason: str
    call_id: str

    def remaining(self, now: float) -> float:
        """Seconds until the backend is tried again."""
        return max(0.0, self.until - now)


@dataclass(frozen=True, slots=True)
class BreakLengths:
    """How long a break lasts, in seconds: a hint is kept between the floor and the ceiling."""

    default: float
    floor: float
    ceiling: float

    def length(self, hint: float | None) -> float:
        """Turn a backend's hint (None: it gave none) into a break."""
        wanted = self.default if hint is None else hint
        return min(max(wanted, self.floor), self.ceiling)


class Breaks:
    """The breaks in force, by name, so that they survive a reload of the configuration."""

    def __init__(self) -> None:
        self._breaks: dict[Scope, dict[str, Break]] = {}

    def open(self, scope: Scope, brk: Break) -> None:
        """Open a break; of several on one scope the one that ends last counts."""
        kept = {c: b for c, b in self._breaks.get(scope, {}).items() if b.until > brk.since}
        earlier = kept.get(brk.call_id)
        if earlier is None or earlier.until < brk.until:
            kept[brk.call_id] = brk
        self._breaks[scope] = kept

    def withdraw(self, scope: Scope, call_id: str) -> None:
        """Take back the break that this call opened, whatever others opened stays."""
        breaks = self._breaks.get(scope)
        if breaks is not None:
            breaks.pop(call_id, None)
            if not breaks:
                del self._breaks[scope]

    def close(self, scope: Scope) -> None:
        """End all breaks of a scope."""
        self._breaks.pop(scope, None)

    def on(self, backend: Backend, now: float) -> Break | None:
        """Give the break that keeps this backend from being tried, or None."""
        if not self._breaks:
            return None
        endpoint, standin = backend.key
        own = self._latest((endpoint, standin), now)
        whole = self._latest((endpoint, None), now)
        if own is None or whole is None:
            return own or whole
        return own if own.until >= whole.until else whole

    def _latest(self, scope: Scope, now: float) -> Break | None:
        breaks = self._breaks.get(scope)
        if not breaks:
            return None
        latest = max(breaks.values(), key=lambda b: b.until)
        if latest.until <= now:
            del self._breaks[scope]
            return None
        return latest

    def __iter__(self) -> Iterator[tuple[Scope, Break]]:
        """Iterate over the longest break of each scope, ended ones included."""
        for scope, breaks in list(self._breaks.items()):
            yield scope, max(breaks.values(), key=lambda b: b.until)
