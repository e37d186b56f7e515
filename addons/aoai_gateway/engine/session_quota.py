"""The quotas of a session of messages: each response is booked before it begins, and settled at its end.

The handshake is the session's request, and is admitted like any call; what was booked for it goes back once
the session has begun, as that costs nothing. A response is booked when the client asks for it, or when the
server says that it has begun one by itself (it heard the end of speech). It takes the whole conversation as
its prompt, so what the last one took is the best guess of its size. The server says at its end what it took;
where it does not come to that, the booking counts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from aoai_gateway.engine import money
from aoai_gateway.engine.admission import DEFAULT_COMPLETION, Admission, Booking, counts_tokens
from aoai_gateway.engine.effects import Cancel, Effect, Result, Settle
from aoai_gateway.quota.effective_policy import effective_policy
from aoai_gateway.wire.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Generator

    from aoai_gateway.engine.call import Call
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
        self._asked: deque[Booking] = deque()
        """Of responses that the client has asked for, and that have not begun."""
        self._running: OrderedDict[str, Booking] = OrderedDict()
        """Of those that have begun, by their ids."""
        self.booked = 0
        """How many responses were booked, or tried to be."""
        self._last = 0
        """What the last response took."""
        self._owed = 0
        """Tokens that were taken without a booking."""
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
        call = self._call
        terms = effective_policy(call.setup.config, call.client, call.deployment)
        return terms.on_exceed.action == "wait"

    def begin(self, *, asked: bool) -> Closings:
        """Give back what was booked for the handshake, which counts as a request.

        ``asked``: it was booked for a response that the client has asked for with it.
        """
        call = self._call
        reservation, call.reserved = call.reserved, None
        if asked:
            self._asked.append(Booking(reservation))
            self._last = call.prompt.tokens if call.prompt is not None else 0
            return
        if reservation is None:
            return
        if not counts_tokens(reservation):
            yield Cancel(reservation)
            return
        call.charged_tokens = 0
        yield Settle(reservation, 0, None if reservation.cost is None else 0)

    def ask(self, bound: int | None, now: float) -> Generator[Effect, Result, GatewayError | None]:
        """Book a response that the client asks for. Gives the refusal if it does not fit."""
        booking = yield from self._book(bound, now)
        if isinstance(booking, GatewayError):
            return booking
        if len(self._asked) >= MOST_RESPONSES:
            yield from self._settle(self._asked.popleft(), None)
        self._asked.append(booking)
        return None

    def created(self, response: str, now: float) -> Generator[Effect, Result, GatewayError | None]:
        """Take in that a response has begun, asked for or not. Gives the refusal if it does not fit."""
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
                self._running[response] = Booking()
                return found
            booking = found
        self._running[response] = booking
        tokens = self._last + (self.bound or DEFAULT_COMPLETION)
        self._capacity.begin(self._name(response), tokens, now)
        if len(self._running) > MOST_RESPONSES:
            yield from self._settle(self._running.popitem(last=False)[1], None)
        return None

    def _name(self, response: str) -> str:
        return f"{self._call.id}/{response}"

    def done(self, response: str | None, usage: Usage | None, now: float) -> Closings:
        """Settle a response that has ended with what it took."""
        self._capacity.end(self._name(response or ""), usage.total_tokens if usage else None, now)
        if usage is not None and usage.total_tokens:
            self._last = usage.total_tokens
        booking = self._running.pop(response or "", None)
        if booking is None and response is None and self._running:
            # A server that names no ids has one response at a time.
            booking = self._running.popitem(last=False)[1]
        yield from self._settle(booking or Booking(), usage)

    def report(self, usage: Usage) -> None:
        """Count what was not announced: the transcription of what was said. It is settled with a response."""
        self._add(usage)
        self._owed += usage.total_tokens

    def refused(self) -> Closings:
        """Give back the booking of a response that was asked for and that the server does not begin."""
        if self._asked:
            reservation = self._asked.popleft().reservation
            if reservation is not None:
                yield Cancel(reservation)

    def end(self, now: float) -> Generator[Effect, Result, None]:
        """Close what is left at the session's end, and count what no booking was there for."""
        yield from self.close()
        if self._owed:
            found = yield from self._book_tokens(0, 0, now)
            if isinstance(found, Booking):
                yield from self._settle(found, None, took=0)

    def close(self) -> Closings:
        """Close what is left at the session's end: what runs counts as booked, what has not begun is free."""
        while self._asked:
            yield from self.refused()
        while self._running:
            yield from self._settle(self._running.popitem()[1], None)

    def _book(self, bound: int | None, now: float) -> Generator[Effect, Result, Booking | GatewayError]:
        return (yield from self._book_tokens(self._last, bound or self.bound or DEFAULT_COMPLETION, now))

    def _book_tokens(
        self, prompt: int, answer: int, now: float
    ) -> Generator[Effect, Result, Booking | GatewayError]:
        self.booked += 1
        try:
            return (yield from self._admission.book_response(self._call, self.booked, prompt, answer, now))
        except GatewayError as error:
            return error

    def _settle(self, booking: Booking, usage: Usage | None, *, took: int | None = None) -> Closings:
        """Settle a booking with its usage; without, with what it ``took``, or with all of it."""
        call = self._call
        if usage is not None:
            self._add(usage)
            took = usage.total_tokens
        reservation, tokens = booking.reservation, 0
        if reservation is None or not counts_tokens(reservation):
            self._owed += took or 0
        else:
            tokens = (reservation.tokens if took is None else took) + self._owed
            self._owed = 0
            call.charged_tokens = (call.charged_tokens or 0) + tokens
        if reservation is not None:
            booked = reservation.cost
            yield Settle(reservation, tokens, None if booked is None else money.spent_by(call, usage, booked))

    def _add(self, usage: Usage) -> None:
        self.usage = usage if self.usage is None else self.usage + usage
        self._call.usage = self.usage
