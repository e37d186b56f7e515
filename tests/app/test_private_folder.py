"""The folder of the supervisor's sockets: one that a killed process has left goes with the next start."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aoai_gateway.app.private_folder import PREFIX, PrivateFolder

OWNER = (
    "import signal\n"
    "from aoai_gateway.app.private_folder import PrivateFolder\n"
    "folder = PrivateFolder()\n"
    "(folder.path / 'workers.json').write_text('[]')\n"
    "print(folder.path, flush=True)\n"
    "signal.pause()\n"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def path_of(owner: subprocess.Popen[str]) -> Path:
    assert owner.stdout is not None
    return Path(owner.stdout.readline().strip())


def test_only_its_user_may_enter_it_and_its_end_removes_it(temporary: Path) -> None:
    folder = PrivateFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "worker-1.sock").touch()
    folder.remove()
    assert not list(temporary.iterdir())


def test_the_folder_of_a_process_that_runs_stays(owner: subprocess.Popen[str]) -> None:
    path = path_of(owner)
    PrivateFolder().remove()
    assert (path / "workers.json").exists()


def test_the_folder_of_a_killed_process_goes_with_the_next_start(
    owner: subprocess.Popen[str], temporary: Path
) -> None:
    path = path_of(owner)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert path.exists()
    folder = PrivateFolder()
    assert list(temporary.iterdir()) == [folder.path]
    folder.remove()


def test_what_only_has_such_a_name_stays(temporary: Path) -> None:
    (elsewhere := temporary / "elsewhere").mkdir()
    (kept := elsewhere / "kept").touch()
    (link := temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (file := temporary / f"{PREFIX}file").touch()
    PrivateFolder().remove()
    assert kept.exists()
    assert link.is_symlink()
    assert file.exists()


def test_another_users_folder_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (theirs := temporary / f"{PREFIX}theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    PrivateFolder().remove()
    assert theirs.exists()


def test_a_folder_that_another_start_has_taken_for_an_abandoned_one_is_made_anew(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def removed_at_first(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_first)
    folder = PrivateFolder()
    assert list(temporary.iterdir()) == [folder.path] == [Path(made[1])]
    folder.remove()
