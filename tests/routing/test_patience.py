"""How long clients wait, from their hang-ups."""

from __future__ import annotations

from aoai_gateway.routing import patience
from aoai_gateway.routing.patience import SAMPLES, SAMPLES_NEEDED, Patience


def test_one_hang_up_says_nothing() -> None:
    here = Patience()
    for _ in range(SAMPLES_NEEDED - 1):
        here.hung_up("team", "batch", False, 30)
    assert here.of("team", "batch", False) is None


def test_most_of_a_clients_hang_ups_come_by_its_patience() -> None:
    here = Patience()
    for waited in (30.0, 30.1, 29.9, 30.0, 2.0):
        here.hung_up("team", "batch", False, waited)
    assert here.of("team", "batch", False) == 30.0


def test_streams_are_apart() -> None:
    here = Patience()
    for _ in range(5):
        here.hung_up("team", "batch", True, 8)
    assert here.of("team", "batch", True) == 8
    assert here.of("team", "batch", False) is None


def test_of_an_unknown_client_its_class_tells() -> None:
    here = Patience()
    for client in ("a", "b", "c"):
        here.hung_up(client, "batch", False, 30)
    assert here.of("new", "batch", False) == 30
    assert here.of("new", "critical", False) is None


def test_a_client_that_changes_its_time_out_is_learned_anew() -> None:
    here = Patience()
    for waited in [10.0] * SAMPLES + [60.0] * SAMPLES:
        here.hung_up("team", "batch", False, waited)
    assert here.of("team", "batch", False) == 60


def test_the_table_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(patience, "MOST_CLIENTS", 10)
    here = Patience()
    for number in range(100):
        here.hung_up(f"client {number}", "batch", False, 30)
    assert len(here._waits) <= 10
    assert here.of("client 0", "batch", False) == 30, "by its class"
