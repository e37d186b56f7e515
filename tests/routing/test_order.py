"""The order of a pool, and why a backend is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.backends import Backend, BackendKey, RoutingTable
from aoai_gateway.routing.breaks import Break, Breaks
from aoai_gateway.routing.order import Order, draw_takers, order
from tests.engine_driver import DEPLOYMENT, config

TABLE = RoutingTable(config("ptu@a", "paygo@a", "b", "c"))
POOL = TABLE.pool(DEPLOYMENT) or ()


def ordered(**but: object) -> Order:
    given = {
        "now": 1.0,
        "breaks": Breaks(),
        "takes": None,
        "tried": (),
        "home": None,
        "too_small": lambda _: False,
        **but,
    }
    return order(POOL, **given)  # type: ignore[arg-type]


def names(found: Order) -> list[str]:
    return [backend.name for backend in found.candidates]


def test_as_written() -> None:
    assert names(ordered()) == ["ptu@a", "paygo@a", "b@b", "c@c"]
    assert ordered().skipped == ()


def test_without_those_in_a_break() -> None:
    breaks = Breaks()
    breaks.open(("a", None), Break(0, 4, "401", "1"))
    found = ordered(breaks=breaks)
    assert names(found) == ["b@b", "c@c"]
    assert [(s.backend.name, s.reason, s.seconds) for s in found.skipped] == [
        ("ptu@a", "401", 3),
        ("paygo@a", "401", 3),
    ]


def test_without_those_that_failed_it() -> None:
    found = ordered(tried={POOL[0].key})
    assert names(found) == ["paygo@a", "b@b", "c@c"]
    assert [skip.seconds for skip in found.skipped] == [0]


def test_only_at_home() -> None:
    found = ordered(home="b")
    assert names(found) == ["b@b"]
    assert {skip.seconds for skip in found.skipped} == {None}


def test_only_those_that_take_it() -> None:
    assert names(ordered(takes={POOL[3].key})) == ["c@c"]


def test_only_those_that_are_large_enough() -> None:
    assert names(ordered(too_small=lambda b: b.name != "b@b")) == ["b@b"]


def test_what_never_ends_is_told_before_what_does() -> None:
    breaks = Breaks()
    breaks.open(("b", "b"), Break(0, 4, "429", "1"))
    found = ordered(breaks=breaks, too_small=lambda b: b.name == "b@b")
    assert found.skipped[0].seconds is None


@given(st.data())
def test_every_backend_is_either_a_candidate_or_skipped(data: st.DataObject) -> None:
    some = st.sets(st.sampled_from([b.key for b in POOL]))
    small = data.draw(some)
    breaks = Breaks()
    for key in data.draw(some):
        breaks.open(tuple(key), Break(0, 5, "429", "1"))
    found = ordered(
        breaks=breaks,
        tried=data.draw(some),
        takes=data.draw(st.one_of(st.none(), some)),
        home=data.draw(st.sampled_from([None, "a", "b"])),
        too_small=lambda b: b.key in small,
    )
    kept, left = list(found.candidates), [skip.backend for skip in found.skipped]
    assert sorted(b.name for b in kept + left) == sorted(b.name for b in POOL)
    assert kept == [b for b in POOL if b in kept], "in the order written"


# --- non_streaming_fraction --------------------------------------------------------------------------


def fractions(*numbers: float) -> tuple[Backend, ...]:
    written = [(f"s{n}@e{n}", {"non_streaming_fraction": f}) for n, f in enumerate(numbers)]
    return RoutingTable(config(*written)).backends


def never() -> float:
    raise AssertionError("nothing is to be drawn")


def test_nothing_is_drawn_where_nothing_can_come_of_it() -> None:
    assert draw_takers(fractions(1, 1), streaming=False, draw=never) is None
    assert draw_takers(fractions(0.5, 1), streaming=True, draw=never) is None


@pytest.mark.parametrize(
    ("draws", "takers"), [((0.1, 0.1), {0, 1, 2}), ((0.9, 0.1), {1, 2}), ((0.9, 0.9), {2})]
)
def test_every_backend_draws_for_itself(draws: tuple[float, ...], takers: set[int]) -> None:
    numbers = iter(draws)
    drawn = draw_takers(fractions(0.5, 0.5, 1), streaming=False, draw=lambda: next(numbers))
    assert drawn == {BackendKey(f"e{n}", f"s{n}") for n in takers}


def test_a_fraction_of_zero_takes_none_even_at_the_lowest_draw() -> None:
    assert draw_takers(fractions(0, 1), streaming=False, draw=lambda: 0.0) == {BackendKey("e1", "s1")}


def test_the_last_in_line_takes_what_reaches_it() -> None:
    """Those after it may have been switched off by hand."""

    assert draw_takers(fractions(1, 0.5), streaming=False, draw=never) is None
    drawn = draw_takers(fractions(0.2, 0), streaming=False, draw=lambda: 0.9)
    assert drawn == {BackendKey("e1", "s1")}
