"""The stage on which calls are replayed: shared by all tests in here that run on the same host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Host, Simulator
from tests.e2e.replay.stage import SPEC, Caller, Lane, Stage, running_stage


@pytest.fixture(scope="session")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(SPEC, tmp_path_factory.mktemp("simulator"))
    yield simulator
    simulator.kill()


@pytest.fixture(scope="session")
def shared_stage(
    host: Host,
    shared_simulator: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
    home: Path,
) -> Iterator[Stage]:
    with running_stage(host, shared_simulator, tmp_path_factory.mktemp(host), home) as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """A gateway, with backends that have forgotten everything."""
    shared_stage.begin()
    yield shared_stage
    shared_stage.finish()


@pytest.fixture
def lane(stage: Stage) -> Lane:
    """A virtual deployment that no other test uses."""
    return stage.lane()


@pytest.fixture
def caller(stage: Stage) -> Caller:
    """A client with a keep-alive connection of its own."""
    return stage.caller()


@pytest.fixture(params=[False, True], ids=["whole", "streaming"])
def streaming(request: pytest.FixtureRequest) -> bool:
    """Whether the client asks for a stream."""
    return request.param  # type: ignore[no-any-return]  # pytest types it as Any
