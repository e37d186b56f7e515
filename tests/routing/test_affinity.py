"""Affinity: a bounded memory that forgets."""

from __future__ import annotations

from aoai_gateway.routing.affinity import LIFETIME, Affinity


def test_it_remembers() -> None:
    affinity = Affinity()
    affinity.remember("resp_1", "a", 0)
    assert affinity.home("resp_1", 100) == "a"
    assert affinity.home("resp_2", 100) is None


def test_it_forgets_when_azure_does() -> None:
    affinity = Affinity()
    affinity.remember("resp_1", "a", 0)
    assert affinity.home("resp_1", LIFETIME - 1) == "a"
    assert affinity.home("resp_1", LIFETIME) is None
    assert affinity.home("resp_1", 0) is None, "for good"


def test_the_last_word_counts() -> None:
    affinity = Affinity(lifetime=10)
    affinity.remember("resp_1", "a", 0)
    affinity.remember("resp_1", "b", 5)
    assert affinity.home("resp_1", 14) == "b"


def test_the_least_recently_used_goes_first() -> None:
    affinity = Affinity(capacity=2)
    affinity.remember("one", "a", 0)
    affinity.remember("two", "b", 0)
    assert affinity.home("one", 1) == "a"
    affinity.remember("three", "c", 2)
    assert [affinity.home(key, 3) for key in ("one", "two", "three")] == ["a", None, "c"]


def test_it_never_grows_beyond_its_capacity() -> None:
    affinity = Affinity(capacity=10)
    for n in range(1_000):
        affinity.remember(str(n), "a", n)
    assert len(affinity._homes) == 10
