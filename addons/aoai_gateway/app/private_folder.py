"""The folder of the supervisor's sockets. One that was left by a killed supervisor goes with the next start.

The supervisor and the processes that it has forked hold a lock on it (:manpage:`flock(2)`), which ends with
the last of them, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from aoai_gateway.usage.files import is_at

PREFIX = "aoai-gateway-workers-"


class PrivateFolder:
    """A folder that only this user may enter, in the system's for temporary files. ``path``: where it is."""

    def __init__(self) -> None:
        """Make it, and remove those that no process has any more. Raises OSError."""
        for other in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_if_abandoned(other)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            with suppress(FileNotFoundError):
                self._lock = os.open(self.path, os.O_RDONLY)
                # Some file systems have no locks; then no process removes another's.
                with suppress(OSError):
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
                if is_at(self.path, self._lock):
                    return
                os.close(self._lock)
            # Before it was locked, another process may have taken it for an abandoned one.

    def remove(self) -> None:
        """Remove it, with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # it is in use, or cannot be locked
    finally:
        os.close(lock)
