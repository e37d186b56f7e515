"""Breaks: opened, outlasted, withdrawn, ended; and how long they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.routing.backends import Backend, RoutingTable
from aoai_gateway.routing.breaker import Break, BreakLengths, Breaks, FailedCall
from tests.engine_driver import config

PTU, PAYGO, OTHER = RoutingTable(config("ptu@a", "paygo@a", "other@b")).backends


def opened(scope: tuple[str, str | None], until: float, *, since: float = 0, call: str = "1") -> Breaks:
    breaks = Breaks()
    breaks.open(scope, Break(since, until, "429", call))
    return breaks


def test_a_break_ends_by_itself() -> None:
    breaks = opened(("a", "ptu"), 5)
    assert breaks.on(PTU, 4.999) is not None
    assert breaks.on(PTU, 5) is None
    assert list(breaks.all()) == [], "and leaves nothing behind"


def test_its_remaining_time_is_never_negative() -> None:
    brk = Break(0, 5, "429", "1")
    assert (brk.remaining(2), brk.remaining(7)) == (3, 0)


def test_a_standins_break_is_its_own() -> None:
    breaks = opened(("a", "ptu"), 5)
    assert [breaks.on(b, 1) is not None for b in (PTU, PAYGO, OTHER)] == [True, False, False]


def test_an_endpoints_break_is_for_all_of_it() -> None:
    breaks = opened(("a", None), 5)
    assert [breaks.on(b, 1) is not None for b in (PTU, PAYGO, OTHER)] == [True, True, False]


@pytest.mark.parametrize(("standin", "endpoint", "longest"), [(5, 9, 9), (9, 5, 9)])
def test_of_both_the_one_that_ends_last_counts(standin: float, endpoint: float, longest: float) -> None:
    breaks = opened(("a", "ptu"), standin)
    breaks.open(("a", None), Break(0, endpoint, "401", "2"))
    found = breaks.on(PTU, 1)
    assert found is not None
    assert found.until == longest


def test_a_shorter_break_never_shortens_a_longer_one() -> None:
    breaks = opened(("a", "ptu"), 50)
    breaks.open(("a", "ptu"), Break(1, 2, "429", "2"))
    breaks.open(("a", "ptu"), Break(1, 2, "429", "1"))
    found = breaks.on(PTU, 3)
    assert found is not None
    assert found.until == 50


def test_withdrawing_takes_back_only_ones_own() -> None:
    breaks = opened(("a", "ptu"), 5, call="1")
    breaks.open(("a", "ptu"), Break(0, 3, "429", "2"))
    breaks.withdraw(("a", "ptu"), "1")
    found = breaks.on(PTU, 1)
    assert found is not None
    assert found.call_id == "2"
    breaks.withdraw(("a", "ptu"), "2")
    assert breaks.on(PTU, 1) is None
    breaks.withdraw(("a", "ptu"), "2")
    breaks.withdraw(("nobody", None), "2")


def test_closing_ends_all_of_them() -> None:
    breaks = opened(("a", "ptu"), 5)
    breaks.open(("a", "ptu"), Break(0, 9, "429", "2"))
    breaks.close(("a", "ptu"))
    breaks.close(("a", "ptu"))
    assert breaks.on(PTU, 1) is None


def test_a_backend_that_fails_for_ever_keeps_nothing_of_the_past() -> None:
    breaks = Breaks()
    for n in range(1_000):
        breaks.open(("a", "ptu"), Break(n, n + 1.5, "500", str(n)))
    assert len(breaks.by_scope[("a", "ptu")]) <= 2


@given(st.floats(0.01, 1), st.floats(1, 10), st.floats(10, 100), st.one_of(st.none(), st.floats(0, 1e9)))
def test_a_break_is_as_long_as_the_hint_within_bounds(
    floor: float, default: float, ceiling: float, hint: float | None
) -> None:
    length = BreakLengths(default, floor, ceiling).length(hint)
    assert floor <= length <= ceiling
    if hint is None:
        assert length == default
    elif floor <= hint <= ceiling:
        assert length == hint


def test_a_default_beyond_the_ceiling_is_clamped_too() -> None:
    assert BreakLengths(default=100, floor=1, ceiling=60).length(None) == 60


def test_an_open_endpoint_has_breaks_like_any_backend() -> None:
    from aoai_gateway.config.models import Aoai, Config, Endpoint

    endpoint = Endpoint(name="a", url="https://a.example", key="key-of-a")
    (backend,) = RoutingTable(Config(aoai=Aoai(endpoints=(endpoint,)))).backends
    assert isinstance(backend, Backend)
    assert opened(("a", ""), 5).on(backend, 1) is not None
    assert opened(("a", None), 5).on(backend, 1) is not None
    assert opened(("a", "gpt"), 5).on(backend, 1) is None


def test_what_is_in_a_break_or_half_open_is_listed_once() -> None:
    breaks = opened(("a", None), 5)
    breaks.open_for(FailedCall(("a", "gpt"), 0.0, 3, "429", "call"), {"all": BreakLengths(10, 1, 60)})
    assert list(breaks.scopes()) == [("a", None), ("a", "gpt")]
    found = breaks.at(("a", "gpt"), 1.0)
    assert found is not None
    assert found.until == 3
    assert breaks.at(("a", "gpt"), 3.5) is None
    assert set(breaks.scopes()) == {("a", None), ("a", "gpt")}, "its half_open goes on"
    for scope in list(breaks.scopes()):
        breaks.close(scope)
    assert list(breaks.scopes()) == []


def test_a_class_that_a_reload_renames_keeps_its_breaks() -> None:
    breaks = Breaks()
    lengths = {"gold": BreakLengths(10, 1, 60), "lead": BreakLengths(20, 1, 60)}
    breaks.open_for(FailedCall(("a", "ptu"), 0, None, "503", "1"), lengths)
    for name, until in (("gold", 10), ("lead", 20), ("platinum", 20)):
        found = breaks.on(PTU, 1, name)
        assert found is not None
        assert found.until == until


def test_a_break_that_is_ended_early_leaves_one_probe() -> None:
    breaks = Breaks()
    breaks.open_for(FailedCall(("a", "ptu"), 0, 30, "429", "1"), {"gold": BreakLengths(10, 1, 60)})
    breaks.half_open(("a", "ptu"))
    assert breaks.on(PTU, 1, "gold") is None
    assert breaks.may_probe(PTU, "gold", "2", 1)
    assert not breaks.may_probe(PTU, "gold", "3", 1)
