"""Who of two processes gets which file of the suite."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

xdist = pytest.importorskip("xdist")


class Node:
    """A process, as far as the scheduler knows it."""

    shutting_down = False

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.given: list[int] = []

    def send_runtest_some(self, places: list[int]) -> None:
        self.given += places

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.fixture
def config(pytestconfig: pytest.Config):
    return SimpleNamespace(
        option=SimpleNamespace(loadscopereorder=False),
        hook=pytestconfig.hook,
        getvalue=lambda name: {"tx": ["popen", "popen"]}[name],
    )


def test_one_begins_at_the_first_file_and_the_other_at_the_last(config) -> None:
    from tests.both_ends import BothEnds

    tests = [f"tests/test_{file}.py::test_{number}" for file in "abcdef" for number in range(3)]
    scheduler = BothEnds(config)
    nodes = [Node("gw0"), Node("gw1")]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    done = 0
    while any(done < len(node.given) for node in nodes):
        for node in nodes:
            if done < len(node.given):
                scheduler.mark_test_complete(node, node.given[done])
        done += 1
    first, second = ([tests[place] for place in node.given] for node in nodes)
    assert first == tests[:9]
    assert second == tests[15:] + tests[12:15] + tests[9:12]
    assert scheduler.tests_finished
    assert all(node.shutting_down for node in nodes)
