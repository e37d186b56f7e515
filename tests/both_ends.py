"""Which process of pytest-xdist runs which file: some begin with the units, the others with what waits.

Units compute, and tests of processes wait for half of their time. One after the other, nothing would fill
what the second kind leaves of the processor; side by side, the first kind does.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadFileScheduling


class BothEnds(LoadFileScheduling):  # type: ignore[misc]  # xdist has no type hints
    """Gives out files as ``--dist loadfile`` does, but from the suite's end to every second process.

    The first process begins with the first file, so a broken unit is told of as soon as ever.
    """

    def __init__(self, config: Any, log: Any = None) -> None:
        super().__init__(config, log)
        self._places: dict[str, int] = {}

    def _assign_work_unit(self, node: Any) -> None:
        from_the_end = int(node.gateway.id.removeprefix("gw")) % 2 == 1
        file, tests = self.workqueue.popitem(last=from_the_end)
        self.assigned_work[node][file] = tests
        # All processes have collected the same. (To look each test up in the list is a second's work.)
        if not self._places:
            self._places = {test: place for place, test in enumerate(self.collection)}
        node.send_runtest_some([self._places[test] for test, is_done in tests.items() if not is_done])
