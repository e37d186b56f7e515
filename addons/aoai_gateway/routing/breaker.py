"""Breaks: the time for which a backend is skipped.

A break is opened by a failed attempt, for the backend or, where the cause concerns all of it (no connection,
TLS, our own key refused), for the whole endpoint. It remembers the call that opened it, since it is withdrawn
when the call turns out to be the cause itself.

A failure breaks the backend for every priority class, each for its own time. Afterwards the backend
is half open for each class (see :mod:`~aoai_gateway.routing.recovery`), until a probe of that class has
succeeded.

A break is as long as the backend asked for. Only breaks without a named time back off, twice as long with
every probe that fails; and so do those of a backend whose named times were too short several times in a row.

A backend that lacks capacity knows when it has some again. No class waits for longer than it says: a class
that came back later would leave room unused that the queue, by its order, keeps from it while higher classes
want it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.config.priorities import BreakLengths
from aoai_gateway.routing.recovery import Probes, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from aoai_gateway.routing.backends import Backend

__all__ = ["BY_HAND", "NO_CREDENTIAL", "Break", "BreakLengths", "Breaks", "FailedCall", "Scope"]

BY_HAND = "by hand"
"""The reason of a break that a person has opened, in the place of its call's id too."""

NO_CREDENTIAL = "no credential"
"""What opens and ends the break of an endpoint for which the gateway has nothing to show."""

BELIEVED = 5
"""How many times in a row a backend may name a time and refuse after it, until its breaks grow longer."""


@dataclass(frozen=True, slots=True)
class Break:
    """One break. ``since`` and ``until`` are on the caller's clock, in seconds."""

    since: float
    until: float
    reason: str
    call_id: str
    cls: str | None = None
    """The name of the priority class that it is for; None: for all."""
    only: str | None = None
    """The mark of the calls that it is for, such as ``client ann`` or ``operation embeddings``; None: all."""
    lacks_room: bool = False
    """Whether the backend only lacks capacity, and has said when it has some again."""
    refuses_us: bool = False
    """Whether it did not accept the endpoint's credential, so that another one may end it."""

    @property
    def is_of_a_call(self) -> bool:
        """Whether a call has opened it, whose id it has."""
        return self.call_id not in (BY_HAND, NO_CREDENTIAL)

    def remaining(self, now: float) -> float:
        """Seconds until the backend is tried again."""
        return max(0.0, self.until - now)


class FailedCall(NamedTuple):
    """A call that has failed, so that breaks open for all classes. Peers get the members in this order."""

    scope: Scope
    now: float
    hint: float | None
    """The seconds that the backend asked for, if it did."""
    reason: str
    call_id: str
    lacks_room: bool = False
    """Whether the backend refused the call for want of capacity."""
    refuses_us: bool = False
    """As in `Break`."""


