"""The half-open state: after a break, a few calls try whether the backend is well again, before all come
back.

Each priority class is half open of its own. A probe that succeeds ends it; one that fails makes the
next break longer. A probe without a reported end is given up after its lease.
"""

from __future__ import annotations

from dataclasses import dataclass, field

type Scope = tuple[str, str | None]
"""Endpoint name and standin name; None as the standin stands for the whole endpoint."""

REMEMBERED_SECONDS = 600.0
"""How long after its lease a probe's end still counts, if it is reported after all: a hang ends late."""

MOST_DOUBLINGS = 16
"""Bounds the factor; every ceiling is reached long before."""


@dataclass(slots=True)
class _HalfOpen:
    opened_by: str
    """The call that failed last."""
    failures: int
    """Probes that have failed one after the other."""
    before: int | None
    """`failures` before `opened_by` failed; None: there was no half-open state."""
    leases: dict[str, float] = field(default_factory=dict)
    """Probes under way, by call, and until when each is waited for."""

    def running(self, now: float) -> list[float]:
        """Return the ends of the leases that hold now."""
        for call_id in [each for each, until in self.leases.items() if until + REMEMBERED_SECONDS <= now]:
            del self.leases[call_id]
        return [until for until in self.leases.values() if until > now]


class Probes:
    """The backends that are half open, by class. ``limit``: probes at a time; ``seconds``: their lease."""

    def __init__(self, limit: int = 1, seconds: float = 10.0) -> None:
        self._limit = limit
        self._seconds = seconds
        self._half_open: dict[Scope, dict[str, _HalfOpen]] = {}

    @property
    def none(self) -> bool:
        """Whether no backend is half open."""
        return not self._half_open

    def begin(self, scope: Scope, cls: str, call_id: str) -> int:
        """Put a scope half open for a class, since a call failed. Returns how many probes failed in a row.

        Only a failed probe counts: calls that were under way when the first one failed show nothing new.
        """
        classes = self._half_open.setdefault(scope, {})
        earlier = classes.get(cls)
        if earlier is None:
            classes[cls] = _HalfOpen(call_id, 0, None)
            return 0
        failed = min(earlier.failures + (call_id in earlier.leases), MOST_DOUBLINGS)
        earlier.leases.pop(call_id, None)
        if earlier.opened_by != call_id:
            earlier.opened_by, earlier.before = call_id, earlier.failures
        earlier.failures = failed
        return failed

    def ensure(self, scope: Scope, cls: str) -> None:
        """Put a scope half open for a class if it is not; no failure is counted."""
        self._half_open.setdefault(scope, {}).setdefault(cls, _HalfOpen("", 0, None))

    def undo(self, scope: Scope, call_id: str) -> None:
        """Take back what a call's failure did, if it was the last one to fail."""
        classes = self._half_open.get(scope, {})
        for cls, half_open in list(classes.items()):
            half_open.leases.pop(call_id, None)
            if half_open.opened_by != call_id:
                continue
            if half_open.before is None:
                del classes[cls]
            else:
                half_open.failures = half_open.before
        if not classes:
            self._half_open.pop(scope, None)

    def end(self, scope: Scope, cls: str | None = None) -> None:
        """End the half-open state of a class, or of all."""
        classes = self._half_open.get(scope, {})
        if cls is not None:
            classes.pop(cls, None)
        if cls is None or not classes:
            self._half_open.pop(scope, None)

    def scopes(self) -> tuple[Scope, ...]:
        """Return all that is half open for some class."""
        return tuple(self._half_open)

    def on(self, scope: Scope, cls: str) -> bool:
        """Whether a scope is half open for a class."""
        return cls in self._half_open.get(scope, {})

    def wait(self, scope: Scope, cls: str, call_id: str | None, now: float) -> float:
        """Seconds until the call may go there, if no probe ends before its lease does; 0: now."""
        half_open = self._half_open.get(scope, {}).get(cls)
        if half_open is None or (call_id in half_open.leases and half_open.leases[call_id] > now):
            return 0.0
        running = half_open.running(now)
        return 0.0 if len(running) < self._limit else min(running) - now

    def lease(self, scope: Scope, cls: str, call_id: str, now: float) -> None:
        """Make the call a probe, if the scope is half open for its class."""
        half_open = self._half_open.get(scope, {}).get(cls)
        if half_open is not None:
            half_open.leases[call_id] = now + self._seconds

    def holds(self, scope: Scope, cls: str, call_id: str) -> bool:
        """Whether the call is a probe there."""
        half_open = self._half_open.get(scope, {}).get(cls)
        return half_open is not None and call_id in half_open.leases

    def release_all(self, endpoint: str, call_id: str) -> None:
        """Let the next probes go at an endpoint and all of its standins."""
        for scope, classes in self._half_open.items():
            if scope[0] == endpoint:
                for half_open in classes.values():
                    half_open.leases.pop(call_id, None)

    def release(self, scope: Scope, cls: str, call_id: str) -> None:
        """Let the next probe go: this one ended without telling anything."""
        half_open = self._half_open.get(scope, {}).get(cls)
        if half_open is not None:
            half_open.leases.pop(call_id, None)
