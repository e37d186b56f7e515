"""Settlement: when a call has ended, its real cost takes the place of what was booked for it.

A request counts once a backend may have begun to work on it, also if it fails then; a call that no backend
has taken costs nothing. Where an answer brings no usage, what was delivered of it is counted.

Background responses and runs of assistants go on after their answer: it says ``queued`` or ``in_progress``,
and brings no usage. A later look at the work does (``GET responses/{id}``; Azure OpenAI reference,
"Background tasks" and "Runs"). So the call's booking stays open, and counts in full, until its client looks
at work that has ended: that look tells the tokens, has them in its usage record, once, and settles the
booking. Work that its client does not look at within an hour is charged like any answer that was not waited
for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from aoai_gateway.bounded import Bounded, digest_of
from aoai_gateway.engine import effects, money
from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.estimates import completion_tokens, costs
from aoai_gateway.quota.quotas import Reservation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.engine.estimates import Estimates


GOES_ON: Final = frozenset({"queued", "in_progress", "requires_action", "cancelling"})
"""The states of a response or a run that has not ended."""

FAILED: Final = frozenset({"failed", "expired"})
"""The states of work that has ended without being charged, as far as it names no usage."""

LONGEST: Final = 3600.0
"""Seconds for which a look is waited for. Azure ends a run after ten minutes; research may take longer."""

MOST: Final = 10_000
"""Work of which the bookings are open. Beyond that, the oldest is charged as if its client did not look."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Work that goes on. ``since``: monotonic seconds; ``prompt``: the tokens of its prompt; ``is_charged``:
    whether its client has quotas that count tokens.

    ``reservation``: its booking; None where it has none, or another process holds it. ``unseen``: the tokens
    and the money (as budgets count it) to charge where its client does not look.
    """

    call_id: str
    deployment: str
    since: float
    prompt: int
    is_charged: bool
    reservation: Reservation | None = None
    unseen: tuple[int, int | None] = (0, None)


class UnfinishedWork:
    """The work that goes on for a gateway's calls; it is known by its client and the id that it was given."""

    def __init__(self, capacity: int = MOST) -> None:
        self._capacity = capacity
        self._work: Bounded[bytes, Unfinished] = Bounded(capacity)
        """By digest of client and id, in the order in which it began."""
        self.settle: Callable[[effects.Settle], None] = lambda _: None
        """Takes the settlement of a booking, for which no call is under way."""

    def __len__(self) -> int:
        return len(self._work)

    def begin(self, client: str, name: str, work: Unfinished) -> None:
        """Note work that goes on, under the id by which its client will look at it."""
        key = _key(client, name)
        if key is None:
            self._charge(work, work.unseen)
            return
        if len(self._work) >= self._capacity:
            self._give_up(1)
        self._work.put(key, work)

    def goes_on(self, client: str, name: str) -> bool:
        """Whether such work of the client's is known."""
        key = _key(client, name)
        return key is not None and key in self._work

    def end(self, client: str, name: str) -> Unfinished | None:
        """Return work that has ended, and forget it; None if it is not known."""
        key = _key(client, name)
        return None if key is None else self._work.pop(key)

    def charge(self, client: str, name: str, work: Unfinished, tokens: int, cost: int | None) -> None:
        """Settle the booking of work that has ended with what it took."""
        self._charge(work, (tokens, cost))

    def expire(self, now: float) -> None:
        """Charge the work that its client has not looked at for too long."""
        old = 0
        for work in self._work.values():
            if now - work.since < LONGEST:
                break
            old += 1
        self._give_up(old)

    def close(self) -> None:
        """Charge all work: no look at it will come here any more."""
        self._give_up(len(self._work))

    def _give_up(self, count: int) -> None:
        for _, work in self._work.take(count):
            self._charge(work, work.unseen)

    def _charge(self, work: Unfinished, taken: tuple[int, int | None]) -> None:
        if work.reservation is not None:
            tokens, cost = taken
            self.settle(effects.Settle(work.reservation, tokens, cost))


def _key(client: str, name: str) -> bytes | None:
    return digest_of(f"{client}\0{name}")


