"""Several processes that decide as one, in virtual time."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from aoai_gateway.bounded import digest_of
from aoai_gateway.config.models import Client, Priority
from aoai_gateway.engine import replicated_parts, replicated_state
from aoai_gateway.engine.effects import Settle
from aoai_gateway.engine.peers import Peers
from aoai_gateway.engine.settlement import Unfinished
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.routing.breaker import Break, BreakLengths, FailedCall
from aoai_gateway.routing.recovery import MOST_UNHEARD
from aoai_simulator.limits import PaygLimits
from tests.bench.workloads import jobs
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.fleet import LAG, Member, fleet, overload
from tests.engine.scenarios.overload import figures, run
from tests.engine_driver import DEPLOYMENT, config

CLASSES = ({"name": "high", "wait": {"seconds": 90}}, {"name": "low", "wait": {"seconds": 120}})


def test_each_kind_of_change_that_is_written_down_is_applied() -> None:
    code = "".join(inspect.getsource(module) for module in (replicated_parts, replicated_state))
    written = set(re.findall(r"""\.write\("([^"]+)""", code))
    applied = {name.removeprefix("_on_").replace("_", " ") for name in vars(Peers) if name.startswith("_on_")}
    assert written == applied


def two(*, tokens_per_minute: int = 60_000, low: tuple[str, ...] = ("low",)) -> tuple[Member, Member]:
    """Two processes before one backend of pay as you go; ``low``: the clients of the low class."""
    classes = tuple(Priority.model_validate(each) for each in CLASSES)
    clients = tuple(
        Client.model_validate({"name": name, "key": f"key-of-{name}", "priority": cls})
        for name, cls in (("high", "high"), *((name, "low") for name in low))
    )
    made = config(
        ("paygo@one", {"tokens_per_minute": tokens_per_minute}), priorities=classes, clients=clients
    )
    azure = {"paygo@one": Deployment(PaygLimits(tokens_per_minute), speed=1e4)}
    first, second = fleet(2, made, azure)
    return first, second


@pytest.mark.one_python
@pytest.mark.parametrize("seed", [1, 2])
def test_two_serve_a_lasting_overload_as_one_does(seed: int) -> None:
    work = jobs(120.0, seed)
    one, both = run(work, 120.0, seed), overload(work, 120.0, seed)
    said = f"one: {figures(one)}; two: {figures(both)}"
    assert both.success("critical") >= one.success("critical") - 0.005, said
    assert both.success("batch") >= one.success("batch") - 0.05, said
    assert both.useful >= one.useful - 0.05, said
    assert both.refusals_per_answer() <= 0.15, said


def test_what_one_has_sent_is_full_for_the_other() -> None:
    first, second = two()
    backend = first.backend("paygo@one")
    for _ in range(5):
        first.call("low", prompt=5_000, most=5_000)
    first.run(2 * LAG)
    capacities = [each.engine.scheduler.capacities.of(backend, DEPLOYMENT) for each in (first, second)]
    assert capacities[0].headroom(first.now) == pytest.approx(capacities[1].headroom(first.now), abs=0.01)
    assert capacities[1].headroom(first.now) < 0.7


def test_a_break_that_a_peer_opened_ends_with_the_credential_that_was_refused() -> None:
    first, second = two()
    backend = first.backend("paygo@one")
    lengths = {"high": BreakLengths(default=10, floor=1, ceiling=600)}
    first.engine.breaks.open_for(
        FailedCall(("one", None), first.now, 600, "401", "a call", refuses_us=True), lengths
    )
    first.engine.breaks.open(
        ("one", None), Break(first.now, first.now + 600, "403", "another", only="client low", refuses_us=True)
    )
    first.run(2 * LAG)
    assert second.engine.breaks.on(backend, second.now, "high") is not None
    assert second.engine.breaks.for_some(backend, second.now)
    assert second.engine.breaks.credential_changed("one", second.now) == (("one", None),)
    assert second.engine.breaks.on(backend, second.now) is None
    assert not second.engine.breaks.for_some(backend, second.now)


def test_what_a_client_was_given_in_one_process_counts_for_its_share_in_the_other() -> None:
    first, second = two(low=("crowd", "few"))
    calls = [first.call("crowd", prompt=1_000, most=10) for _ in range(3)]
    calls.append(second.call("few", prompt=1_000, most=10))
    first.run(2 * LAG)
    assert all(each.sends for each in calls)
    for member in (first, second):
        shares = member.engine.scheduler.client_shares
        left = shares.left("low", "crowd", first.now)
        assert left is not None
        assert left.demand == pytest.approx(0.25)
        assert shares.left("low", "few", first.now) is None


def test_the_higher_class_is_served_first_wherever_it_waits() -> None:
    first, second = two(tokens_per_minute=20_000)
    begin = [first.call("low", prompt=10, most=6_500), second.call("low", prompt=10, most=6_500)]
    first.run(0.5)
    low = first.call("low", prompt=10, most=9_500, completion=1)
    first.run(1.0)
    high = second.call("high", prompt=10, most=9_500, completion=1)
    first.run()
    assert all(caller.ok for caller in (*begin, low, high))
    assert high.sends[0][0] <= low.sends[0][0]


def test_one_probe_is_sent_after_a_break_whichever_process_has_calls() -> None:
    first, second = two()
    backend = first.backend("paygo@one")
    lengths = {cls.name: cls.breaks for cls in first.config.priority_classes}
    first.engine.breaks.open_for(FailedCall(backend.key, first.now, 1.0, "429", "call before"), lengths)
    first.run(2 * LAG)
    assert second.engine.breaks.on(backend, second.now, "high") is not None
    first.run(2.0)
    one = first.call("high", prompt=10, most=10)
    first.run(2.0 + 2 * LAG)
    other = second.call("high", prompt=10, most=10)
    assert len(one.sends) == 1
    assert not other.sends, "the first one is the probe"
    first.run()
    assert one.ok
    assert other.ok


def lacking_and_hanging() -> tuple[Member, Member]:
    """Two processes whose backend refuses a call for want of room, and then answers nothing."""
    first, second = two(tokens_per_minute=600_000)
    backend = first.backend("paygo@one")
    lengths = {cls.name: cls.breaks for cls in first.config.priority_classes}
    first.engine.breaks.open_for(
        FailedCall(backend.key, first.now, 1.0, "429", "call before", lacks_room=True), lengths
    )
    first.become("one", "hanging")
    for n in range(60):
        (first, second)[n % 2].come(1.1 + n * 0.05, ("low", "high")[n // 2 % 2], prompt=10, most=10)
    return first, second


def test_a_backend_that_hangs_after_it_lacked_room_takes_as_many_calls_of_two_processes_as_of_one() -> None:
    first, _ = lacking_and_hanging()
    first.run(8)
    sent = first.azure.places["one"].sent_into
    assert MOST_UNHEARD <= len(sent) <= MOST_UNHEARD + 2, "but for those of the same milliseconds"


@pytest.mark.parametrize("told", [True, False])
def test_a_word_to_one_process_lets_the_calls_of_both_in(told: bool) -> None:
    first, second = lacking_and_hanging()
    first.run(8)
    assert first.waiting
    assert second.waiting
    backend = first.backend("paygo@one")
    first.become("one", "healthy")
    if told:
        first.engine.scheduler.liveness(backend, DEPLOYMENT).hear(first.now)
    first.run(10)
    sent = sum(bool(caller.sends) for each in (first, second) for caller in each.callers)
    assert sent == 60 if told else sent <= MOST_UNHEARD + 2
    first.run(30)
    assert all(caller.sends for each in (first, second) for caller in each.callers), "the next probe tells"


def test_a_backend_that_lacks_room_is_known_to_have_some_again_in_both() -> None:
    first, second = two()
    backend = first.backend("paygo@one")
    lengths = {cls.name: cls.breaks for cls in first.config.priority_classes}
    for lacks_room in (True, False):
        call = f"call {lacks_room}"
        first.engine.breaks.open_for(
            FailedCall(backend.key, first.now, 20.0, "429", call, lacks_room=lacks_room), lengths
        )
        first.run(first.now - first.begun + 2 * LAG)
        brk = second.engine.breaks.on(backend, second.now, "high")
        assert brk is not None
        assert (brk.call_id, brk.lacks_room) == (call, lacks_room)


def test_a_lost_peer_holds_no_call_back() -> None:
    first, second = two(tokens_per_minute=20_000)
    second.call("high", prompt=9_000, most=500)
    second.call("high", prompt=9_000, most=500)
    second.call("high", prompt=9_000, most=500)
    first.run(2 * LAG)
    assert len(first.shared_scheduler.elsewhere) == 3
    assert not first.engine.scheduler.is_free(_request(first))
    first.peers.forget("1", first.now)
    assert not first.shared_scheduler.elsewhere
    assert not any(queue.requests for queue in first.engine.scheduler._queues.values())
    assert not first.engine.scheduler._in_flight


def _request(member: Member):
    from aoai_gateway.routing.order import RoutingRequest

    cls = member.config.priority_classes[1]
    return RoutingRequest("mine", "low", cls, member.setup.table.pool(DEPLOYMENT), DEPLOYMENT, DEPLOYMENT)


def test_clients_patience_and_homes_are_known_to_both() -> None:
    first, second = two()
    for _ in range(3):
        first.engine.patience.hung_up("low", "low", True, 7.0)
    first.engine.affinity.remember("resp_1", "one", first.now)
    first.run(2 * LAG)
    assert second.engine.patience.of("low", "low", True) == 7.0
    assert second.engine.affinity.home("resp_1", second.now) == "one"


def test_records_of_another_configuration_are_passed_over() -> None:
    first, second = two()
    records = [
        ["call", 0.0, "x", "a", "no class", [], "d", "o", "", 1, 0.0, 1.0, "ordered", None, None, [], True],
        ["begun", 0.0, "x", ["one", "paygo"], 5],
        ["over", 0.0, "x"],
        ["of the future", 1, 2, 3],
        ["heard", ["gone", "gone"], "d", 1.0],
    ]
    second.peers.apply("peer", records, 0.0, first.now)
    assert not second.shared_scheduler.elsewhere


def test_a_record_that_cannot_be_applied_spoils_none_after_it() -> None:
    first, second = two()
    home = ["home", digest_of("resp_1").hex(), "one", 0.0]
    broken: list[Any] = [
        5,
        None,
        [],
        [[]],
        ["hung up"],
        ["begun", 0.0],
        ["home", "zz", "one", 0.0],
        ["break", 1],
    ]
    assert second.peers.apply("peer", [*broken, home], 0.0, first.now)
    assert second.engine.affinity.home("resp_1", second.now) == "one"


def test_calls_of_a_peer_are_forgotten_when_some_of_its_changes_were_lost() -> None:
    first, second = two(tokens_per_minute=20_000)
    for _ in range(3):
        second.call("high", prompt=9_000, most=500)
    first.run(2 * LAG)
    assert len(first.shared_scheduler.elsewhere) == 3
    second.shared_scheduler.tell_again()
    first.run(4 * LAG)
    waiting = [call for queue in second.engine.scheduler._queues.values() for call in queue.requests]
    assert waiting
    assert sorted(first.shared_scheduler.elsewhere) == sorted(waiting), "those that wait were told again"
    first.run()
    assert not first.shared_scheduler.elsewhere
    assert not second.shared_scheduler.elsewhere


def test_the_end_of_work_may_be_looked_at_in_another_process() -> None:
    first, second = two()
    settled: list[Settle] = []
    first.engine.shared.unfinished.settle = settled.append
    booking = Reservation("call 1", "high", (Quota(None, 1000),), 100)
    work = Unfinished("call 1", DEPLOYMENT, first.now, 10, True, booking, unseen=(90, None))
    first.engine.shared.unfinished.begin("high", "resp_1", work)
    first.run(2 * LAG)
    there = second.engine.shared.unfinished
    assert there.end("low", "resp_1") is None
    found = there.end("high", "resp_1")
    assert found is not None
    assert (found.call_id, found.deployment, found.prompt) == ("call 1", DEPLOYMENT, 10)
    there.charge("high", "resp_1", found, 55, None)
    first.run(4 * LAG)
    assert settled == [Settle(booking, 55)]
    assert len(first.engine.shared.unfinished) == 0


def test_two_looks_at_once_in_two_processes_settle_a_booking_once() -> None:
    first, second = two()
    settled: list[Settle] = []
    first.engine.shared.unfinished.settle = settled.append
    second.engine.shared.unfinished.settle = settled.append
    booking = Reservation("call 1", "high", (Quota(None, 1000),), 100)
    work = Unfinished("call 1", DEPLOYMENT, first.now, 10, True, booking, unseen=(90, None))
    first.engine.shared.unfinished.begin("high", "resp_1", work)
    first.run(2 * LAG)
    # Neither has heard of the other's look.
    for member in (second, first):
        there = member.engine.shared.unfinished
        found = there.end("high", "resp_1")
        assert found is not None
        there.charge("high", "resp_1", found, 55, None)
    first.run(4 * LAG)
    assert settled == [Settle(booking, 55)]


def test_work_whose_end_was_looked_at_where_it_began_is_forgotten_elsewhere() -> None:
    first, second = two()
    work = Unfinished("call 1", DEPLOYMENT, first.now, 10, False)
    first.engine.shared.unfinished.begin("high", "resp_1", work)
    first.run(2 * LAG)
    assert second.engine.shared.unfinished.goes_on("high", "resp_1")
    found = first.engine.shared.unfinished.end("high", "resp_1")
    assert found is not None
    first.engine.shared.unfinished.charge("high", "resp_1", found, 55, None)
    first.run(4 * LAG)
    assert not second.engine.shared.unfinished.goes_on("high", "resp_1")
