"""Programs of the system that some tests use: where one is missing, its tests are skipped, and fail in CI.

What a run had to skip, and the one command that installs it, is said once at the end of the run.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import NoReturn

import pytest


@dataclass(frozen=True, slots=True)
class Program:
    """A program, the names under which it may be on PATH, and the packages of Debian that bring it."""

    title: str
    names: tuple[str, ...]
    packages: tuple[str, ...]


PROGRAMS = {
    program.names[0]: program
    for program in (
        Program("curl", ("curl",), ("curl",)),
        Program("Node.js", ("node",), ("nodejs", "npm")),
        Program("npm", ("npm",), ("npm",)),
        Program("redis-server", ("redis-server",), ("redis-server",)),
        Program("tmux", ("tmux",), ("tmux",)),
        # What a page shows needs a font, and a flow's marker one with emoji: chromium brings neither.
        # Ubuntu calls the program otherwise, and Google's own browser will do as well.
        Program(
            "Chromium",
            ("chromium", "chromium-browser", "google-chrome"),
            ("chromium", "fonts-dejavu-core", "fonts-noto-color-emoji"),
        ),
        Program("Prometheus", ("prometheus",), ("prometheus",)),
        Program("promtool", ("promtool",), ("prometheus",)),
        Program("nginx", ("nginx",), ("nginx-light",)),
        Program("HAProxy", ("haproxy",), ("haproxy",)),
        Program("Java", ("java",), ("default-jdk-headless",)),
        Program("javac", ("javac",), ("default-jdk-headless",)),
    )
}
"""What `require` knows, by the program's first name."""

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Servers are installed there, and a user's PATH may not have these."""

_skipped: dict[Program, set[str]] = {}


def require(name: str) -> str:
    """Return the path of a program of `PROGRAMS`; skip the test, or fail it in CI, where it is missing."""
    program = PROGRAMS[name]
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
    found = next(filter(None, (shutil.which(each, path=path) for each in program.names)), None)
    if found is None:
        give_up(name, f"{program.title} is not installed")
    return found


def give_up(name: str, why: str) -> NoReturn:
    """Skip the test because of a program of `PROGRAMS`, or fail it in CI."""
    program = PROGRAMS[name]
    if in_ci():
        pytest.fail(f"{why}, and CI must not skip its tests", pytrace=False)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    _skipped.setdefault(program, set()).add(test)
    pytest.skip(f"{why} (packages: {' '.join(program.packages)})")


def in_ci() -> bool:
    """Whether something missing on this machine is a failure rather than a skip."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def pack() -> dict[str, list[str]]:
    """Return what was skipped so far in a form that one process can send to another: files by program."""
    return {program.names[0]: sorted(files) for program, files in _skipped.items()}


def unpack(packed: dict[str, list[str]]) -> None:
    """Add what another process has skipped."""
    for name, files in packed.items():
        _skipped.setdefault(PROGRAMS[name], set()).update(files)


def summary() -> list[str]:
    """Return the lines that a run ends with: what it skipped for want of a program, and how to mend that."""
    if not _skipped:
        return []
    lines = ["Skipped, because a program is not installed:"]
    for program, files in sorted(_skipped.items(), key=lambda each: each[0].title.lower()):
        lines.append(f"  {program.title:<14}{', '.join(sorted(filter(None, files)))}")
    packages = sorted({package for program in _skipped for package in program.packages})
    return [*lines, f"To run these too: sudo apt-get install {' '.join(packages)}"]
