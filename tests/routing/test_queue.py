"""The queue by itself: its order, its fairness, its holds, and what it never does."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aoai_gateway.routing.places import NEWEST_EVERY, Ticket
from aoai_gateway.routing.queue import WaitingQueue
from tests.examples import examples

RANKS = {"critical": 0, "standard": 1, "batch": 2}


def ticket(
    name: str,
    cls: str = "standard",
    client: str = "team",
    arrived: float = 0.0,
    tokens: int = 100,
    weight: float = 1.0,
) -> Ticket:
    return Ticket(name, RANKS[cls], cls, client, arrived, tokens, weight)


def queue_of(*tickets: Ticket, **options: object) -> WaitingQueue:
    queue = WaitingQueue(**options)  # type: ignore[arg-type]
    for item in tickets:
        assert queue.join(item, 10_000)
    return queue


def each_can_be_served(_: Ticket) -> bool:
    return True


def served(
    queue: WaitingQueue, now: float = 0.0, can_serve=each_can_be_served, most: int = 10_000
) -> list[str]:
    """The tickets that are served, one after the other, until none can be."""
    found: list[str] = []
    while len(found) < most and (item := queue.next(now, can_serve)) is not None:
        found.append(item.id)
    return found


def test_classes_go_by_rank_and_within_one_client_by_arrival():
    queue = queue_of(
        ticket("b", "batch", arrived=0),
        ticket("s2", "standard", arrived=2),
        ticket("c", "critical", arrived=3),
        ticket("s1", "standard", arrived=1),
    )
    assert served(queue) == ["c", "s1", "s2", "b"]
    assert len(queue) == 0


def test_a_call_that_comes_back_is_where_its_arrival_puts_it():
    queue = queue_of(ticket("second", arrived=2), ticket("third", arrived=3))
    queue.join(ticket("first", arrived=1), 10)
    assert served(queue) == ["first", "second", "third"]


def test_a_modest_client_is_not_kept_waiting_by_two_greedy_ones():
    greedy = [
        ticket(f"{who}{i}", client=who, arrived=i / 100) for i in range(50) for who in ("greedy", "greedier")
    ]
    queue = queue_of(*greedy)
    assert len(served(queue, most=20)) == 20
    queue.join(ticket("modest", client="modest", arrived=9.0), 1000)
    assert "modest" in served(queue, most=3)


def test_a_newcomer_has_not_saved_up_for_a_burst():
    queue = queue_of(*(ticket(f"old{i}", client="old", arrived=i) for i in range(40)))
    served(queue, most=20)
    for i in range(20):
        queue.join(ticket(f"new{i}", client="new", arrived=100.0 + i), 1000)
    first = Counter(name[:3] for name in served(queue, most=20))
    assert first == {"old": 10, "new": 10}


def test_fairness_counts_tokens_by_weight():
    queue = queue_of(
        *(ticket(f"big{i}", client="big", tokens=400) for i in range(40)),
        *(ticket(f"small{i}", client="small", tokens=100) for i in range(40)),
        *(ticket(f"heavy{i}", client="heavy", tokens=400, weight=4) for i in range(40)),
    )
    shares = Counter(name.rstrip("0123456789") for name in served(queue, most=45))
    assert shares == {"big": 5, "small": 20, "heavy": 20}


def test_who_has_much_in_flight_sorts_behind_within_the_class_only():
    queue = queue_of(
        ticket("much", client="much", arrived=0),
        ticket("little", client="little", arrived=1, tokens=5000),
        ticket("low", "batch", client="idle", arrived=0),
    )
    for _ in range(4):
        queue.began("much")
    assert served(queue) == ["little", "much", "low"]


def test_what_ended_is_not_in_flight_any_more():
    queue = queue_of(ticket("much", client="much", arrived=0), ticket("little", client="little", arrived=1))
    for _ in range(4):
        queue.began("much")
    for _ in range(4):
        queue.ended("much")
    assert served(queue) == ["much", "little"]
    with pytest.raises(ValueError, match="no call in flight"):
        queue.ended("much")


def test_the_length_is_bounded_per_class():
    queue = queue_of(ticket("a"), ticket("b"))
    assert not queue.join(ticket("c"), 2)
    assert "c" not in queue
    assert queue.join(ticket("d", "critical"), 2)
    assert not queue.join(ticket("e", "batch"), 0)
    assert len(queue) == 3


def test_an_id_waits_once():
    queue = queue_of(ticket("a"))
    with pytest.raises(ValueError, match="already"):
        queue.join(ticket("a", "batch"), 10)


def test_a_weight_must_be_positive():
    with pytest.raises(ValueError, match="weight"):
        ticket("a", weight=0)


def test_who_hangs_up_is_gone_at_once():
    queue = queue_of(ticket("a"), ticket("b", arrived=1))
    assert queue.leave("a")
    assert not queue.leave("a")
    assert "a" not in queue
    assert served(queue) == ["b"]
    assert not queue.leave("b")


def test_a_class_without_room_does_not_stop_a_lower_one():
    queue = queue_of(ticket("c", "critical"), ticket("b", "batch"))
    assert served(queue, can_serve=lambda item: item.cls_name == "batch") == ["b"]


def test_only_the_first_of_a_client_is_asked():
    queue = queue_of(ticket("large", tokens=900, arrived=0), ticket("small", tokens=10, arrived=1))
    assert served(queue, can_serve=lambda item: item.tokens < 100) == []


def is_large(item: Ticket) -> bool:
    return item.tokens > 100


def test_a_ticket_that_makes_way_lets_smaller_ones_of_its_client_go_and_holds_none_of_them_back():
    smaller = [ticket(f"small{n}", tokens=100, arrived=1 + n) for n in range(5)]
    queue = queue_of(ticket("large", tokens=200), ticket("larger", tokens=300, arrived=0.5), *smaller)
    order = []
    while found := queue.next(0.0, lambda item: not is_large(item), makes_way=is_large):
        order.append(found.id)
    assert order == [f"small{n}" for n in range(5)]
    assert queue.hold_ends(0.0) is None
    assert served(queue) == ["large", "larger"]


def test_a_ticket_that_makes_way_is_the_first_one_where_there_is_room_for_it():
    queue = queue_of(ticket("large", tokens=200), ticket("small", tokens=100, arrived=1))
    found = queue.next(0.0, each_can_be_served, makes_way=is_large)
    assert found is not None
    assert found.id == "large"


def test_calls_of_other_clients_may_overtake_a_ticket_that_makes_way_by_no_more_than_its_tokens():
    queue = queue_of(ticket("large", "critical", tokens=500), *small_ones(20))
    order = []
    while found := queue.next(0.0, lambda item: not is_large(item), makes_way=is_large):
        order.append(found.id)
    assert len(order) == 5
    assert queue.hold_ends(0.0) is not None


def small_ones(count: int) -> list[Ticket]:
    return [ticket(f"small{i}", client=f"team {i}", arrived=1.0 + i, tokens=100) for i in range(count)]


def test_a_large_ticket_is_overtaken_by_as_much_as_it_asks_for_and_then_holds_the_rest_back():
    queue = queue_of(ticket("large", "critical", tokens=500), *small_ones(20), hold_seconds=5.0)
    fits_small = lambda item: item.tokens < 500  # noqa: E731
    assert len(served(queue, 10.0, fits_small)) == 5
    assert queue.hold_ends(10.0) == 15.0
    assert served(queue, 14.9, fits_small) == []
    assert served(queue, 14.9, most=2) == ["large", "small5"]
    assert queue.hold_ends(14.9) is None


def test_a_hold_ends_once_and_for_all():
    queue = queue_of(ticket("stuck", "critical", tokens=500), *small_ones(20), hold_seconds=5.0)
    not_stuck = lambda item: item.id != "stuck"  # noqa: E731
    assert len(served(queue, 10.0, not_stuck)) == 5
    assert queue.hold_ends(15.0) is None
    assert len(served(queue, 15.0, not_stuck)) == 15


def test_a_clock_that_jumps_ahead_only_ends_holds():
    queue = queue_of(ticket("stuck", "critical", tokens=100), *small_ones(3))
    not_stuck = lambda item: item.id != "stuck"  # noqa: E731
    assert served(queue, 0.0, not_stuck) == ["small0"]
    assert served(queue, 1e9, not_stuck) == ["small1", "small2"]
    assert served(queue, 1e9) == ["stuck"]


def test_a_hold_never_touches_who_sorts_before():
    queue = queue_of(ticket("stuck", tokens=100), ticket("b1", "batch"), ticket("b2", "batch", arrived=1))
    not_stuck = lambda item: item.id != "stuck"  # noqa: E731
    assert served(queue, 0.0, not_stuck) == ["b1"]
    queue.join(ticket("c", "critical", tokens=9000), 10)
    assert served(queue, 0.0, not_stuck) == ["c"]


def test_a_class_that_is_owed_never_holds_a_higher_one_back():
    queue = queue_of(
        ticket("b", "batch", tokens=100),
        *(ticket(f"c{i}", "critical", client=f"team {i}", arrived=i) for i in range(30)),
        *(ticket(f"b{i}", "batch", client=f"low {i}", arrived=1.0 + i) for i in range(10)),
        minimum_shares={"batch": 0.5},
    )
    assert len(served(queue, can_serve=lambda item: item.cls_name == "critical")) == 30
    assert queue.hold_ends(0.0) is None
    not_b = lambda item: item.id != "b"  # noqa: E731
    assert served(queue, can_serve=not_b) == ["b0"]
    assert queue.hold_ends(0.0) == 5.0
    for name in ("x", "y"):
        queue.join(ticket(name, "critical", arrived=98.0), 10)
        assert served(queue, can_serve=lambda item: item.cls_name == "critical") == [name]
    queue.join(ticket("c", "critical", arrived=99.0), 10)
    assert queue.has_deficit("batch")
    assert served(queue, can_serve=not_b) == ["c"]


def test_a_minimum_share_is_kept_while_higher_classes_wait():
    queue = queue_of(
        *(ticket(f"c{i}", "critical", arrived=i) for i in range(100)),
        *(ticket(f"b{i}", "batch", arrived=i) for i in range(100)),
        minimum_shares={"batch": 0.1},
    )
    first = served(queue, most=100)
    assert sum(name.startswith("b") for name in first) == 9
    assert not any(name.startswith("b") for name in first[:10])


def test_without_a_minimum_share_the_lower_class_waits():
    queue = queue_of(
        *(ticket(f"c{i}", "critical") for i in range(50)), ticket("b", "batch"), minimum_shares={}
    )
    assert served(queue)[-1] == "b"


def test_a_class_does_not_save_up_a_share_while_it_cannot_be_served():
    queue = queue_of(
        *(ticket(f"c{i}", "critical") for i in range(100)),
        *(ticket(f"b{i}", "batch", tokens=10**9) for i in range(50)),
        minimum_shares={"batch": 0.5},
    )
    served(queue, can_serve=lambda item: item.cls_name == "critical", most=60)
    assert sum(name.startswith("b") for name in served(queue, most=10)) <= 6


def test_what_a_class_got_while_it_was_alone_is_not_held_against_it():
    queue = queue_of(*(ticket(f"b{i}", "batch") for i in range(60)), minimum_shares={"batch": 0.25})
    served(queue, most=50)
    for i in range(20):
        queue.join(ticket(f"c{i}", "critical"), 100)
    assert [name[0] for name in served(queue, most=8)] == list("ccccbccc")


def test_shares_may_be_replaced():
    queue = queue_of(*(ticket(f"c{i}", "critical") for i in range(9)), ticket("b", "batch"))
    queue.minimum_shares = {"batch": 0.5}
    assert served(queue).index("b") == 2


tickets = st.lists(
    st.tuples(
        st.sampled_from(sorted(RANKS)),
        st.sampled_from("abc"),
        st.integers(0, 50),
        st.integers(0, 2000),
        st.sampled_from([0.5, 1.0, 3.0]),
    ),
    max_size=60,
)


@given(tickets)
def test_all_are_served_once_and_in_order_within_class_and_client(items):
    waiting = [
        ticket(str(i), cls, client, float(arrived), tokens, weight)
        for i, (cls, client, arrived, tokens, weight) in enumerate(items)
    ]
    queue = queue_of(*waiting)
    order = served(queue)
    assert sorted(order) == sorted(item.id for item in waiting)
    by_id = {item.id: item for item in waiting}
    arrivals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name in order:
        arrivals[by_id[name].cls_name, by_id[name].client].append(by_id[name].arrived)
    assert all(times == sorted(times) for times in arrivals.values())
    assert [by_id[name].cls_rank for name in order] == sorted(item.cls_rank for item in waiting)


@given(tickets)
def test_clients_of_a_class_come_by_what_each_was_given_before_by_its_weight(items):
    """The start tags of start-time fair queueing (Goyal, Vin and Cheng, 1996), where all wait at first."""
    weights = {"a": 0.5, "b": 1.0, "c": 3.0}
    waiting = [
        ticket(str(i), cls, client, float(arrived), tokens, weights[client])
        for i, (cls, client, arrived, tokens, _) in enumerate(items)
    ]
    by_id = {item.id: item for item in waiting}
    given_before: Counter[tuple[str, str]] = Counter()
    starts: dict[str, list[float]] = defaultdict(list)
    for name in served(queue_of(*waiting)):
        item = by_id[name]
        starts[item.cls_name].append(given_before[item.cls_name, item.client])
        given_before[item.cls_name, item.client] += item.tokens / item.weight
    assert all(found == pytest.approx(sorted(found)) for found in starts.values())


def test_minimum_shares_that_leave_little_are_kept_in_the_long_run():
    queue = WaitingQueue({"standard": 0.4375, "batch": 0.4921875})
    for cls in RANKS:
        queue.join(ticket(cls, cls), 10_000)
        queue.join(ticket(f"{cls} too", cls), 10_000)
    counts: Counter[str] = Counter()
    for step in range(2_000):
        item = queue.next(0.0, each_can_be_served)
        assert item is not None
        counts[item.cls_name] += 1
        queue.join(ticket(f"again {step}", item.cls_name, arrived=10.0 + step), 10_000)
    assert counts["standard"] == pytest.approx(0.4375 * 2_000, abs=2)
    assert counts["batch"] == pytest.approx(0.4921875 * 2_000, abs=2)


@given(
    st.dictionaries(st.sampled_from(["standard", "batch"]), st.floats(0.01, 0.5), min_size=1),
    st.lists(st.sampled_from(sorted(RANKS)), min_size=20, max_size=200),
)
def test_no_class_with_a_minimum_share_starves(shares, arrivals):
    """While a class waits, it gets its share of any run of releases, less what rounding may cost."""
    queue = WaitingQueue(shares)
    for i in range(3):
        for cls in RANKS:
            queue.join(ticket(f"{cls}{i}", cls, arrived=float(i)), 10_000)
    counts: Counter[str] = Counter()
    for step, cls in enumerate(arrivals, 1):
        item = queue.next(0.0, each_can_be_served)
        assert item is not None
        counts[item.cls_name] += 1
        queue.join(ticket(f"again {step}", item.cls_name, arrived=10.0 + step), 10_000)
        queue.join(ticket(f"new {step}", cls, arrived=10.0 + step), 10_000)
        for name, share in shares.items():
            assert counts[name] >= share * step - 2


@settings(max_examples=examples(40))
@given(st.data())
def test_a_client_that_always_waits_gets_its_fair_part(data):
    """Whatever the sizes, two clients that always wait differ by at most one ticket of each."""
    queue = WaitingQueue()
    used = {"a": 0, "b": 0}
    largest = 1000
    for who in used:
        for i in range(80):
            tokens = data.draw(st.integers(1, largest))
            queue.join(ticket(f"{who}{i}", client=who, arrived=float(i), tokens=tokens), 1000)
    for _ in range(60):
        item = queue.next(0.0, each_can_be_served)
        assert item is not None
        used[item.client] += item.tokens / item.weight
        assert abs(used["a"] - used["b"]) <= 2 * largest


class Waiting(RuleBasedStateMachine):
    """Any order of joining, leaving, serving: none is lost, none is served twice, never too many wait."""

    LENGTH = 5

    def __init__(self) -> None:
        super().__init__()
        self.queue = WaitingQueue({"batch": 0.2})
        self.waiting: dict[str, Ticket] = {}
        self.flying: list[str] = []
        self.now = 0.0

    @rule(cls=st.sampled_from(sorted(RANKS)), client=st.sampled_from("abc"), tokens=st.integers(0, 900))
    def join(self, cls, client, tokens):
        self.now += 0.1
        item = ticket(f"{self.now:.1f}", cls, client, self.now, tokens)
        full = sum(other.cls_name == cls for other in self.waiting.values()) >= self.LENGTH
        assert self.queue.join(item, self.LENGTH) is not full
        if not full:
            self.waiting[item.id] = item

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        name = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.leave(name)
        del self.waiting[name]

    @rule(room=st.integers(0, 900), seconds=st.floats(0, 6))
    def serve(self, room, seconds):
        self.now += seconds
        item = self.queue.next(self.now, lambda item: item.tokens <= room)
        if item is not None:
            assert self.waiting.pop(item.id) == item
            assert item.tokens <= room
            self.queue.began(item.client)
            self.flying.append(item.client)
        elif self.queue.hold_ends(self.now) is None:
            assert all(head.tokens > room for head in self.heads())

    @precondition(lambda self: self.flying)
    @rule()
    def end(self):
        self.queue.ended(self.flying.pop())

    def heads(self) -> list[Ticket]:
        first: dict[tuple[str, str], Ticket] = {}
        for item in self.waiting.values():
            first.setdefault((item.cls_name, item.client), item)
        return list(first.values())

    @invariant()
    def all_are_there(self):
        assert len(self.queue) == len(self.waiting)
        assert all(name in self.queue for name in self.waiting)


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=examples(40), stateful_step_count=30)


def standing(name: str, arrived: float, tokens: int = 100, client: str = "team") -> Ticket:
    return Ticket(name, 1, "standard", client, arrived, tokens, stands_after=5.0)


def test_a_queue_that_gets_shorter_is_served_in_order() -> None:
    queue = queue_of(standing("1", 0), standing("2", 1), standing("3", 2))
    assert served(queue, now=5.0) == ["1", "2", "3"]


def test_a_queue_that_stands_is_served_newest_first() -> None:
    queue = queue_of(standing("1", 0), standing("2", 1), standing("3", 2))
    assert served(queue, now=5.1) == ["3", "2", "1"]


def test_small_calls_come_first_in_a_queue_that_stands_but_for_one_release_in_eight() -> None:
    sizes = (700, 100, 600, 900, 300, 200, 1000, 500, 400, 800)
    queue = queue_of(*(standing(f"{size}", n / 2, size) for n, size in enumerate(sizes)))
    first = ["100", "200", "300", "400", "500", "600", "700"]
    assert served(queue, now=7.0) == [*first, "800", "900", "1000"]
    queue = queue_of(*(standing(f"{size}", n / 2, size) for n, size in enumerate((*sizes, 1100))))
    assert served(queue, now=7.0) == [*first, "1100", "800", "900", "1000"], "the newest has its turn"


def test_no_call_is_passed_for_ever_by_smaller_ones() -> None:
    queue = queue_of(standing("old", 0, 10))
    got: list[str] = []
    for n in range(10):
        queue.join(standing(f"large{n}", 6.0 + n, 1_000), 100)
        for k in range(2):
            queue.join(standing(f"small{n}.{k}", 5.5 + n, 10), 100)
        got += served(queue, now=6.0 + n, most=2)
    assert sum(name.startswith("large") for name in got) == len(got) // NEWEST_EVERY


def test_clients_that_had_more_than_their_part_sort_behind_by_how_much_it_was() -> None:
    excess = {"crowd": 3.0, "more": 1.5, "few": 0.0}
    queue = queue_of(*(standing(each, n, client=each) for n, each in enumerate(excess)))
    order = []
    while found := queue.next(3.0, each_can_be_served, lambda each: excess[each.client]):
        order.append(found.id)
    assert order == ["few", "more", "crowd"]


def test_each_client_has_an_order_of_its_own() -> None:
    queue = queue_of(
        standing("1", 0, client="crowd"),
        standing("2", 1, client="crowd"),
        standing("a", 4, client="few"),
        standing("b", 4.5, client="few"),
    )
    assert served(queue, now=6.0) == ["2", "a", "1", "b"]


def test_a_smaller_call_may_pass_one_that_finds_no_room_in_a_queue_that_stands() -> None:
    queue = queue_of(standing("small", 0, 10), standing("old", 1, 500), standing("new", 2, 500))
    assert served(queue, now=4.0, can_serve=lambda each: each.tokens < 100) == ["small"]
    queue = queue_of(standing("small", 0, 10), standing("old", 1, 500), standing("new", 2, 500))
    assert served(queue, now=6.0, can_serve=lambda each: each.tokens < 100) == ["small"]


def test_a_client_with_few_calls_does_not_wait_for_a_round_of_the_others() -> None:
    queue = queue_of(*(standing(f"{c}{n}", 0, client=c) for c in "abcdefgh" for n in range(3)))
    assert served(queue, most=8) == ["a0", "b0", "c0", "d0", "e0", "f0", "g0", "h0"]
    queue.join(standing("new", 1, client="new"), 100)
    assert served(queue, most=2) == ["new", "a1"]


def test_a_client_that_had_more_than_its_part_is_remembered_while_it_has_no_call_waiting() -> None:
    queue = queue_of(standing("greedy", 0, 1_000, client="greedy"), standing("x", 0, 100, client="other"))
    assert queue.next(0.0, lambda each: each.client == "greedy").id == "greedy"  # type: ignore[union-attr]  # None would fail the test, too
    queue.join(standing("again", 1, 10, client="greedy"), 100)
    queue.join(standing("y", 2, 100, client="other"), 100)
    assert served(queue) == ["x", "y", "again"]


def test_the_bytes_that_wait_are_bounded_too() -> None:
    queue = WaitingQueue()
    large = Ticket("1", 1, "standard", "team", 0.0, 100, size=600)
    assert queue.join(large, 10, max_size=1_000)
    assert not queue.join(Ticket("2", 1, "standard", "team", 0.0, 100, size=600), 10, max_size=1_000)
    assert queue.join(Ticket("3", 1, "standard", "team", 0.0, 100, size=300), 10, max_size=1_000)
    assert queue.leave("1")
    assert queue.join(Ticket("4", 1, "standard", "team", 0.0, 100, size=600), 10, max_size=1_000)


def test_how_long_a_class_waits_is_told() -> None:
    queue = queue_of(standing("1", 2), standing("2", 1, client="other"))
    assert queue.waits("standard", 11.0) == 10.0
    assert queue.waits("batch", 11.0) == 0.0


def crowd(queue: WaitingQueue, client: str, count: int, weight: float = 1.0, size: int = 0) -> list[str]:
    """Have a client ask for that many places in a queue of ten, and 1,000 bytes; gives who loses his."""
    lost: list[str] = []
    for number in range(count):
        each = Ticket(f"{client}{number}", 1, "standard", client, number, 100, weight, size=size)
        queue.join(each, 10, 1_000, push_out=lambda ticket: lost.append(ticket.id))
    return lost


def places(queue: WaitingQueue) -> Counter[str]:
    return Counter(name.rstrip("0123456789") for name in served(queue))


def test_one_client_may_use_the_whole_queue_and_cannot_keep_it():
    queue = WaitingQueue()
    assert crowd(queue, "greedy", 15) == []
    assert len(queue) == 10
    assert crowd(queue, "late", 15) == ["greedy9", "greedy8", "greedy7", "greedy6", "greedy5"], "newest first"
    assert places(queue) == {"greedy": 5, "late": 5}


def test_places_are_shared_by_weight():
    queue = WaitingQueue()
    crowd(queue, "light", 10)
    crowd(queue, "heavy", 10, weight=4)
    assert places(queue) == {"light": 2, "heavy": 8}


def test_bytes_are_shared_too():
    queue = WaitingQueue()
    crowd(queue, "large", 4, size=250)
    assert crowd(queue, "small", 3, size=100) == ["large3", "large2"]
    assert places(queue) == {"large": 2, "small": 3}


def test_no_call_is_pushed_out_for_one_that_gets_no_place_all_the_same():
    queue = WaitingQueue()
    crowd(queue, "a", 5, size=100)
    crowd(queue, "b", 5, size=100)
    assert crowd(queue, "c", 1, size=600) == []
    assert places(queue) == {"a": 5, "b": 5}


def test_without_a_way_to_tell_none_is_pushed_out():
    queue = WaitingQueue()
    crowd(queue, "greedy", 10)
    assert not queue.join(ticket("late", client="late"), 10)
