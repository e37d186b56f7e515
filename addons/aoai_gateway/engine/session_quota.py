"""The quotas of a session of messages: each response is booked before it begins, and settled at its end.

The handshake is the session's request, and is admitted like any call; what was booked for it goes back once
the session has begun, as that costs nothing. A response is booked when the client asks for it, or when the
server says that it has begun one by itself (it heard the end of speech). It takes the whole conversation as
its prompt, so what the last one took is the best guess of its size. The server says at its end what it took;
where it does not come to that, the booking counts.

A live session has no responses: what was booked for its first message holds until its end, and is settled
with the usage that was reported until then; without any, the booking counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING

from aoai_gateway.engine import money
from aoai_gateway.engine.admission import note_refused, refusal, refused_by, without_accounts
from aoai_gateway.engine.effects import Cancel, Reserve, Reserved, Result, Settle
from aoai_gateway.engine.estimates import DEFAULT_COMPLETION
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.session_messages import CREATE

if TYPE_CHECKING:
    from collections.abc import Generator

    from aoai_gateway.engine.admission import Admission
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.quota.quotas import Reservation
    from aoai_gateway.routing.capacity import Capacity
    from aoai_gateway.wire.usage import Usage

type Closings = Generator[Settle | Cancel, Result, None]

MOST_RESPONSES = 64
"""Responses under way in one session of which the bookings are known. Azure takes one at a time."""


class SessionQuota:
    """The bookings of one session. Methods are generators of the engine's effects."""

    def __init__(self, admission: Admission, call: Call, capacity: Capacity) -> None:
        self._admission = admission
        self._call = call
        self._capacity = capacity
        """That of the backend, which learns of each response."""
        self._asked: deque[Reservation | None] = deque()
        """The bookings of responses that the client has asked for, and that have not begun."""
        self._running: OrderedDict[str, Reservation | None] = OrderedDict()
        """The bookings of responses that have begun, by the responses' ids."""
        self.booked = 0
        """How many responses were booked, or tried to be."""
        self._last = 0
        """What the last response took."""
        self._owed = 0
        """Tokens that were taken without a booking …"""
        self._unpaid: Usage | None = None
        """… and the usage that no booking has paid for in money."""
        self._whole: Reservation | None = None
        """That of a session without responses."""
        self.bound: int | None = None
        """The tokens of one response, as far as the session's settings bound them."""
        self.usage: Usage | None = None
        """What all responses took until now."""

    @property
    def is_idle(self) -> bool:
        """Whether no response is under way or asked for."""
        return not self._running and not self._asked

    @property
    def pauses(self) -> bool:
        """Whether a response that does not fit is refused alone, and the session goes on."""
        return self._call.plan.terms.on_exceed.action == "wait"

    def begin(self, *, asked: bool) -> Closings:
        """Give back what was booked for the handshake, which counts as a request.

        ``asked``: it was booked for a response that the client has asked for with it.
        """
        call = self._call
        reservation, call.reserved = call.reserved, None
        if asked and call.target.operation.opened_by != CREATE:
            self._whole = reservation
            return
        if asked:
            self._asked.append(reservation)
            self._last = call.prompt.tokens if call.prompt is not None else 0
            return
        if reservation is None:
            return
        if not reservation.counts_tokens:
            yield Cancel(reservation)
            return
        call.charged_tokens = 0
        yield Settle(reservation, 0, None if reservation.cost is None else 0)

    def ask(self, bound: int | None, now: float) -> EffectGenerator[GatewayError | None]:
        """Book a response that the client asks for. Returns the refusal if it does not fit."""
        booking = yield from self._book(bound, now)
        if isinstance(booking, GatewayError):
            return booking
        if len(self._asked) >= MOST_RESPONSES:
            yield from self._settle(self._asked.popleft(), None)
        self._asked.append(booking)
        return None

    def created(self, response: str, now: float) -> EffectGenerator[GatewayError | None]:
        """Take in that a response has begun, asked for or not. Returns the refusal if it does not fit."""
        if response in self._running:
            return None
        assert self._call.session is not None
        self._call.session.responses += 1
        if self._asked:
            booking = self._asked.popleft()
        else:
            found = yield from self._book(None, now)
            if isinstance(found, GatewayError):
                # It runs all the same until it is cancelled, and takes what it takes.
                self._running[response] = None
                return found
            booking = found
        self._running[response] = booking
        tokens = self._last + (self.bound or DEFAULT_COMPLETION)
        self._capacity.begin(self._name(response), tokens, now)
        if len(self._running) > MOST_RESPONSES:
            yield from self._give_up(last=False, now=now)
        return None

    def _give_up(self, *, last: bool, now: float) -> Closings:
        """Count a response as booked whose end is not waited for any more."""
        response, booking = self._running.popitem(last=last)
        self._capacity.end(self._name(response), None, now)
        yield from self._settle(booking, None)

    def _name(self, response: str) -> str:
        return f"{self._call.id}/{response}"

    def done(self, response: str | None, usage: Usage | None, now: float) -> Closings:
        """Settle a response that has ended with what it took."""
        if response is None and self._running and "" not in self._running:
            # A server that names no ids has one response at a time.
            response = next(iter(self._running))
        self._capacity.end(self._name(response or ""), usage.total_tokens if usage else None, now)
        if usage is not None and usage.total_tokens:
            self._last = usage.total_tokens
        yield from self._settle(self._running.pop(response or "", None), usage)

    def report(self, usage: Usage) -> None:
        """Count what was not announced: the transcription of what was said. It is settled with a response."""
        self._add(usage)
        self._owed += usage.total_tokens
        self._owe(usage)

    def refused(self) -> Closings:
        """Give back the booking of a response that was asked for and that the server does not begin."""
        if self._asked:
            reservation = self._asked.popleft()
            if reservation is not None:
                yield Cancel(reservation)

    def end(self, now: float) -> EffectGenerator[None]:
        """Close what is left at the session's end, and count what no booking was there for."""
        yield from self.close(now)
        if self._owed or self._unpaid is not None:
            found = yield from self._book_tokens(0, 0, now)
            if not isinstance(found, GatewayError):
                yield from self._settle(found, None, took=0)

    def close(self, now: float) -> Closings:
        """Close what is left at the session's end: what runs counts as booked, what has not begun is free."""
        while self._asked:
            yield from self.refused()
        while self._running:
            yield from self._give_up(last=True, now=now)
        whole, self._whole = self._whole, None
        if whole is not None:
            yield from self._settle(whole, None, took=0 if self._unpaid is not None else None)

    def _book(self, bound: int | None, now: float) -> EffectGenerator[Reservation | GatewayError | None]:
        return (yield from self._book_tokens(self._last, bound or self.bound or DEFAULT_COMPLETION, now))

    def _book_tokens(
        self, prompt: int, answer: int, now: float
    ) -> EffectGenerator[Reservation | GatewayError | None]:
        """Book what the next response may take. Returns the booking, the refusal, or None without a quota.

        ``prompt``, ``answer``: its tokens, at most as far as that is known.
        """
        self.booked += 1
        call, terms = self._call, self._call.plan.terms
        whole = self._admission.reservation(call, terms, prompt + answer, now)
        whole = replace(whole, id=f"{call.id}/response {self.booked}", requests=0)
        if terms.budget is not None and call.setup.config.price_of(call.deployment) is not None:
            whole = money.priced(call, whole, terms.budget, prompt, answer)
        over: set[str | None] = set()
        while True:
            reservation = without_accounts(whole, over) if over else whole
            if not reservation.quotas:
                return None
            result = yield Reserve(reservation)
            assert isinstance(result, Reserved)
            if result.decision.admitted:
                return reservation
            note_refused(call, refused_by(reservation, result.decision, dry_run=terms.dry_run))
            if not terms.dry_run or result.decision.refused_by is None:
                return refusal(call, reservation, result.decision)
            over.add(result.decision.refused_by.deployment)

    def _settle(
        self, reservation: Reservation | None, usage: Usage | None, *, took: int | None = None
    ) -> Closings:
        """Settle a booking with its usage; without, with what it ``took``, or with all of it.

        What was taken without a booking is settled with it.
        """
        call = self._call
        if usage is not None:
            self._add(usage)
            took = usage.total_tokens
        tokens = 0
        if reservation is None or not reservation.counts_tokens:
            self._owed += took or 0
        else:
            tokens = (reservation.tokens if took is None else took) + self._owed
            self._owed = 0
            call.charged_tokens = (call.charged_tokens or 0) + tokens
        if reservation is None or reservation.cost is None:
            self._owe(usage)
        if reservation is not None:
            yield Settle(reservation, tokens, self._spent(reservation, usage, took))

    def _spent(self, reservation: Reservation, usage: Usage | None, took: int | None) -> int | None:
        """Return what a response, and what is unpaid, has cost in millionths; None without a budget."""
        if reservation.cost is None:
            return None
        spent = money.spent_by(self._call, usage, reservation.cost if took is None else 0)
        unpaid, self._unpaid = self._unpaid, None
        return spent if unpaid is None else spent + money.spent_by(self._call, unpaid, 0)

    def _owe(self, usage: Usage | None) -> None:
        if usage is not None:
            self._unpaid = usage if self._unpaid is None else self._unpaid + usage

    def _add(self, usage: Usage) -> None:
        self.usage = usage if self.usage is None else self.usage + usage
        self._call.usage = self.usage