class Settlement:
    """Settlement for all calls of a gateway."""

    def __init__(self, estimates: Estimates, unfinished: UnfinishedWork) -> None:
        self._estimates = estimates
        self._unfinished = unfinished

    def settle(self, call: Call) -> EffectGenerator[None]:
        """Replace the booking by the call's cost, and learn from it."""
        if call.prompt is not None or call.model is not None:
            self._estimates.learn(call)
        if call.taken_back is not None:
            yield from book_again(call)
        reservation, call.reserved = call.reserved, None
        looked = None
        if call.response_id is not None:
            if _goes_on(call) and self._keep_open(call, call.response_id, reservation):
                return
            looked = self._look_at_end(call, call.response_id)
        if call.usage is None and (uncounted := self.uncounted(call)) is not None:
            counted = yield uncounted
            assert isinstance(counted, effects.Counted)
            call.take_delivered(counted.count.tokens)
        if reservation is not None:
            yield self._closing(call, reservation)
            if call.unproven and any(each.taken for each in call.attempts):
                yield from _count_late(call, reservation)
        if looked is not None:
            call.charged_tokens = looked

    def _keep_open(self, call: Call, name: str, reservation: Reservation | None) -> bool:
        """Leave a booking as it is whose call's work goes on. False if that is known already."""
        if self._unfinished.goes_on(call.client.name, name):
            return False
        call.goes_on, call.usage = True, None
        prompt = self._estimates.prompt_tokens(call)
        answer = max(call.delivered_tokens or 0, completion_tokens(call))
        cost = None
        if reservation is not None and reservation.cost is not None:
            cost = money.spent(call, prompt, answer)
        assert call.ended is not None
        is_charged = reservation is not None and reservation.counts_tokens
        unseen = (prompt + answer, cost)
        work = Unfinished(call.id, call.deployment, call.ended, prompt, is_charged, reservation, unseen)
        self._unfinished.begin(call.client.name, name, work)
        return True

    def _look_at_end(self, call: Call, name: str) -> int | None:
        """Settle the booking of an earlier call whose work an answer shows to have ended.

        Returns the tokens that are charged for it, if any are.
        """
        client, usage = call.client.name, call.usage or call.looked_at
        if not len(self._unfinished) or not (usage or call.answer_state):
            return None
        if not call.served or call.answer_state in GOES_ON:
            return None
        work = self._unfinished.end(client, name)
        if work is None:
            return None
        if call.usage is not None:
            # The end of a run that this call has continued: it pays for all of it.
            self._unfinished.charge(client, name, work, 0, 0)
            return None
        call.deployment = call.deployment or work.deployment
        call.usage, call.usage_of = usage, work.call_id
        tokens = 0 if call.answer_state in FAILED else work.prompt
        if usage is not None:
            tokens = usage.total_tokens
        self._unfinished.charge(client, name, work, tokens, money.spent(call, tokens, 0))
        return tokens if work.is_charged else None

    def uncounted(self, call: Call) -> effects.CountDelivered | None:
        """Return what of an answer is to be counted here, since it has brought no usage."""
        if not (call.served and call.usage is None and call.delivered):
            return None
        return effects.CountDelivered(call.delivered, self._estimates.model(call))

    def abandoned(self, call: Call) -> Iterator[effects.Book | effects.Settle | effects.Cancel]:
        """Say what becomes of the bookings of a call that cannot be led to its end.

        What was delivered of its answer is charged, so it is to be known by then (`uncounted`).
        """
        yield from book_again(call)
        reservation, call.reserved = call.reserved, None
        if reservation is not None:
            yield self._closing(call, reservation)

    def _closing(self, call: Call, reservation: Reservation) -> effects.Settle | effects.Cancel:
        """Return what becomes of a call's booking: it counts if a backend may have begun to work on it."""
        delivered = call.delivered_tokens or 0
        taken = any(attempt.taken for attempt in call.attempts)
        prompt, answer = self._estimates.prompt_tokens(call), _answer_tokens(call, delivered)
        known = call.usage.total_tokens if call.usage is not None else prompt + (answer or 0)
        used = known if taken and answer is not None else 0
        if reservation.counts_tokens:
            call.charged_tokens = used
        cost = None
        if reservation.cost is not None:
            cost = money.spent(call, prompt, answer or 0) if taken and answer is not None else 0
        # A budget in money counts no requests, so nothing is left of what has cost nothing.
        counts = taken and (reservation.counts_tokens or bool(cost))
        return effects.Settle(reservation, used, cost) if counts else effects.Cancel(reservation)


def _goes_on(call: Call) -> bool:
    """Whether a backend works on, after an answer that says no more than that it has begun."""
    body = call.body
    told_failure = call.outcome is Outcome.TRUNCATED and call.is_whole
    is_over = call.outcome is Outcome.OK or told_failure
    left = body is not None and body.background and not is_over and call.usage is None
    return (left or call.answer_state in GOES_ON) and call.served and costs(call)


def book_again(call: Call) -> Iterator[effects.Book]:
    """Make the booking anew that was taken back for a deployment that did not get the call.

    A backend has worked on it, so it is booked whether or not other calls have taken its room meanwhile.
    """
    taken_back, call.taken_back = call.taken_back, None
    if taken_back is not None:
        call.reserved = replace(taken_back, id=call.next_booking())
        yield effects.Book(call.reserved)


def _count_late(call: Call, reservation: Reservation) -> EffectGenerator[None]:
    """Count a request that was not booked before its token was accepted, as far as it fits."""
    late = Reservation(call.next_booking(), call.client.name, reservation.quotas, 0, cost=reservation.cost)
    result = yield effects.Reserve(late)
    if isinstance(result, effects.Reserved) and result.decision.admitted:
        yield effects.Settle(late, 0)


def _answer_tokens(call: Call, delivered: int) -> int | None:
    """Return the tokens of a call's answer, as far as is known what was done for it; None: it costs nothing.

    Where the answer was not waited for, they are what was booked for it. What failed costs nothing.
    """
    if not costs(call):
        return None
    if call.usage is None and call.attempt is not None and call.attempt.unseen:
        return max(delivered, completion_tokens(call))
    return delivered if call.served or call.usage is not None else None
