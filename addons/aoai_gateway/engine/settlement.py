"""Settlement: when a call has ended, its real cost takes the place of what was booked for it.

A request counts once a backend may have begun to work on it, whatever becomes of it; a call that none has
taken costs nothing. Where an answer brings no usage, what was delivered of it is counted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine import money
from aoai_gateway.engine.effects import (
    Book,
    Cancel,
    CountDelivered,
    Counted,
    Effect,
    Reserve,
    Reserved,
    Result,
    Settle,
)
from aoai_gateway.engine.estimates import completion_tokens, costs
from aoai_gateway.quota.quotas import Reservation

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.estimates import Estimates


class Settlement:
    """Settlement for all calls of a gateway."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates

    def settle(self, call: Call) -> Generator[Effect, Result]:
        """Replace the booking by the call's cost, and learn from it."""
        self._estimates.learn(call)
        yield from book_again(call)
        reservation, call.reserved = call.reserved, None
        uncounted = self.uncounted(call)
        if uncounted is not None:
            counted = yield uncounted
            assert isinstance(counted, Counted)
            call.take_delivered(counted.count.tokens)
        for closing in self._closings(call, reservation):
            yield closing
        if call.unproven and reservation is not None and any(each.taken for each in call.attempts):
            yield from _count_late(call, reservation)

    def uncounted(self, call: Call) -> CountDelivered | None:
        """Say what of an answer is to be counted here, since it has brought no usage."""
        if not (call.served and call.usage is None and call.delivered):
            return None
        return CountDelivered(call.delivered, self._estimates.model(call))

    def abandoned(self, call: Call) -> Iterator[Book | Settle | Cancel]:
        """Say what becomes of the bookings of a call that cannot be led to its end.

        What was delivered of its answer is charged, so it is to be known by then (`uncounted`).
        """
        yield from book_again(call)
        reservation, call.reserved = call.reserved, None
        yield from self._closings(call, reservation)

    def _closings(self, call: Call, reservation: Reservation | None) -> Iterator[Settle | Cancel]:
        """Say what becomes of a call's booking: it counts if a backend may have begun to work on it."""
        if reservation is None:
            return
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
        yield Settle(reservation, used, cost) if counts else Cancel(reservation)


def book_again(call: Call) -> Iterator[Book]:
    """Make the booking anew that was taken back for a deployment that did not get the call.

    A backend has worked on it, so it is booked whether or not other calls have taken its room meanwhile.
    """
    taken_back, call.taken_back = call.taken_back, None
    if taken_back is not None:
        call.reserved = replace(taken_back, id=call.next_booking())
        yield Book(call.reserved)


def _count_late(call: Call, reservation: Reservation) -> Generator[Effect, Result]:
    """Count a request that was not booked before its token was accepted, as far as it fits."""
    late = Reservation(call.next_booking(), call.client.name, reservation.quotas, 0, cost=reservation.cost)
    result = yield Reserve(late)
    if isinstance(result, Reserved) and result.decision.admitted:
        yield Settle(late, 0)


def _answer_tokens(call: Call, delivered: int) -> int | None:
    """Return the tokens of a call's answer, as far as is known what was done for it; None: it costs nothing.

    Where the answer was not waited for, they are what was booked for it. What failed costs nothing.
    """
    if not costs(call):
        return None
    if call.usage is None and call.attempt is not None and call.attempt.unseen:
        return max(delivered, completion_tokens(call))
    return delivered if call.served or call.usage is not None else None
