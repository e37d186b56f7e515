"""Moments without calls are waited for, for a while."""

from __future__ import annotations

from aoai_gateway.app.quiet_moment import MOST_SECONDS, QuietMoments


class World:
    """A clock that sleeping moves, and the times from which on nothing is under way."""

    def __init__(self, quiet_from: float) -> None:
        self.now, self._quiet_from = 100.0, 100.0 + quiet_from
        self.moments = QuietMoments(lambda: self.now >= self._quiet_from, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def waited(self) -> float:
        begun = self.now
        self.moments.wait()
        return round(self.now - begun, 2)


def test_a_quiet_moment_is_taken_at_once() -> None:
    assert World(quiet_from=0).waited() == 0


def test_it_is_waited_for() -> None:
    assert World(quiet_from=1.5).waited() == 1.5


def test_a_busy_gateway_is_held_up_in_the_end_and_waits_once_for_all() -> None:
    here = World(quiet_from=60)
    assert [here.waited(), here.waited()] == [MOST_SECONDS, 0]
