"""Each fault of the simulator ends as docs/reference/faults.md says, in each setting.

All of the matrix, which takes some minutes: ``python -m tests.e2e.fault_matrix``.
"""

from __future__ import annotations

from pathlib import Path

from aoai_simulator.faults import KINDS
from tests.e2e.fault_matrix import CLASSES, EXPECTED, REDIS, WORKERS, Setting, a_part, cases, differences
from tests.redis_server import require_redis


def test_every_fault_ends_as_the_table_says(tmp_path: Path, home: Path) -> None:
    require_redis()
    setting = Setting(a_part(cases()), tmp_path, home)
    try:
        found = setting.run()
    finally:
        setting.close()
    assert list(differences(found)) == []
    for gateway in setting.gateways.values():
        assert "Traceback" not in gateway.log


def test_the_table_has_every_fault() -> None:
    assert {row.kind for row in EXPECTED} == set(KINDS)


def test_the_part_that_is_tried_has_each_fault_in_each_setting() -> None:
    every, part = cases(), a_part(cases())
    assert len(every) == len(EXPECTED) * 2 * 2 * len(CLASSES) * len(WORKERS) * len(REDIS)
    for of in (
        lambda case: (case.row, case.stream, case.beside, case.redis),
        lambda case: (case.row, case.stream, case.workers),
        lambda case: (case.row, case.cls),
        lambda case: (case.workers, case.redis, case.cls),
    ):
        assert {of(case) for case in part} == {of(case) for case in every}
