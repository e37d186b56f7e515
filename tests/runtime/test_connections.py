"""How many connections there are, and what those beyond get."""

from __future__ import annotations

from aoai_gateway.config.models import Limits
from aoai_gateway.runtime.connections import RESERVE, Connections, Place, most_connections

LIMITS = Limits(connections=10, connections_per_address=6)


def filled() -> Connections:
    """Ten connections of two addresses, which is all that there may be."""
    connections = Connections()
    for number in range(12):
        connections.opened(f"{number}", "a" if number % 2 else "b", LIMITS, 0.0)
    return connections


def test_one_address_gets_its_part():
    connections = Connections()
    places = [connections.opened(f"{n}", "a", LIMITS, 0.0) for n in range(20)]
    assert places.count(Place.ORDINARY) == 6
    assert places.count(Place.RESERVE) == RESERVE // 2
    assert places[-1] is Place.FULL
    assert connections.opened("other", "b", LIMITS, 0.0) is Place.ORDINARY


def test_when_all_are_used_up_a_reserve_remains_for_other_addresses():
    connections = filled()
    assert connections.opened("late", "c", LIMITS, 0.0) is Place.RESERVE
    assert "late" in connections.reserve
    assert "0" not in connections.reserve
    taken = [connections.opened(f"{n} of {a}", a, LIMITS, 0.0) for a in "abcdef" for n in range(20)]
    assert Place.FULL in taken
    assert Place.ORDINARY not in taken
    assert len(connections) <= 10 + RESERVE


def test_what_is_closed_is_free_again():
    connections = filled()
    connections.closed("0")
    connections.closed("0")
    connections.closed("never seen")
    assert connections.opened("late", "c", LIMITS, 0.0) is Place.ORDINARY
    assert connections.opened("later", "c", LIMITS, 0.0) is Place.RESERVE
    for each in [*map(str, range(12)), "late", "later"]:
        connections.closed(each)
    assert len(connections) == 0


def test_connections_in_which_nothing_begins_are_found_once():
    connections = Connections()
    for second in range(5):
        connections.opened(f"{second}", "a", LIMITS, second)
    connections.speaks("1")
    connections.closed("2")
    assert connections.silent_for(30, 29.0) == set()
    assert connections.silent_for(30, 33.5) == {"0", "3"}
    assert connections.silent_for(30, 33.5) == set()
    assert connections.silent_for(30, 34.0) == {"4"}


def test_descriptors_bound_what_is_not_bound_by_hand():
    assert most_connections(1024) == (1024 - 96 - RESERVE) // 2
    assert most_connections(10) == RESERVE
    assert most_connections(1_000_000) == 10_000
    few = Connections(descriptors=200)
    places = [few.opened(f"{n}", f"{n}", Limits(), 0.0) for n in range(60)]
    assert places.count(Place.ORDINARY) == most_connections(200)


def test_files_of_uploads_leave_less_for_connections_and_the_other_way_round():
    few = Connections(descriptors=96 + RESERVE + 20)
    limits = Limits(connections_per_address=20)
    opened = [few.opened(f"{n}", "a", limits, 0.0) for n in range(8)]
    assert opened == [Place.ORDINARY] * 8
    for _ in range(4):
        assert few.has_room_for_file
        few.files += 1
    assert not few.has_room_for_file

    few = Connections(descriptors=96 + RESERVE + 100)
    few.files = 40
    places = [few.opened(f"{n}", f"{n}", limits, 0.0) for n in range(50)]
    assert places.count(Place.ORDINARY) == 30
    assert not few.has_room_for_file
    few.files -= 2
    assert few.opened("late", "late", limits, 0.0) is Place.ORDINARY
