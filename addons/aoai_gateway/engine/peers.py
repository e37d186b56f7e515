"""Several processes that decide as one: each applies what the others have done.

Theory of operation. What a process learns and decides about backends changes the state that all of its calls
share (`ReplicatedState`). Each of these changes is also a *change record*, a short list of plain values, in
a journal. The processes exchange their journals through a store, within some milliseconds, and apply each
other's records to their own state with the methods that made them. So each process has the whole gateway's
state, and the decision that it makes alone is the one that any other would have made:

- *Capacity, sizes, demand, half-open states*: a call that a peer has sent counts as one's own would.
- *Breaks, suspicion, signs of life, patience, affinity* are applied as they come.
- *The queue*: calls that wait at a peer stand in this process's queue too, in their place. When it is such a
  call's turn, its room is *promised* to it, and the next one looked at; the peer, whose queue is the same,
  sends it at the same moment. A promise that the peer does not take up lapses.

Nothing waits for a peer, so two calls that come to two processes within the time that a record takes may
both be given the same room, or both be a probe. The next call sees both. A peer that falls silent is
forgotten: its waiting calls and probes at once, what it had sent when it leaves the backends' windows.

Times in records are on the clock of the process that made them; see `Peers.apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.journal import CallRecord
from aoai_gateway.engine.scheduler import Scheduler
from aoai_gateway.engine.settlement import Unfinished
from aoai_gateway.routing.backends import BackendKey
from aoai_gateway.routing.breaker import Break, FailedCall
from aoai_gateway.routing.order import RoutingRequest
from aoai_gateway.routing.suspicion import Witness
from aoai_gateway.wire.hints import RateLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aoai_gateway.engine.call import Setup
    from aoai_gateway.engine.journal import Record
    from aoai_gateway.engine.replicated_state import ReplicatedState
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.routing.responsiveness import Liveness

LIVE_SECONDS = 1.0
"""A record that is younger happened now; windows need not be kept to the millisecond."""


class Peers:
    """Applies what other processes have done. ``setup``: gives the configuration in force, if any."""

    def __init__(self, shared: ReplicatedState, setup: Callable[[], Setup | None]) -> None:
        self._shared = shared
        self._scheduler = shared.scheduler
        self._setup = setup
        self._calls: dict[str, set[str]] = {}
        """The ids of each peer's calls."""

    def apply(self, peer: str, records: Iterable[Record], shift: float, now: float) -> list[Exception]:
        """Apply a peer's records, in their order: each kind has a method, ``_on_{kind}``.

        ``shift``: what is to be added to a time of the peer's clock to make it one of this process's. What
        makes no sense here (its configuration may be another one) is passed over. So is what cannot be
        applied at all (its version may be another one); the exceptions are returned.
        """
        failed: list[Exception] = []
        with self._shared.journal.muted():
            for record in records:
                try:
                    kind, *values = record
                    applied = getattr(self, f"_on_{kind}".replace(" ", "_"), None)
                    if applied is not None:
                        applied(_Origin(peer, shift, now), *values)
                except Exception as error:
                    failed.append(error)
        return failed

    def forget(self, peer: str, now: float) -> None:
        """Let go of a peer's calls: it has ended, or cannot be heard, or some of its changes were lost."""
        with self._shared.journal.muted():
            for call_id in self._calls.pop(peer, set()):
                if (request := self._scheduler.elsewhere.get(call_id)) is not None:
                    self._scheduler.over_elsewhere(request, now)

    @property
    def known(self) -> tuple[str, ...]:
        """The peers that have calls here."""
        return tuple(self._calls)

    def _on_lost(self, origin: _Origin) -> None:
        self.forget(origin.peer, origin.now)

    # --- calls -----------------------------------------------------------------------------------------

    def _on_call(self, origin: _Origin, *values: Any) -> None:
        told, setup = CallRecord(*values), self._setup()
        if setup is None:
            return
        cls = next((c for c in setup.config.priority_classes if c.name == told.cls_name), None)
        by_key = {backend.key: backend for backend in setup.table.backends}
        backends = tuple(by_key[key] for each in told.pool if (key := BackendKey(*each)) in by_key)
        if cls is None or not backends:
            return
        request = RoutingRequest(
            call_id=told.call_id,
            client=told.client,
            cls=cls,
            pool=backends,
            deployment=told.deployment,
            operation=told.operation,
            queue_name=told.queue_name,
            tokens=told.tokens,
            arrived=told.arrived + origin.shift,
            weight=told.weight,
            strategy=told.strategy,
            home=told.home,
            takes=None if told.takes is None else frozenset(BackendKey(*each) for each in told.takes),
            too_small={BackendKey(*each) for each in told.too_small},
            higher=tuple(c.name for c in setup.config.priority_classes[: cls.rank]),
            limited=told.limited,
        )
        self._calls.setdefault(origin.peer, set()).add(told.call_id)
        self._scheduler.meet(request, origin.when(told.at))

    def _on_joined(
        self,
        origin: _Origin,
        call_id: str,
        tried: list[list[str]],
        too_small: list[list[str]],
        minimum_shares: dict[str, float],
    ) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            request.tried = {BackendKey(*each) for each in tried}
            request.too_small = {BackendKey(*each) for each in too_small}
            self._scheduler.joined_elsewhere(request, minimum_shares, origin.now)

    def _on_left(self, origin: _Origin, call_id: str) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            self._scheduler.take_back(request, origin.now)
            Scheduler.leave(self._scheduler, request)

    def _on_begun(self, origin: _Origin, at: float, call_id: str, key: list[str], tokens: int) -> None:
        request = self._scheduler.elsewhere.get(call_id)
        backend = None if request is None else _backend(request, key)
        if request is not None and backend is not None:
            self._scheduler.begun_elsewhere(request, backend, tokens, origin.when(at))

    def _on_undone(self, origin: _Origin, at: float, call_id: str) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            Scheduler.release(self._scheduler, request, origin.when(at))

    def _on_answered(self, origin: _Origin, at: float, call_id: str, sent: float, limits: list[Any]) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            known = RateLimits(*limits)
            self._scheduler.answered_elsewhere(request, known, origin.when(at), sent + origin.shift)

    def _on_refused(
        self, origin: _Origin, at: float, call_id: str, limits: list[Any], retry_after: float | None
    ) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            Scheduler.refused(self._scheduler, request, RateLimits(*limits), retry_after, origin.when(at))

    def _on_ended(self, origin: _Origin, at: float, call_id: str, used_tokens: int | None) -> None:
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            Scheduler.ended(self._scheduler, request, used_tokens, origin.when(at))

    def _on_over(self, origin: _Origin, at: float, call_id: str) -> None:
        self._calls.get(origin.peer, set()).discard(call_id)
        if (request := self._scheduler.elsewhere.get(call_id)) is not None:
            self._scheduler.over_elsewhere(request, origin.when(at))

    # --- backends --------------------------------------------------------------------------------------

    def _on_break(
        self,
        origin: _Origin,
        scope: list[Any],
        since: float,
        until: float,
        reason: str,
        call_id: str,
        cls: str | None,
        only: str | None,
        refuses_us: bool = False,
    ) -> None:
        if until + origin.shift > origin.now:
            times = (since + origin.shift, until + origin.shift)
            brk = Break(*times, reason, call_id, cls, only, refuses_us=refuses_us)
            self._scheduler.breaks.open(_scope(scope), brk)

    def _on_failed(
        self,
        origin: _Origin,
        scope: list[Any],
        at: float,
        hint: float | None,
        reason: str,
        call_id: str,
        lacks_room: bool = False,
        refuses_us: bool = False,
    ) -> None:
        setup = self._setup()
        if setup is not None:
            lengths = {cls.name: cls.breaks for cls in setup.config.priority_classes}
            told = f"{reason} (at another gateway process, {origin.peer[:64]})"
            failed = FailedCall(_scope(scope), at + origin.shift, hint, told, call_id, lacks_room, refuses_us)
            self._scheduler.breaks.open_for(failed, lengths)

    def _on_withdrawn(self, origin: _Origin, scope: list[Any], call_id: str) -> None:
        self._scheduler.breaks.withdraw(_scope(scope), call_id)

    def _on_closed(self, origin: _Origin, scope: list[Any]) -> None:
        self._scheduler.breaks.close(_scope(scope))

    def _on_witness(
        self,
        origin: _Origin,
        scope: list[Any],
        way: str,
        call_id: str,
        client: str,
        content: str,
        at: float,
        proof: bool,
    ) -> None:
        witness = Witness(call_id, client, bytes.fromhex(content), at + origin.shift, proof)
        self._scheduler.suspicions.hear(_scope(scope), way, witness)

    def _on_no_witness(self, origin: _Origin, call_id: str) -> None:
        self._scheduler.suspicions.withdraw(call_id)

    def _on_sent(
        self, origin: _Origin, key: list[str], deployment: str, at: float, call_id: str, within: float | None
    ) -> None:
        if call_id in self._scheduler.elsewhere and (found := self._liveness(key, deployment)) is not None:
            found.sent(call_id, origin.when(at), within)

    def _on_heard(self, origin: _Origin, key: list[str], deployment: str, at: float) -> None:
        if (found := self._liveness(key, deployment)) is not None and at + origin.shift > found.heard:
            found.hear(origin.when(at))

    def _liveness(self, key: list[str], deployment: str) -> Liveness | None:
        setup = self._setup()
        found = () if setup is None else setup.table.backends
        backend = next((b for b in found if b.key == BackendKey(*key)), None)
        return None if backend is None else self._scheduler.liveness(backend, deployment)

    # --- clients ---------------------------------------------------------------------------------------

    def _on_hung_up(self, origin: _Origin, client: str, cls: str, streaming: bool, waited: float) -> None:
        self._shared.patience.hung_up(client, cls, streaming, waited)

    def _on_home(self, origin: _Origin, digest: str, endpoint: str, at: float) -> None:
        self._shared.affinity.take_in((bytes.fromhex(digest), endpoint, at + origin.shift))

    def _on_work(
        self,
        origin: _Origin,
        client: str,
        name: str,
        call_id: str,
        deployment: str,
        since: float,
        prompt: int,
        is_charged: bool,
    ) -> None:
        if not self._shared.unfinished.goes_on(client, name):
            work = Unfinished(call_id, deployment, since + origin.shift, prompt, is_charged)
            self._shared.unfinished.begin(client, name, work)

    def _on_work_ended(self, origin: _Origin, client: str, name: str, tokens: int, cost: int | None) -> None:
        work = self._shared.unfinished.end(client, name)
        if work is not None:
            self._shared.unfinished.charge(client, name, work, tokens, cost)


class _Origin:
    """Where records come from, and when."""

    __slots__ = ("now", "peer", "shift")

    def __init__(self, peer: str, shift: float, now: float) -> None:
        self.peer = peer
        self.shift = shift
        self.now = now

    def when(self, at: float) -> float:
        """Return the time to count a record's for: the present, unless it is old."""
        own = at + self.shift
        return own if self.now - own > LIVE_SECONDS else self.now


def _scope(scope: list[Any]) -> Scope:
    endpoint, standin = scope
    return endpoint, standin


def _backend(request: RoutingRequest, key: list[str]) -> Backend | None:
    return next((backend for backend in request.pool if backend.key == BackendKey(*key)), None)
