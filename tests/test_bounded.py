"""A memory of names that cannot be made to grow."""

from __future__ import annotations

import sys

from aoai_gateway.bounded import LONGEST_NAME, Bounded, Recent


def test_the_least_recently_used_goes_first() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("one", 1)
    recent.put("two", 2)
    assert recent.get("one") == 1
    recent.put("three", 3)
    assert [recent.get(name) for name in ("one", "two", "three")] == [1, None, 3]
    assert len(recent) == 2


def test_the_last_value_counts() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("one", 1)
    recent.put("one", 2)
    assert recent.get("one") == 2


def test_a_long_name_takes_no_more_room_than_a_short_one() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("x" * LONGEST_NAME, 1)
    recent.put("y", 2)
    assert len({sys.getsizeof(key) for key in recent._values}) == 1
    assert recent.get("x" * LONGEST_NAME) == 1


def test_what_is_no_name_is_not_remembered() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("x" * (LONGEST_NAME + 1), 1)
    assert recent.get("x" * (LONGEST_NAME + 1)) is None
    assert len(recent) == 0


def test_half_a_surrogate_pair_is_a_name_too() -> None:
    recent: Recent[int] = Recent(2)
    recent.put("\ud800", 1)
    assert recent.get("\ud800") == 1


def test_a_table_of_our_own_keys_forgets_the_least_recently_used() -> None:
    table: Bounded[tuple[str, int], str] = Bounded(2)
    table.put(("a", 1), "first")
    table.put(("b", 1), "second")
    assert table.get(("a", 1)) == "first"
    table.put(("c", 1), "third")
    assert list(table) == [("a", 1), ("c", 1)]
    table.forget(("a", 1))
    assert (len(table), table.get(("a", 1))) == (1, None)


def test_what_is_only_looked_at_does_not_count_as_used() -> None:
    table: Bounded[str, int] = Bounded(2)
    table.put("a", 1)
    table.put("b", 2)
    assert (table.peek("a"), table.peek("c")) == (1, None)
    table.put("c", 3)
    assert list(table) == ["b", "c"]
