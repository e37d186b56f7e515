"""What a run says of the programs that it missed: once, at its end, with the command that installs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PROGRAMS

ROOT = Path(__file__).parents[1]

TESTS = """
from tests.programs import require

def test_nginx(): require("nginx")
def test_java(): require("java")
def test_java_again(): require("java")
def test_nothing(): pass
"""


def run(folder: Path, *words: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    """Run `TESTS` in a process that finds no program, under the suite's own conftest.py."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "hide.py").write_text("import shutil\nshutil.which = lambda *_, **__: None\n")
    options = ("-q", "-p", "no:cacheprovider", "-p", "hide", "-p", "tests.conftest", "--rootdir", folder)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, *map(str, options), *words, "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))), "CI": ci},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two"])
def test_the_end_says_what_was_skipped_and_the_one_command(tmp_path: Path, workers: tuple[str, ...]) -> None:
    if workers:
        pytest.importorskip("xdist")
    done = run(tmp_path, *workers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 3 skipped" in done.stdout
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("To run these too: ")]
    assert command == "To run these too: sudo apt-get install default-jdk-headless nginx-light"
    assert done.stdout.count("Skipped, because a program is not installed:") == 1
    assert "  Java          test_it.py\n  nginx         test_it.py\n" in done.stdout


def test_in_ci_a_missing_program_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, ci="true")
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "3 failed" in done.stdout
    assert "Java is not installed, and CI must not skip its tests" in done.stdout
    assert "To run these too" not in done.stdout


def test_ci_installs_what_the_tests_may_require() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for program in PROGRAMS.values():
        for package in program.packages:
            assert package in script, f"{program.title}: .ci/run does not install {package}"
