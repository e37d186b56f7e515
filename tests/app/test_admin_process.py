"""The admin process: its end, and what keeps it from starting, ends nothing else."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from aoai_gateway.app import processes
from aoai_gateway.app.admin_process import AdminProcess
from aoai_gateway.app.processes import LONGEST_PAUSE
from tests.engine_driver import config


def test_the_admin_process_that_ends_again_and_again_is_started_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminProcess, "is_wanted", lambda *_: True)
    admin = AdminProcess(tmp_path, [], lambda: None)
    monkeypatch.setattr(admin, "_run", lambda *_: 1)
    starts, now = 0, time.monotonic()
    for _ in range(60):
        now += 1
        if admin.child is None:
            admin.start_if_due(config("a"), now)
            starts += admin.child is not None
        if admin.child is not None:
            os.waitid(os.P_PID, admin.child.pid, os.WEXITED | os.WNOWAIT)
            assert admin.has_ended(now, expected=False)
    assert 5 < starts < 15


def test_the_admin_process_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdminProcess, "is_wanted", lambda *_: True)
    admin = AdminProcess(tmp_path, [], lambda: None)

    def full(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "start", full)
    now = time.monotonic()
    admin.start_if_due(config("a"), now)
    assert admin.child is None
    monkeypatch.undo()
    monkeypatch.setattr(AdminProcess, "is_wanted", lambda *_: True)
    monkeypatch.setattr(admin, "_run", lambda *_: signal.pause() or 0)
    admin.start_if_due(config("a"), now + LONGEST_PAUSE)
    assert admin.child is not None
    admin.child.tell(signal.SIGKILL)
    os.waitpid(admin.child.pid, 0)
