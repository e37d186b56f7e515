"""Packages from npm: installed in their folder when a test first needs them."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from tests.programs import give_up, require

INSTALL_SECONDS = 250


def install(folder: Path, *packages: str) -> None:
    """Install what the folder's lock file names, unless its `packages` are there.

    Several processes of a run may need them at the same time, and ``npm ci`` begins by taking all away.
    """
    with (folder / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all((folder / "node_modules" / name).is_dir() for name in packages):
            return
        done = subprocess.run(
            [require("npm"), "ci", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    if done.returncode:
        give_up("npm", f"npm could not install {', '.join(packages)}: {done.stderr.strip()[-300:]}")
