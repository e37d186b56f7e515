"""What every test shares.

No proxy of the machine's own before loopback, property tests that a busy machine cannot fail, and the order
of the suite.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import programs
from tests.redis_server import RedisServer, require_redis

for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

# The same examples each time: a run says something of the change that it tests. And none is out of time.
# HYPOTHESIS_PROFILE=full has five times as many; random looks for new ones.
settings.register_profile(
    "full", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100
)
settings.register_profile("small", settings.get_profile("full"), max_examples=20)
settings.register_profile("random", settings.get_profile("full"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "small"))


STARTS_PROCESSES = frozenset(
    {"e2e", "browser", "clients", "hostile", "soak", "deploy", "test_run_sh.py", "test_programs.py"}
)
"""Folders and files of tests whose subject is a process: they take long, and run on one Python in CI."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect tests without collecting garbage: nearly all that is made then stays until the end.

    Nor is it looked through again with each collection in a test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even read a file of which the parts of the suite that are run leave all tests out."""
    chosen = config.option.markexpr
    if collection_path.suffix != ".py":
        return None
    if chosen == "serial" and "pytest.mark.serial" not in collection_path.read_text():
        return True
    if "not e2e" in chosen and STARTS_PROCESSES & set(collection_path.parts):
        return True
    return None


LONGEST = (
    "test_fails_closed.py",
    "test_soak.py",
    "test_run_sh.py",
    "test_clients.py",
    "test_shared_state.py",
    "test_workers.py",
    "test_surface.py",
    "test_workbench.py",
    "test_identities.py",
)
"""The files of these tests that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts real processes, and run it last: a broken unit says more, and says it sooner.

    The longest of those files come at the very end, where every second process begins (`tests.both_ends`): a
    file is one process's work, and all others would wait for one that was begun late.
    """
    for item in items:
        if STARTS_PROCESSES & set(item.path.parts):
            item.add_marker(pytest.mark.e2e)

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("e2e") is None:
            return 0
        return len(LONGEST) - LONGEST.index(item.path.name) + 1 if item.path.name in LONGEST else 1

    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have some processes begin with the units, and the others with what waits."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.both_ends import BothEnds  # xdist is there

    return BothEnds(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many processes ``-n auto`` is: tests wait for other processes for half of their time."""
    cores = os.cpu_count() or 1
    return 2 * cores if cores <= 4 else cores


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Have a worker process of pytest-xdist, where there is one, report what it skipped."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["missing programs"] = programs.pack()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's report."""
    programs.unpack(getattr(node, "workeroutput", {}).get("missing programs", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with what was skipped for want of a program, and with the one command that installs it."""
    if lines := programs.summary():
        terminalreporter.section("missing programs")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def in_ci() -> bool:
    """Whether something missing on this machine is a failure rather than a skip."""
    return programs.in_ci()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server for all tests that leave it running; each takes a prefix of its own."""
    require_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A redis-server for one test alone, which may stop it."""
    require_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
