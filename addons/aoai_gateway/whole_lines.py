"""Standard output in whole lines: threads and processes write to it, and programs read it line by line.

``print`` writes a text and the end of its line separately, and a buffer is emptied wherever it happens to be
full. So records of usage came to stand in the middle of the log's lines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import IO

AT_ONCE = 4096
"""Bytes that a pipe takes as a whole, while other processes write to it, too (PIPE_BUF of Linux)."""

_writing = threading.Lock()


def _write_anew() -> None:
    """In a process that was forked: the thread that may have been writing is not in it."""
    global _writing
    _writing = threading.Lock()


os.register_at_fork(after_in_child=_write_anew)


def write_lines(file: IO[str], text: str) -> None:
    """Write lines, each with its end, so that other threads' lines stand before or after them.

    Lines of other processes do, too, if none is longer than `AT_ONCE`. Raises OSError and ValueError, as
    files do.
    """
    with _writing:
        for portion in _portions(text):
            file.write(portion)
            file.flush()


class WholeLines:
    """A file for a writer that writes lines in parts, one writer at a time."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._begun = ""

    def write(self, text: str) -> int:
        """Write what ends with a line; keep what does not for the next time."""
        self._begun += text
        if self._begun.endswith("\n"):
            lines, self._begun = self._begun, ""
            write_lines(self._file, lines)
        return len(text)

    def flush(self) -> None:
        """Lines are written as soon as they end."""


def _portions(text: str) -> Iterator[str]:
    portion, size = "", 0
    for line in text.splitlines(keepends=True):
        length = len(line.encode(errors="surrogatepass"))
        if portion and size + length > AT_ONCE:
            yield portion
            portion, size = "", 0
        portion, size = portion + line, size + length
    if portion:
        yield portion
