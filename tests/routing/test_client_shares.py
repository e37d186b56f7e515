"""What clients of a class were given in the last minute, and what one leaves to the others."""

from __future__ import annotations

import pytest

from aoai_gateway.routing import client_shares
from aoai_gateway.routing.client_shares import ClientShares


def asked(*clients: str, weight: float = 1.0, tokens: int = 100, at: float = 0.0) -> ClientShares:
    shares = ClientShares()
    for client in clients:
        shares.asked("batch", client, weight, tokens, at)
    return shares


def left(shares: ClientShares, client: str, now: float, cls: str = "batch") -> float:
    found = shares.left(cls, client, now)
    return 0.0 if found is None else found.demand


def test_a_client_alone_leaves_nothing() -> None:
    shares = asked("a")
    shares.given("batch", "a", 1.0, 1_000, 0.0)
    assert left(shares, "a", 1.0) == 0
    assert left(shares, "unknown", 1.0) == 0
    assert left(shares, "a", 1.0, cls="unknown") == 0


def test_one_that_had_more_than_its_part_leaves_what_the_others_ask_for() -> None:
    shares = asked("a", "a", "b", "c")
    shares.given("batch", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == pytest.approx(0.5)
    assert left(shares, "b", 1.0) == 0
    for client in ("b", "c"):
        shares.given("batch", client, 1.0, 100, 1.0)
    assert left(shares, "a", 1.0) == 0, "now all have had as much"


def test_weights_count() -> None:
    shares = asked("a", weight=3.0)
    shares.asked("batch", "b", 1.0, 100, 0.0)
    shares.given("batch", "a", 3.0, 300, 0.0)
    shares.given("batch", "b", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == 0
    shares.given("batch", "b", 1.0, 1, 0.0)
    assert left(shares, "b", 1.0) > 0


def test_tokens_that_a_call_left_unused_do_not_count() -> None:
    shares = asked("a", "b")
    shares.given("batch", "b", 1.0, 100, 0.0)
    shares.given("batch", "a", 1.0, 500, 0.0)
    shares.give_back("batch", "a", 400, 0.0)
    assert left(shares, "a", 1.0) == 0


def test_classes_do_not_mix() -> None:
    shares = asked("a", "b")
    shares.asked("critical", "a", 1.0, 100, 0.0)
    shares.given("critical", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 1.0) == 0


def test_after_a_minute_all_is_forgotten() -> None:
    shares = asked("a", "b")
    shares.given("batch", "a", 1.0, 100, 0.0)
    assert left(shares, "a", 59.0) > 0
    assert left(shares, "a", 61.0) == 0
    shares.asked("batch", "a", 1.0, 100, 62.0)
    shares.given("batch", "a", 1.0, 100, 62.0)
    assert left(shares, "a", 62.0) == 0, "the other asks no more"


def test_a_client_whose_calls_have_waited_for_longer_still_leaves_room() -> None:
    shares = asked("crowd")
    shares.asked("batch", "few", 1.0, 100, 50.0)
    shares.given("batch", "crowd", 1.0, 500, 61.0)
    shares.given("batch", "few", 1.0, 100, 61.0)
    assert left(shares, "crowd", 62.0) == 1
    assert left(shares, "few", 62.0) == 0


def test_a_client_that_is_gone_has_no_part_beside_those_served_later() -> None:
    shares = asked("a", "b")
    shares.asked("batch", "c", 1.0, 100, 30.0)
    for client, tokens, at in (("b", 50, 40.0), ("c", 30, 40.0), ("c", 15, 59.0)):
        shares.given("batch", client, 1.0, tokens, at)
    assert left(shares, "c", 59.0) > 0, "more than a third, of three clients"
    assert left(shares, "c", 61.0) == 0, "less than half, of two"


def test_a_flood_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_shares, "MOST_CLIENTS", 3)
    shares = asked("a", "b", "c", "d")
    shares.given("batch", "d", 1.0, 90, 0.0)
    assert left(shares, "a", 1.0) == 0, "it was forgotten"
    assert left(shares, "d", 1.0) == pytest.approx(0.75)


def test_the_excess_says_how_many_times_its_part_a_client_had() -> None:
    shares = asked("a", "b", "c", "d")
    shares.given("batch", "a", 1.0, 300, 0.0)
    shares.given("batch", "b", 1.0, 100, 0.0)
    assert shares.excess("batch", "a", 1.0) == pytest.approx(3.0)
    assert shares.excess("batch", "b", 1.0) == shares.excess("batch", "c", 1.0) == 0
    shares.given("batch", "c", 3.0, 400, 0.0)
    assert shares.excess("batch", "c", 1.0) == 0, "a client of weight 3 has half of all, of 6 in all"


def sized(*sizes: int, client: str = "a", shares: ClientShares | None = None) -> ClientShares:
    shares = shares or ClientShares()
    for size in sizes:
        shares.asked("batch", client, 1.0, size, 0.0)
    return shares


def test_a_call_above_the_median_of_its_clients_recent_ones_is_large() -> None:
    shares = sized(100, 200, 300, 400, 500)
    assert [shares.is_large("batch", "a", size) for size in (100, 300, 301, 500)] == [
        False,
        False,
        True,
        True,
    ]
    assert not shares.is_large("batch", "b", 10_000), "of other clients nothing is known"
    assert not shares.is_large("critical", "a", 10_000)


def test_none_is_large_among_few_or_equal_ones() -> None:
    assert not sized(100, 200, 300, 400).is_large("batch", "a", 400)
    assert not sized(*[100] * 50).is_large("batch", "a", 100)


def test_what_counts_is_what_a_client_sent_last() -> None:
    shares = sized(*[100] * client_shares.RECENT, *[1_000] * client_shares.RECENT)
    assert not shares.is_large("batch", "a", 1_000)


def test_large_calls_leave_a_part_of_what_the_smaller_ones_of_their_client_ask_for() -> None:
    shares = sized(100, 100, 100, 300, 400)
    assert shares.smaller("batch", "a", 1.0) == pytest.approx(client_shares.SMALLER * 300 / 1_000)
    sized(*[1_000] * 3, client="b", shares=shares)
    assert shares.smaller("batch", "a", 1.0) == pytest.approx(client_shares.SMALLER * 300 / 4_000)
    assert shares.smaller("batch", "unknown", 1.0) == shares.smaller("unknown", "a", 1.0) == 0
    assert shares.smaller("batch", "a", 100.0) == 0, "when none of them has come for a minute"