class Breaks:
    """The breaks in force, by name, so that they survive a reload of the configuration.

    ``probes``: how many calls of a class may try a backend at once after its break; ``probe_seconds``: how
    long each of them is waited for, should its end never be reported.
    """

    def __init__(self, probes: int = 1, probe_seconds: float = 10.0) -> None:
        self.by_scope: dict[Scope, dict[tuple[str, str | None], Break]] = {}
        """The breaks that are kept: those in force, and those that have ended since they were last looked at.

        Scheduler and order look at these and at ``probes.half_open`` first: where both are empty, every
        backend is well, and there is nothing else to ask here.
        """
        self.probes = Probes(probes, probe_seconds)
        self._classes: frozenset[str] = frozenset()
        """The classes for which breaks were opened last."""
        self.any_for_some = False
        """Whether there may be a break that is for some calls only."""
        self._credentials_since: dict[str, float] = {}
        """Since when endpoints are shown the credentials that they are shown now, where that is known."""

    def listen(self, heard: Callable[[Scope], float]) -> None:
        """Have it told when something last came from a backend or endpoint (seconds, -inf: never)."""
        self.probes.heard = heard

    def open(self, scope: Scope, brk: Break) -> None:
        """Open a break; of several on one scope the one that ends last counts. No half-open state follows."""
        kept = {c: b for c, b in self.by_scope.get(scope, {}).items() if b.until > brk.since}
        _keep(kept, brk)
        self.by_scope[scope] = kept
        self.any_for_some = self.any_for_some or brk.only is not None

    def open_for(self, failed: FailedCall, lengths: Mapping[str, BreakLengths]) -> dict[str, float]:
        """Open a break for every class after a call has failed; gives its seconds by class.

        Without a hint, if the call was a probe of a class, that class's break is twice as long as it would
        be, and doubles with every probe that fails in a row, up to the ceiling. With one, a class that came
        back before its time waits all of it then, and doubling begins after several such failures. Where the
        backend lacks room, multipliers above 1 do not count, if there is a hint.
        """
        scope, now, hint, reason, call_id, lacks_room, refuses_us = failed
        kept = {c: b for c, b in self.by_scope.get(scope, {}).items() if b.until > now}
        self._classes = frozenset(lengths)
        opened = {}
        for cls, length in lengths.items():
            failures = self.probes.begin(scope, cls, call_id, now, lacks_room=lacks_room)
            seconds, doublings = length.length(hint), failures
            if hint and lacks_room:
                seconds = min(seconds, max(hint, length.floor))
            if hint:
                doublings = max(0, failures - BELIEVED + 1)
                if failures and seconds < hint:
                    # The class came back before its time, and was refused: once is enough.
                    seconds = hint
            opened[cls] = min(seconds * 2.0**doublings, length.ceiling)
            told = reason
            if hint and doublings:
                told += f"; the time that it names was too short {failures} times in a row"
            knows = lacks_room and bool(hint) and not doublings
            brk = Break(now, now + opened[cls], told, call_id, cls, lacks_room=knows, refuses_us=refuses_us)
            _keep(kept, brk)
        # A probe of a standin may have found that the whole endpoint is out: it is over all the same.
        self.probes.release_all(scope[0], call_id)
        self.by_scope[scope] = kept
        return opened

    def withdraw(self, scope: Scope, call_id: str) -> None:
        """Take back the breaks that this call opened, and their half-open states; others stay."""
        self.probes.undo(scope, call_id)
        breaks = self.by_scope.get(scope)
        if breaks is not None:
            for key in [key for key in breaks if key[0] == call_id]:
                del breaks[key]
            if not breaks:
                del self.by_scope[scope]

    def close(self, scope: Scope) -> None:
        """End all breaks and half-open states of a scope."""
        self.by_scope.pop(scope, None)
        self.probes.end(scope)

    def credential_changed(self, endpoint: str, now: float) -> tuple[Scope, ...]:
        """End the breaks of an endpoint that did not accept its credential. Returns scopes with none left.

        Calls show it another one from now on. What else is wrong with it keeps its breaks.
        """
        self._credentials_since[endpoint] = now
        ended = []
        for scope in [scope for scope in self.by_scope if scope[0] == endpoint]:
            breaks = self.by_scope[scope]
            kept = {key: brk for key, brk in breaks.items() if not brk.refuses_us}
            if not any(brk.until > now for brk in breaks.values() if brk.refuses_us):
                continue
            if kept:
                self.by_scope[scope] = kept
            else:
                ended.append(scope)
                self.close(scope)
        return tuple(ended)

    def is_shown_another(self, endpoint: str, since: float) -> bool:
        """Whether a call that began then may have shown an endpoint another credential than calls do now."""
        return since < self._credentials_since.get(endpoint, since)

    def half_open(self, scope: Scope) -> None:
        """End a scope's breaks before their time; one call of each class finds out whether it is well."""
        for brk in self.by_scope.pop(scope, {}).values():
            if brk.cls is not None:
                self.probes.ensure(scope, brk.cls)

    def on(
        self, backend: Backend, now: float, cls: str | None = None, marks: Collection[str] = ()
    ) -> Break | None:
        """Return the break that keeps this backend from being tried by a class, or None.

        Without a class: the longest one of any class. ``marks``: the call's own;
        without them, breaks that are for all count.
        A backend whose break is over may be half open: ask `may_probe` before sending.
        """
        if not self.by_scope:
            return None
        endpoint, standin = backend.key
        own = self.at((endpoint, standin), now, cls, marks)
        whole = self.at((endpoint, None), now, cls, marks)
        if own is None or whole is None:
            return own or whole
        return own if own.until >= whole.until else whole

    def when(
        self,
        backend: Backend,
        cls: str,
        now: float,
        call_id: str | None = None,
        marks: Collection[str] = (),
    ) -> float:
        """Seconds until a call of this class may be sent to the backend, as far as is known; 0: now.

        Never too early to look again, but perhaps too late: a probe may end before its lease does.
        """
        brk = self.on(backend, now, cls, marks)
        if brk is not None:
            return brk.remaining(now)
        if not self.probes.half_open:
            return 0.0
        return max(self.probes.wait(scope, cls, call_id, now) for scope in _scopes(backend))

    def is_half_open(self, backend: Backend, cls: str) -> bool:
        """Whether the backend has had a break since this class last succeeded there."""
        return any(self.probes.on(scope, cls) for scope in _scopes(backend))

    def is_unknown(self, backend: Backend, cls: str, now: float, told_at: float = -math.inf) -> bool:
        """Whether it is half open, and has let in no call of this class since.

        ``told_at``: when the last call was sent whose answer has told how much room there is. It is as good.
        """
        if not self.probes.half_open:
            return False
        return any(self.probes.is_unknown(scope, cls, now, told_at) for scope in _scopes(backend))

    # --- half open --------------------------------------------------------------------------------

    def may_probe(
        self, backend: Backend, cls: str, call_id: str, now: float, marks: Collection[str] = ()
    ) -> bool:
        """Whether a call of this class may be sent to the backend now; if so, it is a probe where one is due.

        To be asked right before sending, in the order of the calls. A backend that is in no break and not
        half open always says yes. After yes, the call's end must be reported: by `probe_succeeded`,
        `probe_ended`, or `open_for` if it failed.
        """
        if self.when(backend, cls, now, call_id, marks) > 0:
            return False
        for scope in _scopes(backend):
            self.probes.lease(scope, cls, call_id, now)
        return True

    def probe_succeeded(self, backend: Backend, cls: str, call_id: str) -> None:
        """End the backend's half-open state for a class, if the call was a probe of it; else nothing.

        So every success can be reported. A call that began before the break shows nothing about now.
        """
        for scope in _scopes(backend):
            if self.probes.holds(scope, cls, call_id):
                self.probes.end(scope, cls)

    def probe_ended(self, backend: Backend, cls: str, call_id: str) -> None:
        """Let another probe go: this call ended without telling anything (its client hung up)."""
        for scope in _scopes(backend):
            self.probes.release(scope, cls, call_id)

    def at(
        self, scope: Scope, now: float, cls: str | None = None, marks: Collection[str] = ()
    ) -> Break | None:
        """Return the break of just this scope that ends last, for a class or, without one, for any.

        ``marks``: breaks that are for calls with one of them count, too.
        """
        breaks = self.by_scope.get(scope)
        if not breaks:
            return None
        if all(b.until <= now for b in breaks.values()):
            del self.by_scope[scope]
            return None
        if self._classes and cls not in self._classes:
            # A reload has renamed or added it since: the breaks of the others count for it.
            cls = None
        mine = (
            b
            for b in breaks.values()
            if b.until > now and (cls is None or b.cls in (None, cls)) and (b.only is None or b.only in marks)
        )
        return max(mine, key=lambda b: b.until, default=None)

    def for_some(self, backend: Backend, now: float) -> list[Break]:
        """Return the breaks of a backend that keep only some calls from it."""
        if not self.any_for_some:
            return []
        held = (brk for scope in _scopes(backend) for brk in self.by_scope.get(scope, {}).values())
        return [brk for brk in held if brk.only is not None and brk.until > now]

    def scopes(self) -> Iterator[Scope]:
        """Iterate over all that is in a break or half open."""
        yield from dict.fromkeys((*self.by_scope, *self.probes.half_open))

    def all(self) -> Iterator[tuple[Scope, Break]]:
        """Iterate over all breaks, those of single classes and ended ones included."""
        for scope, breaks in list(self.by_scope.items()):
            for brk in list(breaks.values()):
                yield scope, brk


def _scopes(backend: Backend) -> tuple[Scope, Scope]:
    endpoint, standin = backend.key
    return (endpoint, standin), (endpoint, None)


def _keep(breaks: dict[tuple[str, str | None], Break], brk: Break) -> None:
    key = (brk.call_id, brk.cls)
    earlier = breaks.get(key)
    if earlier is None or earlier.until < brk.until:
        breaks[key] = brk
