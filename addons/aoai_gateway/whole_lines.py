"""Standard output in whole lines: threads and processes write to it, and programs read it line by line.

``print`` writes a text and the end of its line separately, and a buffer is emptied wherever it happens to be
full. So records of usage came to stand in the middle of the log's lines.

The reader may stop reading: a container's log that is full, a terminal that is paused. A pipe takes no more
then, and a write would not return. So nothing is written before there is room: a thread that writes records
waits for it (`write_lines`), and the log, which the event loop writes, does not (`WholeLines`).
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TextIO

if sys.platform == "linux":
    import fcntl
    import termios

logger = logging.getLogger(__name__)

AT_ONCE = 4096
"""Bytes that a pipe takes as a whole, while other processes write to it, too (PIPE_BUF of Linux)."""

FILLED = 0.25
"""The share of a pipe's bytes beyond which only threads write to it.

Other processes write to it, too: what had room may have none a moment later, and a write would wait. As long
as there is much room, they cannot fill it within that moment.
"""

LOOK_SECONDS = 1.0
"""The time for which a thread waits for room at once."""

MOST_WAITING = 10_000
"""The most lines of the log that wait for room; further ones are lost."""

LAST_SECONDS = 1.0
"""The time that lines may wait when the process ends."""

_writing = threading.Lock()

_files: weakref.WeakSet[WholeLines] = weakref.WeakSet()


def _write_anew() -> None:
    """Begin anew in a process that was forked: the threads that may have been writing are not in it."""
    global _writing
    _writing = threading.Lock()
    for file in _files:
        file.begin_anew()


os.register_at_fork(after_in_child=_write_anew)


def finish() -> None:
    """Wait for the reader of last lines, `LAST_SECONDS` at most: for a process that runs no exit handlers."""
    for file in list(_files):
        file.end()


def write_lines(file: TextIO, text: str) -> None:
    """Write lines, each with its end, so that other threads' lines stand before or after them.

    Lines of other processes do, too, if none is longer than `AT_ONCE`. Waits for room. Raises OSError and
    ValueError, as files do.
    """
    for portion in _portions(text):
        while not _has_room(file, LOOK_SECONDS):
            pass
        with _writing:
            _write(file, portion)


class WholeLines:
    """A file for a writer that writes lines in parts, one writer at a time, and that must not wait.

    Lines for which there is no room are written by a thread, once there is.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.begin_anew()
        _files.add(self)
        atexit.register(self.end)

    def begin_anew(self) -> None:
        """Begin as a file to which nothing was written yet."""
        self._begun = ""
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        """Guards what waits, and the thread."""

    def write(self, text: str) -> int:
        """Write what ends with a line; keep what does not for the next time. Never blocks."""
        self._begun += text
        if self._begun.endswith("\n"):
            lines, self._begun = self._begun, ""
            with self._lock:
                rest = lines if self._thread is not None else _write_at_once(self._file, lines)
                if rest:
                    self._let_wait(rest)
        return len(text)

    def flush(self) -> None:
        """Lines are written as soon as they end, and there is room."""

    def _let_wait(self, lines: str) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(lines)
        if self._thread is None:
            self._thread = threading.Thread(target=self._catch_up, name="standard output", daemon=True)
            self._thread.start()

    def _catch_up(self) -> None:
        while (lines := self._next()) is not None:
            try:
                write_lines(self._file, lines)
            except (OSError, ValueError):
                # The reader is gone.
                with self._lock:
                    self._waiting.clear()
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            logger.warning("%d lines of the log are lost: standard output was not read.", lost)

    def _next(self) -> str | None:
        """Return the first lines that wait; None, and the thread ends, if there are none."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            return None

    def end(self) -> None:
        """Wait until lines that wait are written, `LAST_SECONDS` at most."""
        thread = self._thread
        if thread is not None:
            thread.join(LAST_SECONDS)


def _write_at_once(file: TextIO, text: str) -> str:
    """Write as many lines as takes no waiting. Returns the other lines."""
    if not _writing.acquire(blocking=False):
        return text
    left = text
    try:
        for portion in _portions(text):
            if not _takes_at_once(file, portion):
                break
            _write(file, portion)
            left = left[len(portion) :]
    finally:
        _writing.release()
    return left


def _takes_at_once(file: TextIO, portion: str) -> bool:
    number = _number_of(file)
    if number is None:
        return True
    return _size(portion) <= AT_ONCE and _has_room(file, 0) and not _is_filled(number)


def _is_filled(number: int) -> bool:
    """Whether more than `FILLED` of a pipe is taken; what is no pipe never is."""
    if sys.platform != "linux":
        return False
    try:
        size = fcntl.fcntl(number, fcntl.F_GETPIPE_SZ)
        taken = int.from_bytes(fcntl.ioctl(number, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return False
    return taken > FILLED * size


def _write(file: TextIO, text: str) -> None:
    """Write some lines, in parts for each of which there is room: no write waits inside of the file."""
    number = _number_of(file)
    if number is None:
        file.write(text)
        file.flush()
        return
    file.flush()
    rest = memoryview(text.encode(file.encoding or "utf-8", file.errors or "replace"))
    while rest:
        while not _has_room(file, LOOK_SECONDS):
            pass
        rest = rest[os.write(number, rest[:AT_ONCE]) :]


def _has_room(file: TextIO, seconds: float) -> bool:
    """Whether the file takes `AT_ONCE` bytes within so many seconds, or says that it takes none any more."""
    number = _number_of(file)
    if number is None:
        return True
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(1000 * seconds))


def _number_of(file: TextIO) -> int | None:
    """Return a file's descriptor, if it has one that can be asked for room."""
    try:
        return file.fileno() if hasattr(select, "poll") else None
    except (OSError, ValueError, AttributeError):
        return None


def _portions(text: str) -> Iterator[str]:
    portion, size = "", 0
    for line in text.splitlines(keepends=True):
        length = _size(line)
        if portion and size + length > AT_ONCE:
            yield portion
            portion, size = "", 0
        portion, size = portion + line, size + length
    if portion:
        yield portion


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
