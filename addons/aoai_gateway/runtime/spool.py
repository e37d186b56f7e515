"""Uploads on disk: a body that is not wanted in memory, as long as its call may be sent again.

The file has no name where the system can do that, and rights for its owner alone; it is gone with its last
descriptor, also when the process dies. What is written goes into the system's cache, and is not waited for.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from io import FileIO

COME_BACK_SECONDS = 5.0
"""The wait that a client is told whose upload found no room on the disk."""

_CLOSER = ThreadPoolExecutor(1, "spool")
"""Where files are closed: the system frees their pages then, some 40 ms for 512 MB."""


class Spool:
    """One upload. The folder is the system's for temporary files (``TMPDIR``)."""

    def __init__(self) -> None:
        """Raises GatewayError (503): no file can be made there."""
        self.is_closed = False
        """Whether nothing is read of it any more."""
        self._size = 0
        self._lock = Lock()
        """Held while it is read or closed: its descriptor's number may be another file's after that."""
        try:
            self._file: FileIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed with its call
        except OSError as error:
            raise errors.unavailable("The gateway cannot store uploads.", COME_BACK_SECONDS) from error

    def __len__(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        """Add bytes, as long as it is open. Raises GatewayError (503) if there is no room for them."""
        if self.is_closed:
            raise ValueError("the upload is closed")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise errors.unavailable("The gateway has no room for uploads.", COME_BACK_SECONDS) from error
        self._size += len(data)

    def read(self, start: int, end: int) -> bytes:
        """Read a part of it, from any thread; empty once it is closed."""
        parts = []
        with self._lock:
            while start < end and not self.is_closed:
                part = os.pread(self._file.fileno(), end - start, start)
                if not part:
                    break
                parts.append(part)
                start += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Have it deleted, in a thread: that takes a while, and a read under way is waited for."""
        if not self.is_closed:
            self.is_closed = True
            _CLOSER.submit(self._close)

    def _close(self) -> None:
        with self._lock:
            self._file.close()
