"""The queue of a virtual deployment: the call that is served next when there is room again.

Theory of operation. A call that may wait joins with a `Ticket` and leaves by being served (`next`) or by
giving up (`leave`: its client hung up, or its time is over). The queue has no clock and wakes no call: the
caller that learns of room (a break ended, headroom returned, a call finished) asks `next` until it returns
None.

The order, of which each rule decides only where the one before it is indifferent:

1. *Classes with a deficit.* A class with a minimum share earns that share of every release while it waits,
   and pays 1 for each of its own. One that has saved up 1 goes first, at any rank: this keeps a low class
   from starving. (A deficit counter, as in deficit round robin: Shreedhar and Varghese, 1995.)
2. *Class*, by rank; 0 is the highest.
3. *Clients that have had much sort behind*: those that had more than their part, by how much that was (the
   caller says it: `excess`), and those with more than 1.5 times their fair part of all calls in flight, of
   all clients in flight or waiting.
4. *Fair between clients*: the smallest virtual start time, that is the tokens which the queue has released
   for the client, divided by its weight. A client that comes late starts at the start time of the call that
   was released last, so that it saves nothing up for a burst, and a client with few calls does not wait for
   a whole round of the others. (Start-time fair queueing: Goyal, Vin and Cheng, 1996.)
5. *Original arrival*; a call that comes back after a failed attempt brings its arrival along. Within one
   client and class nothing overtakes, as long as the queue gets shorter; but where the first call leaves
   room to smaller ones of its client (the caller says it: `makes_way`), the first of these may go before it.
6. *Small and new ones first in a queue that stands.* Where the oldest call of a client has waited for longer
   than `stands_after`, more comes than can be served, and in order of arrival each call would be served when
   its caller is about to leave: the answers would be lost. (Adaptive LIFO: Maurer, "Fail at Scale", ACM
   Queue 2015.) Some of its calls must go without an answer in any order; for the same tokens, most
   get one if the smallest come first. (Shortest job first; it changes nothing between clients, whose shares
   are of tokens.) So that its large calls do not starve, one release in `NEWEST_EVERY` is for the newest
   call, of any size. The old ones leave when too little of their callers' patience is left for an
   answer.

*Places* and bytes are bounded for each class. When they are used up, a newcomer takes the place of the
newest ticket of the client that has most of them, as long as that client has more than the newcomer's. So one
client may use all of the queue while no other wants in, and cannot keep it. (Longest queue drop: Suter et
al., 1999.)

A ticket that cannot be served (no backend has room for *it*) does not stop those behind it, since they may be
smaller, or may use backends that it may not. Left alone, that would starve every large call; so tickets
of its class and of lower ones that overtake it may take as many tokens as it asks for itself. From then on it
holds back all of these that sort behind it, and room gathers for it. A higher class is never held back, not
even by one with a deficit. A hold ends after `hold_seconds`, once and for all, in case the ticket lacked
something other than room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from aoai_gateway.routing.places import ClientPlaces, Place, Ticket

_MUCH_IN_FLIGHT = 1.5
"""Times its fair part of the calls in flight, from which on a client sorts behind."""

_DUE = 1 - 1e-9
"""The deficit of a class that goes first; a bit less than 1, for shares such as 0.1 do not add up exactly."""

_MOST_DEFICIT = 2.0
"""The classes' shares add up to 1 at most, so the deficit of one that can be served is never more."""


@dataclass(slots=True)
class _Class:
    """The waiting tickets of a class. It lives as long as it holds one."""

    clients: dict[str, ClientPlaces] = field(default_factory=dict)
    virtual: float = 0.0
    deficit: float = 0.0
    length: int = 0
    size: int = 0
    rank: int = 0


