"""The queue under load: who is served when, who gives up, and what those are told."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from aoai_gateway.engine.call import Outcome
from aoai_simulator.limits import PaygLimits, PtuLimits
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Caller, Traffic, traffic

CRITICAL = {"name": "critical", "wait": {"seconds": 60}}
STANDARD = {"name": "standard", "wait": {"seconds": 60}}
BATCH = {"name": "batch", "wait": {"seconds": 60}}

SECOND = 1_000
"""Tokens that the one backend drains in a second."""


def full(classes: Any = (CRITICAL, STANDARD, BATCH), **parts: Any) -> Traffic:
    """A provisioned backend whose bucket is full, and drains one call of `one` in a second."""
    limit = 60 * SECOND
    clients = parts.pop("clients", [{"name": each["name"], "priority": each["name"]} for each in classes])
    here = traffic(
        ("ptu", {"tokens_per_minute": limit, "provisioned": True}),
        azure={"ptu@ptu": Deployment(PtuLimits(limit), first_token=0.1, speed=1e6)},
        classes=classes,
        # Of the lowest class: no room is kept free for what it has asked for.
        clients=[*clients, {"name": "filler", "priority": classes[-1]["name"]}],
        **parts,
    )
    filling = here.call("filler", prompt=1, most=limit - 50)
    here.run(0.05)
    assert filling.sends
    return here


def one(here: Traffic, at: float, client: str, **but: Any) -> None:
    """A call that takes what drains in a second."""
    here.come(at, client, **{"prompt": SECOND - 10, "most": 10, **but})


def order(callers: list[Caller]) -> list[str]:
    """The clients, in the order in which their calls were sent."""
    return [c.call.client.name for c in sorted((c for c in callers if c.sends), key=lambda c: c.sends[0][0])]


def test_higher_classes_go_first_in_any_order_of_arrival() -> None:
    here = full()
    for at, client in enumerate(["batch", "standard", "batch", "critical", "standard", "critical"]):
        one(here, 0.1 + at / 10, client)
    here.run()
    assert order(here.callers[1:]) == ["critical"] * 2 + ["standard"] * 2 + ["batch"] * 2
    times = [c.sent_at for c in sorted(here.callers[1:], key=lambda c: c.sends[0][0])]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert gaps[0] == pytest.approx(1.0, abs=0.1), "one a second, as the bucket drains"
    assert times[-1] < 12, "after a pause for what may yet come of higher classes"
    assert here.azure.refusals == 0
    here.check_nothing_is_left()


def test_the_queue_is_not_looked_at_in_vain() -> None:
    here = full()
    for _ in range(20):
        one(here, 0.1, "standard")
    looks = 0
    serve = here.engine.scheduler.serve_waiting

    def counted(now: float) -> Any:
        nonlocal looks
        looks += 1
        return serve(now)

    here.engine.scheduler.serve_waiting = counted  # type: ignore[method-assign]
    here.run()
    assert len(here.of("standard")) == 20
    assert 20 < looks < 200, "for each: when it comes, is sent, answered, ended, and when room is due"


def test_a_modest_client_does_not_wait_behind_greedy_ones() -> None:
    clients = [{"name": name, "priority": "standard"} for name in ("first", "second", "modest")]
    here = full([STANDARD], clients=clients)
    for n in range(40):
        one(here, 0.1 + n / 1000, "first")
        one(here, 0.2 + n / 1000, "second")
    for at in range(2, 42, 5):
        one(here, at, "modest")
    here.run(45)
    modest = here.of("modest")
    assert max(c.stood[0][1] - c.stood[0][0] for c in modest) < 4, (
        "one each of three clients, and what has just begun"
    )
    served = {name: sum(bool(c.sends) for c in here.of(name)) for name in ("first", "second")}
    assert abs(served["first"] - served["second"]) <= 1
    assert sum(served.values()) >= 30
    here.run()
    here.check_nothing_is_left()


def test_a_window_that_is_renewed_is_not_one_clients_for_the_next_minute() -> None:
    limit = 60 * SECOND
    here = traffic(
        ("payg", {"tokens_per_minute": limit}),
        azure={"payg@payg": Deployment(PaygLimits(limit), first_token=0.1, speed=1e6)},
        classes=[{"name": "batch", "wait": {"seconds": 200}}],
        clients=[{"name": name, "priority": "batch"} for name in ("crowd", "few")],
    )
    for n in range(200):
        one(here, 0.1 + n / 1000, "crowd", completion=10)
    for at in range(5, 116, 5):
        one(here, at, "few", completion=10)
    here.run(119)
    waiting, coming = here.of("few")[:11], here.of("few")[12:]
    assert all(60 < c.sent_at < 62 for c in waiting), (
        "the crowd, which was alone, has filled the first window"
    )
    assert all(c.sent_at - (c.call.started - here.begun) < 1.5 for c in coming), (
        "in the next, each finds room"
    )
    crowd = [c.sent_at for c in here.of("crowd") if c.sends]
    assert sum(at > 60 for at in crowd) >= 30, "and the crowd has the rest"
    here.run()
    here.check_nothing_is_left()


def test_a_client_with_twice_the_weight_gets_twice_as_much() -> None:
    clients = [
        {"name": "light", "priority": "standard"},
        {"name": "heavy", "priority": "standard", "weight": 2},
    ]
    here = full([STANDARD], clients=clients)
    for n in range(40):
        one(here, 0.1 + n / 1000, "heavy")
        one(here, 0.1 + n / 1000, "light")
    here.run(32)
    assert [order(here.callers[1:])[:30].count(name) for name in ("heavy", "light")] == [20, 10]


@pytest.mark.parametrize(("share", "least", "most"), [(0.1, 4, 7), (0, 0, 0)])
def test_a_low_class_starves_only_without_a_minimum_share(share: float, least: int, most: int) -> None:
    here = full([CRITICAL, {**BATCH, "minimum_share": share}])
    for n in range(75):
        one(here, 0.1 + n * 0.8, "critical")
    for _ in range(20):
        one(here, 0.5, "batch")
    here.run(58)
    assert least <= sum(bool(c.sends) for c in here.of("batch")) <= most
    here.run()
    here.check_nothing_is_left()


def test_a_minimum_share_counts_even_where_room_is_kept_free() -> None:
    here = full([CRITICAL, {**BATCH, "leave_free": 0.3, "minimum_share": 0.1}])
    for n in range(75):
        one(here, 0.1 + n * 0.8, "critical")
    for _ in range(20):
        one(here, 0.5, "batch")
    here.run(58)
    assert 4 <= sum(bool(c.sends) for c in here.of("batch")) <= 7


def test_who_hangs_up_leaves_at_once_and_the_next_has_its_place() -> None:
    here = full()
    one(here, 0.1, "standard", patience=1.0)
    one(here, 0.2, "standard")
    here.run(1.0)
    assert [c.call.id for c in here.waiting] == ["call 1", "call 2"]
    here.run(1.2)
    assert [c.call.id for c in here.waiting] == ["call 2"]
    gone, served = here.of("standard")
    assert (gone.call.outcome, gone.call.ended) == (Outcome.CLIENT_GONE, here.begun + 1.1)
    here.run()
    assert served.sent_at == pytest.approx(1.8, abs=0.1), "when the first one would have been"
    assert not gone.sends
    here.check_nothing_is_left()


def test_who_hangs_up_just_as_it_is_released_gives_the_place_to_the_next() -> None:
    here = full()
    one(here, 0.1, "standard")
    one(here, 0.2, "standard")
    here.run(1.0)
    first, second = here.of("standard")
    at = here.engine.scheduler.look_again
    here.at(at, first.hang_up)
    here.run()
    assert first.released == [at]
    assert first.call.outcome is Outcome.CLIENT_GONE
    assert not first.sends
    assert second.sends[0][0] == pytest.approx(at, abs=0.01), "nothing was sent, so nothing is used up"
    here.check_nothing_is_left()


def test_a_full_line_says_so_at_once() -> None:
    here = full([{"name": "standard", "wait": {"seconds": 60, "length": 2}}])
    for _ in range(3):
        one(here, 0.1, "standard")
    here.run(0.2)
    last = here.callers[-1]
    assert (last.call.status, last.code) == (429, "waiting_line_full")
    assert last.call.ended == here.begun + 0.1
    assert 1 <= float(last.headers["retry-after-ms"]) <= 5_000
    assert len(here.waiting) == 2
    here.run()
    here.check_nothing_is_left()


def test_one_class_does_not_fill_anothers_line() -> None:
    here = full(
        [{**CRITICAL, "wait": {"seconds": 60, "length": 1}}, {**BATCH, "wait": {"seconds": 60, "length": 2}}]
    )
    for client in ("batch", "batch", "batch", "critical"):
        one(here, 0.1, client)
    here.run(0.2)
    assert [c.call.client.name for c in here.waiting] == ["batch", "batch", "critical"]


def test_whose_time_is_over_hears_how_long_it_waited_and_when_there_is_room() -> None:
    here = full([{"name": "standard", "wait": {"seconds": 3}}])
    for _ in range(10):
        one(here, 0.5, "standard")
    here.run()
    late = [c for c in here.of("standard") if not c.ok]
    assert len(late) == 8, "two were served in the three seconds"
    for caller in late:
        assert caller.code == "waiting_line_timeout"
        assert caller.call.queue_wait == pytest.approx(3.0, abs=0.01)
        assert "waited" in caller.trace.error.message
        assert "3" in caller.trace.error.message
        assert caller.call.ended == pytest.approx(here.begun + 3.5, abs=0.01)
        assert 2_000 < float(caller.headers["retry-after-ms"]) <= 3_000, "calls wait that long at present"
    here.check_nothing_is_left()


def test_no_call_waits_for_longer_than_its_client_does() -> None:
    here = full()
    for _ in range(30):
        one(here, 0.1, "standard", timeout=8.0)
    here.run()
    late = [c for c in here.of("standard") if not c.ok]
    assert late
    assert all(c.code == "waiting_line_timeout" for c in late)
    assert max(c.call.ended or 0 for c in late) < here.begun + 0.1 + 8.0
    assert min(c.call.queue_wait for c in late) >= 4.0, "at least half of it may be waited for"


def test_a_class_that_does_not_wait_is_refused_at_once() -> None:
    here = full([CRITICAL, {"name": "impatient"}])
    one(here, 0.5, "impatient")
    here.run()
    refused = here.callers[-1]
    assert (refused.call.status, refused.code) == (429, "all_backends_out")
    assert refused.call.ended == refused.call.started
    assert 1_000 <= float(refused.headers["retry-after-ms"]) <= 1_500, "until the bucket has drained"


def test_a_class_that_does_not_wait_never_goes_past_one_that_does() -> None:
    here = full(
        [{"name": "impatient"}, STANDARD],
        clients=[{"name": n, "priority": n} for n in ("standard", "impatient")],
    )
    one(here, 0.1, "standard")
    here.run(1.0)
    assert here.waiting
    here.call("impatient", prompt=SECOND - 10, most=10)
    assert here.callers[-1].call.status == 429
    here.run()
    assert here.callers[1].ok


def test_a_clock_that_jumps_breaks_nothing() -> None:
    here = full([{"name": "standard", "wait": {"seconds": 30}}, {**BATCH, "breaks": {"multiplier": 2}}])
    for n in range(20):
        one(here, 0.1 + n / 10, "standard", stream=n % 2 == 0)
        one(here, 0.1 + n / 10, "batch")
    here.on(4.0, lambda: here.jump(86_400))
    here.run()
    assert all(c.done for c in here.callers)
    here.check_nothing_is_left()
    here.begun = here.now
    one(here, 1.0, "batch")
    here.run()
    assert here.callers[-1].ok
    assert here.callers[-1].sent_at == pytest.approx(1.0)


def test_a_call_waits_for_as_long_as_leaves_time_for_an_answer_like_those_before() -> None:
    limit = 6_000
    here = traffic(
        ("paygo", {"tokens_per_minute": limit}),
        azure={"paygo@paygo": Deployment(PaygLimits(limit), first_token=0.0, speed=100.0)},
        classes=[BATCH],
    )
    for n in range(5):
        here.come(n, "batch", prompt=10, most=800, completion=400)
    here.come(6, "batch", prompt=10, most=1600, completion=800)
    here.come(73, "batch", prompt=limit - 60, most=20, completion=10)
    here.come(110, "batch", prompt=10, most=800, completion=400, timeout=30, patience=30)
    here.run()
    last = here.of("batch")[-1]
    assert last.sends[-1][0] - here.begun == pytest.approx(134, abs=1), "there is room 23 s after it came"
    assert last.ok, "it takes 4 s; as long as max_tokens allows, it would take 8 s, and not come in time"
    here.check_nothing_is_left()
