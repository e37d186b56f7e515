"""Work that goes on after its answer: background responses, and runs of assistants.

The answer to such a call says ``queued`` or ``in_progress``, and brings no usage. A later look at the work
does (``GET responses/{id}``; Azure OpenAI reference, "Background tasks" and "Runs"). So the call's booking
stays open, and counts in full, until its client looks at work that has ended: that look tells the tokens,
has them in its usage record, once, and settles the booking. Work that its client does not look at within an
hour is charged like any answer that was not waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aoai_gateway.bounded import Bounded, digest_of
from aoai_gateway.engine.effects import Settle

if TYPE_CHECKING:
    from aoai_gateway.quota.quotas import Reservation

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
        self.settle: Callable[[Settle], None] = lambda _: None
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
            self.settle(Settle(work.reservation, tokens, cost))


def _key(client: str, name: str) -> bytes | None:
    return digest_of(f"{client}\0{name}")
