"""One simulator for all tests, reset before each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulator.running import Running


@pytest.fixture(scope="session")
def shared() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture
def running(shared: Running) -> Running:
    """The simulator of the session, as after the start."""
    shared.control("POST", "reset", {})
    return shared
