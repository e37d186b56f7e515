"""The page's modules that need no page, in Node.js."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.programs import require

SUITES = sorted((Path(__file__).parent / "page").glob("*.test.mjs"))


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.name.partition(".")[0])
def test_a_module(suite: Path) -> None:
    done = subprocess.run(
        [require("node"), "--test", str(suite)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout


def test_there_are_suites() -> None:
    assert len(SUITES) > 3