class WaitingQueue:
    """The queue of one virtual deployment. Deterministic; all times are seconds of one clock.

    `minimum_shares` are the classes' minimum shares of the releases, by name, 0 to 1 and at most 1 together.
    It may be replaced at any time (after a reload); classes and clients are known by name only.
    """

    def __init__(
        self, minimum_shares: Mapping[str, float] | None = None, *, hold_seconds: float = 5.0
    ) -> None:
        self.minimum_shares: Mapping[str, float] = minimum_shares or {}
        self.hold_seconds = hold_seconds
        self._classes: dict[str, _Class] = {}
        self._places: dict[str, Place] = {}
        self._in_flight: dict[str, int] = {}
        self._total_in_flight = 0
        self._joined = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._places

    def join(
        self,
        ticket: Ticket,
        max_length: int,
        max_size: float = math.inf,
        *,
        push_out: Callable[[Ticket], None] | None = None,
    ) -> bool:
        """Let a ticket wait; False if its class has `max_length` of them, or more than `max_size` bytes then.

        Where a client has more of these than the newcomer's, for its weight, its newest ticket leaves
        instead, and `push_out` is told. Without `push_out` none leaves.

        Raises ValueError for an id that waits already.
        """
        if ticket.id in self._places:
            raise ValueError(f"ticket {ticket.id!r} is in the queue already")
        leaving = self._leaving_for(ticket, max_length, max_size)
        if leaving is None or (leaving and push_out is None):
            return False
        for place in leaving:
            self._remove(place)
            assert push_out is not None
            push_out(place.ticket)
        item = self._classes.setdefault(ticket.cls_name, _Class())
        client = item.clients.setdefault(ticket.client, ClientPlaces(item.virtual))
        if not client.places:
            client.start = max(client.start, item.virtual)
        place = Place(ticket, self._joined)
        self._joined += 1
        client.add(place)
        self._places[ticket.id] = place
        item.length += 1
        item.size += ticket.size
        item.rank = ticket.cls_rank
        return True

    def _leaving_for(self, ticket: Ticket, max_length: int, max_size: float) -> list[Place] | None:
        """Return the places that are given up so that a ticket has one; None if it is to have none.

        They are the newest of the client that has most of the places, or the bytes, that are lacking, as long
        as it has more of them than the newcomer's client.
        """
        item = self._classes.get(ticket.cls_name)
        if item is None:
            return [] if max_length > 0 else None
        leaving: list[Place] = []
        left = {name: (len(each.places), each.size) for name, each in item.clients.items()}
        own = left.get(ticket.client, (0, 0))
        own = (own[0] + 1, own[1] + ticket.size)
        length, size = item.length + 1, item.size + ticket.size
        while length > max_length or size > max_size:
            lacks = 0 if length > max_length else 1
            richest = max(left, key=lambda name: left[name][lacks] / self._weight(item, name))
            client = item.clients[richest]
            if left[richest][lacks] / self._weight(item, richest) <= own[lacks] / ticket.weight:
                return None
            place = client.places[left[richest][0] - 1]
            left[richest] = (left[richest][0] - 1, left[richest][1] - place.ticket.size)
            length, size = length - 1, size - place.ticket.size
            leaving.append(place)
        return leaving

    @staticmethod
    def _weight(item: _Class, client: str) -> float:
        places = item.clients[client].places
        return places[0].ticket.weight if places else 1.0

    def leave(self, ticket_id: str) -> bool:
        """Give up a place; False if there is none, which is no error: it may have been served just now."""
        place = self._places.get(ticket_id)
        if place is None:
            return False
        self._remove(place)
        return True

    def serve(self, ticket_id: str) -> bool:
        """Take out a ticket that was served, in any order; False if there is none."""
        place = self._places.get(ticket_id)
        if place is None:
            return False
        self._release(place)
        return True

    def next(
        self,
        now: float,
        can_serve: Callable[[Ticket], bool],
        excess: Callable[[Ticket], float] = lambda _: 0.0,
        makes_way: Callable[[Ticket], bool] = lambda _: False,
    ) -> Ticket | None:
        """Take the first ticket out of the queue that `can_serve`; None without one.

        `can_serve` is asked in the queue's order, for the first ticket of each client and class, and for more
        of them where the queue stands; it must not change the queue. It may let a class with a deficit
        (`has_deficit`) use room that is kept for others. `excess` says of a client's first ticket how many
        times its part this client has had, 0 if it was no more than that: the most sort last. `makes_way`
        says whether a ticket leaves room to smaller ones of its client: these are asked for after it.
        """
        passed: list[Place] = []
        held_from = math.inf
        for place in self._heads(now, excess, makes_way):
            rank = place.ticket.cls_rank
            if rank >= held_from:
                continue
            if can_serve(place.ticket):
                for other in passed:
                    own = other.ticket.client == place.ticket.client
                    if other.ticket.cls_rank <= rank and not (own and makes_way(other.ticket)):
                        self._overtake(other, place.ticket, now)
                self._classes[place.ticket.cls_name].clients[place.ticket.client].took_turn(now)
                self._release(place)
                return place.ticket
            if self._holds(place, now):
                held_from = rank
            passed.append(place)
        return None

    def began(self, client: str) -> None:
        """Note that a call of this client is in flight, whether it waited or not."""
        self._in_flight[client] = self._in_flight.get(client, 0) + 1
        self._total_in_flight += 1

    def ended(self, client: str) -> None:
        """Note that it is no more. Raises ValueError if none was."""
        count = self._in_flight.get(client, 0)
        if not count:
            raise ValueError(f"client {client!r} has no call in flight")
        self._total_in_flight -= 1
        if count == 1:
            del self._in_flight[client]
        else:
            self._in_flight[client] = count - 1

    def waits(self, cls_name: str, now: float) -> float:
        """For how long the call of a class has waited that has waited longest; 0 if none waits."""
        item = self._classes.get(cls_name)
        if item is None:
            return 0.0
        return max(0.0, now - min(c.places[0].ticket.arrived for c in item.clients.values() if c.places))

    def has_deficit(self, cls_name: str) -> bool:
        """Whether a class that waits has a release coming to it by its minimum share."""
        item = self._classes.get(cls_name)
        return item is not None and item.deficit >= _DUE

    def hold_ends(self, now: float) -> float | None:
        """When the first hold ends: `next` may then find a ticket even though no room came. None without."""
        return min(
            (
                place.holds_since + self.hold_seconds
                for place in self._places.values()
                if place.holds_since is not None and self._holds(place, now)
            ),
            default=None,
        )

    def _in_order(self) -> list[_Class]:
        """The classes, those with a deficit first."""
        return sorted(
            self._classes.values(),
            key=lambda item: (0, -item.deficit, item.rank) if item.deficit >= _DUE else (1, 0.0, item.rank),
        )

    def _heads(
        self, now: float, excess: Callable[[Ticket], float], makes_way: Callable[[Ticket], bool]
    ) -> Iterator[Place]:
        """The tickets that may be served next, in order: of each client and class the first one.

        Where its first one has waited for too long, several; where that makes way, a smaller one, too.
        """
        clients = self._clients()
        for item in self._in_order():
            heads = []
            for client in item.clients.values():
                if not client.places:
                    continue
                next_ones = client.next_ones(now, makes_way)
                first = next_ones[0].ticket
                heads.append((excess(first), *self._key(next_ones[0], client.start, clients), next_ones))
            heads.sort()
            for *_, places in heads:
                yield from places

    def _key(self, place: Place, start: float, clients: int) -> tuple[bool, float, float, int]:
        ticket = place.ticket
        return self._much_in_flight(ticket.client, clients), start, ticket.arrived, place.number

    def _clients(self) -> int:
        """How many clients wait or have calls in flight."""
        return len(
            self._in_flight.keys()
            | {name for item in self._classes.values() for name, c in item.clients.items() if c.places}
        )

    def _much_in_flight(self, client: str, clients: int) -> bool:
        own = self._in_flight.get(client, 0)
        return own * clients > _MUCH_IN_FLIGHT * self._total_in_flight

    def _holds(self, place: Place, now: float) -> bool:
        return place.holds_since is not None and now - place.holds_since < self.hold_seconds

    def _overtake(self, place: Place, by: Ticket, now: float) -> None:
        place.overtaken += by.cost
        if place.holds_since is None and place.overtaken >= place.ticket.cost:
            place.holds_since = now

    def _release(self, place: Place) -> None:
        ticket = place.ticket
        item = self._classes[ticket.cls_name]
        client = item.clients[ticket.client]
        item.virtual = max(item.virtual, client.start)
        client.start += ticket.cost / ticket.weight
        self._pay(ticket.cls_name)
        self._remove(place)

    def _pay(self, cls_name: str) -> None:
        """Each class that waits earns its share of a release; the one that got it pays."""
        for name, item in self._classes.items():
            deficit = item.deficit + self.minimum_shares.get(name, 0.0) - (name == cls_name)
            # The bound comes last: a class that pays may have earned more than it until now.
            item.deficit = min(max(deficit, 0.0), _MOST_DEFICIT)

    def _remove(self, place: Place) -> None:
        ticket = place.ticket
        item = self._classes[ticket.cls_name]
        client = item.clients[ticket.client]
        client.remove(place)
        del self._places[ticket.id]
        item.length -= 1
        item.size -= ticket.size
        if not item.length:
            # No client competes any more: earlier releases do not count the next time.
            del self._classes[ticket.cls_name]
        else:
            # A client that has had more than its part is remembered until the others have caught up.
            for name in [n for n, c in item.clients.items() if not c.places and c.start <= item.virtual]:
                del item.clients[name]
