"""Files of records that only their owner may read, and that several processes may write to.

A process locks a file while it writes to it or sets it aside (:manpage:`flock(2)`), and looks after that
whether the path still names this file. So no two processes set the same file aside, and a batch that does
not fit on the disk is taken back without what another process has written. Where a file system has no
locks, one process alone is safe.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

type Aside = Callable[[os.stat_result], Path | None]
"""Says under which new name a file is set aside; None if it is to be written to."""


def append(path: Path, data: bytes, aside: Aside | None = None) -> bool:
    """Append to a file, which is made if it is not there; all or nothing. Raises OSError.

    ``aside`` is asked before, while no other process writes to the file. Returns whether the file was set
    aside. One that cannot be renamed is written to as it is.
    """
    set_aside = False
    while True:
        with _locked(path) as file:
            name = aside(os.fstat(file)) if aside is not None and not set_aside else None
            if name is not None:
                set_aside = _rename(path, name)
                if set_aside:
                    continue
            write(file, data)
            return set_aside


class Folder:
    """A folder of such files. One that was removed can be made anew, for its owner alone.

    Not if its disk is no longer mounted, which the device tells: the mount point stays, and what is written
    there would lie hidden below it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._device: int | None = None
        """That of the folder when it was first seen."""
        self.note_device()

    def note_device(self) -> None:
        """Remember where the folder is, if it is there; to be called again when a file in it was opened."""
        if self._device is None:
            with contextlib.suppress(OSError):
                self._device = self.path.stat().st_dev

    @property
    def was_there(self) -> bool:
        """Whether it has been seen."""
        return self._device is not None

    def make(self) -> None:
        """Make the folder, if it is not there. Raises FileNotFoundError where it is not to be, or OSError.

        The folder that it is in is not made. Nor is what a symbolic link names.
        """
        if self.path.is_dir():
            return
        is_elsewhere = self.was_there and self.path.parent.stat().st_dev != self._device
        if is_elsewhere or (self.path.is_symlink() and not self.path.exists()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        self.path.mkdir(mode=0o700, exist_ok=True)


class Appender:
    """Appends to one file, as `append` does; its folder is made anew when it was removed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, Folder(path.parent)

    def append(self, data: bytes, aside: Aside | None = None) -> bool:
        """Append to the file; arguments, result and errors are those of `append`."""
        try:
            set_aside = append(self._path, data, aside)
        except FileNotFoundError:
            if not self._folder.was_there:
                raise
            self._folder.make()
            set_aside = append(self._path, data, aside)
        self._folder.note_device()
        return set_aside


def create(path: Path) -> int:
    """Make a file, and give it locked and open for appending. Raises FileExistsError, or another OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    _lock(file)
    return file


def write(file: int, data: bytes) -> None:
    """Write to a file that this process has locked; all or nothing. Raises OSError."""
    before = os.fstat(file).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        # Half a record would make the file unreadable from there on. A device cannot be cut.
        with contextlib.suppress(OSError):
            os.ftruncate(file, before)
        raise


def is_at(path: Path, file: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def prune(folder: Path, pattern: str, keep: int) -> None:
    """Delete all but the newest files of a pattern that no process writes to; ``keep`` 0 keeps all."""
    if not keep:
        return
    found: list[tuple[float, str, Path]] = []
    for path in folder.glob(pattern):
        # Another process may be quicker to delete it.
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.name, path))
    done = [path for _, _, path in sorted(found) if not _is_in_use(path)]
    for path in done[:-keep]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("An old file of records, %s, cannot be deleted: %s.", path, error.strerror)


def _rename(path: Path, name: Path) -> bool:
    try:
        path.rename(name)
    except OSError as error:
        logger.warning("%s cannot be set aside as %s: %s; it grows.", path, name.name, error.strerror)
        return False
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open the file that a path names, and keep other processes from it."""
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock(file)
            # Another process may have set it aside while this one waited for the lock.
            if is_at(path, file):
                yield file
                return
        finally:
            os.close(file)


def _lock(file: int) -> None:
    if sys.platform != "win32":
        # Some file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)


def _is_in_use(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
